//! The contract of FlowFabric: what an execution, a flow and a completion are, how completions are filtered and
//! ordered, and the traits that a backend implements.
//!
//! A user holds a backend as `Arc<dyn CompletionBackend>` (or one of the working traits in [`backend`]) and never
//! learns where the data is kept: this crate contains no transport, no storage layout and no script.
//!
//! Start with [`CompletionBackend`] to receive completions, [`FlowSubmission`] to submit a flow, and
//! [`backend::WorkBackend`] to execute work.
#![forbid(unsafe_code)]

pub mod backend;
mod completion;
mod cursor;
mod error;
mod filter;
mod gap;
mod id;
mod name;
mod partition;
mod payload;
mod position;
pub mod reader;
mod snapshot;
mod state;
mod submit;
mod subscription;
mod wait;
mod work;

pub use backend::{ControlBackend, EngineBackend, MaintenanceBackend, SubmitBackend, WorkBackend};
pub use completion::{CompletionBackend, CompletionStream};
pub use cursor::Cursor;
pub use error::{EngineError, StateConflict};
pub use filter::ScannerFilter;
pub use gap::{Gap, GapCause};
pub use id::{ClaimId, ExecutionId, FlowId};
pub use name::{EngineId, LaneId, Namespace, Tags, WorkerId};
pub use partition::{Partition, PartitionCount};
pub use payload::CompletionPayload;
pub use position::{EntryId, LogId, Position, Predecessor, Scope};
pub use reader::{LogCursor, Verdict};
pub use snapshot::{ExecutionSnapshot, FlowSnapshot, MemberSnapshot, ResultError};
pub use state::{FlowState, LifecyclePhase, Outcome, PublicState};
pub use submit::{
    Backoff, ExecutionSpec, ExecutionSubmission, FlowSubmission, FlowTopology, KIND_TAG, SubmittedExecution,
    SubmittedFlow, limits,
};
pub use subscription::{
    Frame, Lag, LagProbe, Overflow, Start, SubscribeBackend, SubscribeOptions, Subscription, SubscriptionScope,
    SubscriptionSource, SubscriptionStats,
};
pub use wait::{WaitBackend, WaitOptions};
pub use work::{
    CancelOutcome, Claim, ClaimRequest, ClaimedExecution, FailOutcome, Failure, FlowCancellation, Lease,
    ReconcileCursor, ReconcileReport, ReleaseOutcome, RenewOutcome, ResolveReport, SweepPolicy, SweepReport,
    TimerSignal, TimerSignals, WorkSignal, WorkSignals,
};
