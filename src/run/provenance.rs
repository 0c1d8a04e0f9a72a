//! Provenance of a run: versions, commits, machine and starting weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::changes::Change;
use super::working_tree;
use crate::config::{Branch, Config, WeightsSource};
use crate::files::open_regular;
use crate::models::weights::{Located, locate, sha256};
use crate::ops;

const UNKNOWN: &str = "unknown";

/// The versions, commits and machine behind a run's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of this program.
    pub version: String,
    /// Commit of the source tree that this program was built from; ends in `-dirty` if sources had
    /// changed; `None` if the tree was no git repository.
    pub commit: Option<String>,
    /// Commit of the folder that the program was started in, which may hold the user's configs;
    /// `None` if that is in no git repository.
    pub working_tree: Option<String>,
    /// Version of libtorch.
    pub libtorch: String,
    /// The machine's name in its network.
    pub host: String,
    /// Operating system and architecture.
    pub system: String,
    /// The device that computed.
    pub device: String,
    /// CPU threads that libtorch used.
    pub threads: i32,
}

impl Provenance {
    /// Collects the provenance of this process, which computes on `device`.
    pub fn collect(device: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            commit: source_commit::COMMIT.map(str::to_string),
            working_tree: working_tree::commit(Path::new(".")),
            libtorch: ops::libtorch_version(),
            host: host().unwrap_or_else(|| UNKNOWN.to_string()),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            device: device.to_string(),
            threads: tch::get_num_threads(),
        }
    }
}

/// One start of a run: a line of `provenance.jsonl`. A resumed run has several lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Time in seconds since 1970.
    pub time: u64,
    /// Optimizer steps done before this start.
    pub steps_done: u64,
    /// The seed of the run.
    pub seed: u64,
    /// The keys that were changed by this start, with the old and the new value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Versions, commits and machine.
    #[serde(flatten)]
    pub provenance: Provenance,
}

impl StartRecord {
    /// Records a start at this moment, after `steps_done` steps.
    pub fn now(steps_done: u64, seed: u64, changed: &[Change], provenance: &Provenance) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            time: since.map_or(0, |since| since.as_secs()),
            steps_done,
            seed,
            changed: changed.iter().map(Change::to_string).collect(),
            provenance: provenance.clone(),
        }
    }
}

/// A weights file that a backbone, or the network, was initialized from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartingWeights {
    /// The path in the config, or the name on the Hugging Face hub.
    pub file: PathBuf,
    /// BLAKE3 hash of its content, in hexadecimal.
    pub blake3: String,
    /// What it is on the hub, if it is from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubOrigin>,
}

/// A file of the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubOrigin {
    /// The repository, `ORG/NAME`.
    pub repository: String,
    /// The commit.
    pub revision: String,
    /// SHA-256 hash of the content, in hexadecimal, which the hub shows too.
    pub sha256: String,
}

impl StartingWeights {
    /// Returns the weights files that the config names, by branch, or that of the `model`. Returns
    /// an error that names the file if it cannot be read.
    pub fn of(config: &Config) -> Result<BTreeMap<String, Self>> {
        let model = &config.model;
        let mut found = BTreeMap::new();
        if let Some(file) = &model.weights {
            let weights = Self { file: file.clone(), blake3: content_hash(file)?, hub: None };
            return Ok(BTreeMap::from([("model".to_string(), weights)]));
        }
        for &branch in Branch::ALL {
            if !model.fusion.strategy.uses(branch) {
                continue;
            }
            if let Some(located) = locate(branch, model.backbone(branch), &mut |_| Ok(()))? {
                found.insert(branch.to_string(), Self::located(&located)?);
            }
        }
        Ok(found)
    }

    fn located(Located { path, source, commit }: &Located) -> Result<Self> {
        let hub = match (source, commit) {
            (WeightsSource::Hub(file), Some(commit)) => Some(HubOrigin {
                repository: file.repository.clone(),
                revision: commit.clone(),
                sha256: sha256(path)?,
            }),
            _ => None,
        };
        Ok(Self { file: source.to_string().into(), blake3: content_hash(path)?, hub })
    }
}

/// Returns the BLAKE3 hash of a file's content, in hexadecimal. Returns an error that names the
/// file if it cannot be read.
pub fn content_hash(path: &Path) -> Result<String> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut hasher = blake3::Hasher::new();
    let file = open_regular(path).with_context(unreadable)?;
    hasher.update_reader(file).with_context(unreadable)?;
    Ok(hasher.finalize().to_hex().to_string())
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
