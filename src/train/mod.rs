//! Training: the loop, and the parts that are named for what they do.

pub mod benchmark;
pub mod checkpoint;
pub mod distributed;
pub mod ema;
pub mod groups;
pub mod observer;
pub mod optimizer;
pub mod outcome;
pub mod provenance;
pub mod run_dir;
pub mod schedule;
pub mod trainer;

pub use distributed::Ranks;
pub use observer::{EpochRecord, Observer, Start, StepRecord};
pub use outcome::Outcome;
pub use run_dir::{RunDir, RunState};
pub use trainer::{train, train_with};
