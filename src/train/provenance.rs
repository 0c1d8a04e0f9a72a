//! Where numbers come from: versions and commit.

use std::process::Command;

use serde::{Deserialize, Serialize};

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
