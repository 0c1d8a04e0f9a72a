//! Checks a dataset before training: what is missing, unreadable, repeated or leaking.

mod findings;
mod html;
mod images;
mod manifest;
mod row;
mod scores;
mod table;

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use rayon::prelude::*;

use self::images::{duplicates, near_duplicates, outliers};
use self::row::CheckedRow;
use self::scores::{histogram, score_bins};
use super::dataset::{Sample, Split, scores_by_group};
use super::listing::Row;
use super::load::list;
use super::splits::leakage::leaked_images;
use crate::config::DataConfig;

pub use self::findings::{
    DatasetCheck, DuplicateFiles, NearDuplicate, RepeatedImage, SplitCheck, SplitImage,
};
pub use self::scores::ScoreSummary;

/// Reads every list and every file of the configured dataset, in parallel. Returns an error if a
/// list is missing or malformed. Problems of rows and images are not errors, but part of the
/// result.
pub fn check(config: &DataConfig, seed: u64) -> Result<DatasetCheck> {
    let listing = list(config, seed)?;
    let rows: Vec<(Split, &Row)> = Split::ALL
        .into_iter()
        .flat_map(|split| listing.rows(split).iter().map(move |row| (split, row)))
        .collect();
    let rows: Vec<CheckedRow> =
        rows.into_par_iter().map(|(split, row)| CheckedRow::new(split, row)).collect();
    let usable: Vec<&Sample> =
        rows.iter().filter(|row| row.is_usable()).map(|row| &row.row.sample).collect();
    let score_bins = score_bins(&usable);
    let unusable = rows.iter().filter_map(|row| Some((row, row.content.as_ref().err()?)));
    let (missing, unreadable): (Vec<_>, Vec<_>) =
        unusable.partition(|(row, _)| row.row.missing.is_some());
    let findings = |rows: Vec<(&CheckedRow, &String)>| {
        rows.into_iter().map(|(row, reason)| row.finding(reason)).collect()
    };
    let group_scores = scores_by_group(usable.iter().copied()).into_iter();
    Ok(DatasetCheck {
        splits: Split::ALL.map(|split| SplitCheck::new(split, &score_bins, &rows)).to_vec(),
        missing: findings(missing),
        unreadable: findings(unreadable),
        overlaps: leaked_images(&listing),
        repeated: Split::ALL
            .iter()
            .flat_map(|&split| repeated(split, listing.rows(split)))
            .collect(),
        duplicates: duplicates(&rows),
        near_duplicates: near_duplicates(&rows),
        outliers: outliers(&rows, config),
        group_scores: group_scores
            .filter_map(|(group, scores)| Some((group.to_string(), ScoreSummary::new(&scores)?)))
            .collect(),
        score_bins,
        notes: listing.notes.clone(),
        files: rows.iter().filter_map(CheckedRow::file).collect(),
    })
}

impl SplitCheck {
    fn new(split: Split, bins: &[f64], rows: &[CheckedRow]) -> Self {
        let rows = || rows.iter().filter(|row| row.split == split);
        let missing = rows().filter(|row| row.row.missing.is_some()).count();
        let mut scores = Vec::new();
        let mut groups = BTreeMap::new();
        for row in rows().filter(|row| row.is_usable()) {
            scores.push(row.row.sample.target());
            if let Some(group) = &row.row.sample.group {
                *groups.entry(group.clone()).or_default() += 1;
            }
        }
        Self {
            split,
            rows: rows().count(),
            usable: scores.len(),
            missing,
            unreadable: rows().count() - scores.len() - missing,
            score: ScoreSummary::new(&scores),
            groups,
            histogram: histogram(&scores, bins),
        }
    }
}

fn repeated(split: Split, rows: &[Row]) -> Vec<RepeatedImage> {
    let mut scores: HashMap<&str, Vec<f32>> = HashMap::new();
    for row in rows {
        scores.entry(&row.key).or_default().push(row.sample.score);
    }
    rows.iter()
        .filter_map(|row| {
            let scores = scores.remove(row.key.as_str()).filter(|scores| scores.len() > 1)?;
            Some(RepeatedImage { split, id: row.sample.id.clone(), scores })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{Rgb, RgbImage};

    use super::*;
    use crate::config::DatasetName;
    use crate::data::Skipped;

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
