//! Many runs: cross-validation over folds, and sweeps over values of config keys, seeds and folds.

pub mod cross_validation;
mod definition;
mod folds;
mod launch;
mod naming;
mod plan;
mod results;
mod results_table;
mod state;

pub use cross_validation::cross_validate;
pub use definition::{Definition, Search};
pub use folds::Folds;
pub use launch::{Event, Launch};
pub use plan::{Plan, PlannedRun, Shard};
pub use results::{Point, Results, RunResult, collect, default_split, evaluated_run};
pub use state::Estimate;
