//! Discovery of the runs in folders: run directories, sweeps and cross-validations.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::Config;
use crate::run::{CONFIG_FILE, EpochRecord, Failure, RunDir, Status, Summary};

/// The kind of a folder that holds runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    Run,
    /// A sweep or a shard of one: its runs are in `runs/`.
    Sweep,
    /// A cross-validation, or another folder of run directories.
    Folder,
}

#[derive(Debug, Clone)]
pub struct FoundRun {
    pub folder: PathBuf,
    pub name: String,
    /// The folder in which it was found: itself, or its sweep's or cross-validation's folder.
    pub source: PathBuf,
    pub kind: SourceKind,
    /// The resolved config; `None` if the run failed before it was written.
    pub config: Option<Config>,
    pub status: Status,
    pub epochs: Vec<EpochRecord>,
}

impl FoundRun {
    pub fn summary(&self) -> Option<&Summary> {
        self.status.summary()
    }
}

/// Finds the runs in folders, in the order of the folders and by name within each; a folder that is
/// given twice is read once.
pub(super) fn find(sources: &[PathBuf]) -> Result<Vec<FoundRun>> {
    let mut seen = HashSet::new();
    let mut runs = Vec::new();
    for source in sources {
        let (kind, folders) = run_folders(source)?;
        for folder in folders {
            let real = fs::canonicalize(&folder)
                .with_context(|| format!("cannot open {}", folder.display()))?;
            if seen.insert(real) {
                runs.push(read(folder, source, kind)?);
            }
        }
    }
    Ok(runs)
}

/// Returns the name of a folder, also of one that is given as `.`.
pub(super) fn folder_name(folder: &Path) -> String {
    let real = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    let name = real.file_name().unwrap_or(real.as_os_str());
    name.to_string_lossy().into_owned()
}

fn run_folders(source: &Path) -> Result<(SourceKind, Vec<PathBuf>)> {
    if !source.is_dir() {
        let what = if source.exists() { "is a file" } else { "does not exist" };
        bail!(
            "{} {what}: name run directories, or folders of sweeps or cross-validations",
            source.display()
        );
    }
    if RunDir::holds_run(source) {
        return Ok((SourceKind::Run, vec![source.to_path_buf()]));
    }
    let below =
        [(SourceKind::Sweep, source.join("runs")), (SourceKind::Folder, source.to_path_buf())];
    for (kind, folder) in below {
        let found = if folder.is_dir() { runs_in(&folder)? } else { Vec::new() };
        if !found.is_empty() {
            return Ok((kind, found));
        }
    }
    bail!(
        "{} holds no run: a run directory has a {CONFIG_FILE}, a sweep has runs in runs/, a \
         cross-validation has a run for each fold",
        source.display()
    )
}

/// Returns the folders of runs that have started, by name.
fn runs_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot list {}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if RunDir::holds_run(&path) || Failure::exists(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(folder: PathBuf, source: &Path, kind: SourceKind) -> Result<FoundRun> {
    let config = folder.join(CONFIG_FILE);
    Ok(FoundRun {
        name: folder_name(&folder),
        source: source.to_path_buf(),
        kind,
        config: if config.exists() { Some(Config::load(&config, &[])?) } else { None },
        epochs: RunDir::metrics_in(&folder)?,
        status: Status::of(&folder)?,
        folder,
    })
}
