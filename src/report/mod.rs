//! What a run shows to people and to other tools.

mod assemble;
mod breakdown;
mod config_differences;
mod explained;
mod html;
mod leaderboards;
mod models;
mod sources;
mod tables;
mod write;

pub use assemble::{Report, Request};
pub use html::EmbeddedImages;
pub use write::{check_name, write};
