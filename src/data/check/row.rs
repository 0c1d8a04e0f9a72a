//! The check of one row of a dataset's lists.

use std::path::Path;

use anyhow::Result;

use super::findings::{CheckedFile, SplitImage};
use crate::data::dataset::{Skipped, Source, Split};
use crate::data::image::decode;
use crate::data::image::phash::PerceptualHash;
use crate::data::listing::Row;

pub(super) struct CheckedRow<'a> {
    pub(super) split: Split,
    pub(super) row: &'a Row,
    /// What was read of a usable image, `None` for a synthetic one, or why it cannot be used.
    pub(super) content: Result<Option<FileContent>, String>,
}

pub(super) struct FileContent {
    pub(super) hash: blake3::Hash,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) phash: Option<PerceptualHash>,
}

impl FileContent {
    fn read(path: &Path) -> Result<Self> {
        let bytes = decode::read_file(path)?;
        let image = decode::decode_image(&bytes)?;
        Ok(Self {
            hash: blake3::hash(&bytes),
            width: image.width(),
            height: image.height(),
            phash: PerceptualHash::new(&image),
        })
    }
}

impl<'a> CheckedRow<'a> {
    pub(super) fn new(split: Split, row: &'a Row) -> Self {
        let content = match (&row.missing, &row.sample.source) {
            (Some(reason), _) => Err(reason.clone()),
            (None, Source::Synthetic(_)) => Ok(None),
            (None, Source::File(path)) => {
                FileContent::read(path).map(Some).map_err(|error| format!("{error:#}"))
            }
        };
        Self { split, row, content }
    }

    pub(super) fn image(&self) -> SplitImage {
        SplitImage { split: self.split, id: self.row.sample.id.clone() }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.content.is_ok()
    }

    pub(super) fn content(&self) -> Option<&FileContent> {
        self.content.as_ref().ok()?.as_ref()
    }

    pub(super) fn file(&self) -> Option<CheckedFile> {
        let (Source::File(path), None) = (&self.row.sample.source, &self.row.missing) else {
            return None;
        };
        let content = self.content();
        Some(CheckedFile {
            image: self.image(),
            path: path.clone(),
            score: self.row.sample.score,
            group: self.row.sample.group.clone(),
            content: content.map(|file| (file.hash.to_hex().to_string(), file.width, file.height)),
        })
    }

    pub(super) fn finding(&self, reason: impl Into<String>) -> Skipped {
        Skipped { split: self.split, id: self.row.sample.id.clone(), reason: reason.into() }
    }
}
