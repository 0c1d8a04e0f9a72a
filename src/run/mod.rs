//! The run directory: its files, its status, and what they hold.

mod changes;
mod directory;
mod epoch;
mod evaluated;
pub mod explanations;
mod kind;
mod overview;
mod provenance;
mod status;
mod summary;
mod trained;
mod working_tree;

pub use changes::Change;
pub use directory::{BEST_FILE, CHECKPOINT, RunDir, SUMMARY_FILE};
pub use epoch::{EpochRecord, PretrainEpochRecord};
pub use evaluated::{default_split, evaluated_run, finished_predictions};
pub use kind::{CONFIG_FILE, RunKind};
pub use overview::{Best, Course, FoundRuns, Overview};
pub use provenance::{Provenance, StartRecord, StartingWeights, content_hash};
pub use status::{Failure, Status};
pub use summary::{BaselinesBySplit, Summary, check_unchanged};
pub use trained::{Run, weights_of};
