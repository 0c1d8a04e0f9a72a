//! Loads the samples of each split of the configured dataset.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::dataset::{Dataset, Sample, Skipped, Split};
use super::datasets::synthetic::{self, FaceSeed};
use super::datasets::votes::{self, Votes};
use super::datasets::{csv, image_folder, mebeauty, scut_fbp5500};
use super::image::read_image;
use super::listing::{Labels, Listing, Row, RowImage, first_by_key};
use super::splits::{folds, leakage, shortage};
use crate::config::{DataConfig, DatasetName, Overlap, SyntheticConfig};
use crate::files::printable;

/// Reads the configured dataset. `seed` determines the rows held out for validation and test,
/// unless the dataset publishes splits, and the faces of the synthetic one. Returns an error, with
/// the file or the key, if a list is missing or malformed, an image is in two splits (unless
/// `data.overlap` allows it), or no readable image is left for train or val.
pub fn load(config: &DataConfig, seed: u64) -> Result<Dataset> {
    let mut listing = list(config, seed)?;
    let skipped = leakage::resolve_overlaps(&mut listing, config.overlap)?;
    let warnings = match config.overlap {
        Overlap::Allow => Vec::new(),
        Overlap::Error | Overlap::Drop => leakage::copies_warning(&listing).into_iter().collect(),
    };
    let reasons = shortage::reasons(&listing, config);
    let (splits, skipped) = open(listing, skipped, config, &Split::ALL);
    for split in [Split::Train, Split::Val] {
        require(config, split, &splits[split as usize], &skipped, &reasons)?;
    }
    let [train, val, test] = splits;
    Ok(Dataset { train, val, test, skipped, warnings })
}

/// Reads one split of the configured dataset, with the same samples as [`load`], without opening
/// the images of the others. Returns an error as [`load`] does, but only this split must have a
/// readable image.
pub fn load_split(
    config: &DataConfig,
    seed: u64,
    split: Split,
) -> Result<(Vec<Sample>, Vec<Skipped>)> {
    let mut listing = list(config, seed)?;
    let skipped = leakage::resolve_overlaps(&mut listing, config.overlap)?;
    let reasons = shortage::reasons(&listing, config);
    let (mut splits, skipped) = open(listing, skipped, config, &[split]);
    let samples = std::mem::take(&mut splits[split as usize]);
    require(config, split, &samples, &skipped, &reasons)?;
    Ok((samples, skipped))
}

/// Converts the rows of the wanted splits to samples, and those that cannot be used to skipped
/// ones, which join those that were skipped before.
fn open(
    mut listing: Listing,
    mut skipped: Vec<Skipped>,
    config: &DataConfig,
    wanted: &[Split],
) -> ([Vec<Sample>; 3], Vec<Skipped>) {
    skipped.retain(|row| wanted.contains(&row.split));
    let problems = if config.verify { find_unreadable(&listing, wanted) } else { HashMap::new() };
    let mut splits: [Vec<Sample>; 3] = Default::default();
    for &split in wanted {
        for row in std::mem::take(listing.rows_mut(split)) {
            match row.missing_reason().or_else(|| problems.get(&row.key).map(|text| &**text)) {
                Some(reason) => {
                    skipped.push(Skipped { split, id: row.id.clone(), reason: reason.into() })
                }
                None => splits[split as usize].extend(row.into_sample()),
            }
        }
    }
    (splits, skipped)
}

/// Decodes each file of these splits once, in parallel. Returns the keys of those that cannot be
/// read, and why.
fn find_unreadable(listing: &Listing, wanted: &[Split]) -> HashMap<Arc<str>, Arc<str>> {
    let rows = wanted.iter().flat_map(|&split| listing.rows(split));
    let files = first_by_key(rows.filter(|row| row.path().is_some()));
    let problem = |row: &&Row| {
        let error = read_image(row.path()?).err()?;
        Some((Arc::clone(&row.key), format!("{error:#}").into()))
    };
    files.par_iter().filter_map(problem).collect()
}

fn require(
    config: &DataConfig,
    split: Split,
    samples: &[Sample],
    skipped: &[Skipped],
    reasons: &[Option<String>; 3],
) -> Result<()> {
    if !samples.is_empty() {
        return Ok(());
    }
    let root = config.root.display();
    let skipped: Vec<&Skipped> = skipped.iter().filter(|row| row.split == split).collect();
    let Some(first) = skipped.first() else {
        let reason = reasons[split as usize].as_deref().unwrap_or("add some");
        bail!("the dataset {root} has no image for {split}: {reason}");
    };
    let which = match skipped.len() {
        1 => format!("the one image for {split} in {root} cannot be used"),
        count => format!("none of the {count} images for {split} in {root} can be used; the first"),
    };
    bail!(
        "{which}: {}: {}. Run `vmbeauty data check` to list all of them",
        printable(&first.id),
        printable(&first.reason)
    )
}

/// Reads the dataset's lists. No image is decoded, but where splits are sampled, files of the same
/// size are compared.
pub(crate) fn list(config: &DataConfig, seed: u64) -> Result<Listing> {
    let seed = config.seed.unwrap_or(seed);
    let Some(fold) = config.fold() else {
        return list_split(config, seed);
    };
    let unfolded = DataConfig {
        split: match config.dataset {
            DatasetName::ScutFbp5500 => "fold_1".to_string(),
            _ => "official".to_string(),
        },
        ..config.clone()
    };
    folds::assign_folds(list_split(&unfolded, seed)?, fold, config.val_fraction, seed)
}

fn list_split(config: &DataConfig, seed: u64) -> Result<Listing> {
    let root = &config.root;
    match config.dataset {
        DatasetName::Synthetic => Ok(list_synthetic(&config.synthetic, seed)),
        DatasetName::Mebeauty => mebeauty::read(root, &config.split),
        DatasetName::ScutFbp5500 => {
            scut_fbp5500::read(root, &config.split, config.val_fraction, seed)
        }
        DatasetName::Csv => csv::read(config, seed),
        DatasetName::Folder => image_folder::read(config, seed),
    }
    .and_then(|mut listing| {
        if config.votes {
            attach_votes(config, &mut listing)?;
        }
        Ok(listing)
    })
    .with_context(|| format!("reading the dataset {}", root.display()))
}

fn attach_votes(config: &DataConfig, listing: &mut Listing) -> Result<()> {
    let find = |candidates: &[&str]| {
        let paths = candidates.iter().map(|name| config.root.join(name));
        paths.into_iter().find(|path| path.is_file()).with_context(|| {
            format!(
                "no {} below {}; download it, or set data.votes to false",
                candidates.join(" or "),
                config.root.display()
            )
        })
    };
    let notes = match config.dataset {
        DatasetName::ScutFbp5500 => {
            let file = find(&["All_Ratings.xlsx", "train_test_files/All_Ratings.xlsx"])?;
            let votes = Votes::read_long(&file, scut_fbp5500::canonical)?;
            votes.attach(listing, &file, scut_fbp5500::canonical)
        }
        DatasetName::Mebeauty => {
            let file =
                find(&["scores/generic_scores_all_2022.xlsx", "scores/generic_scores_all.xlsx"])?;
            let votes = Votes::read_wide(&file, 1.0..=10.0, votes::file_name)?;
            votes.attach(listing, &file, votes::file_name)
        }
        // Synthetic faces have votes already, and the config names a table's vote columns.
        DatasetName::Synthetic | DatasetName::Csv | DatasetName::Folder => Vec::new(),
    };
    listing.notes.extend(notes);
    Ok(())
}

/// Lists the synthetic dataset. Each split has its own range of faces, so that the size of one
/// split does not change the others.
fn list_synthetic(config: &SyntheticConfig, seed: u64) -> Listing {
    let rows = |split: Split, count: usize| {
        (0..count as u64)
            .map(|index| {
                let face = FaceSeed { seed, index: (split as u64) << 40 | index };
                let id = format!("synthetic/{split}/{index:06}");
                let score = synthetic::rated_score(face, config.rater_noise);
                let group = synthetic::Face::sample(face).tone_group().to_string();
                let votes = synthetic::ratings(face, config.rater_noise);
                let labels = Labels { group: Some(group.into()), votes, ..Labels::default() };
                let row = Row::new(&id, RowImage::Synthetic(face), id.as_str().into(), score);
                Row { labels: Some(labels.into()), ..row }
            })
            .collect()
    };
    Listing::new(
        rows(Split::Train, config.train),
        rows(Split::Val, config.val),
        rows(Split::Test, config.test),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{Rgb, RgbImage};

    use super::*;
    use crate::config::Overlap;

    fn csv(table: &str, images: &[&str]) -> (tempfile::TempDir, DataConfig) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("faces.csv"), table).unwrap();
        for image in images {
            RgbImage::from_pixel(6, 6, Rgb([1, 2, 3])).save(folder.path().join(image)).unwrap();
        }
        let root = folder.path().to_path_buf();
        (folder, DataConfig { dataset: DatasetName::Csv, root, ..DataConfig::default() })
    }

    const TABLE: &str = "image,score,split\n\
        a.png,1,train\ngone.png,2,train\ncut.png,3,train\nb.png,4,val\nc.png,5,test\n";

    #[test]
    fn unreadable_images_are_skipped_with_a_reason() {
        let (folder, mut config) = csv(TABLE, &["a.png", "b.png", "c.png"]);
        fs::write(folder.path().join("cut.png"), b"\x89PNG\r\n\x1a\n").unwrap();
        let dataset = load(&config, 1).unwrap();
        assert_eq!(Split::ALL.map(|split| dataset.samples(split).len()), [1, 1, 1]);
        let reasons: Vec<_> = dataset.skipped.iter().map(|row| (&*row.id, &*row.reason)).collect();
        assert!(reasons[0].0 == "gone.png" && reasons[0].1.contains("no such file"), "{reasons:?}");
        assert!(reasons[1].0 == "cut.png" && reasons[1].1.contains("damaged"), "{reasons:?}");
        config.verify = false;
        assert_eq!(load(&config, 1).unwrap().train.len(), 2);
    }

    #[test]
    fn an_empty_train_split_is_an_error() {
        let (_folder, config) = csv(TABLE, &["b.png", "c.png"]);
        let error = format!("{:#}", load(&config, 1).unwrap_err());
        assert!(
            error.contains("none of the 3 images for train")
                && error.contains("a.png: no such file"),
            "{error}"
        );
        let (test, skipped) = load_split(&config, 1, Split::Test).unwrap();
        assert_eq!((test.len(), skipped.len()), (1, 0));
        let (_folder, config) = csv("image,score\na.png,1\n", &["a.png"]);
        let error = format!("{:#}", load(&config, 1).unwrap_err());
        assert!(error.contains("no image for val: too few images"), "{error}");
    }

    #[test]
    fn a_split_without_images_names_what_helps() {
        let images = ["a.png", "b.png", "c.png", "d.png"];
        let of = |persons: [u32; 4], test_fraction: f64, val_fraction: f64| {
            let rows = images
                .iter()
                .zip(persons)
                .map(|(image, person)| format!("{image},{},{person}\n", image.as_bytes()[0] % 4));
            let table = format!("image,score,person\n{}", rows.collect::<String>());
            let (folder, config) = csv(&table, &images);
            for (shade, image) in images.iter().enumerate() {
                let pixels = RgbImage::from_pixel(6, 6, Rgb([60 * shade as u8, 2, 3]));
                pixels.save(folder.path().join(image)).unwrap();
            }
            let config = DataConfig { test_fraction, val_fraction, ..config };
            load(&config, 1).map_err(|error| format!("{error:#}"))
        };
        let two = of([0, 1, 0, 1], 0.1, 0.4).unwrap_err();
        assert!(
            two.contains("the images show 2 persons, too few for train, val and test"),
            "{two}"
        );
        assert!(two.contains("set data.test_fraction to 0") && !two.contains("raise"), "{two}");
        of([0, 1, 0, 1], 0.0, 0.4).unwrap();
        of([0, 1, 2, 2], 0.1, 0.4).unwrap();
        let one = of([0; 4], 0.0, 0.4).unwrap_err();
        assert!(one.contains("show 1 person, too few for train and val,"), "{one}");
        assert!(!one.contains("test_fraction"), "{one}");
        let none = of([0, 1, 2, 3], 0.1, 0.0).unwrap_err();
        assert!(none.contains("data.val_fraction is 0: raise it"), "{none}");
    }

    #[test]
    fn an_image_in_two_splits_stops_unless_the_config_allows_it() {
        let table = "image,score,split\na.png,1,train\nb.png,1,train\n./a.png,2,val\n";
        let (_folder, mut config) = csv(table, &["a.png", "b.png"]);
        let error = format!("{:#}", load(&config, 1).unwrap_err());
        assert!(
            error.contains("a.png (train and val)") && error.contains("data.overlap"),
            "{error}"
        );
        config.overlap = Overlap::Drop;
        let dataset = load(&config, 1).unwrap();
        assert_eq!((dataset.train.len(), dataset.val.len(), dataset.skipped.len()), (1, 1, 1));
        config.overlap = Overlap::Allow;
        let dataset = load(&config, 1).unwrap();
        assert_eq!((dataset.train.len(), dataset.val.len(), dataset.skipped.len()), (2, 1, 0));
    }

    #[test]
    #[cfg(unix)]
    fn a_link_to_a_image_is_that_image() {
        let table = "image,score,split\na.png,1,train\nlink.png,2,val\n";
        let (folder, config) = csv(table, &["a.png"]);
        std::os::unix::fs::symlink(folder.path().join("a.png"), folder.path().join("link.png"))
            .unwrap();
        assert!(format!("{:#}", load(&config, 1).unwrap_err()).contains("data.overlap"));
        fs::remove_file(folder.path().join("a.png")).unwrap();
        assert!(format!("{:#}", load(&config, 1).unwrap_err()).contains("no such file"));
    }

    #[test]
    fn votes_come_from_the_data_sets_spreadsheet() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("1")).unwrap();
        fs::write(root.join("1/train_1.txt"), "CF1.jpg 4\nmty2.jpg 4.5\n").unwrap();
        fs::write(root.join("1/test_1.txt"), "CF9.jpg 1\n").unwrap();
        let mut config = DataConfig {
            dataset: DatasetName::ScutFbp5500,
            split: "fold_1".to_string(),
            root: root.to_path_buf(),
            votes: true,
            ..DataConfig::default()
        };
        let error = format!("{:#}", list(&config, 1).unwrap_err());
        assert!(error.contains("All_Ratings.xlsx") && error.contains("data.votes"), "{error}");
        let ratings = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/ratings");
        fs::copy(format!("{ratings}/long.xlsx"), root.join("All_Ratings.xlsx")).unwrap();
        config.val_fraction = 0.0;
        let listing = list(&config, 1).unwrap();
        let train = listing.rows(Split::Train);
        assert_eq!(train[0].labels.as_ref().unwrap().votes, [3.0, 4.0, 5.0]);
        assert_eq!(train[1].labels.as_ref().unwrap().votes, [1.0, 2.0]);
        let notes = listing.notes.join("; ");
        assert!(notes.contains("CF9.jpg") && notes.contains("the first is mty2.jpg"), "{notes}");

        fs::create_dir(root.join("scores")).unwrap();
        for (split, line) in [("train", "./a/x.jpg 8.5"), ("val", "./b/y.jpg 1"), ("test", "")] {
            let line = if line.is_empty() { "\"./c/y (1).jpg\" 3" } else { line };
            fs::write(root.join(format!("scores/{split}_2022.txt")), line).unwrap();
        }
        let target = root.join("scores/generic_scores_all_2022.xlsx");
        fs::copy(format!("{ratings}/wide.xlsx"), target).unwrap();
        (config.dataset, config.split) = (DatasetName::Mebeauty, "official".to_string());
        let listing = list(&config, 1).unwrap();
        let votes = |split| listing.rows(split)[0].labels.as_deref().map(|l| l.votes.as_slice());
        assert_eq!(votes(Split::Train), Some([7.0, 10.0].as_slice()));
        assert_eq!(votes(Split::Test), Some([2.0, 3.0, 4.0].as_slice()));
        assert_eq!(votes(Split::Val), None);
    }

    #[test]
    fn a_seed_of_its_own_keeps_the_data_while_the_seed_of_the_training_changes() {
        let mut config = DataConfig { split: "fold_2_of_4".to_string(), ..DataConfig::default() };
        (config.synthetic.train, config.synthetic.val, config.synthetic.test) = (30, 5, 5);
        let test = |config: &DataConfig, seed| load(config, seed).unwrap().test;
        assert_eq!(test(&config, 1).len(), 10);
        assert_ne!(test(&config, 1), test(&config, 2));
        config.seed = Some(1);
        assert_eq!(test(&config, 1), test(&config, 2));
    }

    #[test]
    fn synthetic_splits_share_no_face_and_do_not_move_each_other() {
        let mut config = DataConfig::default();
        (config.synthetic.train, config.synthetic.val, config.synthetic.test) = (6, 3, 2);
        let small = load(&config, 5).unwrap();
        config.synthetic.train = 9;
        let large = load(&config, 5).unwrap();
        assert_eq!((&small.val, &small.test), (&large.val, &large.test));
        assert_eq!(small.train, large.train[..6]);
        assert_ne!(small.train, load(&config, 6).unwrap().train[..6]);
        assert_ne!(small.train[0].source, small.val[0].source);
    }
}
