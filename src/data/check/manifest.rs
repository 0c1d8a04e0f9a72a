//! The manifest of a dataset: its files and the hashes of their contents.

use std::path::Path;

use anyhow::{Context, Result};

use super::findings::DatasetCheck;
use crate::data::csv_cell;
use crate::files::write_atomic;

impl DatasetCheck {
    /// Writes a CSV file with a line for each existing file: split, name, score, group, the hash of
    /// its content (BLAKE3), width and height; the last three are empty if it cannot be read. It
    /// allows comparing two releases of a dataset.
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
                    &csv_cell(&file.image.id),
                    &file.score.to_string(),
                    &csv_cell(file.group.as_deref().unwrap_or_default()),
                    &hash,
                    &width,
                    &height,
                ])?;
            }
            table.flush().context("writing the manifest")
        })
    }
}
