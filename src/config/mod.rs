//! YAML to a validated, typed config.
//!
//! The types here are the only place that defines a key, its default and its documentation; the
//! reference table ([`reference_markdown`]) is generated from them. A config states only what it
//! changes: [`Config::load`] merges it into the defaults, so an empty file is a valid config.
//! Relative paths count from the working directory.

mod assignment;
mod augment;
mod backbone_shape;
mod branch;
mod checks;
mod data;
mod device;
pub(crate) mod document;
mod error;
mod freeze;
mod fusion;
pub(crate) mod layers;
mod load;
pub(crate) mod locate;
mod model;
pub(crate) mod names;
mod optimizer;
pub(crate) mod paths;
mod presets;
mod pretrain;
mod reference;
pub(crate) mod schema;
pub(crate) mod section;
mod train;
mod validate;
mod variables;
mod warnings;
mod weights_source;
pub(crate) mod write;
pub(crate) mod wrong_type;
pub(crate) mod yaml;

pub use augment::{
    AffineConfig, AugmentConfig, BlurConfig, EraseFill, ErasingConfig, TrivialAugmentConfig,
};
pub use backbone_shape::{BackboneShape, Features, Stem, Variant};
pub use branch::Branch;
pub use data::{
    Cache, CsvConfig, DataConfig, DatasetName, Delimiter, FaceAlignment, Fold, Interpolation,
    Normalize, Overlap, Resize, SyntheticConfig,
};
pub use device::Device;
pub use error::{ConfigError, Problem};
pub use freeze::{FreezeConfig, FrozenBlocks};
pub use fusion::{FusionConfig, FusionStrategy, HeadConfig, HeadOutput};
pub use load::{Sources, stated_keys};
pub use model::{BackboneConfig, ModelConfig};
pub use optimizer::{OptimizerConfig, OptimizerName, ScheduleConfig, ScheduleName};
pub use presets::{PRESETS, Preset, preset};
pub use pretrain::PretrainConfig;
pub(crate) use reference::reference_of;
pub use reference::{KeyReference, nearest_key, reference, reference_markdown};
pub use schema::json_schema;
pub use train::{
    EarlyStoppingConfig, LabelDistributionConfig, Loss, Monitor, OnNan, Precision, TrainConfig,
};
pub use weights_source::{HubFile, WeightsSource};
pub use yaml::names_config;

use section::section;
pub(crate) use write::{as_json, plain_text, yaml_value};

section! {
    /// An experiment: every setting that `vmbeauty train` reads.
    pub struct Config {
        /// Name of the experiment and of its run directory: letters, digits, `-`, `_` and `.`.
        pub name: String = "vm-beautynet".into(),
        /// Seed of every random generator. The same seed on the same machine gives the same
        /// weights.
        pub seed: u64 = 42,
        /// Device to compute on: `auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:1`.
        pub device: Device = Device::Auto,
        /// The images and their ratings.
        pub data: DataConfig = DataConfig::default(),
        /// The network.
        pub model: ModelConfig = ModelConfig::default(),
        /// The training.
        pub train: TrainConfig = TrainConfig::default(),
        /// Self-supervised pretraining, which `vmbeauty pretrain` runs.
        pub pretrain: PretrainConfig = PretrainConfig::default(),
    }
}
