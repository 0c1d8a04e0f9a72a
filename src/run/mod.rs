//! The run directory: its files, its status, and what they hold.

mod calibration;
mod changes;
mod directory;
mod ensemble;
mod epoch;
mod evaluated;
pub mod explanations;
mod feature_distribution;
mod kind;
pub mod memory;
mod overview;
mod probed;
mod provenance;
mod status;
mod summary;
mod tensorboard_link;
mod trained;
mod working_tree;

pub use calibration::calibrate;
pub use changes::{Change, data_differences};
pub use directory::{BEST_FILE, CHECKPOINT, RunDir, SUMMARY_FILE};
pub use ensemble::{Ensemble, OnScore, Score};
pub use epoch::{EpochRecord, PretrainEpochRecord};
pub use evaluated::{default_split, evaluated_run, finished_predictions};
pub use feature_distribution::{
    FEATURE_DISTRIBUTION_FILE, representative_dataset, representative_images,
    write_feature_distribution,
};
pub use kind::{CONFIG_FILE, RunKind};
pub use overview::{Best, Course, FoundRuns, Overview};
pub use probed::Probed;
pub use provenance::{HubOrigin, Provenance, StartRecord, StartingWeights, content_hash};
pub use status::{Failure, Pause, PauseRule, Status};
pub use summary::{BaselinesBySplit, Summary, check_unchanged};
pub use tensorboard_link::link_tensorboard;
pub use trained::{Run, names_run, weights_of};
