//! What a check finds by looking at images: copies that differ in their bytes, and what stands out.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::{CheckedFile, Content, DatasetCheck, NearDuplicate, RowCheck, SplitImage};
use crate::config::DataConfig;
use crate::data::dataset::{Skipped, Source, Split};
use crate::data::image::phash::{PerceptualHash, SAME};
use crate::data::listing::Row;
use crate::files::write_atomic;

/// Scores further than this from the quartiles, in distances between them, are outliers (Tukey's
/// outer fences).
const FENCES: f64 = 3.0;
/// Images more than so many times as long as wide are no portraits.
const LONGEST: u32 = 3;

fn content(state: &RowCheck) -> Option<&Content> {
    match state {
        RowCheck::Usable(content) => content.as_ref(),
        _ => None,
    }
}

/// All pairs of files of different content whose perceptual hashes are near.
pub(super) fn near_duplicates(rows: &[(Split, &Row)], states: &[RowCheck]) -> Vec<NearDuplicate> {
    let mut seen = BTreeSet::new();
    // A file that several rows name, or that has copies, counts once.
    let looks: Vec<(usize, PerceptualHash)> = states
        .iter()
        .enumerate()
        .filter_map(|(index, state)| {
            let content = content(state)?;
            seen.insert(*content.hash.as_bytes()).then_some((index, content.look?))
        })
        .collect();
    let named = |index: usize| SplitImage::new(rows[index].0, rows[index].1);
    looks
        .par_iter()
        .enumerate()
        .flat_map_iter(|(place, (first, look))| {
            looks[place + 1..].iter().filter_map(move |(second, other)| {
                let distance = look.distance(other);
                (distance <= SAME).then(|| NearDuplicate {
                    images: [named(*first), named(*second)],
                    distance,
                    across_splits: rows[*first].0 != rows[*second].0,
                })
            })
        })
        .collect()
}

/// Scores beyond the fences, and files that are too small or too narrow.
pub(super) fn outliers(
    rows: &[(Split, &Row)],
    states: &[RowCheck],
    config: &DataConfig,
) -> Vec<Skipped> {
    let usable = || {
        let states = rows.iter().zip(states);
        states.filter(|(_, state)| matches!(state, RowCheck::Usable(_)))
    };
    let mut scores: Vec<f32> = usable().map(|((_, row), _)| row.sample.score).collect();
    scores.sort_by(f32::total_cmp);
    let fences = fences(&scores);
    let mut found = Vec::new();
    for ((split, row), state) in usable() {
        let mut report = |reason: String| {
            found.push(Skipped { split: *split, id: row.sample.id.clone(), reason });
        };
        let score = f64::from(row.sample.score);
        if fences.is_some_and(|(low, high)| !(low..=high).contains(&score)) {
            report(format!("the score {score} is far from all others"));
        }
        if let Some(Content { width, height, .. }) = content(state) {
            let (short, long) = (*width.min(height), *width.max(height));
            if 2 * i64::from(short) < config.image_size {
                report(format!(
                    "{width}x{height} pixels, less than half of data.image_size {}",
                    config.image_size
                ));
            }
            if long > LONGEST * short {
                report(format!("{width}x{height} pixels is a strip, not a portrait"));
            }
        }
    }
    found
}

/// None where there are too few scores, or half of them are the same.
fn fences(sorted: &[f32]) -> Option<(f64, f64)> {
    let n = sorted.len();
    let (low, high) = (f64::from(*sorted.get(n / 4)?), f64::from(*sorted.get(3 * n / 4)?));
    let reach = FENCES * (high - low);
    (n >= 8 && reach > 0.0).then_some((low - reach, high + reach))
}

/// The rows' files that are there.
pub(super) fn files(rows: &[(Split, &Row)], states: &[RowCheck]) -> Vec<CheckedFile> {
    rows.iter()
        .zip(states)
        .filter_map(|((split, row), state)| {
            let (Source::File(path), None) = (&row.sample.source, &row.missing) else {
                return None;
            };
            Some(CheckedFile {
                name: SplitImage::new(*split, row),
                path: path.clone(),
                score: row.sample.score,
                group: row.sample.group.clone(),
                content: content(state)
                    .map(|found| (found.hash.to_hex().to_string(), found.width, found.height)),
            })
        })
        .collect()
}

impl DatasetCheck {
    /// Writes a line for each file that is there: split, name, score, group, the hash of its
    /// content (BLAKE3), width and height; the last three are empty where it cannot be read. Two
    /// releases of a data set can be compared by it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_manifest(&self, path: &Path) -> Result<()> {
        write_atomic(path, |file| {
            let mut table = csv::Writer::from_writer(file);
            table
                .write_record(["split", "image", "score", "group", "blake3", "width", "height"])?;
            for file in &self.files {
                let (hash, width, height) = match &file.content {
                    Some((hash, width, height)) => {
                        (hash.clone(), width.to_string(), height.to_string())
                    }
                    None => Default::default(),
                };
                table.write_record([
                    file.name.split.name(),
                    &file.name.id,
                    &file.score.to_string(),
                    file.group.as_deref().unwrap_or_default(),
                    &hash,
                    &width,
                    &height,
                ])?;
            }
            table.flush().context("writing the manifest")
        })
    }
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
        let outliers: Vec<&str> = report.outliers.iter().map(|row| row.id.as_str()).collect();
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
