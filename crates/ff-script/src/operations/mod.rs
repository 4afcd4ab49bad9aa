//! The operations of the engine as typed calls: they build KEYS and ARGV and parse the reply.
//!
//! No transition is decided here: the library decides all of them.

mod control;
mod heads;
mod log_policy;
mod maintenance;
mod reply;
mod submit;
mod work;

use std::sync::Arc;

use bytes::Bytes;
use ff_core::{EngineError, ExecutionId, FlowId, Partition, PartitionCount};
use uuid::Uuid;

use crate::{
    assemble::ABI_MAJOR,
    host::{Call, Reply, ScriptHost},
    keys,
};
pub use heads::{Appended, Head, Newest, appended_call, heads_call, parse_appended, parse_head};
pub use log_policy::{LogBytes, LogPolicy};
use reply::ReplyReader;

/// The settings that are fixed for the lifetime of a deployment, as its record holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deployment {
    partitions: u16,
    abi: u32,
}

impl Deployment {
    /// The record, from the texts of its fields.
    ///
    /// # Errors
    /// [`EngineError::Protocol`] if a text is not a number.
    pub fn recorded(partitions: &str, abi: &str) -> Result<Self, EngineError> {
        let refused = |what: &str, text: &str| {
            let reason = format!("the recorded {what} `{}` is not a number", text.escape_debug());
            EngineError::protocol("reading the deployment", reason)
        };
        Ok(Self {
            partitions: partitions.parse().map_err(|_| refused("partition count", partitions))?,
            abi: abi.parse().map_err(|_| refused("ABI", abi))?,
        })
    }

    /// Returns the recorded partition count. A program may require `wanted`.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] when another count or ABI is recorded.
    pub fn join(self, wanted: Option<PartitionCount>) -> Result<PartitionCount, EngineError> {
        let Self { partitions, abi } = self;
        if let Some(wanted) = wanted.filter(|wanted| wanted.get() != partitions) {
            return Err(EngineError::Conflict {
                what: format!("partition count {}", wanted.get()),
                reason: format!("this deployment was created with {partitions}; use that, the count cannot be changed"),
            });
        }
        if abi != ABI_MAJOR {
            return Err(EngineError::Conflict {
                what: format!("ABI {ABI_MAJOR}"),
                reason: format!("this deployment was created with ABI {abi}; use a program of that version"),
            });
        }
        PartitionCount::new(partitions)
    }
}

/// The operations over one host: the methods of the traits of [`ff_core::backend`], except those that need a
/// subscription. [`backend_by_script`](crate::backend_by_script) implements the traits for a backend with them.
pub struct Operations<H> {
    host: Arc<H>,
    partitions: PartitionCount,
    policy: LogPolicy,
    listener: Uuid,
}

impl<H: ScriptHost> Operations<H> {
    /// Operations for a deployment of this many partitions. `listener` names this process's wake channel.
    pub fn new(host: Arc<H>, partitions: PartitionCount, policy: LogPolicy, listener: Uuid) -> Self {
        Self { host, partitions, policy, listener }
    }

    /// Records the partition count if none is recorded, and otherwise adopts the recorded one.
    ///
    /// `wanted` is the count that the caller requires, if any.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] when another count or ABI is recorded; transport errors.
    pub async fn join_deployment(host: &H, wanted: Option<PartitionCount>) -> Result<PartitionCount, EngineError> {
        let count = wanted.unwrap_or_default().get();
        let call = call("ff1_deployment", vec![keys::DEPLOYMENT.to_owned()], vec![arg(count), arg(ABI_MAJOR)]);
        let reply = host.fcall(call).await?;
        let mut reader = ReplyReader::new("read the deployment's record", &reply);
        Deployment { partitions: reader.number()?, abi: reader.number()? }.join(wanted)
    }

    async fn run(&self, call: Call) -> Result<Reply, EngineError> {
        self.host.fcall(call).await
    }

    fn partition_of(&self, flow: FlowId) -> Partition {
        flow.partition(self.partitions)
    }

    /// Refuses an id of another deployment before it becomes a key.
    fn check(&self, id: ExecutionId) -> Result<(), EngineError> {
        if id.partition().number() < self.partitions.get() {
            return Ok(());
        }
        let count = self.partitions.get();
        Err(EngineError::invalid(format!("execution id `{id}`"), format!("this deployment has {count} partitions")))
    }
}

/// A call that may be repeated when its reply is lost.
fn call(function: &'static str, keys: Vec<String>, args: Vec<Bytes>) -> Call {
    Call { function, keys, args, read_only: false, idempotent: true }
}

fn read(function: &'static str, keys: Vec<String>, args: Vec<Bytes>) -> Call {
    Call { read_only: true, ..call(function, keys, args) }
}

fn arg(value: impl ToString) -> Bytes {
    Bytes::from(value.to_string())
}

fn flag(value: bool) -> Bytes {
    Bytes::from_static(if value { b"1" } else { b"0" })
}

fn block_and(partition: Partition, more: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut keys = keys::partition_block(partition);
    keys.extend(more);
    keys
}

fn not_found(id: ExecutionId) -> EngineError {
    EngineError::NotFound { what: format!("execution {id}") }
}
