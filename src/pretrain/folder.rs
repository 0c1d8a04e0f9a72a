//! The folder of a pretraining. Files appear in it whole or not at all.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use super::EpochRecord;
use crate::config::{Branch, Config};
use crate::files::{remove_leftovers, write_whole};
use crate::train::RunDir;
use crate::train::run_dir::PRETRAIN_CONFIG;

/// An open folder, which no other process writes to.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Locked as a run's folder is.
    lock: RunDir,
}

impl Folder {
    /// Refuses a folder that holds a pretraining, a run, or weights that would be written over.
    ///
    /// # Errors
    /// It does.
    pub fn check_free(root: &Path) -> Result<()> {
        ensure!(
            !root.join(PRETRAIN_CONFIG).exists(),
            "{} holds a pretraining already: add --resume to go on with it, or name another folder with --output",
            root.display()
        );
        for name in ["config.yaml", "vit.safetensors", "mamba.safetensors"] {
            ensure!(
                !root.join(name).exists(),
                "{} is there already: name another folder with --output",
                root.join(name).display()
            );
        }
        Ok(())
    }

    /// Refuses a folder that holds no pretraining, or one with another config.
    ///
    /// # Errors
    /// It does.
    pub fn check_resumable(root: &Path, config: &Config) -> Result<()> {
        let path = root.join(PRETRAIN_CONFIG);
        ensure!(
            path.exists(),
            "{} holds no pretraining to resume: leave --resume out to start one",
            root.display()
        );
        if Config::load(&path, &[])? != *config {
            bail!(
                "{} was started with another config; resume with that one (vmbeauty pretrain {} --output {} --resume), or start anew in another folder",
                root.display(),
                path.display(),
                root.display()
            );
        }
        Ok(())
    }

    /// Makes the folder and writes the config.
    ///
    /// # Errors
    /// As [`check_free`](Self::check_free), another process writes to it, or it cannot be written.
    pub fn create(root: &Path, config: &Config) -> Result<Self> {
        let folder = Self::lock(root)?;
        Self::check_free(root)?;
        let yaml = config.to_yaml()?;
        write_whole(&folder.config(), |file| Ok(file.write_all(yaml.as_bytes())?))?;
        Ok(folder)
    }

    /// Opens the folder of one to go on with.
    ///
    /// # Errors
    /// As [`check_resumable`](Self::check_resumable), or another process writes to it.
    pub fn resume(root: &Path, config: &Config) -> Result<Self> {
        Self::check_resumable(root, config)?;
        let folder = Self::lock(root)?;
        for tidied in [folder.root.clone(), folder.lock.state_dir()] {
            remove_leftovers(&tidied)?;
        }
        Ok(folder)
    }

    fn lock(root: &Path) -> Result<Self> {
        Ok(Self { root: root.to_path_buf(), lock: RunDir::lock(root)? })
    }

    /// The config as resolved.
    pub fn config(&self) -> PathBuf {
        self.root.join(PRETRAIN_CONFIG)
    }

    /// A backbone's weights, at its end.
    pub fn weights(&self, branch: Branch) -> PathBuf {
        self.root.join(format!("{branch}.safetensors"))
    }

    /// What resuming a backbone needs.
    pub fn checkpoint(&self, branch: Branch) -> PathBuf {
        self.lock.state_dir().join(format!("{branch}.safetensors"))
    }

    /// The image at the end.
    pub fn reconstructions(&self) -> PathBuf {
        self.root.join("reconstructions.png")
    }

    /// Writes `metrics.jsonl`: a line per epoch of each backbone.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_metrics<'a>(
        &self,
        records: impl IntoIterator<Item = &'a EpochRecord>,
    ) -> Result<()> {
        write_whole(&self.root.join("metrics.jsonl"), |file| {
            for record in records {
                serde_json::to_writer(&mut *file, record)?;
                writeln!(file)?;
            }
            Ok(())
        })
    }
}
