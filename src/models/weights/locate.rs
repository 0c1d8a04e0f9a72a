//! Finds the weights files of backbones: on this machine, or on the Hugging Face hub.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::hub::{self, OnDownload};
use crate::config::{BackboneConfig, Branch, ModelConfig, WeightsSource};

/// The weights file of a backbone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The path; that in the cache of a file of the hub.
    pub path: PathBuf,
    /// The file as the config names it, or its name on the hub in place of `pretrained`.
    pub source: WeightsSource,
    /// The commit of a file of the hub.
    pub commit: Option<String>,
}

/// Finds the weights file of a branch, and downloads it if it is one of the hub that is not in the
/// cache; `None` for random weights. Returns an error that begins with the config's key if there is
/// none.
pub fn locate(
    branch: Branch,
    config: &BackboneConfig,
    on_download: &mut OnDownload,
) -> Result<Option<Located>> {
    let Some(source) = config.weights_source().with_context(|| format!("model.{branch}"))? else {
        return Ok(None);
    };
    let (path, commit) = match &source {
        WeightsSource::File(path) => (path.clone(), None),
        WeightsSource::Hub(file) => {
            let found = hub::fetch(file, on_download);
            let found = found.with_context(|| format!("model.{branch}.weights: {file}"))?;
            (found.path, Some(found.commit))
        }
        WeightsSource::Pretrained => bail!("internal: model.{branch}.weights has no name"),
    };
    Ok(Some(Located { path, source, commit }))
}

/// Downloads the weights of the branches in use that are on the hub and not in the cache. Returns
/// an error as [`locate`] does.
pub fn download(model: &ModelConfig, on_download: &mut OnDownload) -> Result<()> {
    if model.weights.is_some() {
        return Ok(());
    }
    for &branch in Branch::ALL {
        if model.fusion.strategy.uses(branch) {
            locate(branch, model.backbone(branch), on_download)?;
        }
    }
    Ok(())
}
