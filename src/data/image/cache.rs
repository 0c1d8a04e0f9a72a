//! A disk cache of decoded images, so that no image is decoded twice, by this process or another.
//!
//! An entry is named by the hash of the image file's content and of everything else that its pixels
//! depend on. It is therefore never stale: an image that changes, or another background, has
//! another name. Entries are written atomically, so that any number of processes may share a
//! folder; it may be deleted whenever none is running.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use image::RgbImage;

use super::decode;
use crate::files::{open_regular, user_cache, write_atomic};

/// The first bytes of an entry; the digit is the version of the decoder.
const MAGIC: [u8; 8] = *b"vmbrgb2\n";
const HEADER: usize = MAGIC.len() + 8;

/// A folder of decoded images.
#[derive(Debug)]
pub(in crate::data) struct DiskCache {
    folder: PathBuf,
    background: [u8; 3],
    /// Cleared when an entry cannot be written (the disk is full): training continues, and decodes.
    writes: AtomicBool,
}

impl DiskCache {
    /// Opens `folder`, or `vm-beautynet/images` in the user's cache folder, for images over
    /// `background`.
    pub(in crate::data) fn open(folder: Option<&Path>, background: [u8; 3]) -> Result<Self> {
        let folder = match folder {
            Some(folder) => folder.to_path_buf(),
            None => user_cache()
                .context("the user has no cache folder (HOME is not set); set data.cache_dir")?
                .join("vm-beautynet/images"),
        };
        let remedy = "cannot be created; set data.cache_dir to a folder that can";
        fs::create_dir_all(&folder).with_context(|| format!("{}: {remedy}", folder.display()))?;
        Ok(Self { folder, background, writes: AtomicBool::new(true) })
    }

    /// Returns the image in `path` from the cache; decodes and caches it on a miss.
    pub(in crate::data) fn image(&self, path: &Path) -> Result<RgbImage> {
        let name = || path.display().to_string();
        let bytes = decode::read_file(path).with_context(name)?;
        let entry = self.entry(&bytes);
        if let Some(image) = read_entry(&entry) {
            return Ok(image);
        }
        let image = decode::decode_image_over(&bytes, self.background).with_context(name)?;
        if self.writes.load(Ordering::Relaxed) && write_entry(&entry, &image).is_err() {
            self.writes.store(false, Ordering::Relaxed);
        }
        Ok(image)
    }

    fn entry(&self, content: &[u8]) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&MAGIC);
        hasher.update(&self.background);
        hasher.update(content);
        let name = hasher.finalize().to_hex();
        // Some file systems are slow with many thousand files in one folder.
        self.folder.join(&name[..2]).join(&name[2..])
    }
}

/// Reads an entry; `None` if there is no complete one.
fn read_entry(path: &Path) -> Option<RgbImage> {
    let mut file = open_regular(path).ok()?;
    let length = file.metadata().ok()?.len();
    let mut header = [0; HEADER];
    file.read_exact(&mut header).ok()?;
    let (magic, sides) = header.split_at(MAGIC.len());
    let side = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(sides.get(at..at + 4)?.try_into().ok()?))
    };
    let (width, height) = (side(0)?, side(4)?);
    let bytes = 3 * u64::from(width) * u64::from(height);
    if magic != MAGIC || length != HEADER as u64 + bytes {
        return None;
    }
    let mut pixels = Vec::with_capacity(usize::try_from(bytes).ok()?);
    file.read_to_end(&mut pixels).ok()?;
    RgbImage::from_raw(width, height, pixels)
}

fn write_entry(path: &Path, image: &RgbImage) -> Result<()> {
    let folder = path.parent().context("an entry has a folder")?;
    fs::create_dir_all(folder)?;
    write_atomic(path, |file| {
        file.write_all(&MAGIC)?;
        file.write_all(&image.width().to_le_bytes())?;
        file.write_all(&image.height().to_le_bytes())?;
        Ok(file.write_all(image)?)
    })
}

#[cfg(test)]
mod tests {
    use image::{Rgb, Rgba, RgbaImage};

    use super::*;
    use crate::data::read_image;

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let list = |folder: &Path| fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        list(folder).flat_map(|folder| list(&folder).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn a_cached_image_is_the_decoded_one_and_follows_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let cache = DiskCache::open(Some(&folder.path().join("cache")), [1, 2, 3]).unwrap();
        for shade in [10, 200] {
            RgbImage::from_fn(7, 5, |x, y| Rgb([shade, x as u8, y as u8])).save(&path).unwrap();
            let expected = read_image(&path).unwrap();
            for _ in 0..2 {
                assert_eq!(cache.image(&path).unwrap(), expected);
            }
        }
        assert_eq!(entries(&folder.path().join("cache")).len(), 2);
        // What the cache holds is what is used: an entry that somebody changed shows.
        for entry in entries(&folder.path().join("cache")) {
            let mut bytes = fs::read(&entry).unwrap();
            bytes[HEADER..].fill(77);
            fs::write(&entry, bytes).unwrap();
        }
        assert_eq!(cache.image(&path).unwrap().get_pixel(3, 3).0, [77; 3]);
    }

    #[test]
    fn another_background_is_another_entry_and_a_damaged_entry_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clear.png");
        RgbaImage::from_pixel(4, 4, Rgba([0, 0, 0, 0])).save(&path).unwrap();
        let cache = folder.path().join("cache");
        for background in [[255, 0, 0], [0, 255, 0]] {
            let opened = DiskCache::open(Some(&cache), background).unwrap();
            for damage in 0..3 {
                assert_eq!(opened.image(&path).unwrap().get_pixel(1, 1).0, background);
                for entry in entries(&cache) {
                    let complete = fs::read(&entry).unwrap();
                    fs::write(&entry, &complete[..complete.len() - damage * 20]).unwrap();
                }
            }
            assert_eq!(opened.image(&path).unwrap().get_pixel(1, 1).0, background);
        }
        assert_eq!(entries(&cache).len(), 2);
    }

    #[test]
    fn many_threads_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        RgbImage::from_pixel(90, 90, Rgb([5, 6, 7])).save(&path).unwrap();
        let cache = folder.path().join("cache");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let opened = DiskCache::open(Some(&cache), [0; 3]).unwrap();
                    for _ in 0..20 {
                        assert_eq!(opened.image(&path).unwrap().get_pixel(89, 89).0, [5, 6, 7]);
                    }
                });
            }
        });
        assert_eq!(entries(&cache).len(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_created_is_named_with_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DiskCache::open(Some(&file.join("cache")), [0; 3]).unwrap_err();
        assert!(error.to_string().contains("data.cache_dir"), "{error}");
    }
}
