//! Agreement with the field's own implementations: reads every reference file in VMB_GOLDEN_DIR, else tests/fixtures/golden.

mod backbones;
mod checkpoints;
mod files;
mod grad_cam;
mod preprocess;
mod scan;
