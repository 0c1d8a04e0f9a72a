//! Many runs of one experiment: cross-validation over folds, and sweeps over values of config keys,
//! seeds and folds.

mod axis;
mod config;
pub mod cross_validation;
mod curves;
mod estimate;
mod folds;
mod grid;
pub mod halving;
mod launch;
mod naming;
mod points;
mod results;
mod search;
pub mod simulation;

pub use config::{SweepConfig, SweepFile, json_schema, reference};
pub use cross_validation::cross_validate;
pub use curves::left;
pub use estimate::Estimate;
pub use folds::Folds;
pub use grid::{Shard, Sweep, SweepRun};
pub use launch::{Event, Launch, log_of, threads_per_run};
pub(crate) use naming::axis_names;
pub use results::{Point, Results, RunResult, SearchResult, collect};
pub use search::{MedianStop, Search, SearchConfig, SearchName};
