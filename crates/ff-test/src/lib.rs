//! The project's own proofs: random histories against a model, fuzz targets, and the checker of what subscriptions
//! received. The requirements on every backend are in `ff-conformance`.
#![forbid(unsafe_code)]

pub mod fuzz;
pub mod history;
pub mod simulation;
