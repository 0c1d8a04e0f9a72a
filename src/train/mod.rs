//! Training: the loop, and the parts that are named for what they do.

pub mod checkpoint;
pub mod distributed;
pub mod ema;
pub mod groups;
mod label_distribution;
pub mod loss;
pub mod modules;
pub mod monitor;
pub mod observer;
pub mod optimizer;
pub mod precision;
pub mod pretrain;
pub mod schedule;
pub mod stop;
pub mod trainer;

pub use distributed::Ranks;
pub use observer::{AfterEpoch, Observer, Skipped, Start, StepRecord, Validated};
pub use stop::{Stop, Stopped};
pub use trainer::{Options, train};
