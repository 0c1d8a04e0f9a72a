//! The check of one row of a data set's lists.

use super::findings::SplitImage;
use crate::data::dataset::{Skipped, Source, Split};
use crate::data::image::decode;
use crate::data::image::phash::PerceptualHash;
use crate::data::listing::Row;

pub(super) struct CheckedRow<'a> {
    pub(super) split: Split,
    pub(super) row: &'a Row,
    pub(super) status: RowStatus,
}

pub(super) enum RowStatus {
    Missing(String),
    Unreadable(String),
    /// The image can be used; a synthetic one has no file content.
    Usable(Option<FileContent>),
}

pub(super) struct FileContent {
    pub(super) hash: blake3::Hash,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) phash: Option<PerceptualHash>,
}

impl<'a> CheckedRow<'a> {
    pub(super) fn new(split: Split, row: &'a Row) -> Self {
        let status = match (&row.missing, &row.sample.source) {
            (Some(reason), _) => RowStatus::Missing(reason.clone()),
            (None, Source::Synthetic(_)) => RowStatus::Usable(None),
            (None, Source::File(path)) => {
                let content = decode::read_file(path).and_then(|bytes| {
                    let image = decode::decode_image(&bytes)?;
                    Ok(FileContent {
                        hash: blake3::hash(&bytes),
                        width: image.width(),
                        height: image.height(),
                        phash: PerceptualHash::new(&image),
                    })
                });
                match content {
                    Ok(content) => RowStatus::Usable(Some(content)),
                    Err(error) => RowStatus::Unreadable(format!("{error:#}")),
                }
            }
        };
        Self { split, row, status }
    }

    pub(super) fn image(&self) -> SplitImage {
        SplitImage { split: self.split, id: self.row.sample.id.clone() }
    }

    pub(super) fn is_usable(&self) -> bool {
        matches!(self.status, RowStatus::Usable(_))
    }

    pub(super) fn content(&self) -> Option<&FileContent> {
        match &self.status {
            RowStatus::Usable(content) => content.as_ref(),
            _ => None,
        }
    }

    pub(super) fn finding(&self, reason: impl Into<String>) -> Skipped {
        Skipped { split: self.split, id: self.row.sample.id.clone(), reason: reason.into() }
    }
}
