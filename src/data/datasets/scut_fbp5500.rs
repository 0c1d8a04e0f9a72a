//! SCUT-FBP5500 v2 (Liang et al., 2018): 5500 faces, each rated from 1 to 5 by 60 people.
//!
//! Images are in `Images/`, or in the dataset's folder itself. The lists are as published, below
//! `train_test_files/`, or flat as `<k>/train_<k>.txt`. The first release calls the files ftw, mtw,
//! fty and mty, the second CF, CM, AF and AM; lists and images may each follow either.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::locate;
use super::score_list::read_scores;
use crate::data::listing::{Listing, Row};
use crate::data::splits::holdout::hold_out;
use crate::data::splits::units;

/// First release's prefix, second release's prefix, group.
const PREFIXES: [(&str, &str, &str); 4] = [
    ("ftw", "CF", "female/caucasian"),
    ("mtw", "CM", "male/caucasian"),
    ("fty", "AF", "female/asian"),
    ("mty", "AM", "male/asian"),
];

/// Reads the lists of `split` (`fold_1` to `fold_5` or `split_60_40`) below `root`. The published
/// splits have no validation split: `val_fraction` of the training rows is held out for it.
pub(crate) fn read(root: &Path, split: &str, val_fraction: f64, seed: u64) -> Result<Listing> {
    let folder = find_lists(root, split)?;
    let suffix = split.strip_prefix("fold_").map(|fold| format!("_{fold}")).unwrap_or_default();
    let images = ImageFolder::find(root);
    let train = images.rows(read_scores(&folder.join(format!("train{suffix}.txt")))?);
    let test = images.rows(read_scores(&folder.join(format!("test{suffix}.txt")))?);
    let notes = disagreements(root, train.iter().chain(&test))?;
    let mut train = train;
    units::bind(&mut train);
    let (train, val) = hold_out(train, val_fraction, seed, "val");
    let mut drawn = [train, val];
    units::unite_copies(&mut drawn);
    let [train, val] = drawn;
    Ok(Listing { notes, ..Listing::new(train, val, test) })
}

pub(super) fn find_lists(root: &Path, split: &str) -> Result<PathBuf> {
    let (candidates, list) = match split {
        "fold_1" | "fold_2" | "fold_3" | "fold_4" | "fold_5" => {
            let fold = &split["fold_".len()..];
            let published = format!("5_folders_cross_validations_files/cross_validation_{fold}");
            let candidates =
                vec![format!("train_test_files/{published}"), published, fold.to_string()];
            (candidates, format!("train_{fold}.txt"))
        }
        "split_60_40" => {
            let published = "split_of_60%training and 40%testing";
            let candidates = vec![format!("train_test_files/{published}"), published.to_string()];
            (candidates, "train.txt".to_string())
        }
        _ => bail!(
            "data.split: scut_fbp5500 has no split {split:?}; set one of fold_1, fold_2, \
             fold_3, fold_4, fold_5, split_60_40"
        ),
    };
    let mut folders = candidates.iter().map(|folder| root.join(folder));
    folders.find(|folder| folder.join(&list).is_file()).with_context(|| {
        let lists: Vec<String> =
            candidates.iter().map(|folder| format!("{folder}/{list}")).collect();
        format!(
            "no lists for data.split {split} below {}; looked for {}. Set data.root to the \
             SCUT-FBP5500_v2 folder, or choose a split whose lists it holds",
            root.display(),
            lists.join(", ")
        )
    })
}

/// Converts an image's name to that of the second release, without its extension: `CF437` for
/// `ftw437.jpg`.
pub(crate) fn canonical(name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    for (first, second, _) in PREFIXES {
        if let Some(number) = stem.strip_prefix(first) {
            return format!("{second}{number}");
        }
    }
    stem.to_string()
}

fn group(name: &str) -> Option<String> {
    PREFIXES
        .iter()
        .find(|(first, second, _)| name.starts_with(first) || name.starts_with(second))
        .map(|(_, _, group)| group.to_string())
}

struct ImageFolder {
    folder: PathBuf,
    by_name: HashMap<String, PathBuf>,
    by_canonical_name: HashMap<String, PathBuf>,
}

impl ImageFolder {
    fn find(root: &Path) -> Self {
        let folder = Some(root.join("Images")).filter(|images| images.is_dir());
        let folder = folder.unwrap_or_else(|| root.to_path_buf());
        let mut by_name = locate::list(&folder);
        by_name.retain(|name, _| locate::is_image_name(name));
        let by_canonical_name =
            by_name.iter().map(|(name, path)| (canonical(name), path.clone())).collect();
        Self { folder, by_name, by_canonical_name }
    }

    fn rows(&self, scores: Vec<(String, f32)>) -> Vec<Row> {
        let reason = format!("no such file in {}", self.folder.display()).into();
        scores
            .into_iter()
            .map(|(name, score)| {
                let found = self.by_name.get(&name);
                let found = found.or_else(|| self.by_canonical_name.get(&canonical(&name)));
                let row = match found {
                    Some(path) => Row::file(&name, path, score),
                    // A missing image has the same key in either release.
                    None => Row::missing(&name, &canonical(&name), &reason, score),
                };
                row.with_group(group(&name))
            })
            .collect()
    }
}

fn disagreements<'a>(root: &Path, rows: impl Iterator<Item = &'a Row>) -> Result<Vec<String>> {
    let files = ["train_test_files/All_labels.txt", "All_labels.txt"];
    let Some(file) = files.iter().map(|file| root.join(file)).find(|file| file.is_file()) else {
        return Ok(Vec::new());
    };
    let all: HashMap<String, f32> =
        read_scores(&file)?.into_iter().map(|(name, score)| (canonical(&name), score)).collect();
    let differing: Vec<&str> = rows
        .filter(|row| all.get(&canonical(&row.id)) != Some(&row.score))
        .map(|row| &*row.id)
        .collect();
    Ok(match differing.first() {
        None => Vec::new(),
        Some(first) => vec![format!(
            "{} rows have another score than in {}, or are not in it; the first is {first}",
            differing.len(),
            file.display()
        )],
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::Split;

    /// Writes a dataset of 12 faces: lists with the given prefix below `lists`, images below
    /// `images`.
    fn tree(lists: &str, list_prefix: &str, images: &str, image_prefix: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let lists = root.path().join(lists);
        fs::create_dir_all(&lists).unwrap();
        fs::create_dir_all(root.path().join(images)).unwrap();
        let line = |number: u32| format!("{list_prefix}{number}.jpg {}.5\n", number % 4 + 1);
        let suffix = if lists.ends_with("split_of_60%training and 40%testing") { "" } else { "_2" };
        fs::write(lists.join(format!("train{suffix}.txt")), (1..=9).map(line).collect::<String>())
            .unwrap();
        fs::write(lists.join(format!("test{suffix}.txt")), (10..=12).map(line).collect::<String>())
            .unwrap();
        for number in 1..=12 {
            fs::write(root.path().join(images).join(format!("{image_prefix}{number}.jpg")), "")
                .unwrap();
        }
        root
    }

    fn names(listing: &Listing, split: Split) -> Vec<&str> {
        listing.rows(split).iter().map(|row| &*row.id).collect()
    }

    #[test]
    fn every_layout_and_naming_is_read() {
        let folds = "train_test_files/5_folders_cross_validations_files/cross_validation_2";
        let sixty = "train_test_files/split_of_60%training and 40%testing";
        for (lists, split) in [(folds, "fold_2"), ("2", "fold_2"), (sixty, "split_60_40")] {
            for (listed, stored, group) in [
                ("CF", "CF", "female/caucasian"),
                ("mty", "AM", "male/asian"),
                ("AF", "fty", "female/asian"),
                ("mtw", "mtw", "male/caucasian"),
            ] {
                for images in ["Images", "."] {
                    let root = tree(lists, listed, images, stored);
                    let listing = read(root.path(), split, 0.2, 1).unwrap();
                    assert_eq!(
                        listing.rows(Split::Train).len(),
                        7,
                        "{lists} {listed} {stored} {images}"
                    );
                    assert_eq!(listing.rows(Split::Val).len(), 2);
                    let test = names(&listing, Split::Test);
                    assert_eq!(test, [10, 11, 12].map(|number| format!("{listed}{number}.jpg")));
                    for row in Split::ALL.iter().flat_map(|&split| listing.rows(split)) {
                        assert_eq!(row.group(), Some(group));
                        assert!(row.path().unwrap().is_file());
                    }
                }
            }
        }
    }

    #[test]
    fn the_validation_rows_follow_the_seed() {
        let root = tree("2", "CF", "Images", "CF");
        let val = |seed| {
            let listing = read(root.path(), "fold_2", 0.3, seed).unwrap();
            names(&listing, Split::Val).into_iter().map(str::to_string).collect::<Vec<_>>()
        };
        assert_eq!(val(1), val(1));
        assert!((2..20).any(|seed| val(seed) != val(1)));
    }

    #[test]
    fn a_missing_list_is_an_error_with_the_paths_that_were_tried() {
        let root = tree("2", "CF", "Images", "CF");
        let message = |split| read(root.path(), split, 0.1, 1).unwrap_err().to_string();
        let sixty = message("split_60_40");
        assert!(sixty.contains("split_of_60%training and 40%testing/train.txt"), "{sixty}");
        assert!(message("fold_3").contains("3/train_3.txt"));
        for split in ["official", "fold_6", "fold_"] {
            assert!(message(split).contains("set one of fold_1"), "{}", message(split));
        }
    }

    #[test]
    fn missing_images_and_differing_scores_are_noticed() {
        let root = tree("2", "ftw", "Images", "CF");
        fs::remove_file(root.path().join("Images/CF11.jpg")).unwrap();
        // CF1 has 2.5 in the fold's list.
        let all: String = (1..=12)
            .map(|n| format!("CF{n}.jpg {}.5\n", if n == 1 { 4 } else { n % 4 + 1 }))
            .collect();
        fs::write(root.path().join("All_labels.txt"), all).unwrap();
        let listing = read(root.path(), "fold_2", 0.2, 1).unwrap();
        let missing: Vec<_> =
            listing.rows(Split::Test).iter().filter(|row| row.path().is_none()).collect();
        assert_eq!(missing.len(), 1);
        assert_eq!(&*missing[0].id, "ftw11.jpg");
        assert_eq!(listing.notes.len(), 1);
        assert!(
            listing.notes[0].starts_with("1 rows") && listing.notes[0].ends_with("ftw1.jpg"),
            "{:?}",
            listing.notes
        );
    }
}
