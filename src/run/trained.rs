//! A run opened for inference.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tch::Device;

use super::directory::{BEST_FILE, CONFIG_FILE};
use super::summary::{Summary, check_unchanged};
use crate::config::Config;
use crate::models::{BeautyNet, device, weights};

/// A run opened for inference: its config, and the network with its weights.
#[derive(Debug)]
pub struct Run {
    /// The resolved config of the run.
    pub config: Config,
    /// The network with the run's weights.
    pub net: BeautyNet,
    /// The weights file that was read.
    pub weights: PathBuf,
}

impl Run {
    /// Opens a run directory (its best weights) or one weights file in it. `overrides` change the
    /// config, as `--set` does. Returns an error if the path is neither, the config or the weights
    /// cannot be read, or the best weights are not those that the run wrote.
    pub fn open(path: &Path, overrides: &[String]) -> Result<Self> {
        let (folder, weights_file) = locate(path)?;
        let config = Config::load(&folder.join(CONFIG_FILE), overrides)
            .with_context(|| format!("{} is not a run directory of vmbeauty", folder.display()))?;
        let device: Device = device::select(config.device)?;
        let net = BeautyNet::without_pretrained(&config, device)?;
        check_unchanged(&weights_file)?;
        weights::load(&net.parameters(), &weights_file)?;
        Ok(Self { config, net, weights: weights_file })
    }

    /// Reads the summary of a finished run that was opened with its best weights; `None` for other
    /// weights or an unfinished run. Returns an error if the summary cannot be read.
    pub fn summary(&self) -> Result<Option<Summary>> {
        let folder = self.weights.with_file_name("");
        if !self.weights.ends_with(BEST_FILE) || !Summary::exists(&folder) {
            return Ok(None);
        }
        Summary::read(&folder).map(Some)
    }
}

fn locate(path: &Path) -> Result<(PathBuf, PathBuf)> {
    ensure!(
        path.exists(),
        "{} does not exist: name a run directory, or a weights file in one",
        path.display()
    );
    if path.is_dir() {
        let best = path.join(BEST_FILE);
        ensure!(
            best.exists(),
            "{} has no {BEST_FILE}: the run has not finished its first epoch, or this is no run \
             directory",
            path.display()
        );
        return Ok((path.to_path_buf(), best));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok((folder.unwrap_or(Path::new(".")).to_path_buf(), path.to_path_buf()))
}
