//! From an image file to the square of pixels that the model sees.

pub(super) mod cache;
pub(super) mod decode;
mod directory;
pub(super) mod format;
mod jpeg;
mod nested;
pub(super) mod phash;
pub(super) mod planes;
mod png;
pub(super) mod resample;
pub(super) mod transform;

pub use decode::{NEUTRAL, decode_image, read_image};
pub use format::ImageFormat;
pub use resample::{Frame, Workspace};
pub use transform::EvalTransform;
