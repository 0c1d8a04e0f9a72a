//! A run opened for inference.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use tch::Device;

use super::directory::{BEST_FILE, RunDir};
use super::kind::{CONFIG_FILE, RunKind};
use super::summary::{Summary, check_unchanged};
use crate::config::{Config, names_config};
use crate::data::Split;
use crate::eval::predictions::Predictions;
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
        let config = Config::load(&folder.join(CONFIG_FILE), overrides)?;
        let device: Device = device::select(&config)?;
        let net = BeautyNet::without_pretrained(&config, device)?;
        check_unchanged(&weights_file)?;
        weights::load(&net.parameters(), &weights_file)?;
        Ok(Self { config, net, weights: weights_file })
    }

    /// Reads the summary of a finished run that was opened with its best weights; `None` for other
    /// weights or an unfinished run. Returns an error if the summary cannot be read.
    pub fn summary(&self) -> Result<Option<Summary>> {
        self.finished_folder().map(|folder| Summary::read(&folder)).transpose()
    }

    /// Returns the run directory, if the weights are the best ones of a finished run, whose
    /// predictions it holds.
    pub fn finished_folder(&self) -> Option<PathBuf> {
        let folder = self.weights.with_file_name("");
        (self.is_best() && Summary::exists(&folder)).then_some(folder)
    }

    /// Returns whether the weights are the best ones of their run.
    pub fn is_best(&self) -> bool {
        self.weights.ends_with(BEST_FILE)
    }

    /// Writes predictions for the images of a split. Where `file` is the one that the finished run
    /// has for them, and its best weights made them, the summary gets the new file's hash. Returns
    /// an error if the file cannot be written, or the summary cannot be read or written.
    pub fn write_predictions(
        &self,
        predictions: &Predictions,
        split: Split,
        file: &Path,
    ) -> Result<()> {
        predictions.write(file)?;
        let Some(folder) = self.finished_folder() else {
            return Ok(());
        };
        let own = RunDir::predictions_in(&folder, split);
        if fs::canonicalize(&own).ok() == fs::canonicalize(file).ok() {
            Summary::record(&folder, &own)?;
        }
        Ok(())
    }
}

/// Returns the weights file of a run directory (the best weights), or of a weights file in one.
/// Returns an error if the path is neither, or the weights are not those that the run wrote.
pub fn weights_of(path: &Path) -> Result<PathBuf> {
    let (_, weights_file) = locate(path)?;
    check_unchanged(&weights_file)?;
    Ok(weights_file)
}

/// The endings of weights files.
const WEIGHTS_FILES: [&str; 5] = ["safetensors", "pth", "pt", "bin", "ckpt"];

/// Returns whether a path names a run or is meant to, and not an image or a folder of images: a
/// folder with what a run, a pretraining or a sweep has in it, or the name of a weights file or
/// config. [`Run::open`] says what is wrong with one that has no weights.
pub fn names_run(path: &Path) -> bool {
    if !path.is_dir() {
        let holds_weights = |ending: &OsStr| WEIGHTS_FILES.iter().any(|known| ending == *known);
        return names_config(path) || path.extension().is_some_and(holds_weights);
    }
    let files = [CONFIG_FILE, RunKind::Pretrain.config_file(), BEST_FILE];
    files.iter().any(|name| path.join(name).exists()) || run_inside(path).is_some()
}

/// Returns the folder of a run and its weights file.
fn locate(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let shown = path.display();
    let unreadable = |path: &Path| format!("cannot open {}", path.display());
    let is_folder = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{shown} does not exist: name a run directory, or a weights file in one")
        }
        found => found.with_context(|| unreadable(path))?.is_dir(),
    };
    if is_folder {
        let best = path.join(BEST_FILE);
        return match fs::metadata(&best) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(no_weights(path)),
            found => {
                found.with_context(|| unreadable(&best))?;
                Ok((path.to_path_buf(), best))
            }
        };
    }
    ensure!(
        !names_config(path),
        "{shown} is a config: name a run directory, or a weights file in one"
    );
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    ensure!(
        folder.join(CONFIG_FILE).exists(),
        "{shown} is no weights file of a run, which has a {CONFIG_FILE} in its folder; weights of \
         other programs are named in model.vit.weights and model.mamba.weights"
    );
    Ok((folder.to_path_buf(), path.to_path_buf()))
}

/// Says why a folder has no weights of a run, and what to name instead.
fn no_weights(folder: &Path) -> Error {
    let (shown, has) = (folder.display(), |name: &str| folder.join(name).exists());
    if has(CONFIG_FILE) {
        return anyhow!(
            "{shown} has no weights yet: the run has not finished its first epoch (vmbeauty train \
             {shown}/{CONFIG_FILE} --output {shown} --resume continues it)"
        );
    }
    if has(RunKind::Pretrain.config_file()) {
        return anyhow!(
            "{shown} is a pretraining, which predicts nothing: name its weights in \
             model.vit.weights and model.mamba.weights, and train"
        );
    }
    match run_inside(folder) {
        Some(run) => anyhow!("{shown} holds several runs: name them, as {}", run.display()),
        None => anyhow!("{shown} is no run directory: it has no {CONFIG_FILE}"),
    }
}

/// Returns the first run in the folder of a sweep or a cross-validation.
fn run_inside(folder: &Path) -> Option<PathBuf> {
    [folder.to_path_buf(), folder.join("runs")].into_iter().find_map(|folder| {
        let entries = fs::read_dir(folder).ok()?;
        let runs = entries.flatten().map(|entry| entry.path());
        runs.filter(|run| run.join(CONFIG_FILE).exists()).min()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_a_run_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["empty", "started", "pretraining", "sweep/runs/a", "folds/fold_1"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for file in [
            "started/config.yaml",
            "pretraining/pretrain.yaml",
            "sweep/runs/a/config.yaml",
            "folds/fold_1/config.yaml",
            "empty/w.pth",
        ] {
            fs::write(path(file), "").unwrap();
        }
        for (name, words) in [
            ("gone", "does not exist: name a run"),
            ("empty", "is no run directory: it has no config.yaml"),
            ("started", "the run has not finished its first epoch"),
            ("pretraining", "is a pretraining"),
            ("sweep", "sweep/runs/a"),
            ("folds", "folds/fold_1"),
            ("started/config.yaml", "is a config: name a run directory"),
            ("empty/w.pth", "is no weights file of a run"),
        ] {
            let error = format!("{:#}", locate(&path(name)).unwrap_err());
            assert!(error.contains(words), "{name}: {error}");
            assert_eq!(names_run(&path(name)), !["gone", "empty"].contains(&name), "{name}");
        }
        fs::write(path("empty/a.png"), "").unwrap();
        assert!(!names_run(&path("empty/a.png")) && !names_run(&path("gone.png")));
        assert!(names_run(&path("gone.safetensors")));
    }

    #[test]
    #[cfg(unix)]
    fn a_run_that_cannot_be_opened_is_not_said_to_lack_weights() {
        let dir = tempfile::tempdir().unwrap();
        let best = dir.path().join(BEST_FILE);
        std::os::unix::fs::symlink(&best, &best).unwrap();
        let error = format!("{:#}", locate(dir.path()).unwrap_err());
        assert!(error.starts_with(&format!("cannot open {}: ", best.display())), "{error}");
    }
}
