//! The runs in folders: run directories, sweeps and cross-validations.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::Config;
use crate::run::{CONFIG_FILE, EpochRecord, Failure, RunDir, Status, Summary};

/// What a folder on the command line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A run directory.
    Run,
    /// A sweep, or a part of one: its runs lie in `runs/`.
    Sweep,
    /// A cross-validation, or another folder of run directories.
    Folder,
}

/// One run directory.
#[derive(Debug, Clone)]
pub struct FoundRun {
    /// Where it lies.
    pub folder: PathBuf,
    /// The folder's own name.
    pub name: String,
    /// The folder that it was found through: itself, its sweep's or its cross-validation's.
    pub source: PathBuf,
    /// What that folder is.
    pub kind: Kind,
    /// As resolved when the run began; a run that failed before that has none.
    pub config: Option<Config>,
    /// Its status.
    pub status: Status,
    /// The epochs that are done.
    pub epochs: Vec<EpochRecord>,
}

impl FoundRun {
    /// Returns the summary of a finished run.
    pub fn summary(&self) -> Option<&Summary> {
        self.status.summary()
    }
}

/// The runs in these folders, in the folders' order and by name within each; a folder that is named
/// twice counts once.
///
/// # Errors
/// A folder without a run in it, or a file of a run that cannot be read.
pub fn find(folders: &[PathBuf]) -> Result<Vec<FoundRun>> {
    let mut seen = HashSet::new();
    let mut runs = Vec::new();
    for source in folders {
        let (kind, found) = run_folders(source)?;
        for folder in found {
            let real = fs::canonicalize(&folder)
                .with_context(|| format!("cannot open {}", folder.display()))?;
            if seen.insert(real.clone()) {
                runs.push(read(folder, &real, source, kind)?);
            }
        }
    }
    Ok(runs)
}

fn run_folders(source: &Path) -> Result<(Kind, Vec<PathBuf>)> {
    if !source.is_dir() {
        let what = if source.exists() { "is a file" } else { "does not exist" };
        bail!(
            "{} {what}: name run directories, sweeps' or cross-validations' folders",
            source.display()
        );
    }
    if RunDir::holds_run(source) {
        return Ok((Kind::Run, vec![source.to_path_buf()]));
    }
    for (kind, folder) in [(Kind::Sweep, source.join("runs")), (Kind::Folder, source.to_path_buf())]
    {
        let found = runs_below(&folder)?;
        if !found.is_empty() {
            return Ok((kind, found));
        }
    }
    bail!(
        "{} holds no run: a run directory has a {CONFIG_FILE}, a sweep has runs in runs/, a cross-validation has a run for each fold",
        source.display()
    )
}

/// The folders of runs that have begun, by name.
fn runs_below(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
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

fn read(folder: PathBuf, real: &Path, source: &Path, kind: Kind) -> Result<FoundRun> {
    let status = Status::of(&folder)?;
    let config = folder.join(CONFIG_FILE);
    let name = real.file_name().unwrap_or(real.as_os_str());
    Ok(FoundRun {
        name: name.to_string_lossy().into_owned(),
        source: source.to_path_buf(),
        kind,
        config: if config.exists() { Some(Config::load(&config, &[])?) } else { None },
        epochs: RunDir::metrics_in(&folder)?,
        status,
        folder,
    })
}
