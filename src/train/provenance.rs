//! Where numbers come from: versions and commit.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Recorded with every run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of this program.
    pub version: String,
    /// Commit of its source tree when the run was made, `-dirty` behind it where files had changed; `unknown` where the binary
    /// runs away from its source tree.
    pub commit: String,
    /// Where the model was computed.
    pub device: String,
    /// Threads of the CPU that computed.
    pub threads: i32,
}

impl Provenance {
    /// Of this process, computing on `device`.
    pub fn collect(device: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            commit: commit().unwrap_or_else(|| "unknown".to_string()),
            device: device.to_string(),
            threads: tch::get_num_threads(),
        }
    }
}

/// A file of weights that a backbone began from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartingWeights {
    /// As the config names it.
    pub file: PathBuf,
    /// BLAKE3 hash of its content, in hexadecimal.
    pub blake3: String,
}

impl StartingWeights {
    /// Of the backbones that the config gives weights files, by branch.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub fn of(config: &Config) -> Result<BTreeMap<String, Self>> {
        let model = &config.model;
        let strategy = model.fusion.strategy;
        let mut found = BTreeMap::new();
        for (branch, backbone, used) in [
            ("vit", &model.vit, strategy.uses_vit()),
            ("mamba", &model.mamba, strategy.uses_mamba()),
        ] {
            if let Some(file) = backbone.weights.as_ref().filter(|_| used) {
                let weights = Self {
                    file: file.clone(),
                    blake3: content_hash(file)?,
                };
                found.insert(branch.to_string(), weights);
            }
        }
        Ok(found)
    }
}

fn content_hash(path: &Path) -> Result<String> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).with_context(unreadable)?;
    std::io::copy(&mut file, &mut hasher).with_context(unreadable)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn commit() -> Option<String> {
    let output = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--match="])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (!text.is_empty()).then_some(text)
}
