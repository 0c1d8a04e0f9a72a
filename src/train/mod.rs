//! Training and pretraining: one loop over optimizer steps, and what it is made of.

mod checkpoint;
pub mod compute;
pub mod distributed;
pub mod ema;
pub mod gradient_sum;
pub mod groups;
mod label_distribution;
pub mod loss;
mod modulation;
pub mod modules;
pub mod monitor;
mod objective;
pub mod observer;
pub mod optimizer;
pub mod precision;
pub mod pretrain;
pub mod schedule;
mod slice_loss;
pub mod stop;
mod supervised;
mod trainer;

pub use compute::Compute;
pub use distributed::World;
pub use observer::{AfterEpoch, Observer, Skipped, Start, StepRecord, Validated};
pub use stop::{Request, Stop, Stopped};
pub use supervised::train;
pub use trainer::Options;
