//! The network: two backbones, a fusion and a head, with parameters under the names of the
//! published checkpoints.

pub mod beauty_net;
pub mod cost;
pub mod device;
mod encoder;
mod forward_context;
pub mod fusion;
pub mod head;
pub mod images;
pub mod layers;
pub mod masked_image;
pub mod onnx;
pub mod patch_embed;
mod recompute;
mod residual;
mod slicer;
pub mod summary;
pub mod tokens;
pub mod vim;
pub mod vit;
pub mod weights;

pub use beauty_net::{BeautyNet, Output, Tap};
pub use forward_context::ForwardContext;
pub use images::Images;
pub use slicer::Slicer;
