//! What a run shows to people and to other tools.

pub mod export;
pub mod model_card;
pub mod tensorboard;
pub mod training_log;
mod validation_maps;
