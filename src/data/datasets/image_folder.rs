//! Images in folders that are named for their score: `3.5/anna.jpg`, or with the split above,
//! `train/3.5/anna.jpg`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::score_list::parse_score;
use crate::config::DataConfig;
use crate::data::dataset::Split;
use crate::data::listing::{Listing, Row};
use crate::data::splits::holdout::complete;

/// Endings of the files that count as images; others (notes, checksums) are left alone.
const ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Lists the folders below `data.root`. Folders for splits are used if there are any: validation
/// images that they lack are held out of train by the seed. Without them, validation and test
/// images are.
///
/// # Errors
/// A folder that is neither a split nor a score, or cannot be listed; no image at all.
pub(crate) fn read(config: &DataConfig, seed: u64) -> Result<Listing> {
    let root = &config.root;
    let mut splits: [Vec<Row>; 3] = Default::default();
    let (mut has_splits, mut has_scores) = (false, false);
    for folder in folders(root)? {
        match name(&folder).parse::<Split>() {
            Ok(split) => {
                has_splits = true;
                for scored in folders(&folder)? {
                    splits[split as usize].extend(images(root, &scored)?);
                }
            }
            Err(_) => {
                has_scores = true;
                splits[Split::Train as usize].extend(images(root, &folder)?);
            }
        }
    }
    if has_splits && has_scores {
        bail!(
            "{}: holds folders for splits beside others; put all scores below train, val and test",
            root.display()
        );
    }
    if splits.iter().all(Vec::is_empty) {
        bail!(
            "{}: holds no images in folders named for their score, as 3.5/anna.jpg; set data.root to the folder above",
            root.display()
        );
    }
    Ok(complete(splits, has_splits, config, seed))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The entries of a folder by name, hidden ones left out.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("{}: cannot be listed", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if !name(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = entries(folder)?;
    paths.retain(|path| path.is_dir());
    Ok(paths)
}

/// The rows of a folder that is named for a score.
fn images(root: &Path, folder: &Path) -> Result<Vec<Row>> {
    let score = parse_score(&name(folder)).with_context(|| {
        format!(
            "{}: a folder is named train, val, test or for the score of its images",
            folder.display()
        )
    })?;
    let is_image = |path: &PathBuf| {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
    };
    let row = |path: PathBuf| {
        let id = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        let found = if path.is_file() { Ok(path.clone()) } else { Err("not a file".to_string()) };
        Row::file(&id, path, found, score, None)
    };
    Ok(entries(folder)?.into_iter().filter(is_image).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DatasetName;

    fn tree(images: &[&str]) -> (tempfile::TempDir, DataConfig) {
        let root = tempfile::tempdir().unwrap();
        for image in images {
            let path = root.path().join(image);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let config = DataConfig {
            dataset: DatasetName::Folder,
            root: root.path().to_path_buf(),
            ..DataConfig::default()
        };
        (root, config)
    }

    fn sizes(listing: &Listing) -> [usize; 3] {
        Split::ALL.map(|split| listing.rows(split).len())
    }

    #[test]
    fn folders_give_the_scores_and_if_they_say_so_the_splits() {
        let (_root, config) = tree(&[
            "train/3.5/a.jpg",
            "train/3.5/notes.txt",
            "train/-1/b.PNG",
            "val/2/c.webp",
            "test/1e1/d.jpg",
            ".hidden/x.jpg",
        ]);
        let listing = read(&config, 1).unwrap();
        assert_eq!(sizes(&listing), [2, 1, 1]);
        let row = |split: Split, at: usize| {
            let sample = &listing.rows(split)[at].sample;
            (sample.id.clone(), sample.score)
        };
        assert_eq!(row(Split::Train, 0), ("train/-1/b.PNG".to_string(), -1.0));
        assert_eq!(row(Split::Train, 1), ("train/3.5/a.jpg".to_string(), 3.5));
        assert_eq!(row(Split::Test, 0).1, 10.0);
    }

    #[test]
    fn without_folders_for_splits_val_and_test_are_held_out() {
        let names: Vec<String> = (0..20).map(|i| format!("{}/{i}.jpg", i % 4)).collect();
        let (_root, config) = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(sizes(&read(&config, 1).unwrap()), [16, 2, 2]);
    }

    #[test]
    fn a_folder_that_says_nothing_is_named() {
        for (images, complaint) in [
            (&["pretty/a.jpg"][..], "pretty: a folder is named train, val, test or"),
            (&["train/3/a.jpg", "4/b.jpg"], "folders for splits beside others"),
            (&["a.jpg"], "holds no images in folders"),
        ] {
            let (_root, config) = tree(images);
            let error = format!("{:#}", read(&config, 1).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }
}
