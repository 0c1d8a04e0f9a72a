//! Tests of the library, each module's facts in a module of the same name.

mod batch_shard;
mod bimamba;
mod branches;
mod convolution;
mod elementwise;
mod fusion;
mod generator;
#[path = "../gpu/mod.rs"]
mod gpu;
mod gradcheck;
mod launches;
mod layers;
mod masked_images;
mod model;
mod mutations;
mod published;
mod recompute;
mod scan;
mod slices;
mod statistics;
mod torch_files;
mod torch_formats;
mod variants;
mod weights;
