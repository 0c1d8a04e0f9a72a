//! What a run shows to people and to other tools.

pub mod tensorboard;
pub mod training_log;
