//! Where the detector's weights are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::nets::{OUTPUT, PROPOSAL, REFINEMENT};
use crate::files::fetched_folder;

/// The folder in the set-up's cache.
const FOLDER: &str = "facenet-pytorch-2.6.0";

/// Returns the folder with the weights of the detector: the given one, or that of the set-up.
/// Returns an error with the remedy if a file is missing in it.
pub fn detector_folder(given: Option<&Path>) -> Result<PathBuf> {
    let remedy = "run `python3 scripts/setup.py --faces`, or name the folder of pnet.pt, rnet.pt \
                  and onet.pt with --detector";
    let folder = match given {
        Some(folder) => folder.to_path_buf(),
        None => fetched_folder(FOLDER).with_context(|| format!("no home folder: {remedy}"))?,
    };
    for file in [PROPOSAL.file, REFINEMENT.file, OUTPUT.file] {
        let path = folder.join(file);
        ensure!(path.exists(), "the face detector is missing: no {}: {remedy}", path.display());
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_detector_is_one_line_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["pnet.pt", "rnet.pt"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let error = format!("{:#}", detector_folder(Some(folder.path())).unwrap_err());
        assert!(error.contains("onet.pt: run `python3 scripts/setup.py --faces`"), "{error}");
        std::fs::write(folder.path().join("onet.pt"), "").unwrap();
        assert_eq!(detector_folder(Some(folder.path())).unwrap(), folder.path());
    }
}
