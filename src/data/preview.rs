//! Grids of images as the network sees them.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use image::imageops::{self, FilterType};
use image::{ImageBuffer, ImageFormat, PixelWithColorType, Rgb, RgbImage};

use super::augment::mix;
use super::batch::HostBatch;
use super::dataset::{Sample, Source};
use super::datasets::synthetic::FaceSeed;
use super::image::Workspace;
use super::image_dataset::{ImageDataset, Mode};
use super::lettering::{FAINT, INK, Letters, PAPER, write};
use super::random_stream::RandomStream;
use crate::config::{AugmentConfig, DataConfig};
use crate::files::{printable, write_atomic};

const GAP: usize = 4;
const MAX_PIXELS: usize = 64 << 20;

/// Renders a row for each of the first `rows` images: as evaluation sees it, then as the first
/// `epochs` epochs of training with this seed do. Mixup and cutmix mix the images of one column.
/// Returns an error if an image cannot be read or the grid exceeds 64 million pixels.
pub fn grid(images: &ImageDataset, rows: usize, epochs: usize, seed: u64) -> Result<RgbImage> {
    let rows = rows.min(images.len());
    let size = images.size();
    let (width, height) = ((epochs + 1) * (size + GAP) + GAP, rows * (size + GAP) + GAP);
    ensure_size(width, height)?;
    let mut grid = RgbImage::from_pixel(width as u32, height as u32, Rgb([255; 3]));
    let mut workspace = Workspace::default();
    for column in 0..=epochs {
        let mode = match column.checked_sub(1) {
            None => Mode::Eval,
            Some(epoch) => Mode::Train { seed, epoch: epoch as u64 },
        };
        let batch = batch(images, rows, mode, &mut workspace)?;
        for (row, planes) in batch.pixels.chunks_exact(3 * size * size).enumerate() {
            paste(&mut grid, planes, size, column, row);
        }
    }
    Ok(grid)
}

/// Renders [`grid`] for people: enlarged where the images are small, each column under its epoch,
/// each row under the name and the score of its image. Returns an error as [`grid`] does.
pub fn sheet(images: &ImageDataset, rows: usize, epochs: usize, seed: u64) -> Result<RgbImage> {
    const LEAST_SIDE: usize = 160;
    const LETTERS: Letters = Letters::Small;
    let (size, rows, gap) = (images.size(), rows.min(images.len()), GAP as u32);
    let side = (size * LEAST_SIDE.div_ceil(size)) as u32;
    let line = LETTERS.height() + gap;
    let (columns, step) = (epochs as u32 + 1, side + line + 2 * gap);
    let (width, height) = (columns * (side + gap) + gap, line + rows as u32 * step + gap);
    ensure_size(width as usize, height as usize)?;
    let grid = grid(images, rows, epochs, seed)?;
    let mut sheet = RgbImage::from_pixel(width, height, PAPER);
    let left = |column: u32| gap + column * (side + gap);
    for column in 0..columns {
        let heading =
            if column == 0 { "evaluation".to_string() } else { format!("epoch {column}") };
        write(&mut sheet, (left(column), gap), &heading, LETTERS, FAINT);
    }
    for (row, sample) in images.samples().iter().take(rows).enumerate() {
        let top = line + row as u32 * step + 2 * gap;
        let score = format!("  score {:.2}", sample.target());
        let room = (width - 2 * gap).saturating_sub(LETTERS.width(&score));
        let caption = LETTERS.fit(&printable(&sample.id), room) + &score;
        write(&mut sheet, (gap, top), &caption, LETTERS, INK);
        for column in 0..columns {
            let at = |cell: u32| gap + cell * (size as u32 + gap);
            let cell =
                imageops::crop_imm(&grid, at(column), at(row as u32), size as u32, size as u32);
            let cell = imageops::resize(&*cell, side, side, FilterType::Nearest);
            imageops::replace(&mut sheet, &cell, left(column).into(), (top + line).into());
        }
    }
    Ok(sheet)
}

fn ensure_size(width: usize, height: usize) -> Result<()> {
    ensure!(
        width.saturating_mul(height) <= MAX_PIXELS,
        "a grid of {width}x{height} pixels is too large; reduce the number of images or epochs"
    );
    Ok(())
}

/// Renders the first `max_images` images of a batch in rows of `columns`, as they are before
/// normalization.
pub fn tiles(batch: &HostBatch, max_images: usize, columns: usize) -> RgbImage {
    let size = batch.size;
    let shown = batch.len.min(max_images);
    let columns = columns.min(shown).max(1);
    let side = |images: usize| (images * (size + GAP) + GAP) as u32;
    let mut grid =
        RgbImage::from_pixel(side(columns), side(shown.div_ceil(columns)), Rgb([255; 3]));
    let images = batch.pixels.chunks_exact((3 * size * size).max(1));
    for (i, planes) in images.take(shown).enumerate() {
        paste(&mut grid, planes, size, i % columns, i / columns);
    }
    grid
}

fn batch(
    images: &ImageDataset,
    len: usize,
    mode: Mode,
    workspace: &mut Workspace,
) -> Result<HostBatch> {
    let mut batch = images.load_batch((0..len).collect(), mode, workspace)?;
    if let Mode::Train { seed, epoch } = mode {
        mix(images.augment(), &mut batch, &mut RandomStream::new(seed, epoch, 0, "mix"));
    }
    Ok(batch)
}

fn paste(grid: &mut RgbImage, planes: &[u8], size: usize, column: usize, row: usize) {
    let plane = size * size;
    let (left, top) = (GAP + column * (size + GAP), GAP + row * (size + GAP));
    for at in 0..plane {
        let color = [planes[at], planes[plane + at], planes[2 * plane + at]];
        let (x, y) = (left + at % size, top + at / size);
        grid.put_pixel(x as u32, y as u32, Rgb(color));
    }
}

/// Writes an image atomically, in the format of its file extension.
pub fn save<P>(image: &ImageBuffer<P, Vec<u8>>, path: &Path) -> Result<()>
where
    P: PixelWithColorType<Subpixel = u8>,
{
    let format = ImageFormat::from_path(path)
        .ok()
        .filter(|format| format.writing_enabled())
        .with_context(|| format!("{}: name a .png or .jpg file", path.display()))?;
    let mut bytes = Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, format)
        .with_context(|| format!("cannot write {}", path.display()))?;
    write_atomic(path, |file| Ok(file.write_all(bytes.get_ref())?))
}

/// Renders each augmentation alone, strong enough to be seen: its key, and a row of images, of
/// which the first is what evaluation sees. Returns an error if the image size is not positive.
pub fn gallery(size: i64, epochs: usize) -> Result<Vec<(&'static str, RgbImage)>> {
    type Strengthen = fn(&mut AugmentConfig);
    let strong: [(&str, Strengthen); 11] = [
        ("random_resized_crop", |augment| augment.random_resized_crop = Some([0.5, 1.0])),
        ("horizontal_flip", |augment| augment.horizontal_flip = 0.5),
        ("rotation", |augment| augment.rotation = 20.0),
        ("affine", |augment| {
            augment.affine.translate = [0.1, 0.1];
            augment.affine.scale = [0.8, 1.2];
            augment.affine.shear = [15.0, 5.0];
        }),
        ("trivial_augment", |augment| {
            augment.trivial_augment.probability = 1.0;
            augment.trivial_augment.geometry = 0.3;
        }),
        ("color_jitter", |augment| augment.color_jitter = [0.4, 0.4, 0.4, 0.05]),
        ("grayscale", |augment| augment.grayscale = 0.5),
        ("gaussian_blur", |augment| augment.gaussian_blur.probability = 1.0),
        ("random_erasing", |augment| {
            augment.random_erasing.probability = 1.0;
            augment.random_erasing.scale = [0.02, 0.2];
        }),
        ("mixup", |augment| augment.mixup = 1.0),
        ("cutmix", |augment| augment.cutmix = 1.0),
    ];
    let gallery = strong.into_iter().map(|(name, strengthen)| {
        let mut augment = AugmentConfig::off();
        strengthen(&mut augment);
        let mixes = augment.mixup > 0.0 || augment.cutmix > 0.0;
        let config = DataConfig { image_size: size, augment, ..DataConfig::default() };
        let face = |index| {
            let face = FaceSeed { seed: 5, index };
            Sample::new(format!("face {index}"), Source::Synthetic(face), 0.0, None)
        };
        // Mixing needs a second image.
        let faces = if mixes { 2 } else { 1 };
        let images = ImageDataset::new((0..faces).map(face).collect(), &config)?;
        Ok((name, grid(&images, faces as usize, epochs, 3)?))
    });
    gallery.collect()
}

/// Writes the gallery as `KEY.jpg` into a folder, which is created if missing.
pub fn save_gallery(folder: &Path, size: i64, epochs: usize) -> Result<()> {
    if folder.is_file() {
        bail!("{}: is a file; name a folder", folder.display());
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{}: cannot be created", folder.display()))?;
    for (name, image) in gallery(size, epochs)? {
        save(&image, &folder.join(format!("{name}.jpg")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(grid: &RgbImage, column: u32, row: u32, size: u32) -> RgbImage {
        let at = |cell_index: u32| GAP as u32 + cell_index * (size + GAP as u32);
        image::imageops::crop_imm(grid, at(column), at(row), size, size).to_image()
    }

    #[test]
    fn every_augmentation_shows_in_the_gallery() {
        let gallery = gallery(48, 4).unwrap();
        assert_eq!(gallery.len(), 11);
        for (name, image) in gallery {
            let plain = cell(&image, 0, 0, 48);
            let differing = (1..=4).filter(|&column| cell(&image, column, 0, 48) != plain);
            assert!(differing.count() >= 1, "{name}");
        }
    }

    #[test]
    fn a_sheet_has_the_enlarged_grid_under_headings_names_and_scores() {
        let mut config = DataConfig { image_size: 32, ..DataConfig::default() };
        config.synthetic.train = 2;
        let samples = crate::data::load(&config, 4).unwrap().train;
        let images = ImageDataset::new(samples, &config).unwrap();
        let (grid, sheet) = (grid(&images, 2, 1, 4).unwrap(), sheet(&images, 2, 1, 4).unwrap());
        assert_eq!(sheet.dimensions(), (2 * 164 + 4, 20 + 2 * 188 + 4));
        let inked = |top: u32, height: u32| {
            let line = imageops::crop_imm(&sheet, 0, top, sheet.width(), height).to_image();
            line.pixels().any(|pixel| *pixel != PAPER)
        };
        for row in 0..2 {
            let top = 20 + 188 * row + 8;
            assert!(inked(4, 16) && inked(top, 16), "heading and caption");
            for column in 0..2 {
                let shown = imageops::crop_imm(&sheet, 4 + 164 * column, top + 20, 160, 160);
                let shown = shown.to_image();
                let plain = cell(&grid, column, row, 32);
                assert!(
                    shown.enumerate_pixels().all(|(x, y, p)| p == plain.get_pixel(x / 5, y / 5))
                );
            }
        }
    }

    #[test]
    fn tiles_are_the_batchs_images_in_rows() {
        let config = DataConfig { image_size: 32, ..DataConfig::default() };
        let samples = crate::data::load(&config, 4).unwrap().train;
        let images = ImageDataset::new(samples, &config).unwrap();
        let batch = batch(&images, 5, Mode::Eval, &mut Workspace::default()).unwrap();
        let grid = tiles(&batch, 4, 3);
        assert_eq!(grid.dimensions(), (3 * 36 + 4, 2 * 36 + 4));
        for (i, place) in [(0, 0), (1, 0), (2, 0), (0, 1)].into_iter().enumerate() {
            let shown = cell(&grid, place.0, place.1, 32);
            assert_eq!(shown, *images.image(i).unwrap());
        }
        let empty = cell(&grid, 1, 1, 32);
        assert!(empty.pixels().all(|pixel| *pixel == Rgb([255; 3])));
        assert_eq!(tiles(&batch, 64, 8).width(), 5 * 36 + 4);
    }

    #[test]
    fn the_first_column_is_what_evaluation_sees_and_the_second_the_first_epoch() {
        let mut config = DataConfig { image_size: 32, ..DataConfig::default() };
        config.synthetic.train = 3;
        let samples = crate::data::load(&config, 4).unwrap().train;
        let images = ImageDataset::new(samples, &config).unwrap();
        let grid = grid(&images, 9, 1, 4).unwrap();
        assert_eq!(grid.dimensions(), (2 * 36 + 4, 3 * 36 + 4));
        for row in 0..3 {
            let shown = cell(&grid, 0, row, 32);
            assert_eq!(shown, *images.image(row as usize).unwrap());
            let mut out = vec![0; 3 * 1024];
            let mode = Mode::Train { seed: 4, epoch: 0 };
            images.pixels(row as usize, mode, &mut Workspace::default(), &mut out).unwrap();
            let augmented = cell(&grid, 1, row, 32);
            assert!(augmented.pixels().zip(&out).all(|(pixel, &red)| pixel.0[0] == red));
        }
    }
}
