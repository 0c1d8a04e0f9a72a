//! How an image is seen: as it is, mirrored, or augmented.

use anyhow::{Context, Result};

use super::shard::Key;
use crate::data::{ImageDataset, Workspace, catch_panic};

/// A view of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As evaluation sees it.
    Plain,
    /// The mirror image of that.
    Mirrored,
    /// Augmented as training augments images, with this number from 0. It depends on the content of
    /// the image alone besides, so that all runs and folds have the same views.
    Augmented(usize),
}

/// A view of an image of a split.
#[derive(Clone, Copy)]
pub(super) struct ViewedImage<'a> {
    pub images: &'a ImageDataset,
    pub index: usize,
    /// The hash of the image's content.
    pub content: blake3::Hash,
    pub view: View,
}

impl ViewedImage<'_> {
    /// Returns the key of its row.
    pub(super) fn key(&self) -> Key {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.content.as_bytes());
        hasher.update(format!("{:?}", self.view).as_bytes());
        if let View::Augmented(_) = self.view {
            hasher.update(format!("{:?}", self.images.augment()).as_bytes());
        }
        hasher.finalize().into()
    }

    /// Returns its pixels: (3, size, size). Returns an error that names the image if it cannot be
    /// read.
    pub(super) fn pixels(&self) -> Result<Vec<u8>> {
        let id = || self.images.samples().get(self.index).map_or("?", |sample| &sample.id);
        catch_panic(|| self.read()).with_context(|| format!("the image {}", id()))
    }

    fn read(&self) -> Result<Vec<u8>> {
        let image = self.images.image(self.index)?;
        let (transform, size) = (self.images.transform(), self.images.size());
        let mut out = vec![0; 3 * size * size];
        let workspace = &mut Workspace::default();
        match self.view {
            View::Augmented(number) => {
                let half = |at: usize| -> Result<u64> {
                    Ok(u64::from_le_bytes(self.content.as_bytes()[at..at + 8].try_into()?))
                };
                let stream = (half(0)?, number as u64, half(8)?);
                transform.apply(&image, stream, workspace, &mut out)?;
            }
            View::Plain | View::Mirrored => transform.eval().apply(&image, workspace, &mut out)?,
        }
        if self.view == View::Mirrored {
            out.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(out)
    }
}
