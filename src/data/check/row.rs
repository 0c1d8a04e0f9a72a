//! The check of the rows of a dataset's lists.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use super::findings::{CheckedFile, SplitImage};
use crate::data::dataset::{Skipped, Split};
use crate::data::image::decode;
use crate::data::image::phash::PerceptualHash;
use crate::data::listing::{Listing, Row};

/// The content of each file, by its key, or why it cannot be read. A file that many rows name is
/// read once.
pub(super) struct Contents<'a>(HashMap<&'a str, Result<FileContent, String>>);

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

impl<'a> Contents<'a> {
    /// Reads every file of a listing, in parallel.
    pub(super) fn read(listing: &'a Listing) -> Self {
        let read = |row: &&'a Row| {
            let content = FileContent::read(row.path()?);
            Some((&*row.key, content.map_err(|error| format!("{error:#}"))))
        };
        Self(listing.files().par_iter().filter_map(read).collect())
    }

    /// Iterates over the rows of all splits.
    pub(super) fn rows(&'a self, listing: &'a Listing) -> impl Iterator<Item = CheckedRow<'a>> {
        listing.all_rows().map(|(split, row)| {
            let content = match (row.missing_reason(), self.0.get(&*row.key)) {
                (Some(reason), _) => Err(reason),
                (None, Some(content)) => content.as_ref().map(Some).map_err(String::as_str),
                (None, None) => Ok(None),
            };
            CheckedRow { split, row, content }
        })
    }
}

#[derive(Clone, Copy)]
pub(super) struct CheckedRow<'a> {
    pub(super) split: Split,
    pub(super) row: &'a Row,
    /// What was read of a usable image, `None` for a synthetic one, or why it cannot be used.
    pub(super) content: Result<Option<&'a FileContent>, &'a str>,
}

impl<'a> CheckedRow<'a> {
    pub(super) fn image(&self) -> SplitImage {
        SplitImage { split: self.split, id: self.row.id.to_string() }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.content.is_ok()
    }

    pub(super) fn content(&self) -> Option<&'a FileContent> {
        self.content.ok()?
    }

    pub(super) fn file(&self) -> Option<CheckedFile> {
        Some(CheckedFile {
            image: self.image(),
            path: self.row.path()?.to_path_buf(),
            score: self.row.score,
            group: self.row.group().map(str::to_string),
            content: self
                .content()
                .map(|file| (file.hash.to_hex().to_string(), file.width, file.height)),
        })
    }

    pub(super) fn finding(&self, reason: &str) -> Skipped {
        Skipped { split: self.split, id: self.row.id.clone(), reason: reason.into() }
    }
}
