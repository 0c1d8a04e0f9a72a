//! Image files that are copies of others, and outliers among images and scores.

use std::collections::HashSet;

use indexmap::IndexMap;
use rayon::prelude::*;

use super::findings::{DuplicateFiles, NearDuplicate};
use super::row::{CheckedRow, FileContent};
use crate::config::DataConfig;
use crate::data::dataset::Skipped;
use crate::data::image::phash::{PerceptualHash, SAME};

/// The distance from the quartiles, in interquartile ranges, beyond which scores are outliers
/// (Tukey's outer fences).
const FENCES: f64 = 3.0;
const MAX_ASPECT_RATIO: u32 = 3;

/// Finds files of the same content under several names, in the order of their first rows, those in
/// several splits first.
pub(super) fn duplicates(rows: &[CheckedRow]) -> Vec<DuplicateFiles> {
    let mut groups: IndexMap<blake3::Hash, Vec<&CheckedRow>> = IndexMap::new();
    for (row, content) in rows.iter().filter_map(|row| Some((row, row.content()?))) {
        groups.entry(content.hash).or_default().push(row);
    }
    let duplicates = groups.values().filter_map(|same| {
        // One file in several rows is an overlap or a repetition, and listed there.
        let files: HashSet<&str> = same.iter().map(|row| &*row.row.key).collect();
        (files.len() > 1).then(|| DuplicateFiles {
            images: same.iter().map(|row| row.image()).collect(),
            across_splits: same.iter().any(|row| row.split != same[0].split),
        })
    });
    let mut duplicates: Vec<DuplicateFiles> = duplicates.collect();
    duplicates.sort_by_key(|found| !found.across_splits);
    duplicates
}

/// Finds all pairs of files of different content whose perceptual hashes are near, those in two
/// splits first, then the most similar.
pub(super) fn near_duplicates(rows: &[CheckedRow]) -> Vec<NearDuplicate> {
    let mut seen = HashSet::new();
    // A file that several rows name, or that has copies, counts once.
    let hashed: Vec<(&CheckedRow, PerceptualHash)> = rows
        .iter()
        .filter_map(|row| {
            let content = row.content()?;
            seen.insert(content.hash).then_some((row, content.phash?))
        })
        .collect();
    let mut found: Vec<NearDuplicate> = hashed
        .par_iter()
        .enumerate()
        .flat_map_iter(|(index, (first, phash))| {
            hashed[index + 1..].iter().filter_map(move |(second, other)| {
                let distance = phash.distance(other);
                (distance <= SAME).then(|| NearDuplicate {
                    images: [first.image(), second.image()],
                    distance,
                    across_splits: first.split != second.split,
                })
            })
        })
        .collect();
    found.sort_by_key(|found| (!found.across_splits, found.distance));
    found
}

/// Finds scores beyond the fences, and files that are too small or too narrow.
pub(super) fn outliers<'a>(
    rows: impl Iterator<Item = CheckedRow<'a>>,
    mut scores: Vec<f64>,
    config: &DataConfig,
) -> Vec<Skipped> {
    scores.sort_by(f64::total_cmp);
    let fences = fences(&scores);
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for row in rows.filter(CheckedRow::is_usable) {
        let score = row.row.target();
        if fences.is_some_and(|(low, high)| !(low..=high).contains(&score)) {
            found.push(row.finding(&format!("the score {score} is far from all others")));
        }
        // A file that several rows name is said once.
        let content = row.content().filter(|_| seen.insert((row.split, &*row.row.key)));
        if let Some(FileContent { width, height, .. }) = content {
            let (short, long) = (*width.min(height), *width.max(height));
            if 2 * i64::from(short) < config.image_size {
                found.push(row.finding(&format!(
                    "{width}x{height} pixels, less than half of data.image_size {}",
                    config.image_size
                )));
            }
            if long > MAX_ASPECT_RATIO * short {
                let reason = format!("{width}x{height} pixels is a strip, not a portrait");
                found.push(row.finding(&reason));
            }
        }
    }
    found
}

/// Returns the fences; `None` if there are too few scores or half of them are equal.
fn fences(sorted: &[f64]) -> Option<(f64, f64)> {
    let n = sorted.len();
    let (low, high) = (*sorted.get(n / 4)?, *sorted.get(3 * n / 4)?);
    let reach = FENCES * (high - low);
    (n >= 8 && reach > 0.0).then_some((low - reach, high + reach))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::imageops::{FilterType, resize};

    use crate::config::{DataConfig, DatasetName};
    use crate::data::Split;
    use crate::data::check::check;
    use crate::data::synthetic::{FaceSeed, render};

    #[test]
    fn copies_of_another_size_outliers_and_the_manifest_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = "image,score,split\n".to_string();
        for index in 0..12 {
            let face = render(FaceSeed { seed: 2, index }, 64);
            face.save(folder.path().join(format!("{index}.png"))).unwrap();
            table += &format!("{index}.png,{},train\n", if index == 11 { 90 } else { index % 5 });
        }
        let face = render(FaceSeed { seed: 2, index: 4 }, 64);
        resize(&face, 48, 48, FilterType::Triangle).save(folder.path().join("copy.jpg")).unwrap();
        image::RgbImage::new(200, 40).save(folder.path().join("strip.png")).unwrap();
        table += "copy.jpg,4,test\nstrip.png,2,val\n";
        fs::write(folder.path().join("faces.csv"), table).unwrap();
        let config = DataConfig {
            dataset: DatasetName::Csv,
            root: folder.path().to_path_buf(),
            image_size: 64,
            ..DataConfig::default()
        };
        let report = check(&config, 1).unwrap();
        assert_eq!(report.near_duplicates.len(), 1, "{:?}", report.near_duplicates);
        let found = &report.near_duplicates[0];
        assert_eq!(found.images.each_ref().map(|p| p.id.as_str()), ["4.png", "copy.jpg"]);
        assert_eq!(found.images[1].split, Split::Test);
        assert!(found.across_splits);
        let outliers: Vec<&str> = report.outliers.iter().map(|row| &*row.id).collect();
        assert_eq!(outliers, ["11.png", "strip.png"]);
        let text = report.to_string();
        assert!(text.contains("4.png (train) ~ copy.jpg (test)"), "{text}");

        let manifest = folder.path().join("manifest.csv");
        report.write_manifest(&manifest).unwrap();
        let manifest = fs::read_to_string(manifest).unwrap();
        let bytes = fs::read(folder.path().join("4.png")).unwrap();
        let line = format!("train,4.png,4,,{},64,64", blake3::hash(&bytes));
        assert!(manifest.lines().any(|found| found == line), "{manifest}");

        let page = report.to_html("faces <1>");
        assert_eq!(page.matches("data:image/jpeg;base64,/9j/").count(), 4);
        assert!(page.contains("faces &lt;1&gt;") && page.contains("copy.jpg"));
    }
}
