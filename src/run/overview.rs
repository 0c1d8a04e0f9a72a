//! The runs below a folder, and what a list of them shows of each.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde_yaml::Value;

use super::directory::{METRICS_FILE, PROVENANCE_FILE, RunDir, SUMMARY_FILE};
use super::epoch::EpochRecord;
use super::kind::{CONFIG_FILE, RunKind};
use super::status::{Failure, Status};
use super::summary::Summary;
use crate::config::{Monitor, stated_keys};

/// The maximum depth of a run below the folder that is searched.
const MAX_DEPTH: usize = 8;
/// The maximum number of folders that are searched.
const MAX_FOLDERS: usize = 20_000;

/// The runs below a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundRuns {
    /// Their folders, by name.
    pub folders: Vec<PathBuf>,
    /// Whether folders were not searched: there are too many, or they cannot be read.
    pub incomplete: bool,
}

impl FoundRuns {
    /// Finds the runs in a folder and in those below it, also those of sweeps and
    /// cross-validations. Hidden folders and links are not followed. Returns an error if the folder
    /// cannot be read.
    pub fn below(root: &Path) -> Result<Self> {
        fs::read_dir(root).with_context(|| {
            format!("cannot list {} (is it a folder with runs in it?)", root.display())
        })?;
        let mut found = Self::default();
        let (mut open, mut searched) = (vec![(root.to_path_buf(), 0)], 0);
        while let Some((folder, depth)) = open.pop() {
            if is_run(&folder) {
                found.folders.push(folder);
                continue;
            }
            searched += 1;
            if depth == MAX_DEPTH || searched > MAX_FOLDERS {
                found.incomplete |= searched > MAX_FOLDERS;
                continue;
            }
            match fs::read_dir(&folder) {
                Ok(entries) => {
                    let inside = entries.flatten().filter(is_searched);
                    open.extend(inside.map(|entry| (entry.path(), depth + 1)));
                }
                Err(_) => found.incomplete = true,
            }
        }
        found.folders.sort();
        Ok(found)
    }
}

/// Returns whether a run was started in a folder. A config alone is none.
fn is_run(folder: &Path) -> bool {
    let started =
        RunDir::holds_run(folder) && (RunDir::has_state(folder) || Summary::exists(folder));
    started || Failure::exists(folder)
}

fn is_searched(entry: &DirEntry) -> bool {
    let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
    is_folder && !entry.file_name().to_string_lossy().starts_with('.')
}

/// The monitored metric of a run's best epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// The metric.
    pub monitor: Monitor,
    /// Its value.
    pub value: f64,
    /// The epoch, from 1.
    pub epoch: usize,
}

impl Best {
    /// Returns `None` where the metric is undefined.
    fn new(monitor: Monitor, value: f64, epoch: usize) -> Option<Self> {
        value.is_finite().then_some(Self { monitor, value, epoch })
    }
}

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Course {
    /// The number of epochs that are done.
    pub epoch: usize,
    /// The best epoch; `None` before the first one is done, or where the metric is undefined.
    pub best: Option<Best>,
    /// Wall time of the epochs that are done, in seconds.
    pub seconds: f64,
    /// When the run started or resumed, or its last epoch or the run was done.
    pub updated: Option<SystemTime>,
}

impl Course {
    /// Reads how far the run in a folder is, which has not finished. Returns an error if its
    /// metrics cannot be read.
    pub fn of_unfinished(folder: &Path, monitor: Monitor) -> Result<Self> {
        let records = RunDir::metrics_in(folder)?;
        Ok(Self {
            epoch: records.len(),
            best: best_of(monitor, &records),
            seconds: records.iter().map(|record| record.seconds).sum(),
            updated: last_written(folder, &[METRICS_FILE, PROVENANCE_FILE, CONFIG_FILE]),
        })
    }

    /// Reads how far a finished run was trained. Returns an error if its metrics are needed and
    /// cannot be read.
    fn of_finished(folder: &Path, summary: &Summary) -> Result<Self> {
        let monitor = summary.monitor;
        let best = match summary.val.metrics.monitored(monitor) {
            Some(value) => Best::new(monitor, value, summary.best_epoch),
            // The summary does not have the training loss.
            None => best_of(monitor, &RunDir::metrics_in(folder)?),
        };
        Ok(Self {
            epoch: summary.epochs,
            best,
            seconds: summary.seconds,
            updated: last_written(folder, &[SUMMARY_FILE]),
        })
    }

    /// Estimates the seconds until a running run has done `epochs`, each of which takes as long as
    /// the mean of those that are done; `None` before the first is.
    pub fn seconds_left(&self, epochs: usize, now: SystemTime) -> Option<f64> {
        let since = now.duration_since(self.updated?).unwrap_or_default().as_secs_f64();
        let mean = Some(self.seconds / self.epoch as f64).filter(|mean| mean.is_finite())?;
        Some((epochs.saturating_sub(self.epoch) as f64 * mean - since).max(0.0))
    }
}

/// A run as a list shows it.
#[derive(Debug)]
pub struct Overview {
    /// Its status.
    pub status: Status,
    /// The keys of its config; none if it failed before the config was written.
    pub config: Vec<(String, Value)>,
    /// How far it is.
    pub course: Course,
}

impl Overview {
    /// Reads the run in a folder: its config and its summary, or if it has not finished, its
    /// metrics. Returns an error if one of them cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let status = Status::of(folder)?;
        let path = RunKind::Train.config_in(folder);
        let config = if path.exists() { stated_keys(&path)? } else { Vec::new() };
        let course = match status.summary() {
            Some(summary) => Course::of_finished(folder, summary)?,
            None => {
                let monitor = text_of(&config, "train.monitor");
                let monitor = monitor.and_then(|name| name.parse().ok()).unwrap_or(Monitor::Pc);
                Course::of_unfinished(folder, monitor)?
            }
        };
        Ok(Self { status, config, course })
    }

    /// The number of epochs of the config; `None` if it has none.
    pub fn epochs(&self) -> Option<usize> {
        let found = self.config.iter().find(|(key, _)| key == "train.epochs");
        found.and_then(|(_, value)| value.as_u64()).map(|epochs| epochs as usize)
    }

    /// Estimates the seconds until a running run is done; `None` for another one.
    pub fn seconds_left(&self, now: SystemTime) -> Option<f64> {
        let epochs = self.epochs().filter(|_| self.status == Status::Running)?;
        self.course.seconds_left(epochs, now)
    }
}

fn text_of<'a>(config: &'a [(String, Value)], key: &str) -> Option<&'a str> {
    config.iter().find(|(known, _)| known == key)?.1.as_str()
}

fn best_of(monitor: Monitor, records: &[EpochRecord]) -> Option<Best> {
    let record = records.iter().rev().find(|record| record.best)?;
    Best::new(monitor, record.monitored(monitor), record.epoch)
}

/// Returns when the last of these files was written; of a folder without them, the folder.
fn last_written(folder: &Path, names: &[&str]) -> Option<SystemTime> {
    let written = |path: &Path| fs::metadata(path).ok()?.modified().ok();
    let files = names.iter().filter_map(|name| written(&folder.join(name)));
    files.max().or_else(|| written(folder))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    /// Makes the folder of a run of three epochs, whose lock nobody holds.
    fn run(folder: &Path) {
        let config = Config::from_yaml("train: {epochs: 3, monitor: mae}", "test", &[]).unwrap();
        RunDir::create(folder, RunKind::Train, &config).unwrap();
    }

    fn epoch(number: usize, mae: f64, best: bool) -> String {
        format!(
            "{{\"epoch\":{number},\"step\":4,\"train_loss\":0.5,\"val\":{{\"pc\":0.5,\
             \"mae\":{mae},\"rmse\":0.5,\"srcc\":null,\"n\":4}},\"lr\":0.1,\"backbone_lr\":0.1,\
             \"fusion_weights\":null,\"images_per_second\":9.0,\"data_wait\":0.0,\"seconds\":10.0,\
             \"skipped_steps\":0,\"best\":{best}}}\n"
        )
    }

    #[test]
    fn runs_are_found_at_any_depth_but_not_in_hidden_folders_runs_or_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let expected = ["a", "sweep/runs/x=1", "sweep/runs/x=2"].map(|name| root.join(name));
        expected.iter().for_each(|folder| run(folder));
        run(&root.join("a/inside"));
        run(&root.join(".hidden/b"));
        fs::create_dir_all(root.join("sweep/runs/failed")).unwrap();
        Failure { error: "no".into(), code: None }.write(&root.join("sweep/runs/failed")).unwrap();
        fs::create_dir(root.join("configs")).unwrap();
        fs::write(root.join("configs/config.yaml"), "seed: 1\n").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(root, root.join("loop")).unwrap();
        let found = FoundRuns::below(root).unwrap();
        let [a, x1, x2] = expected;
        assert_eq!(found.folders, [a.clone(), root.join("sweep/runs/failed"), x1, x2]);
        assert!(!found.incomplete);
        assert_eq!(FoundRuns::below(&a).unwrap().folders, [a]);
        assert!(FoundRuns::below(&root.join("absent")).is_err());
    }

    #[test]
    fn an_unfinished_run_has_its_best_epoch_and_the_time_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run");
        run(&root);
        let read = || Overview::read(&root).unwrap();
        let before = read();
        assert_eq!((before.course.epoch, before.course.best, before.epochs()), (0, None, Some(3)));
        assert_eq!(before.course.seconds_left(3, SystemTime::now()), None);
        let metrics = [epoch(1, 0.4, true), epoch(2, 0.6, false)].concat();
        fs::write(root.join(METRICS_FILE), metrics).unwrap();
        let Overview { status, course, .. } = read();
        assert_eq!(course.best, Some(Best { monitor: Monitor::Mae, value: 0.4, epoch: 1 }));
        assert_eq!((status.name(), course.epoch, course.seconds), ("stopped", 2, 20.0));
        let left = |seconds| {
            let now = course.updated.unwrap() + Duration::from_secs(seconds);
            course.seconds_left(3, now).unwrap()
        };
        assert_eq!((left(0), left(4), left(60)), (10.0, 6.0, 0.0));
    }
}
