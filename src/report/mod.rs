//! What a run shows to people and to other tools.

mod assemble;
mod breakdown;
mod config_differences;
mod explained;
pub mod export;
mod html;
mod judged;
pub mod model_card;
mod models;
pub mod scatter;
mod sources;
mod tables;
pub mod tensorboard;
pub mod training_log;
mod validation_maps;
mod write;

pub use assemble::{Report, Request};
pub use html::EmbeddedImages;
pub use write::{check_name, write};
