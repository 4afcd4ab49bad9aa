//! What a history runs on: the library in process, or a server whose clock can be set.

use std::collections::BTreeMap;

use bytes::Bytes;
use ff_core::{EngineBackend, PartitionCount};
use ff_embedded::{Clock, EmbeddedBackend, EmbeddedHost, KeyValue, Value, VirtualClock};
use futures::FutureExt;
use uuid::Uuid;

/// All keys, with what they hold.
pub type Contents = BTreeMap<Bytes, KeyValue>;

/// A deployment of one partition that nobody else uses, under a clock that stands until it is set.
pub trait Stage {
    /// The backend.
    type Backend: EngineBackend;

    /// The backend, as a user holds it.
    fn backend(&self) -> &Self::Backend;

    /// The name under which the backend notes that it waits for work.
    fn listener(&self) -> Uuid;

    /// Waits for what a call answers.
    fn wait<T>(&self, call: impl Future<Output = T>) -> T;

    /// Sets the clock, in milliseconds since 1970-01-01 UTC.
    fn set_clock(&self, millis: u64);

    /// Executes one command beside the library, as another client would.
    fn command(&self, args: &[&str]) -> Value<'static>;

    /// All keys, with what they hold.
    fn snapshot(&self) -> Contents;

    /// Makes the library lose what it keeps in variables of its own, as a restart does.
    fn forget(&self);

    /// The host in process, which can make a call fail at an exact command. Without one a history's faults are passed
    /// over.
    fn host(&self) -> Option<&EmbeddedHost> {
        None
    }
}

/// The library in this process.
#[derive(Debug)]
pub struct InProcess {
    backend: EmbeddedBackend,
    clock: VirtualClock,
    listener: Uuid,
}

impl InProcess {
    /// A fresh one. The seed decides in which order hashes are iterated.
    #[must_use]
    pub fn new(seed: u64, listener: Uuid) -> Self {
        let clock = VirtualClock::at_millis(0);
        let one = PartitionCount::new(1).expect("one partition is allowed");
        let builder = EmbeddedBackend::builder().partitions(one).seed(seed).listener(listener);
        let backend = builder.clock(Clock::Virtual(clock.clone())).build();
        Self { backend: backend.expect("a fresh host has no other partition count"), clock, listener }
    }
}

impl Stage for InProcess {
    type Backend = EmbeddedBackend;

    fn backend(&self) -> &EmbeddedBackend {
        &self.backend
    }

    fn listener(&self) -> Uuid {
        self.listener
    }

    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        call.now_or_never().expect("an embedded host does not wait")
    }

    fn set_clock(&self, millis: u64) {
        self.clock.set_millis(millis);
    }

    fn command(&self, args: &[&str]) -> Value<'static> {
        self.backend.host().command(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    fn snapshot(&self) -> Contents {
        self.backend.host().snapshot()
    }

    fn forget(&self) {
        self.backend.host().forget_variables();
    }

    fn host(&self) -> Option<&EmbeddedHost> {
        Some(self.backend.host())
    }
}
