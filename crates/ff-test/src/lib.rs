//! How FlowFabric tests itself: random histories against a model, fuzz targets, and the checker that judges what
//! subscriptions saw. What every backend must do is in `ff-conformance`.
#![forbid(unsafe_code)]

pub mod fuzz;
pub mod history;
pub mod simulation;
