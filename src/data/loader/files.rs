//! Loads image files in batches, for one model or for several with different transforms.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use image::RgbImage;

use super::prefetch::Prefetch;
use crate::data::image::decode::{decode_image_over, read_file};
use crate::data::image::{EvalTransform, Workspace};

/// A batch of image files as models see them.
#[derive(Debug)]
pub struct FileBatch<T = ()> {
    /// What the preparation found in each file, or why it could not be read, in order. Errors do
    /// not name the file.
    pub files: Vec<Result<T, Error>>,
    /// The number of those that could.
    pub len: usize,
    /// For each transform (len, 3, size, size), RGB, 0..=255.
    pub views: Vec<Vec<u8>>,
}

/// Iterates over image files in batches: each file is read and decoded once, and transformed by
/// each of several transforms. A file that cannot be read does not end the pass. Worker threads
/// load up to a batch ahead, so that memory does not grow with the number of files.
///
/// # Examples
/// ```
/// use vm_beautynet::config::DataConfig;
/// use vm_beautynet::data::{EvalTransform, FileLoader};
///
/// let transform = EvalTransform::new(&DataConfig { image_size: 32, ..DataConfig::default() })?;
/// let files = vec!["tests/fixtures/images/rgb.png".into(), "no.png".into()];
/// let batch = FileLoader::new(files, vec![transform], 16, 2)?.next().unwrap();
/// assert_eq!(batch.views[0].len(), 3 * 32 * 32);
/// assert!(batch.files[0].is_ok() && batch.files[1].is_err());
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct FileLoader<T = ()> {
    files: Prefetch<(Vec<Vec<u8>>, T)>,
    batch_size: usize,
    transforms: usize,
}

impl FileLoader {
    /// Starts a pass over `files`, in batches of `batch_size` images that can be read. Returns an
    /// error if threads cannot be started.
    pub fn new(
        files: Vec<PathBuf>,
        transforms: Vec<EvalTransform>,
        batch_size: usize,
        workers: usize,
    ) -> Result<Self> {
        Self::prepared(files, transforms, batch_size, workers, |image| Ok((image, ())))
    }
}

impl<T: Send + 'static> FileLoader<T> {
    /// As [`new`](FileLoader::new), with images that `prepare` changes before the transforms see
    /// them; its errors are those of the file. It is called once for each background that the
    /// transforms have.
    pub fn prepared(
        files: Vec<PathBuf>,
        transforms: Vec<EvalTransform>,
        batch_size: usize,
        workers: usize,
        prepare: impl Fn(RgbImage) -> Result<(RgbImage, T)> + Send + Sync + 'static,
    ) -> Result<Self> {
        let batch_size = batch_size.max(1);
        let (count, of_transforms) = (files.len(), transforms.len());
        let load = move |index: usize, workspace: &mut Workspace| {
            views(&files[index], &transforms, &prepare, workspace)
        };
        let files = Prefetch::new(0..count, workers, batch_size + workers, load).context(
            "cannot start the threads that decode images; set RAYON_NUM_THREADS to fewer",
        )?;
        Ok(Self { files, batch_size, transforms: of_transforms })
    }
}

impl<T: Send + 'static> Iterator for FileLoader<T> {
    type Item = FileBatch<T>;

    fn next(&mut self) -> Option<FileBatch<T>> {
        let views = vec![Vec::new(); self.transforms];
        let mut batch = FileBatch { files: Vec::new(), len: 0, views };
        while batch.len < self.batch_size
            && let Some(loaded) = self.files.next()
        {
            let loaded = loaded.map(|(views, found)| {
                batch.len += 1;
                batch.views.iter_mut().zip(views).for_each(|(all, view)| all.extend(view));
                found
            });
            batch.files.push(loaded);
            // Of many files in a row that cannot be read, the first ones need not wait.
            if batch.len == 0 {
                break;
            }
        }
        (!batch.files.is_empty()).then_some(batch)
    }
}

/// Reads a file and returns what each transform makes of it, and what the preparation found.
fn views<T>(
    file: &Path,
    transforms: &[EvalTransform],
    prepare: &dyn Fn(RgbImage) -> Result<(RgbImage, T)>,
    workspace: &mut Workspace,
) -> Result<(Vec<Vec<u8>>, T)> {
    let bytes = read_file(file)?;
    // Transforms with another background see transparent pixels in another color.
    let mut prepared: Option<([u8; 3], (RgbImage, T))> = None;
    let mut views = Vec::with_capacity(transforms.len());
    for transform in transforms {
        let background = transform.background();
        let (image, found) = match prepared.take() {
            Some((over, prepared)) if over == background => prepared,
            _ => prepare(decode_image_over(&bytes, background)?)?,
        };
        let mut out = vec![0; 3 * transform.size().pow(2)];
        transform.apply(&image, workspace, &mut out)?;
        views.push(out);
        prepared = Some((background, (image, found)));
    }
    let (_, (_, found)) = prepared.context("internal: there is no transform")?;
    Ok((views, found))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;
    use crate::config::{DataConfig, Resize};

    fn transform(size: i64, resize: Resize, background: [u8; 3]) -> EvalTransform {
        let config = DataConfig { image_size: size, resize, background, ..DataConfig::default() };
        EvalTransform::new(&config).unwrap()
    }

    #[test]
    fn each_transform_sees_the_image_as_it_would_alone_with_any_number_of_workers() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> =
            (0..11u8).map(|n| folder.path().join(format!("{n}.png"))).collect();
        for (n, file) in files.iter().enumerate() {
            let pixel = |x, y| Rgba([x as u8 * 7, y as u8 * 7, n as u8 * 20, 100 + x as u8]);
            RgbaImage::from_fn(20 + n as u32, 16, pixel).save(file).unwrap();
        }
        let transforms = [
            transform(16, Resize::Squash, [0; 3]),
            transform(8, Resize::Pad, [0; 3]),
            transform(8, Resize::Squash, [250, 0, 9]),
        ];
        let load = |transforms: &[EvalTransform], workers| {
            let loader = FileLoader::new(files.clone(), transforms.to_vec(), 4, workers).unwrap();
            loader.map(|batch| (batch.len, batch.views)).collect::<Vec<_>>()
        };
        let together = load(&transforms, 0);
        assert_eq!(together.iter().map(|(len, _)| *len).collect::<Vec<_>>(), [4, 4, 3]);
        for workers in [1, 3, 20] {
            assert_eq!(load(&transforms, workers), together);
        }
        for (at, transform) in transforms.into_iter().enumerate() {
            for ((_, alone), (_, together)) in load(&[transform], 2).iter().zip(&together) {
                assert_eq!(alone[0], together[at]);
            }
        }
    }

    #[test]
    fn files_that_cannot_be_read_keep_their_place_and_do_not_fill_a_batch() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..9).map(|n| folder.path().join(format!("{n}.png"))).collect();
        for (n, file) in files.iter().enumerate() {
            match n {
                0 | 1 | 5 => fs::write(file, "no image").unwrap(),
                8 => {}
                _ => RgbImage::from_pixel(9, 9, Rgb([n as u8; 3])).save(file).unwrap(),
            }
        }
        for workers in [0, 3] {
            let transforms = vec![transform(8, Resize::Squash, [0; 3])];
            let loader = FileLoader::new(files.clone(), transforms, 3, workers).unwrap();
            let batches: Vec<FileBatch> = loader.collect();
            let read =
                |batch: &FileBatch| batch.files.iter().map(Result::is_ok).collect::<Vec<_>>();
            let read: Vec<_> = batches.iter().map(read).collect();
            let (yes, no) = (true, false);
            assert_eq!(read, [vec![no], vec![no], vec![yes; 3], vec![no], vec![yes, yes, no]]);
            assert_eq!(batches[2].views[0].len(), 3 * 3 * 64);
            assert_eq!(batches[4].views[0][0], 6);
            let error = format!("{:#}", batches[3].files[0].as_ref().unwrap_err());
            assert!(error.starts_with("not an image"), "{error}");
        }
    }
}
