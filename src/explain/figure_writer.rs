//! Writes explained images to a folder: figures, maps and contact sheets.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::canvas::{FAINT, INK, Letters, PAPER, overlay, paste, thumbnail, write};
use super::figure::{ExplainedImage, draw_figure, explained_images};
use super::input_image::InputImage;
use super::maps::explain;
use super::options::{ExplainOptions, branches};
use crate::data::preview::save;
use crate::data::{ImageDataset, shortest};
use crate::files::{remove_leftovers, write_atomic};
use crate::models::{BeautyNet, Images, weights};
use crate::run::explanations::{ExplainedEntry, FigureFolder};

const BATCH: usize = 16;
/// The long side of a contact sheet's panels.
const PANEL: u32 = 96;
const GAP: u32 = 6;
const MARGIN: u32 = 16;
/// Images per row of a contact sheet, and per sheet.
const PER_ROW: usize = 3;
const PER_SHEET: usize = 60;
const LONGEST_NAME: usize = 100;

/// How figures are drawn.
#[derive(Debug, Clone, Default)]
pub struct FigureOptions {
    /// The long side of a panel in pixels; `None` for the default.
    pub side: Option<u32>,
    /// Whether each figure is also written as SVG.
    pub svg: bool,
    /// Whether the method passed on this model, for people.
    pub checked: String,
}

/// Explains images and writes them batch by batch to a [`FigureFolder`], with a contact sheet for
/// every sixty. Memory does not grow with the number of images.
pub struct FigureWriter<'a> {
    net: &'a BeautyNet,
    options: &'a ExplainOptions,
    figures: FigureOptions,
    folder: FigureFolder,
    /// Names of written files, in lower case.
    names: HashSet<String>,
    cells: Vec<RgbImage>,
    sheets: usize,
    entries: Vec<ExplainedEntry>,
}

impl<'a> FigureWriter<'a> {
    /// Creates the folder. Returns an error if the folder cannot be created.
    pub fn create(
        folder: &Path,
        net: &'a BeautyNet,
        options: &'a ExplainOptions,
        figures: FigureOptions,
    ) -> Result<Self> {
        let folder = FigureFolder(folder.to_path_buf());
        let maps = folder.maps_folder();
        std::fs::create_dir_all(&maps)
            .with_context(|| format!("cannot create the folder {}", maps.display()))?;
        remove_leftovers(&folder.0);
        remove_leftovers(&maps);
        Ok(Self {
            net,
            options,
            figures,
            folder,
            names: HashSet::new(),
            cells: Vec::new(),
            sheets: 0,
            entries: Vec::new(),
        })
    }

    /// Explains a dataset's images. Calls `skipped` with the error of each image that cannot be
    /// read. Returns an error as [`explain`] does, and if a file cannot be written.
    pub fn explain_dataset(
        &mut self,
        images: &ImageDataset,
        batch_size: usize,
        mut skipped: impl FnMut(anyhow::Error),
    ) -> Result<()> {
        let indices: Vec<usize> = (0..images.len()).collect();
        for batch in indices.chunks(BATCH.min(batch_size.max(1))) {
            let read: Vec<Result<InputImage>> =
                batch.par_iter().map(|&index| InputImage::read(images, index)).collect();
            let mut inputs = Vec::new();
            for input in read {
                match input {
                    Ok(input) => inputs.push(input),
                    Err(error) => skipped(error),
                }
            }
            if !inputs.is_empty() {
                let pixels = InputImage::stack(&inputs, images.size(), self.net.device())?;
                self.explain_batch(Images::Pixels(&pixels), inputs)?;
            }
        }
        Ok(())
    }

    /// Explains normalized images (batch, 3, height, width), named `NAME_0`, `NAME_1` and so on,
    /// and shows them with the normalization reversed. Returns an error as [`explain`] does, and if
    /// a file cannot be written.
    pub fn explain_tensor(&mut self, input: &Tensor, name: &str) -> Result<()> {
        let (count, channels, _, _) = input.size4().with_context(|| {
            let shape = input.size();
            format!("input must have the shape (batch, 3, height, width), it has {shape:?}")
        })?;
        ensure!(channels == 3, "input has {channels} channels, an image has 3");
        let (_, shape) = branches(self.net).next().context("the model has no branch")?;
        for start in (0..count).step_by(BATCH) {
            let end = count.min(start + BATCH as i64);
            let inputs = (start..end).map(|row| {
                InputImage::from_normalized(format!("{name}_{row}"), &input.get(row), shape)
            });
            let inputs = inputs.collect::<Result<_>>()?;
            let batch = input.narrow(0, start, end - start).to_kind(Kind::Float);
            let batch = batch.to_device(self.net.device());
            self.explain_batch(Images::Normalized(&batch), inputs)?;
        }
        Ok(())
    }

    /// Writes the last contact sheet (there is none for a single image) and returns an entry for
    /// each image. Returns an error if the sheet cannot be written.
    pub fn finish(mut self) -> Result<Vec<ExplainedEntry>> {
        if !self.cells.is_empty() && self.entries.len() > 1 {
            self.write_sheet()?;
        }
        Ok(self.entries)
    }

    fn explain_batch(&mut self, images: Images, inputs: Vec<InputImage>) -> Result<()> {
        let explanation = explain(self.net, images, self.options)?;
        let checked = &self.figures.checked;
        let explained = explained_images(self.net, self.options, checked, inputs, &explanation)?;
        let names: Vec<String> =
            explained.iter().map(|(image, _)| self.unique_name(&image.name)).collect();
        let (folder, figures) = (&self.folder, &self.figures);
        // Tensors stay on this thread.
        let images: Vec<&ExplainedImage> = explained.iter().map(|(image, _)| image).collect();
        let cells: Vec<RgbImage> = images
            .into_par_iter()
            .zip(&names)
            .map(|(image, name)| {
                let drawing = draw_figure(image, figures.side);
                save(&drawing.to_image(), &folder.figure(name))?;
                if figures.svg {
                    let svg = drawing.to_svg()?;
                    write_atomic(&folder.svg(name), |file| Ok(file.write_all(svg.as_bytes())?))?;
                }
                let (width, height) = image.image.dimensions();
                for (title, heatmap) in image.last_heatmaps() {
                    let file = folder.map_image(name, title);
                    save(&heatmap.to_gray_image(width, height), &file)?;
                }
                Ok(cell(image))
            })
            .collect::<Result<_>>()?;
        for (((image, tensors), name), cell) in explained.iter().zip(&names).zip(cells) {
            let metadata = HashMap::from([
                (FigureFolder::IMAGE_KEY.to_string(), image.name.clone()),
                ("method".to_string(), image.method.clone()),
            ]);
            weights::save(&self.folder.maps(name), tensors, metadata)?;
            self.entries.push(ExplainedEntry {
                image: image.name.clone(),
                score: shortest(image.score),
                weight_vit: image.weights.map(|weights| shortest(weights[0])),
                weight_mamba: image.weights.map(|weights| shortest(weights[1])),
                figure: self.folder.figure(name),
            });
            self.cells.push(cell);
            if self.cells.len() == PER_SHEET {
                self.write_sheet()?;
            }
        }
        Ok(())
    }

    fn write_sheet(&mut self) -> Result<()> {
        self.sheets += 1;
        let mut maps: Vec<&str> = branches(self.net).map(|(b, _)| b.title()).collect();
        if maps.len() > 1 {
            maps.push("fused");
        }
        let legend = format!("each: image, maps ({})", maps.join(", "));
        let sheet = sheet(&std::mem::take(&mut self.cells), &legend);
        save(&sheet, &self.folder.contact_sheet(self.sheets))
    }

    /// Derives the name of an image's files: the image's name without folder and extension, and a
    /// number if the name is taken.
    fn unique_name(&mut self, image: &str) -> String {
        let stem = Path::new(image).file_stem().unwrap_or_default();
        let stem: String = stem.to_string_lossy().chars().take(LONGEST_NAME).collect();
        let mut name = stem.clone();
        let mut number = 2;
        while name.starts_with(FigureFolder::CONTACT_SHEET)
            || !self.names.insert(name.to_lowercase())
        {
            name = format!("{stem}_{number}");
            if stem.starts_with(FigureFolder::CONTACT_SHEET) {
                name = format!("image_{name}");
            }
            number += 1;
        }
        name
    }
}

/// Renders one image's cell of a contact sheet: image and heatmaps side by side, name and score
/// below.
fn cell(explained: &ExplainedImage) -> RgbImage {
    let original = explained.image.dimensions();
    let small = thumbnail(&explained.image, PANEL);
    let letters = Letters::Small;
    let width = 4 * PANEL + 3 * GAP;
    let mut canvas = RgbImage::from_pixel(width, PANEL + 2 * letters.height() + 6, PAPER);
    let heatmaps = explained.last_heatmaps();
    let overlays = heatmaps.iter().map(|(_, heatmap)| overlay(&small, original, heatmap));
    let panels = std::iter::once(small.clone()).chain(overlays);
    for (column, panel) in panels.enumerate() {
        let left = column as u32 * (PANEL + GAP) + (PANEL - panel.width()) / 2;
        paste(&mut canvas, &panel, left, (PANEL - panel.height()) / 2);
    }
    let name = letters.fit(&explained.file_name(), width);
    write(&mut canvas, (0, PANEL + 3), &name, letters, INK);
    let below = PANEL + 3 + letters.height();
    write(&mut canvas, (0, below), &explained.caption(), letters, FAINT);
    canvas
}

fn sheet(cells: &[RgbImage], legend: &str) -> RgbImage {
    let (width, height) = cells.first().map_or((1, 1), RgbImage::dimensions);
    let across = cells.len().clamp(1, PER_ROW) as u32;
    let down = cells.len().div_ceil(PER_ROW) as u32;
    let letters = Letters::Small;
    let top = MARGIN + letters.height() + GAP;
    let step = (width + 3 * GAP, height + 2 * GAP);
    let mut canvas =
        RgbImage::from_pixel(2 * MARGIN + across * step.0, top + down * step.1 + MARGIN, PAPER);
    write(&mut canvas, (MARGIN, MARGIN), legend, letters, FAINT);
    for (at, cell) in cells.iter().enumerate() {
        let (column, row) = ((at % PER_ROW) as u32, (at / PER_ROW) as u32);
        paste(&mut canvas, cell, MARGIN + column * step.0, top + row * step.1);
    }
    canvas
}
