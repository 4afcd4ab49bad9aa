//! The contract of FlowFabric: what an execution, a flow and a completion are, how completions are filtered and
//! ordered, and the traits that a backend implements.
//!
//! A user holds a backend as `Arc<dyn CompletionBackend>` (or one of the working traits in [`backend`]) and never
//! learns where the data is kept: this crate contains no transport, no storage layout and no script.
//!
//! Start with [`CompletionBackend`] to receive completions, [`FlowSubmission`] to submit a flow, and
//! [`backend::WorkBackend`] to execute work.
#![forbid(unsafe_code)]
// A public type either can grow, or is declared complete where it is defined.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

pub mod backend;
mod completion;
mod cursor;
mod error;
mod filter;
mod flows;
mod gap;
mod id;
mod name;
mod partition;
mod payload;
mod position;
pub mod reader;
mod retention;
mod snapshot;
mod state;
mod submit;
mod subscription;
mod work;

pub use completion::{CompletionBackend, CompletionStream};
pub use cursor::Cursor;
pub use error::{EngineError, StateConflict};
pub use filter::ScannerFilter;
pub use flows::{CancelOutcome, ControlBackend, EngineBackend, FlowCancellation, SubmitBackend};
pub use gap::{Gap, GapCause};
pub use id::{ClaimId, ExecutionId, FlowId};
pub use name::{EngineId, LaneId, Namespace, Tags, WorkerId};
pub use partition::{Partition, PartitionCount};
pub use payload::CompletionPayload;
pub use position::{EntryId, LogId, Position, Scope};
pub use retention::SweepPolicy;
pub use snapshot::{ExecutionSnapshot, FlowSnapshot, MemberSnapshot, ResultError};
pub use state::{FlowState, LifecyclePhase, Outcome, PublicState};
pub use submit::{
    Backoff, ExecutionSpec, ExecutionSubmission, FlowSubmission, FlowTopology, KIND_TAG, SubmittedExecution,
    SubmittedFlow, SubmittedMember, limits,
};
pub use subscription::{
    Frame, Lag, Overflow, Start, SubscribeBackend, SubscribeOptions, Subscription, SubscriptionScope, SubscriptionStats,
};
pub use work::{ClaimedExecution, Failure, Lease};
