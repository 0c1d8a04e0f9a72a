//! Looks a data set over before anyone trains on it: what is missing, unreadable, repeated or
//! leaking.

mod html;
mod images;
mod table;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use anyhow::Result;
use rayon::prelude::*;
use serde::Serialize;

use self::images::{files, near_duplicates, outliers};
use super::dataset::{Skipped, Source, Split, scores_by_group};
use super::image::decode;
use super::image::phash::PerceptualHash;
use super::listing::{Listing, Row};
use super::load::list;
use super::splits::leakage::{LeakedImage, leaked_images};
use crate::config::DataConfig;

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetCheck {
    /// Rows, scores and groups of each split.
    pub splits: Vec<SplitCheck>,
    /// Rows whose image is not there.
    pub missing: Vec<Skipped>,
    /// Rows whose image is there but cannot be read.
    pub unreadable: Vec<Skipped>,
    /// Images that stand in more than one split by name.
    pub overlaps: Vec<LeakedImage>,
    /// Images that stand in one split more than once.
    pub repeated: Vec<Repeated>,
    /// Files that differ in name but not in content.
    pub duplicates: Vec<Duplicate>,
    /// Files that differ in content and look the same: another size, format or quality of one
    /// image.
    pub near_duplicates: Vec<NearDuplicate>,
    /// Scores far from the others, and images too small or too narrow for the model.
    pub outliers: Vec<Skipped>,
    /// The scores of each group's usable rows, of all splits together.
    pub group_scores: BTreeMap<String, ScoreSummary>,
    /// The bounds of the bins of [`SplitCheck::histogram`], one more than there are bins.
    pub score_bins: Vec<f64>,
    /// Other oddities of the lists.
    pub notes: Vec<String>,
    /// The files that are there, for the manifest and the images of the page.
    #[serde(skip)]
    pub files: Vec<CheckedFile>,
}

/// An image file that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedFile {
    /// The row that names it.
    pub name: SplitImage,
    /// Where it is.
    pub path: PathBuf,
    /// The row's score, in the data set's own units.
    pub score: f32,
    /// The row's group.
    pub group: Option<String>,
    /// Hash of its content (BLAKE3), width and height; none where it cannot be read.
    pub content: Option<(String, u32, u32)>,
}

/// Two files that look the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NearDuplicate {
    /// Both names, with their splits.
    pub images: [SplitImage; 2],
    /// In how many of 256 bits their perceptual hashes differ.
    pub distance: u32,
    /// Whether they stand in different splits, so that one of them leaks.
    pub across_splits: bool,
}

/// One split in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitCheck {
    /// Which one.
    pub split: Split,
    /// Rows in its list.
    pub rows: usize,
    /// Rows whose image can be read.
    pub usable: usize,
    /// Rows whose image is not there.
    pub missing: usize,
    /// Rows whose image is there but cannot be read.
    pub unreadable: usize,
    /// The scores of the usable rows; none where there are none.
    pub score: Option<ScoreSummary>,
    /// Usable rows of each group, in the data set's words.
    pub groups: BTreeMap<String, usize>,
    /// Usable rows in each bin of [`DatasetCheck::score_bins`].
    pub histogram: Vec<usize>,
}

/// Scores in the data set's own units.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ScoreSummary {
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation, with n - 1; 0 for one score.
    pub sd: f64,
}

/// An image that stands in a split more than once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Repeated {
    /// The split.
    pub split: Split,
    /// The image's name in its first row.
    pub id: String,
    /// The score of each of its rows.
    pub scores: Vec<f32>,
}

/// Files of the same content under several names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// Each name, with its split.
    pub images: Vec<SplitImage>,
    /// Whether they stand in more than one split, so that one of them leaks.
    pub across_splits: bool,
}

/// An image in a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitImage {
    /// The split.
    pub split: Split,
    /// The image's name.
    pub id: String,
}

impl SplitImage {
    pub(super) fn new(split: Split, row: &Row) -> Self {
        Self { split, id: row.sample.id.clone() }
    }
}

/// Reads every list and every file of the data set that the configuration names, in parallel.
///
/// # Errors
/// Lists that are missing or malformed. What is wrong with rows and images is no error, but
/// reported.
pub fn check(config: &DataConfig, seed: u64) -> Result<DatasetCheck> {
    let listing = list(config, seed)?;
    let rows: Vec<(Split, &Row)> = Split::ALL
        .into_iter()
        .flat_map(|split| listing.rows(split).iter().map(move |row| (split, row)))
        .collect();
    let states: Vec<RowCheck> = rows.par_iter().map(|(_, row)| RowCheck::of(row)).collect();
    let in_state = |wanted: fn(&RowCheck) -> Option<&String>| {
        let states = rows.iter().zip(&states);
        states
            .filter_map(|((split, row), state)| {
                let reason = wanted(state)?.clone();
                Some(Skipped { split: *split, id: row.sample.id.clone(), reason })
            })
            .collect::<Vec<_>>()
    };
    let usable: Vec<&Row> = rows
        .iter()
        .zip(&states)
        .filter(|(_, state)| matches!(state, RowCheck::Usable(_)))
        .map(|((_, row), _)| *row)
        .collect();
    let score_bins = score_bins(&usable);
    let splits = Split::ALL.map(|split| {
        let of_split = rows.iter().zip(&states).filter(|((of, _), _)| *of == split);
        SplitCheck::new(split, &score_bins, of_split.map(|((_, row), state)| (*row, state)))
    });
    Ok(DatasetCheck {
        splits: splits.to_vec(),
        missing: in_state(
            |state| {
                if let RowCheck::Missing(reason) = state { Some(reason) } else { None }
            },
        ),
        unreadable: in_state(|state| {
            if let RowCheck::Unreadable(reason) = state { Some(reason) } else { None }
        }),
        overlaps: leaked_images(&listing),
        repeated: Split::ALL.into_iter().flat_map(|split| repeated(&listing, split)).collect(),
        duplicates: duplicates(&rows, &states),
        near_duplicates: near_duplicates(&rows, &states),
        outliers: outliers(&rows, &states, config),
        group_scores: group_scores(&usable),
        score_bins,
        files: files(&rows, &states),
        notes: listing.notes().to_vec(),
    })
}

/// What becomes of a row.
pub(super) enum RowCheck {
    Missing(String),
    Unreadable(String),
    /// With what is known of the file; a drawn image has none.
    Usable(Option<Content>),
}

/// What is known of a file that can be read.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) hash: blake3::Hash,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) look: Option<PerceptualHash>,
}

impl RowCheck {
    fn of(row: &Row) -> Self {
        if let Some(reason) = &row.missing {
            return RowCheck::Missing(reason.clone());
        }
        let Source::File(path) = &row.sample.source else {
            return RowCheck::Usable(None);
        };
        let read = decode::read_file(path).and_then(|bytes| {
            let image = decode::decode_image(&bytes)?;
            Ok(Content {
                hash: blake3::hash(&bytes),
                width: image.width(),
                height: image.height(),
                look: PerceptualHash::new(&image),
            })
        });
        match read {
            Ok(content) => RowCheck::Usable(Some(content)),
            Err(error) => RowCheck::Unreadable(format!("{error:#}")),
        }
    }
}

impl SplitCheck {
    fn new<'a>(
        split: Split,
        bins: &[f64],
        rows: impl Iterator<Item = (&'a Row, &'a RowCheck)>,
    ) -> Self {
        let (mut count, mut missing, mut unreadable) = (0, 0, 0);
        let mut scores = Vec::new();
        let mut groups = BTreeMap::new();
        for (row, state) in rows {
            count += 1;
            match state {
                RowCheck::Missing(_) => missing += 1,
                RowCheck::Unreadable(_) => unreadable += 1,
                RowCheck::Usable(_) => {
                    scores.push(f64::from(row.sample.score));
                    if let Some(group) = &row.sample.group {
                        *groups.entry(group.clone()).or_default() += 1;
                    }
                }
            }
        }
        let score = ScoreSummary::new(&scores);
        Self {
            split,
            rows: count,
            usable: scores.len(),
            missing,
            unreadable,
            score,
            groups,
            histogram: histogram(&scores, bins),
        }
    }
}

impl ScoreSummary {
    fn new(scores: &[f64]) -> Option<Self> {
        if scores.is_empty() {
            return None;
        }
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
        Some(Self {
            min: scores.iter().copied().fold(f64::INFINITY, f64::min),
            max: scores.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mean,
            sd: (squares / (scores.len() - 1).max(1) as f64).sqrt(),
        })
    }
}

/// Ten bins of one width over all usable scores; none where all are the same.
fn score_bins(usable: &[&Row]) -> Vec<f64> {
    const BINS: usize = 10;
    let scores = || usable.iter().map(|row| f64::from(row.sample.score));
    let (min, max) =
        (scores().fold(f64::INFINITY, f64::min), scores().fold(f64::NEG_INFINITY, f64::max));
    if min >= max {
        return Vec::new();
    }
    (0..=BINS).map(|bound| min + (max - min) * bound as f64 / BINS as f64).collect()
}

fn histogram(scores: &[f64], bounds: &[f64]) -> Vec<usize> {
    let mut counts = vec![0; bounds.len().saturating_sub(1)];
    let Some(last) = counts.len().checked_sub(1) else {
        return counts;
    };
    for score in scores {
        let bin = bounds[1..].partition_point(|bound| bound <= score);
        counts[bin.min(last)] += 1;
    }
    counts
}

fn group_scores(usable: &[&Row]) -> BTreeMap<String, ScoreSummary> {
    scores_by_group(usable.iter().map(|row| &row.sample))
        .into_iter()
        .filter_map(|(group, scores)| Some((group.to_string(), ScoreSummary::new(&scores)?)))
        .collect()
}

fn repeated(listing: &Listing, split: Split) -> Vec<Repeated> {
    let rows = listing.rows(split);
    let mut scores: HashMap<&str, Vec<f32>> = HashMap::new();
    for row in rows {
        scores.entry(&row.key).or_default().push(row.sample.score);
    }
    rows.iter()
        .filter_map(|row| {
            let scores = scores.remove(row.key.as_str()).filter(|scores| scores.len() > 1)?;
            Some(Repeated { split, id: row.sample.id.clone(), scores })
        })
        .collect()
}

fn duplicates(rows: &[(Split, &Row)], states: &[RowCheck]) -> Vec<Duplicate> {
    // In the order of the first row of each content.
    let mut order = Vec::new();
    let mut contents: HashMap<blake3::Hash, Vec<(Split, &Row)>> = HashMap::new();
    for (&row, state) in rows.iter().zip(states) {
        let RowCheck::Usable(Some(Content { hash, .. })) = state else {
            continue;
        };
        let content = contents.entry(*hash).or_default();
        if content.is_empty() {
            order.push(*hash);
        }
        content.push(row);
    }
    let duplicates = order.iter().filter_map(|hash| {
        let content = contents.get(hash)?;
        // One file in several rows is an overlap or a repetition, and listed there.
        let files: HashSet<&str> = content.iter().map(|(_, row)| row.key.as_str()).collect();
        if files.len() < 2 {
            return None;
        }
        let across_splits = content.iter().any(|(split, _)| *split != content[0].0);
        Some(Duplicate {
            images: content.iter().map(|(split, row)| SplitImage::new(*split, row)).collect(),
            across_splits,
        })
    });
    duplicates.collect()
}

impl DatasetCheck {
    /// Whether nothing was found that a person should look at.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty()
            && self.unreadable.is_empty()
            && self.overlaps.is_empty()
            && self.repeated.is_empty()
            && self.duplicates.is_empty()
            && self.near_duplicates.is_empty()
            && self.outliers.is_empty()
            && self.notes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{Rgb, RgbImage};

    use super::*;
    use crate::config::DatasetName;

    #[test]
    fn every_kind_of_trouble_is_found_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, shade: u8| {
            RgbImage::from_pixel(9, 9, Rgb([shade, 10, 20]))
                .save(folder.path().join(name))
                .unwrap();
        };
        for (shade, name) in ["a.png", "b.png", "c.png", "shared.png"].into_iter().enumerate() {
            save(name, shade as u8);
        }
        fs::copy(folder.path().join("a.png"), folder.path().join("copy.png")).unwrap();
        let whole = fs::read(folder.path().join("a.png")).unwrap();
        fs::write(folder.path().join("cut.png"), &whole[..whole.len() - 20]).unwrap();
        fs::write(folder.path().join("empty.jpg"), "").unwrap();
        let table = "image,score,split,group\na.png,1,train,x\nb.png,2,train,y\nb.png,4,train,y\ncut.png,3,train,x\n\
            gone.png,3,val,x\nshared.png,5,val,x\n./shared.png,5,test,x\ncopy.png,1,test,x\nempty.jpg,2,test,x\n";
        fs::write(folder.path().join("faces.csv"), table).unwrap();
        let config = DataConfig {
            dataset: DatasetName::Csv,
            root: folder.path().to_path_buf(),
            ..DataConfig::default()
        };
        let report = check(&config, 1).unwrap();

        let ids = |found: &[Skipped]| found.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&report.missing), ["gone.png"]);
        assert_eq!(ids(&report.unreadable), ["cut.png", "empty.jpg"]);
        assert!(report.unreadable[1].reason.contains("empty"));
        assert_eq!(report.overlaps.len(), 1);
        assert_eq!(report.overlaps[0].splits, [Split::Val, Split::Test]);
        assert_eq!(report.repeated.len(), 1);
        assert_eq!(report.repeated[0].scores, [2.0, 4.0]);
        assert_eq!(report.duplicates.len(), 1);
        assert!(report.duplicates[0].across_splits);
        let train = &report.splits[0];
        assert_eq!((train.rows, train.usable, train.missing, train.unreadable), (4, 3, 0, 1));
        assert_eq!(train.groups, BTreeMap::from([("x".to_string(), 1), ("y".to_string(), 2)]));
        let score = train.score.unwrap();
        assert_eq!((score.min, score.max), (1.0, 4.0));
        assert!((score.sd - 1.527_525).abs() < 1e-5, "{}", score.sd);
        assert!(!report.is_clean());
        assert_eq!(report.outliers.len(), 6, "{:?}", report.outliers);
        assert_eq!((report.score_bins[0], report.score_bins[10]), (1.0, 5.0));
        assert_eq!(train.histogram, [1, 0, 1, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(report.group_scores["y"].mean, 3.0);

        let text = report.to_string();
        for part in [
            "gone.png",
            "cut.png",
            "in more than one split: a.png (train) = copy.png (test)",
            "shared.png (val and test)",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["missing"][0]["split"], "val");
    }

    #[test]
    fn the_synthetic_data_set_is_clean() {
        let mut config = DataConfig::default();
        (config.synthetic.train, config.synthetic.val, config.synthetic.test) = (8, 4, 0);
        let report = check(&config, 1).unwrap();
        assert!(report.is_clean());
        assert_eq!(report.splits.iter().map(|split| split.usable).collect::<Vec<_>>(), [8, 4, 0]);
        assert!(report.to_string().contains("no problems found"));
    }
}
