//! Faces in photographs: detection, five landmarks, and aligned crops as a dataset has them.

mod align;
mod boxes;
mod convention;
mod crop;
mod detect;
mod files;
mod locate;
mod nets;
mod upright;

pub use boxes::FaceBox;
pub use convention::{Convention, Placement};
pub use crop::{Crop, CropWarning, Cropper, Found};
pub use detect::{Detector, Face};
pub use files::{Cropped, Job, Outcome, crop_files, write_table};
pub use locate::detector_folder;
