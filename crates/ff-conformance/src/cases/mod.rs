//! The cases, by concern. Each is a sentence about behaviour.

#![allow(missing_docs, reason = "the name of a case states its requirement")]

pub mod bad_input;
pub mod cancel;
pub mod delivery;
pub mod dependencies;
pub mod filter;
pub mod lag;
pub mod leases;
pub mod lifecycle;
pub mod retries;
pub mod subscription;
pub mod timers;

use std::sync::Arc;

use ff_core::EngineBackend;

/// The argument of a case.
type Backend = Arc<dyn EngineBackend>;
