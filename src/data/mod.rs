//! Dataset on disk -> samples -> augmented batches of pixels.
//!
//! [`load`] reads a dataset's lists into [`Sample`]s, [`ImageDataset`] turns samples into pixels,
//! and a [`Loader`] delivers them in batches, ahead of the training step. Pixels stay 8-bit RGB:
//! each backbone normalizes with its own mean and deviation.

mod augment;
mod batch;
pub mod check;
mod csv_cell;
mod dataset;
mod datasets;
mod decimal;
pub mod embed;
mod image;
mod image_dataset;
mod image_files;
pub(crate) mod lettering;
mod listing;
mod load;
mod loader;
mod panic;
pub mod preview;
pub(crate) mod random_stream;
mod run_images;
mod splits;

pub use augment::TrainTransform;
pub use batch::{HostBatch, Vote};
pub use csv_cell::{csv_cell, csv_text};
pub use dataset::{Dataset, Sample, Skipped, Source, Split, scores_by_group};
pub(crate) use datasets::csv::fold_names;
pub use datasets::csv::guess::{Finding, Guess, TableImages, guess, table_images};
pub use datasets::locate::is_image_name;
pub use datasets::synthetic;
pub use decimal::{shortest, single};
pub use image::{EvalTransform, Frame, ImageFormat, NEUTRAL, Workspace, decode_image, read_image};
pub use image_dataset::{ImageDataset, Mode};
pub use image_files::{ImageTree, image_tree};
pub use load::{load, load_split};
pub(crate) use loader::Prefetch;
pub use loader::{FileBatch, FileLoader, Loader, LoaderOptions, RankShard};
pub(crate) use panic::catch_panic;
pub use run_images::RunImages;
pub use splits::LeakedImage;
