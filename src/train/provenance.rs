//! Where numbers come from: versions, commits and machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::config::{Branch, Config};
use crate::ops;

const UNKNOWN: &str = "unknown";

/// Recorded with every run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of this program.
    pub version: String,
    /// Commit of the program's source tree when the run was made, since the program decides the
    /// numbers; `-dirty` behind it where files had changed; `unknown` where the binary runs away
    /// from its source tree.
    pub commit: String,
    /// Likewise of the tree that the program was started in, where the user has configs and notes;
    /// `None` where that is no git repository.
    #[serde(default)]
    pub working_tree: Option<String>,
    /// Version of libtorch.
    #[serde(default)]
    pub libtorch: String,
    /// The machine's name in its network.
    #[serde(default)]
    pub host: String,
    /// Operating system and architecture.
    #[serde(default)]
    pub system: String,
    /// Where the model was computed.
    pub device: String,
    /// Threads of the CPU that computed.
    pub threads: i32,
}

impl Provenance {
    /// Of this process, computing on `device`.
    pub fn collect(device: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            commit: commit(program).unwrap_or_else(|| UNKNOWN.to_string()),
            working_tree: commit(Path::new(".")),
            libtorch: ops::libtorch_version(),
            host: host().unwrap_or_else(|| UNKNOWN.to_string()),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            device: device.to_string(),
            threads: tch::get_num_threads(),
        }
    }
}

/// One start of a run: a line of `provenance.jsonl`. A resumed run has several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartRecord {
    /// In seconds since 1970.
    pub time: u64,
    /// Optimizer steps done before.
    pub steps_done: u64,
    /// Of everything random.
    pub seed: u64,
    /// Versions, commits and machine.
    #[serde(flatten)]
    pub provenance: Provenance,
}

impl StartRecord {
    /// Of a run that goes on after so many steps now.
    pub fn now(steps_done: u64, seed: u64, provenance: &Provenance) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            time: since.map_or(0, |since| since.as_secs()),
            steps_done,
            seed,
            provenance: provenance.clone(),
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
        let mut found = BTreeMap::new();
        for &branch in Branch::ALL {
            let used = model.fusion.strategy.uses(branch);
            if let Some(file) = model.backbone(branch).weights.as_ref().filter(|_| used) {
                let weights = Self { file: file.clone(), blake3: content_hash(file)? };
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

fn commit(folder: &Path) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--match="])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (!text.is_empty()).then_some(text)
}

fn host() -> Option<String> {
    let linux = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let asked = || {
        let output = Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let name = linux.or_else(asked)?.trim().to_string();
    (!name.is_empty()).then_some(name)
}
