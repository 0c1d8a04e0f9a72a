//! The manifest of a data set: its files and the hashes of their contents.

use std::path::Path;

use anyhow::{Context, Result};

use super::findings::{CheckedFile, DatasetCheck};
use super::row::CheckedRow;
use crate::data::dataset::Source;
use crate::files::write_atomic;

pub(super) fn files(rows: &[CheckedRow]) -> Vec<CheckedFile> {
    let files = rows.iter().filter_map(|row| {
        let (Source::File(path), None) = (&row.row.sample.source, &row.row.missing) else {
            return None;
        };
        let content = row.content();
        Some(CheckedFile {
            image: row.image(),
            path: path.clone(),
            score: row.row.sample.score,
            group: row.row.sample.group.clone(),
            content: content
                .map(|content| (content.hash.to_hex().to_string(), content.width, content.height)),
        })
    });
    files.collect()
}

impl DatasetCheck {
    /// Writes a CSV file with a line for each existing file: split, name, score, group, the hash of
    /// its content (BLAKE3), width and height; the last three are empty if it cannot be read. It
    /// allows comparing two releases of a data set.
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
                    file.image.split.name(),
                    &file.image.id,
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
