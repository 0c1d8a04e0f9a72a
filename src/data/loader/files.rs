//! Loads image files in batches, for one model or for several with different transforms.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Error, Result};
use image::RgbImage;

use super::prefetch::Prefetch;
use crate::data::image::decode::{decode_image_over, read_file};
use crate::data::image::{EvalTransform, Workspace};
use crate::data::panic::catch_panic;

/// A batch of image files as models see them.
#[derive(Debug)]
pub struct FileBatch<T = ()> {
    /// The files in order, and what the preparation found in each, or why it could not be read.
    /// Errors do not name the file.
    pub files: Vec<(PathBuf, Result<T, Error>)>,
    /// The number of those that could.
    pub len: usize,
    /// For each transform (len, 3, size, size), RGB, 0..=255.
    pub views: Vec<Vec<u8>>,
}

/// Iterates over image files in batches: each file is read and decoded once, and transformed by
/// each of several transforms. A file that cannot be read does not end the pass; a path that cannot
/// be had does. Worker threads load up to a batch ahead, so that memory does not grow with the
/// number of files, and a batch is there before the paths after it are known.
///
/// # Examples
/// ```
/// use vm_beautynet::config::DataConfig;
/// use vm_beautynet::data::{EvalTransform, FileLoader};
///
/// let transform = EvalTransform::new(&DataConfig { image_size: 32, ..DataConfig::default() })?;
/// let files = ["tests/fixtures/images/rgb.png", "no.png"].map(|path| Ok(path.into()));
/// let batch = FileLoader::new(files, vec![transform], 16, 2)?.next().unwrap()?;
/// assert_eq!(batch.views[0].len(), 3 * 32 * 32);
/// assert!(batch.files[0].1.is_ok() && batch.files[1].1.is_err());
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct FileLoader<T = ()> {
    files: Prefetch<Option<Loaded<T>>>,
    batch_size: usize,
    transforms: usize,
}

/// A file, what each transform makes of it, and what the preparation found.
type Loaded<T> = (PathBuf, Result<(Vec<Vec<u8>>, T)>);

impl FileLoader {
    /// Starts a pass over `files`, in batches of `batch_size` images that can be read. Returns an
    /// error if threads cannot be started.
    pub fn new(
        files: impl IntoIterator<Item = Result<PathBuf>, IntoIter: Send + 'static>,
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
        files: impl IntoIterator<Item = Result<PathBuf>, IntoIter: Send + 'static>,
        transforms: Vec<EvalTransform>,
        batch_size: usize,
        workers: usize,
        prepare: impl Fn(RgbImage) -> Result<(RgbImage, T)> + Send + Sync + 'static,
    ) -> Result<Self> {
        let batch_size = batch_size.max(1);
        let (files, of_transforms) = (files.into_iter(), transforms.len());
        // How many there are, if it is known.
        let count = files.size_hint().1.unwrap_or(usize::MAX);
        let files = Paths::new(files);
        let load = move |index: usize, workspace: &mut Workspace| {
            let Some(path) = files.take(index).transpose()? else { return Ok(None) };
            let views = catch_panic(|| views(&path, &transforms, &prepare, workspace));
            Ok(Some((path, views)))
        };
        let files = Prefetch::new(0..count, workers, batch_size + workers, load).context(
            "cannot start the threads that decode images; set RAYON_NUM_THREADS to fewer",
        )?;
        Ok(Self { files, batch_size, transforms: of_transforms })
    }
}

impl<T: Send + 'static> Iterator for FileLoader<T> {
    type Item = Result<FileBatch<T>>;

    fn next(&mut self) -> Option<Result<FileBatch<T>>> {
        let views = vec![Vec::new(); self.transforms];
        let mut batch = FileBatch { files: Vec::new(), len: 0, views };
        while batch.len < self.batch_size
            && let Some(loaded) = self.files.next()
        {
            let (path, loaded) = match loaded {
                Ok(Some(loaded)) => loaded,
                Ok(None) => {
                    self.files.end();
                    break;
                }
                Err(error) => {
                    self.files.end();
                    return Some(Err(error));
                }
            };
            let loaded = loaded.map(|(views, found)| {
                batch.len += 1;
                batch.views.iter_mut().zip(views).for_each(|(all, view)| all.extend(view));
                found
            });
            batch.files.push((path, loaded));
            // Of many files in a row that cannot be read, the first ones need not wait.
            if batch.len == 0 {
                break;
            }
        }
        (!batch.files.is_empty()).then_some(Ok(batch))
    }
}

/// The paths of a pass by their index, whichever thread asks first.
struct Paths<I> {
    state: Mutex<PathsState<I>>,
    changed: Condvar,
}

struct PathsState<I> {
    /// `None` while a thread waits for the next path, and at the end.
    paths: Option<I>,
    ended: bool,
    /// The index of the next path.
    next: usize,
    /// Paths before it that were not taken yet.
    waiting: BTreeMap<usize, Result<PathBuf>>,
}

impl<I: Iterator<Item = Result<PathBuf>>> Paths<I> {
    fn new(paths: I) -> Self {
        let (paths, waiting) = (Some(paths), BTreeMap::new());
        let state = PathsState { paths, ended: false, next: 0, waiting };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, PathsState<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the path of an index, once; `None` if there are not as many. A thread that waits for
    /// the next path keeps no other from those before it.
    fn take(&self, index: usize) -> Option<Result<PathBuf>> {
        let mut state = self.lock();
        loop {
            if index < state.next || state.ended {
                return state.waiting.remove(&index);
            }
            let Some(mut paths) = state.paths.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let path = paths.next();
            state = self.lock();
            if let Some(path) = path {
                let next = state.next;
                state.waiting.insert(next, path);
                state.next += 1;
                state.paths = Some(paths);
            } else {
                state.ended = true;
            }
            self.changed.notify_all();
        }
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
            let files = files.clone().into_iter().map(Ok);
            let loader = FileLoader::new(files, transforms.to_vec(), 4, workers).unwrap();
            let batch = |batch: Result<FileBatch>| batch.map(|batch| (batch.len, batch.views));
            loader.map(batch).collect::<Result<Vec<_>>>().unwrap()
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
            let loader =
                FileLoader::new(files.clone().into_iter().map(Ok), transforms, 3, workers).unwrap();
            let batches: Vec<FileBatch> = loader.collect::<Result<_>>().unwrap();
            let paths = batches.iter().flat_map(|batch| batch.files.iter().map(|(path, _)| path));
            assert!(paths.eq(&files));
            let read = |batch: &FileBatch| {
                batch.files.iter().map(|(_, read)| read.is_ok()).collect::<Vec<_>>()
            };
            let read: Vec<_> = batches.iter().map(read).collect();
            let (yes, no) = (true, false);
            assert_eq!(read, [vec![no], vec![no], vec![yes; 3], vec![no], vec![yes, yes, no]]);
            assert_eq!(batches[2].views[0].len(), 3 * 3 * 64);
            assert_eq!(batches[4].views[0][0], 6);
            let error = format!("{:#}", batches[3].files[0].1.as_ref().unwrap_err());
            assert!(error.starts_with("not an image"), "{error}");
        }
    }

    #[test]
    fn a_batch_is_there_before_the_paths_after_it_and_a_path_that_cannot_be_had_ends_the_pass() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        RgbImage::from_pixel(9, 9, Rgb([1; 3])).save(&file).unwrap();
        for workers in [0, 1, 3] {
            let (to, paths) = std::sync::mpsc::channel();
            let transforms = vec![transform(8, Resize::Squash, [0; 3])];
            let mut loader = FileLoader::new(paths, transforms, 2, workers).unwrap();
            for _ in 0..2 {
                to.send(Ok(file.clone())).unwrap();
            }
            assert_eq!(loader.next().unwrap().unwrap().len, 2);
            to.send(Err(Error::msg("no more paths"))).unwrap();
            drop(to);
            assert_eq!(loader.next().unwrap().unwrap_err().to_string(), "no more paths");
            assert!(loader.next().is_none());
        }
    }
}
