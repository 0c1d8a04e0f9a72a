//! Images in folders named after their score: `3.5/anna.jpg`, or `train/3.5/anna.jpg` with splits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::score_list::parse_score;
use crate::config::DataConfig;
use crate::data::dataset::Split;
use crate::data::image_files::{entries, image_files, name};
use crate::data::listing::{Listing, Row};
use crate::data::splits::holdout::complete_splits;

/// Lists the images below `data.root`. Folders for splits are used if there are any; missing
/// validation images are held out of train by the seed. Without such folders, validation and test
/// images are held out.
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
            "{}: mixes folders for splits and scores; move all scores below train, val and test",
            root.display()
        );
    }
    if splits.iter().all(Vec::is_empty) {
        bail!(
            "{}: holds no images in folders named after their score, such as 3.5/anna.jpg; set \
             data.root to the parent of such folders",
            root.display()
        );
    }
    Ok(complete_splits(splits, has_splits, config, seed))
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = entries(folder)?;
    paths.retain(|path| path.is_dir());
    Ok(paths)
}

fn images(root: &Path, folder: &Path) -> Result<Vec<Row>> {
    let score = parse_score(&name(folder)).with_context(|| {
        format!(
            "{}: a folder must be named train, val, test or the score of its images",
            folder.display()
        )
    })?;
    let not_a_file: Arc<str> = "not a file".into();
    let row = |path: PathBuf| {
        let id = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if path.is_file() {
            Row::file(&id, &path, score)
        } else {
            Row::missing(&id, &id, &not_a_file, score)
        }
    };
    Ok(image_files(folder)?.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

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
    fn folder_names_are_scores_and_optionally_splits() {
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
            let row = &listing.rows(split)[at];
            (row.id.to_string(), row.score)
        };
        assert_eq!(row(Split::Train, 0), ("train/-1/b.PNG".to_string(), -1.0));
        assert_eq!(row(Split::Train, 1), ("train/3.5/a.jpg".to_string(), 3.5));
        assert_eq!(row(Split::Test, 0).1, 10.0);
    }

    #[test]
    fn the_content_decides_what_is_an_image_and_the_ending_what_was_meant_as_one() {
        let names = ["3/a.jpg", "3/b.jfif", "3/c.JPE", "3/d", "3/e.heic", "3/f.dat", "3/g.avif"];
        let (root, config) = tree(&[&names[..], &["3/notes.txt", "3/README"]].concat());
        fs::write(root.path().join("3/d"), b"\x89PNG\r\n\x1a\n").unwrap();
        fs::write(root.path().join("3/f.dat"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
        fs::create_dir(root.path().join("3/folder.jpg")).unwrap();
        let files = image_files(&root.path().join("3")).unwrap();
        let found: Vec<_> = files.iter().map(|path| format!("3/{}", name(path))).collect();
        assert_eq!(found, names);
        let listing = read(&config, 1).unwrap();
        assert_eq!(sizes(&listing).iter().sum::<usize>(), names.len());
    }

    #[test]
    fn without_folders_for_splits_val_and_test_are_held_out() {
        let names: Vec<String> = (0..20).map(|i| format!("{}/{i}.jpg", i % 4)).collect();
        let (_root, config) = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(sizes(&read(&config, 1).unwrap()), [16, 2, 2]);
    }

    #[test]
    fn an_unparsable_folder_name_is_an_error() {
        for (images, complaint) in [
            (&["pretty/a.jpg"][..], "pretty: a folder must be named train, val, test or"),
            (&["train/3/a.jpg", "4/b.jpg"], "mixes folders for splits and scores"),
            (&["a.jpg"], "holds no images in folders"),
        ] {
            let (_root, config) = tree(images);
            let error = format!("{:#}", read(&config, 1).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }
}
