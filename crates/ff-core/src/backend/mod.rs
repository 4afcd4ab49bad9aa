//! What a backend implements beyond what programs call, and what workers and engines exchange with it.
//!
//! A backend implements [`CompletionBackend`](crate::CompletionBackend), [`SubscribeBackend`](crate::SubscribeBackend),
//! [`SubmitBackend`](crate::SubmitBackend), [`ControlBackend`](crate::ControlBackend), [`WorkBackend`] and
//! [`MaintenanceBackend`]. [`EngineBackend`](crate::EngineBackend) combines them.
//!
//! Every implementation guarantees:
//!
//! - Each call is atomic, or consists of atomic steps. A step happens as a whole or not at all, also if the reply is
//!   lost.
//! - Each call returns within a bounded time. A missing reply is [`EngineError::Timeout`](crate::EngineError::Timeout).
//! - Times come from the server's clock, never from a caller.
//! - After an error whose [`may_have_run`](crate::EngineError::may_have_run) is true, the call may or may not have been
//!   executed.

mod maintenance;
mod source;
mod work;

pub use maintenance::{
    MaintenanceBackend, ReconcileCursor, ReconcileReport, ResolveReport, SweepReport, TimerSignal, TimerSignals,
};
pub use source::{LagProbe, SubscriptionSource};
pub use work::{Claim, ClaimRequest, FailOutcome, ReleaseOutcome, RenewOutcome, WorkBackend, WorkSignal, WorkSignals};
