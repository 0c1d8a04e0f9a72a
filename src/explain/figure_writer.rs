//! The folder of an explanation: figures, raw maps, and sheets of many images.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::RgbImage;
use rayon::prelude::*;
use tch::Tensor;

use super::canvas::{FAINT, INK, Letters, PAPER, heat, thumbnail, write};
use super::figure::{ExplainedImage, draw_figure, paste};
use crate::data::preview::save;
use crate::files::remove_leftovers;
use crate::models::weights;

/// The long side of a sheet's images.
const SIDE: u32 = 96;
const GAP: u32 = 6;
const MARGIN: u32 = 16;
/// Images across a sheet, and in all of it.
const ACROSS: usize = 3;
const PER_SHEET: usize = 60;
/// Letters of a name that a file keeps.
const LONGEST_NAME: usize = 100;

/// Writes explained images as they come: `NAME.png`, `maps/NAME.safetensors` and
/// `maps/NAME_{vit,mamba,fused}.png`, and a `contact_sheet_N.png` for every sixty. Memory does not
/// grow with their number.
pub struct FigureWriter {
    folder: PathBuf,
    names: HashSet<String>,
    cells: Vec<RgbImage>,
    /// What stands in a cell.
    legend: String,
    sheets: usize,
    written: usize,
}

/// An explained image with its maps as tensors, by name.
pub type Piece = (ExplainedImage, Vec<(String, Tensor)>);

impl FigureWriter {
    /// In this folder, which is made.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn create(folder: &Path) -> Result<Self> {
        let maps = folder.join("maps");
        std::fs::create_dir_all(&maps)
            .with_context(|| format!("cannot make the folder {}", maps.display()))?;
        remove_leftovers(folder)?;
        remove_leftovers(&maps)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            names: HashSet::new(),
            cells: Vec::new(),
            legend: String::new(),
            sheets: 0,
            written: 0,
        })
    }

    /// Writes the figures and maps of some images, and gives the figures' paths.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn add(&mut self, pieces: &[Piece]) -> Result<Vec<PathBuf>> {
        let names: Vec<String> =
            pieces.iter().map(|(explained, _)| self.free_name(&explained.name)).collect();
        let folder = &self.folder;
        // Tensors stay on this thread.
        let shown: Vec<&ExplainedImage> = pieces.iter().map(|(explained, _)| explained).collect();
        let cells: Vec<RgbImage> = shown
            .into_par_iter()
            .zip(&names)
            .map(|(explained, name)| {
                save(&draw_figure(explained), &folder.join(format!("{name}.png")))?;
                let (width, height) = explained.image.dimensions();
                // Of a strip, the file of tensors holds the maps of all blocks.
                for (title, map) in explained.last_maps() {
                    let file = format!("maps/{name}_{}.png", title.to_lowercase());
                    save(&map.gray(width, height), &folder.join(file))?;
                }
                Ok(cell(explained))
            })
            .collect::<Result<_>>()?;
        for ((explained, tensors), name) in pieces.iter().zip(&names) {
            let file = folder.join(format!("maps/{name}.safetensors"));
            let metadata = HashMap::from([
                ("image".to_string(), explained.name.clone()),
                ("method".to_string(), explained.method.clone()),
            ]);
            weights::save(&file, tensors, metadata)?;
        }
        if let Some((explained, _)) = pieces.first() {
            let maps = explained.last_maps().into_iter().map(|(name, _)| name);
            let maps = maps.collect::<Vec<_>>().join(", ");
            self.legend = format!("each: image, maps ({maps})");
        }
        let paths = names.iter().map(|name| folder.join(format!("{name}.png")));
        let paths = paths.collect();
        for cell in cells {
            self.cells.push(cell);
            self.written += 1;
            if self.cells.len() == PER_SHEET {
                self.write_sheet()?;
            }
        }
        Ok(paths)
    }

    /// Writes the last sheet; there is none for a single image. How many images there were.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(mut self) -> Result<usize> {
        if !self.cells.is_empty() && self.written > 1 {
            self.write_sheet()?;
        }
        Ok(self.written)
    }

    fn write_sheet(&mut self) -> Result<()> {
        self.sheets += 1;
        let file = format!("contact_sheet_{}.png", self.sheets);
        save(&sheet(&std::mem::take(&mut self.cells), &self.legend), &self.folder.join(file))
    }

    /// The name of an image's files: that of the image without folder and ending, and a number
    /// where two have the same.
    fn free_name(&mut self, image: &str) -> String {
        let stem = Path::new(image).file_stem().unwrap_or_default();
        let stem: String = stem.to_string_lossy().chars().take(LONGEST_NAME).collect();
        let mut name = stem.clone();
        let mut number = 2;
        while name.starts_with("contact_sheet") || !self.names.insert(name.to_lowercase()) {
            name = format!("{stem}_{number}");
            if stem.starts_with("contact_sheet") {
                name = format!("image_{name}");
            }
            number += 1;
        }
        name
    }
}

/// One image's part of a sheet: image and maps side by side, name and score below.
fn cell(explained: &ExplainedImage) -> RgbImage {
    let original = explained.image.dimensions();
    let small = thumbnail(&explained.image, SIDE);
    let letters = Letters::Small;
    let width = 4 * SIDE + 3 * GAP;
    let mut canvas = RgbImage::from_pixel(width, SIDE + 2 * letters.height() + 6, PAPER);
    let maps = explained.last_maps();
    let heats = maps.iter().map(|(_, map)| heat(&small, original, map));
    let panels = std::iter::once(small.clone()).chain(heats);
    for (column, panel) in panels.enumerate() {
        let left = column as u32 * (SIDE + GAP) + (SIDE - panel.width()) / 2;
        paste(&mut canvas, &panel, left, (SIDE - panel.height()) / 2);
    }
    let name = letters.fit(&explained.file_name(), width);
    write(&mut canvas, (0, SIDE + 3), &name, letters, INK);
    let below = SIDE + 3 + letters.height();
    write(&mut canvas, (0, below), &explained.caption(), letters, FAINT);
    canvas
}

/// Cells in rows, under a line that says what stands in them.
fn sheet(cells: &[RgbImage], legend: &str) -> RgbImage {
    let (width, height) = cells.first().map_or((1, 1), RgbImage::dimensions);
    let across = cells.len().clamp(1, ACROSS) as u32;
    let down = cells.len().div_ceil(ACROSS) as u32;
    let letters = Letters::Small;
    let top = MARGIN + letters.height() + GAP;
    let step = (width + 3 * GAP, height + 2 * GAP);
    let mut canvas =
        RgbImage::from_pixel(2 * MARGIN + across * step.0, top + down * step.1 + MARGIN, PAPER);
    write(&mut canvas, (MARGIN, MARGIN), legend, letters, FAINT);
    for (at, cell) in cells.iter().enumerate() {
        let (column, row) = ((at % ACROSS) as u32, (at / ACROSS) as u32);
        paste(&mut canvas, cell, MARGIN + column * step.0, top + row * step.1);
    }
    canvas
}
