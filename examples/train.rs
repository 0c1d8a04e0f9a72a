//! Trains a small VM-BeautyNet on synthetic faces, and watches it with an observer.
//!
//! ```sh
//! cargo run --release --example train -- runs/example
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use vm_beautynet::config::Config;
use vm_beautynet::run::{EpochRecord, Summary};
use vm_beautynet::train::{self, Observer, Options};

/// What differs from the defaults, as in a config file.
const CONFIG: &str = "
name: example
data: {dataset: synthetic, image_size: 32, synthetic: {train: 96, val: 32, test: 32}}
model:
  vit: {name: vit_micro_patch8_64, embed_dim: 24, depth: 1}
  mamba: {name: vim_micro_patch8_64, embed_dim: 24, depth: 1}
  fusion: {strategy: gated, dim: 16}
  head: {hidden: [16]}
train: {epochs: 2, batch_size: 16, optimizer: {lr: 1.0e-3}, schedule: {warmup_epochs: 0.5}}
";

/// Prints a line per epoch.
struct Print;

impl Observer for Print {
    fn epoch(&mut self, record: &EpochRecord) {
        println!("epoch {}: loss {:.4}, {}", record.epoch, record.train_loss, record.val);
    }
}

/// Trains in the run directory `output`, which must not hold a run yet.
pub(crate) fn run(output: &Path) -> Result<Summary> {
    let config = Config::from_yaml(CONFIG, "example", &["seed=1".to_string()])?;
    let summary = train::train(&config, output, Options::default(), &mut [Box::new(Print)])?;
    println!("best epoch {}: {}", summary.best_epoch, summary.val.metrics);
    Ok(summary)
}

fn main() -> Result<()> {
    let output: PathBuf = std::env::args_os().nth(1).context("usage: train RUN_DIRECTORY")?.into();
    run(&output)?;
    Ok(())
}
