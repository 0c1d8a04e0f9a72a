//! The run directory: every file of a run, under the names that other tools rely on.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::observer::EpochRecord;
use super::provenance::StartRecord;
use crate::config::Config;
use crate::data::Split;
use crate::eval::run::{BEST_FILE, CONFIG_FILE, SUMMARY_FILE};
use crate::files::{remove_leftovers, write_whole};

const STATE: &str = "state";
const METRICS: &str = "metrics.jsonl";
/// Folder of TensorBoard's event files in a run directory.
pub const TENSORBOARD: &str = "tensorboard";

/// The resolved config in the folder of a pretraining, which is no run.
pub(crate) const PRETRAIN_CONFIG: &str = "pretrain.yaml";

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// No run.
    Absent,
    /// A run that has not come to its end: it is going on, was stopped, or failed.
    Started,
    /// A run with its summary.
    Finished,
}

/// A run's folder. Files appear in it whole or not at all.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    /// Locked as long as the run writes.
    _lock: Option<File>,
}

impl RunDir {
    /// Refuses a folder that holds a run.
    ///
    /// # Errors
    /// There is a run in it already.
    pub fn check_free(root: &Path) -> Result<()> {
        ensure!(
            !root.join(CONFIG_FILE).exists(),
            "{} holds a run already: add --resume to go on with it, or name another folder with --output",
            root.display()
        );
        ensure!(
            !root.join(PRETRAIN_CONFIG).exists(),
            "{} holds a pretraining, not a run: name another folder with --output",
            root.display()
        );
        Ok(())
    }

    /// What the folder holds.
    pub fn state(root: &Path) -> RunState {
        match (root.join(CONFIG_FILE).exists(), root.join(SUMMARY_FILE).exists()) {
            (false, _) => RunState::Absent,
            (true, false) => RunState::Started,
            (true, true) => RunState::Finished,
        }
    }

    /// Whether a process is training in the folder right now.
    pub fn is_busy(root: &Path) -> bool {
        let lock = File::open(root.join(STATE).join("lock"));
        lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Refuses a folder whose run has another config.
    ///
    /// # Errors
    /// The config differs, or cannot be read.
    pub fn check_config(root: &Path, config: &Config) -> Result<()> {
        let path = root.join(CONFIG_FILE);
        if Config::load(&path, &[])? != *config {
            bail!(
                "{} was started with another config; resume with that one (vmbeauty train {} --output {} --resume), or start anew in another folder",
                root.display(),
                path.display(),
                root.display()
            );
        }
        Ok(())
    }

    /// Makes the folder for a new run and writes its config.
    ///
    /// # Errors
    /// There is a run in it already, another process writes to it, or it cannot be written.
    pub fn create(root: &Path, config: &Config) -> Result<Self> {
        let run = Self::lock(root)?;
        Self::check_free(root)?;
        let yaml = config.to_yaml()?;
        write_whole(&run.config(), |file| Ok(file.write_all(yaml.as_bytes())?))?;
        Ok(run)
    }

    /// The folder that another process of the same job writes; this one does not touch it, and need
    /// not see it.
    pub fn of_first_rank(root: &Path) -> Self {
        Self { root: root.to_path_buf(), _lock: None }
    }

    /// Makes the folders, and sees to it that no other process writes in them.
    pub(crate) fn lock(root: &Path) -> Result<Self> {
        let state = root.join(STATE);
        fs::create_dir_all(&state)
            .with_context(|| format!("cannot make the folder {}", state.display()))?;
        let path = state.join("lock");
        let lock =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_path_buf(), _lock: Some(lock) }),
            Err(TryLockError::WouldBlock) => bail!(
                "another process is training in {}: wait for it, or name another folder with --output",
                root.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Opens the folder of a run to go on with, which must have the same config.
    ///
    /// # Errors
    /// There is no run in it, or it was started with another config.
    pub fn resume(root: &Path, config: &Config) -> Result<Self> {
        let path = root.join(CONFIG_FILE);
        ensure!(
            path.exists(),
            "{} holds no run to resume: leave --resume out to start one",
            root.display()
        );
        Self::check_config(root, config)?;
        let run = Self::lock(root)?;
        for folder in [run.root.clone(), run.state_dir()] {
            remove_leftovers(&folder)?;
        }
        Ok(run)
    }

    /// `runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3`, … that holds no run yet; to
    /// resume, the last that does.
    pub fn default_root(name: &str, resume: bool) -> PathBuf {
        let numbered = |n: usize| match n {
            1 => Path::new("runs").join(name),
            n => Path::new("runs").join(format!("{name}-{n}")),
        };
        let holds_run = |n: usize| numbered(n).join(CONFIG_FILE).exists();
        let mut n = 1;
        while holds_run(n) && (!resume || holds_run(n + 1)) {
            n += 1;
        }
        numbered(n)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The config as resolved.
    pub fn config(&self) -> PathBuf {
        self.root.join(CONFIG_FILE)
    }

    /// Weights with the best validation metric.
    pub fn best(&self) -> PathBuf {
        self.root.join(BEST_FILE)
    }

    /// Weights after the last epoch.
    pub fn last(&self) -> PathBuf {
        self.root.join("last.safetensors")
    }

    /// What resuming needs.
    pub fn checkpoint(&self) -> PathBuf {
        self.state_dir().join("checkpoint.safetensors")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.root.join(STATE)
    }

    /// The metrics at the end.
    pub fn summary(&self) -> PathBuf {
        Self::summary_in(&self.root)
    }

    /// The metrics at the end of the run in a folder.
    pub fn summary_in(root: &Path) -> PathBuf {
        root.join(SUMMARY_FILE)
    }

    /// Predictions of one split of the run in a folder.
    pub fn predictions_in(root: &Path, split: Split) -> PathBuf {
        root.join(format!("predictions_{split}.csv"))
    }

    /// Predictions of one split.
    pub fn predictions(&self, split: Split) -> PathBuf {
        Self::predictions_in(&self.root, split)
    }

    fn metrics(&self) -> PathBuf {
        self.root.join(METRICS)
    }

    /// Writes `metrics.jsonl`: a line per epoch.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_metrics(&self, records: &[EpochRecord]) -> Result<()> {
        write_whole(&self.metrics(), |file| {
            for record in records {
                serde_json::to_writer(&mut *file, record)?;
                writeln!(file)?;
            }
            Ok(())
        })
    }

    /// Adds a line to `provenance.jsonl`: where the numbers from this start on come from.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn add_start(&self, start: &StartRecord) -> Result<()> {
        let path = self.root.join("provenance.jsonl");
        let before = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        write_whole(&path, |file| {
            file.write_all(before.as_bytes())?;
            serde_json::to_writer(&mut *file, start)?;
            Ok(writeln!(file)?)
        })
    }

    /// Every line of `metrics.jsonl` of the run in a folder; none before its first epoch is done.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn metrics_in(root: &Path) -> Result<Vec<EpochRecord>> {
        let path = root.join(METRICS);
        if path.exists() { read_epochs(&path, usize::MAX) } else { Ok(Vec::new()) }
    }

    /// The first `epochs` lines of `metrics.jsonl`.
    ///
    /// # Errors
    /// The file has fewer, or one that cannot be read.
    pub fn read_metrics(&self, epochs: usize) -> Result<Vec<EpochRecord>> {
        if epochs == 0 {
            return Ok(Vec::new());
        }
        let path = self.metrics();
        let records = read_epochs(&path, epochs)?;
        ensure!(
            records.len() == epochs,
            "{} has {} epochs, the checkpoint was written after {epochs}",
            path.display(),
            records.len()
        );
        Ok(records)
    }
}

/// At most so many lines.
fn read_epochs(path: &Path, epochs: usize) -> Result<Vec<EpochRecord>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().take(epochs).enumerate();
    let records = lines.map(|(i, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("{}:{}: not an epoch's metrics", path.display(), i + 1))
    });
    records.collect()
}
