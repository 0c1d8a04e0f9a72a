//! Many runs of one experiment: cross-validation over folds, and sweeps over values of config keys,
//! seeds and folds.

mod config;
pub mod cross_validation;
mod folds;
mod grid;
mod launch;
mod naming;
mod results;

pub use config::{Search, SweepConfig, SweepFile, json_schema};
pub use cross_validation::cross_validate;
pub use folds::Folds;
pub use grid::{Shard, Sweep, SweepRun};
pub use launch::{Estimate, Event, Launch, log_of};
pub(crate) use naming::axis_names;
pub use results::{Point, Results, RunResult, collect};
