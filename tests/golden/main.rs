//! Agreement with the field's own implementations: reads every reference file in VMB_GOLDEN_DIR,
//! else tests/fixtures/golden.

mod backbones;
mod checkpoints;
mod files;
#[path = "../gpu/mod.rs"]
mod gpu;
mod grad_cam;
mod preprocess;
mod scan;

/// What a reference file says of a ViT's sizes, and of a Vision Mamba's.
const VIT_SIZES: [&str; 5] = ["image_size", "patch_size", "embed_dim", "depth", "num_heads"];
const VIM_SIZES: [&str; 5] = ["image_size", "patch_size", "embed_dim", "depth", "d_state"];
