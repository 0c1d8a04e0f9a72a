//! Checks a dataset before training: what is missing, unreadable, repeated or leaking.

mod findings;
mod html;
mod images;
mod manifest;
mod row;
mod scores;
mod table;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use anyhow::Result;

use self::images::{duplicates, near_duplicates, outliers};
use self::row::{CheckedRow, Contents};
use self::scores::{histogram, score_bins};
use super::dataset::{Skipped, Split};
use super::listing::{self, Listing, RowImage};
use super::load::list;
use super::splits::leakage::leaked_images;
use crate::config::DataConfig;

pub use self::findings::{
    DatasetCheck, DuplicateFiles, NearDuplicate, RepeatedImage, SplitCheck, SplitImage,
};
pub use self::scores::ScoreSummary;

/// Reads every list and every file of the configured dataset, in parallel. Returns an error if a
/// list is missing or malformed. Problems of rows and images are not errors, but part of the
/// result; those across splits come first in their lists.
pub fn check(config: &DataConfig, seed: u64) -> Result<DatasetCheck> {
    let listing = list(config, seed)?;
    let contents = Contents::read(&listing);
    let rows = || contents.rows(&listing);
    let scores: Vec<f64> =
        rows().filter(CheckedRow::is_usable).map(|checked| checked.row.target()).collect();
    let score_bins = score_bins(&scores);
    let first = first_in_split(rows());
    let found = DatasetCheck {
        splits: Split::ALL.map(|split| SplitCheck::new(split, &score_bins, rows())).to_vec(),
        missing: Vec::new(),
        unreadable: unreadable(rows()),
        overlaps: leaked_images(&listing),
        repeated: Split::ALL.iter().flat_map(|&split| repeated(split, &listing)).collect(),
        duplicates: duplicates(&first),
        near_duplicates: near_duplicates(&first),
        outliers: outliers(rows(), scores, config),
        group_scores: group_scores(rows()),
        score_bins,
        notes: listing.notes.clone(),
        files: first.iter().filter_map(CheckedRow::file).collect(),
    };
    drop(first);
    drop(contents);
    Ok(DatasetCheck { missing: missing(listing), ..found })
}

/// Returns the first row of each image in each split: what is found in an image is said once.
fn first_in_split<'a>(rows: impl Iterator<Item = CheckedRow<'a>>) -> Vec<CheckedRow<'a>> {
    let mut seen = HashSet::new();
    rows.filter(|checked| checked.row.path().is_some())
        .filter(|checked| seen.insert((checked.split, &*checked.row.id)))
        .collect()
}

fn unreadable<'a>(rows: impl Iterator<Item = CheckedRow<'a>>) -> Vec<Skipped> {
    let mut reasons: HashMap<&str, Arc<str>> = HashMap::new();
    rows.filter(|checked| checked.row.path().is_some())
        .filter_map(|CheckedRow { split, row, content }| {
            let reason = content.err()?;
            let reason = reasons.entry(&row.key).or_insert_with(|| reason.into());
            Some(Skipped { split, id: row.id.clone(), reason: Arc::clone(reason) })
        })
        .collect()
}

fn missing(listing: Listing) -> Vec<Skipped> {
    let mut missing = Vec::new();
    for (split, rows) in Split::ALL.into_iter().zip(listing.rows) {
        let rows = rows.into_iter().filter_map(|row| match row.image {
            RowImage::Missing(reason) => Some(Skipped { split, id: row.id, reason }),
            _ => None,
        });
        // The findings take the memory of the rows.
        let rows: Vec<Skipped> = rows.collect();
        if missing.is_empty() { missing = rows } else { missing.extend(rows) }
    }
    missing
}

fn group_scores<'a>(rows: impl Iterator<Item = CheckedRow<'a>>) -> BTreeMap<String, ScoreSummary> {
    let mut scores: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for row in rows.filter(CheckedRow::is_usable).map(|checked| checked.row) {
        if let Some(group) = row.group() {
            scores.entry(group).or_default().push(row.target());
        }
    }
    scores
        .into_iter()
        .filter_map(|(group, scores)| Some((group.to_string(), ScoreSummary::new(&scores)?)))
        .collect()
}

impl SplitCheck {
    fn new<'a>(split: Split, bins: &[f64], rows: impl Iterator<Item = CheckedRow<'a>>) -> Self {
        let mut scores = Vec::new();
        let mut groups = BTreeMap::new();
        let (mut count, mut missing) = (0, 0);
        for checked in rows.filter(|checked| checked.split == split) {
            count += 1;
            missing += usize::from(checked.row.missing_reason().is_some());
            if !checked.is_usable() {
                continue;
            }
            scores.push(checked.row.target());
            if let Some(group) = checked.row.group() {
                *groups.entry(group).or_default() += 1;
            }
        }
        Self {
            split,
            rows: count,
            usable: scores.len(),
            missing,
            unreadable: count - scores.len() - missing,
            score: ScoreSummary::new(&scores),
            groups: groups.into_iter().map(|(group, count)| (group.to_string(), count)).collect(),
            histogram: histogram(&scores, bins),
        }
    }
}

fn repeated(split: Split, listing: &Listing) -> Vec<RepeatedImage> {
    let rows = listing.rows(split);
    let keys = listing::repeated(rows.iter().map(|row| &*row.key));
    let mut scores: HashMap<&str, Vec<f32>> = HashMap::new();
    for row in rows.iter().filter(|row| keys.contains(&*row.key)) {
        scores.entry(&row.key).or_default().push(row.score);
    }
    rows.iter()
        .filter_map(|row| {
            let scores = scores.remove(&*row.key)?;
            Some(RepeatedImage { split, id: row.id.to_string(), scores })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{Rgb, RgbImage};

    use super::*;
    use crate::config::DatasetName;

    #[test]
    fn every_kind_of_problem_is_found_and_named() {
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
        let png = fs::read(folder.path().join("a.png")).unwrap();
        fs::write(folder.path().join("cut.png"), &png[..png.len() - 20]).unwrap();
        fs::write(folder.path().join("empty.jpg"), "").unwrap();
        let table = "image,score,split,group\n\
            a.png,1,train,x\nb.png,2,train,y\nb.png,4,train,y\ncut.png,3,train,x\n\
            gone.png,3,val,x\nshared.png,5,val,x\n\
            ./shared.png,5,test,x\ncopy.png,1,test,x\nempty.jpg,2,test,x\n";
        fs::write(folder.path().join("faces.csv"), table).unwrap();
        let config = DataConfig {
            dataset: DatasetName::Csv,
            root: folder.path().to_path_buf(),
            ..DataConfig::default()
        };
        let report = check(&config, 1).unwrap();

        let ids =
            |found: &[Skipped]| found.iter().map(|row| row.id.to_string()).collect::<Vec<_>>();
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
        assert_eq!(report.outliers.len(), 5, "{:?}", report.outliers);
        assert_eq!((report.score_bins[0], report.score_bins[10]), (1.0, 5.0));
        assert_eq!(train.histogram, [1, 0, 1, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(report.group_scores["y"].mean, 3.0);

        let text = report.to_string();
        for expected in [
            "gone.png",
            "cut.png",
            "in more than one split: a.png (train) = copy.png (test)",
            "shared.png (val and test)",
        ] {
            assert!(text.contains(expected), "{text}");
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
