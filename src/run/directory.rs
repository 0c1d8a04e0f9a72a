//! The folder of a run or a pretraining, and every file in it, under the names that other tools
//! rely on.

use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::changes::{self, Change, Changes};
use super::epoch::EpochRecord;
use super::kind::RunKind;
use super::provenance::StartRecord;
use crate::config::{Branch, Config};
use crate::data::Split;
use crate::files::{
    has_no_locks, open_in_place, open_regular, read_text, remove_leftovers, try_lock, write_atomic,
};

/// Weights with the best validation metric.
pub const BEST_FILE: &str = "best.safetensors";
/// A line per epoch.
pub(super) const METRICS_FILE: &str = "metrics.jsonl";
/// A line per start.
pub(super) const PROVENANCE_FILE: &str = "provenance.jsonl";
/// The summary of a finished run.
pub const SUMMARY_FILE: &str = "summary.json";
/// Maximum size of a text file in a run directory, in bytes: `metrics.jsonl` of 500,000 epochs.
pub(super) const MAX_TEXT: u64 = 1 << 28;
/// The name of a training's checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// Folder of what resuming needs.
const STATE: &str = "state";

/// The folder of a run or a pretraining. Every write is atomic.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    kind: RunKind,
    /// Locked as long as the run writes.
    _lock: Option<File>,
    warning: Option<String>,
    changes: Vec<Change>,
    epochs_before: Option<usize>,
}

impl RunDir {
    /// Refuses a folder that holds a run or a pretraining, or weights that would be overwritten.
    /// Returns an error that names what the folder holds.
    pub fn check_free(root: &Path, kind: RunKind) -> Result<()> {
        for held in [RunKind::Train, RunKind::Pretrain] {
            if !held.config_in(root).exists() {
                continue;
            }
            let (folder, noun) = (root.display(), held.noun());
            if held == kind {
                bail!(
                    "{folder} holds a {noun} already: add --resume to continue it, or name another \
                     folder with --output"
                );
            }
            bail!(
                "{folder} holds a {noun} ({}), not a {}: name another folder with --output",
                held.config_file(),
                kind.noun()
            );
        }
        for &branch in Branch::ALL {
            let weights = weights_in(root, branch);
            ensure!(
                kind == RunKind::Train || !weights.exists(),
                "{} exists already: name another folder with --output",
                weights.display()
            );
        }
        Ok(())
    }

    /// Returns whether a run was started in the folder.
    pub fn holds_run(root: &Path) -> bool {
        RunKind::Train.config_in(root).exists()
    }

    /// Returns whether the folder has what a run that has started makes first.
    pub(super) fn has_state(root: &Path) -> bool {
        root.join(STATE).exists()
    }

    /// Returns whether a process is training in the folder right now.
    pub fn is_running(root: &Path) -> bool {
        let lock = open_regular(&lock_in(root));
        lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Refuses a folder whose run has another config, but for keys that do not change the weights,
    /// or that holds none. Returns an error if there is nothing to resume, a key differs, or the
    /// config cannot be read.
    pub fn check_config(root: &Path, kind: RunKind, config: &Config) -> Result<()> {
        let changes = Self::changes_of(root, kind, config)?;
        Self::refuse(root, kind, &changes)
    }

    /// Compares the config of the run in a folder with another one.
    fn changes_of(root: &Path, kind: RunKind, config: &Config) -> Result<Changes> {
        let path = kind.config_in(root);
        ensure!(
            path.exists(),
            "{} holds no {} to resume: omit --resume to start one",
            root.display(),
            kind.noun()
        );
        let (old, new) = (absolute(&Config::load(&path, &[])?)?, absolute(config)?);
        // A pretraining has a checkpoint of each backbone, and reads weights at the start of each.
        let started = kind == RunKind::Train && checkpoint_in(root, CHECKPOINT).exists();
        Ok(Changes::between(&old, &new, kind, started)?)
    }

    fn refuse(root: &Path, kind: RunKind, changes: &Changes) -> Result<()> {
        let (folder, refusal) = (root.display(), changes.refusal());
        ensure!(
            changes.refused.is_empty(),
            "{folder} was started with another config: {refusal}; resume with its own (vmbeauty {} \
             {} --output {folder} --resume), or start from scratch in another folder",
            kind.command(),
            kind.config_in(root).display(),
        );
        Ok(())
    }

    /// Creates the folder of a new run and writes its config, with absolute paths. The summary of a
    /// run whose config was removed is removed, too: it does not describe this one. Returns an
    /// error if [`check_free`](Self::check_free) does, another process writes to the folder, or it
    /// cannot be written.
    pub fn create(root: &Path, kind: RunKind, config: &Config) -> Result<Self> {
        let run = Self::lock(root, kind)?;
        Self::check_free(root, kind)?;
        run.remove_summary()?;
        let yaml = absolute(config)?.to_yaml()?;
        write_atomic(&run.config(), |file| Ok(file.write_all(yaml.as_bytes())?))?;
        Ok(run)
    }

    /// Opens the folder of a run to continue it. The config may differ in keys that do not change
    /// the weights, and a training may have more epochs. Returns an error if
    /// [`check_config`](Self::check_config) does, or another process writes to the folder.
    pub fn resume(root: &Path, kind: RunKind, config: &Config) -> Result<Self> {
        let mut changes = Self::changes_of(root, kind, config)?;
        let epochs_before = match kind {
            RunKind::Train => changes.allow_more_epochs(),
            RunKind::Pretrain => None,
        };
        Self::refuse(root, kind, &changes)?;
        let run = Self::lock(root, kind)?;
        Ok(Self { changes: changes.allowed, epochs_before, ..run })
    }

    /// Writes the changed config of a resumed run, once the checkpoint fits it. A finished run that
    /// has more epochs now is no longer finished. Returns an error if a file cannot be written.
    pub fn accept_changes(&self, config: &Config) -> Result<()> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let old = Config::load(&self.config(), &[])?;
        let yaml = changes::resumed(&old, &absolute(config)?).to_yaml()?;
        if self.epochs_before.is_some() {
            self.remove_summary()?;
        }
        write_atomic(&self.config(), |file| Ok(file.write_all(yaml.as_bytes())?))
    }

    /// The keys that a resumed run has changed.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The number of epochs that a resumed run had, if it has more now.
    pub fn epochs_before(&self) -> Option<usize> {
        self.epochs_before
    }

    fn remove_summary(&self) -> Result<()> {
        let summary = self.root.join(SUMMARY_FILE);
        match fs::remove_file(&summary) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", summary.display()))
            }
            _ => Ok(()),
        }
    }

    /// The folder of a run that rank 0 writes; this process does not touch it, and need not see it.
    pub fn of_first_rank(root: &Path) -> Self {
        Self::new(root, RunKind::Train)
    }

    fn new(root: &Path, kind: RunKind) -> Self {
        Self {
            root: root.to_path_buf(),
            kind,
            _lock: None,
            warning: None,
            changes: Vec::new(),
            epochs_before: None,
        }
    }

    /// Creates the folders and locks them against other processes.
    fn lock(root: &Path, kind: RunKind) -> Result<Self> {
        let state = root.join(STATE);
        fs::create_dir_all(&state)
            .with_context(|| format!("cannot make the folder {}", state.display()))?;
        let path = lock_in(root);
        let lock =
            open_in_place(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let warning = Self::locked(root, try_lock(&lock))?;
        Ok(Self { _lock: Some(lock), warning, ..Self::new(root, kind) })
    }

    /// Checks the attempt to lock a folder, and returns a warning if its file system has no locks.
    /// If it succeeded, no other process writes there, and what a killed one left is removed.
    fn locked(root: &Path, attempt: Result<(), TryLockError>) -> Result<Option<String>> {
        match attempt {
            Ok(()) => {
                remove_leftovers(root);
                remove_leftovers(&root.join(STATE));
                Ok(None)
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another process is training in {}: wait for it, or name another folder with \
                 --output",
                root.display()
            ),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(Some(format!(
                "the file system of {} cannot lock files ({error}): start no second process in \
                 this folder, for nothing would stop it",
                root.display()
            ))),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", lock_in(root).display()))
            }
        }
    }

    /// What a user should know of the folder, if anything.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Returns `runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3`, … that holds no run yet;
    /// to resume, the last that does.
    pub fn default_root(name: &str, resume: bool) -> PathBuf {
        let numbered = |n: usize| match n {
            1 => Path::new("runs").join(name),
            n => Path::new("runs").join(format!("{name}-{n}")),
        };
        let mut n = 1;
        while Self::holds_run(&numbered(n)) && (!resume || Self::holds_run(&numbered(n + 1))) {
            n += 1;
        }
        numbered(n)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved config.
    pub fn config(&self) -> PathBuf {
        self.kind.config_in(&self.root)
    }

    /// The subcommand that writes the folder.
    pub fn kind(&self) -> RunKind {
        self.kind
    }

    /// Weights with the best validation metric.
    pub fn best(&self) -> PathBuf {
        self.root.join(BEST_FILE)
    }

    /// Weights after the last epoch.
    pub fn last(&self) -> PathBuf {
        self.root.join("last.safetensors")
    }

    /// Weights of a pretrained backbone.
    pub fn backbone(&self, branch: Branch) -> PathBuf {
        weights_in(&self.root, branch)
    }

    /// Validation images reconstructed by the pretrained backbones.
    pub fn reconstructions(&self) -> PathBuf {
        self.root.join("reconstructions.png")
    }

    /// State that resuming needs: of the run (`checkpoint`), or of a backbone's pretraining.
    pub fn checkpoint(&self, name: impl Display) -> PathBuf {
        checkpoint_in(&self.root, name)
    }

    /// Predictions on one split of the run in a folder.
    pub fn predictions_in(root: &Path, split: Split) -> PathBuf {
        root.join(format!("predictions_{split}.csv"))
    }

    /// TensorBoard's event files of the run in a folder.
    pub fn tensorboard_in(root: &Path) -> PathBuf {
        root.join("tensorboard")
    }

    /// Writes `metrics.jsonl`, one record per line. Returns an error if the file cannot be written.
    pub fn write_metrics<'a, R: Serialize + 'a>(
        &self,
        records: impl IntoIterator<Item = &'a R>,
    ) -> Result<()> {
        write_atomic(&self.root.join(METRICS_FILE), |file| {
            for record in records {
                serde_json::to_writer(&mut *file, record)?;
                writeln!(file)?;
            }
            Ok(())
        })
    }

    /// Reads the records of the run in a folder; none before its first epoch is done. Returns an
    /// error if the file cannot be read.
    pub fn metrics_in(root: &Path) -> Result<Vec<EpochRecord>> {
        let path = root.join(METRICS_FILE);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = read_text(&path, MAX_TEXT)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let records = text.lines().enumerate().map(|(i, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("{}:{}: not an epoch's metrics", path.display(), i + 1))
        });
        records.collect()
    }

    /// Returns when the records of the run in a folder were last written, and their length: one of
    /// the two differs where the records do.
    pub fn metrics_written(root: &Path) -> Option<(Option<SystemTime>, u64)> {
        let metadata = fs::metadata(root.join(METRICS_FILE)).ok()?;
        Some((metadata.modified().ok(), metadata.len()))
    }

    /// Appends a line to `provenance.jsonl`: where the numbers from this start on come from.
    /// Returns an error if the file cannot be read or written.
    pub fn add_start(&self, start: &StartRecord) -> Result<()> {
        let path = self.root.join(PROVENANCE_FILE);
        let before = match read_text(&path, MAX_TEXT) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        write_atomic(&path, |file| {
            file.write_all(before.as_bytes())?;
            serde_json::to_writer(&mut *file, start)?;
            Ok(writeln!(file)?)
        })
    }
}

/// Returns the config with paths that mean the same in every folder.
fn absolute(config: &Config) -> Result<Config> {
    config.with_absolute_paths().context("cannot read the working folder")
}

fn checkpoint_in(root: &Path, name: impl Display) -> PathBuf {
    root.join(STATE).join(format!("{name}.safetensors"))
}

fn lock_in(root: &Path) -> PathBuf {
    root.join(STATE).join("lock")
}

fn weights_in(root: &Path, branch: Branch) -> PathBuf {
    root.join(format!("{branch}.safetensors"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::from_yaml("seed: 1\n", "test", &[]).unwrap()
    }

    #[test]
    fn a_linked_lock_is_refused_and_the_file_that_it_leads_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run");
        let precious = dir.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        fs::create_dir_all(root.join(STATE)).unwrap();
        std::os::unix::fs::symlink(&precious, lock_in(&root)).unwrap();
        let error = RunDir::create(&root, RunKind::Train, &config()).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("lock") && error.contains("symbolic link"), "{error}");
        assert_eq!(fs::read(&precious).unwrap(), b"kept");
    }

    #[test]
    fn a_new_run_removes_what_a_killed_one_left() {
        let dir = tempfile::tempdir().unwrap();
        let leftover = dir.path().join(".config.yaml.12-0.part");
        let own = dir.path().join(".film.part");
        for path in [&leftover, &own] {
            fs::write(path, "half").unwrap();
        }
        let run = RunDir::create(dir.path(), RunKind::Train, &config()).unwrap();
        assert!(!leftover.exists() && own.exists());
        assert_eq!(run.warning(), None);
    }

    #[test]
    fn a_temporary_file_stays_where_nothing_is_locked_or_it_cannot_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let written = dir.path().join(".best.safetensors.12-0.part");
        fs::write(&written, "of a process that is writing it").unwrap();
        let without = TryLockError::Error(std::io::Error::from_raw_os_error(libc::ENOLCK));
        let warning = RunDir::locked(dir.path(), Err(without)).unwrap();
        assert!(warning.is_some() && written.exists());
        // A folder is no file that could be removed, as another user's file is none.
        let stuck = dir.path().join(".last.safetensors.12-1.part");
        fs::create_dir(&stuck).unwrap();
        RunDir::create(dir.path(), RunKind::Train, &config()).unwrap();
        assert!(stuck.exists() && !written.exists());
    }
}
