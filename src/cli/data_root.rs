//! `--data-root`: a run whose dataset has moved.

use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};

use super::WrongUsage;
use crate::config::DatasetName;
use crate::data::{self, Sample, Skipped, Split};
use crate::run::Run;

/// Opens a run with its dataset in another folder, if one is given. Returns an error if the run
/// cannot be opened, or its dataset is in no folder.
pub(super) fn open(run: &Path, data_root: Option<&Path>) -> Result<Run> {
    let root = data_root.map(serde_json::to_string).transpose();
    let root = root.context("--data-root is not Unicode")?;
    let root = root.map(|root| format!("data.root={root}"));
    let opened = Run::open(run, root.as_slice())?;
    ensure!(
        root.is_none() || opened.config.data.dataset != DatasetName::Synthetic,
        WrongUsage(format!(
            "--data-root: {} was trained on synthetic faces, which are in no folder: omit it",
            run.display()
        ))
    );
    Ok(opened)
}

/// Loads a split of a run's dataset. Errors name the option in place of the key, which a run keeps,
/// and where the dataset, or a file of it, is missing.
pub(super) fn load_split(run: &Run, split: Split) -> Result<(Vec<Sample>, Vec<Skipped>)> {
    data::load_split(&run.config.data, run.config.seed, split).map_err(|error| {
        let text = format!("{error:#}");
        if text.contains("data.root") {
            return anyhow!(text.replace("data.root", "--data-root"));
        }
        if !text.contains("no such file") && !error.chain().any(is_not_found) {
            return error;
        }
        error.context("--data-root names the dataset's folder if it has moved")
    })
}

fn is_not_found(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}
