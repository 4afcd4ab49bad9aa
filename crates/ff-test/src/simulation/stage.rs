//! The hosts of a history: the library in process, or a server whose clock can be set.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use ff_core::{EngineBackend, PartitionCount};
use ff_embedded::{Clock, EmbeddedBackend, EmbeddedHost, KeyValue, Value, VirtualClock};
use ff_script::operations::LogPolicy;
use futures::FutureExt;
use uuid::Uuid;

/// All keys, with what they hold.
pub type Contents = BTreeMap<Bytes, KeyValue>;

/// A private deployment of one partition, under a clock that stands still until it is set.
pub trait Stage {
    /// The backend.
    type Backend: EngineBackend;

    /// The backend, as a user holds it.
    fn backend(&self) -> &Self::Backend;

    /// Switches between the backend with small logs ([`little`]) and the one with large logs.
    fn keep_little(&self, little: bool);

    /// The listeners of the two backends, first that of the one with large logs.
    fn listeners(&self) -> [Uuid; 2];

    /// Waits for the result of a call.
    fn wait<T>(&self, call: impl Future<Output = T>) -> T;

    /// Sets the clock, in milliseconds since 1970-01-01 UTC.
    fn set_clock(&self, millis: u64);

    /// Executes one command without the library, like another client.
    fn command(&self, args: &[&str]) -> Value<'static>;

    /// All keys, with what they hold.
    fn snapshot(&self) -> Contents;

    /// Makes the library lose its variables, like a restart.
    fn forget(&self);

    /// The host in process, which can make a call fail at an exact command. Without one the faults of a history are
    /// skipped.
    fn host(&self) -> Option<&EmbeddedHost> {
        None
    }
}

/// A policy with a small limit of log bytes.
#[must_use]
pub fn little() -> LogPolicy {
    LogPolicy { flow_bytes: 2_048, solo_bytes: 2_048, ..LogPolicy::default() }
}

/// The library in this process.
#[derive(Debug)]
pub struct InProcess {
    backends: [EmbeddedBackend; 2],
    little: Cell<bool>,
    clock: VirtualClock,
    listeners: [Uuid; 2],
}

impl InProcess {
    /// A fresh host. The seed determines the iteration order of hashes.
    #[must_use]
    pub fn new(seed: u64, listeners: [Uuid; 2]) -> Self {
        let clock = VirtualClock::at_millis(0);
        let one = PartitionCount::new(1).expect("one partition is allowed");
        let host = Arc::new(EmbeddedHost::new(Clock::Virtual(clock.clone()), seed));
        let backend = |(policy, listener)| {
            let builder = EmbeddedBackend::builder().host(host.clone()).partition_count(one).listener(listener);
            builder.log_policy(policy).build().expect("a fresh host has no other partition count")
        };
        let backends = [(LogPolicy::default(), listeners[0]), (little(), listeners[1])].map(backend);
        Self { backends, little: Cell::new(false), clock, listeners }
    }
}

impl Stage for InProcess {
    type Backend = EmbeddedBackend;

    fn backend(&self) -> &EmbeddedBackend {
        &self.backends[usize::from(self.little.get())]
    }

    fn keep_little(&self, little: bool) {
        self.little.set(little);
    }

    fn listeners(&self) -> [Uuid; 2] {
        self.listeners
    }

    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        call.now_or_never().expect("an embedded host does not wait")
    }

    fn set_clock(&self, millis: u64) {
        self.clock.set_millis(millis);
    }

    fn command(&self, args: &[&str]) -> Value<'static> {
        self.backends[0].host().command(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    fn snapshot(&self) -> Contents {
        self.backends[0].host().snapshot()
    }

    fn forget(&self) {
        self.backends[0].host().forget_variables();
    }

    fn host(&self) -> Option<&EmbeddedHost> {
        Some(self.backends[0].host())
    }
}
