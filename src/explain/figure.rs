//! The figure of an explained image: the image, its heatmaps, the score and the branch weights.

use anyhow::{Context, Result};
use image::RgbImage;
use tch::Tensor;

use super::canvas::{FAINT, INK, Letters, color_bar, fitted, overlay, thumbnail};
use super::drawing::Drawing;
use super::input_image::{Heatmap, InputImage, to_cpu};
use super::maps::Explanation;
use super::options::ExplainOptions;
use crate::data::Frame;
use crate::eval::evaluate::values;
use crate::models::BeautyNet;

/// The long side of the panels with one map per branch.
const PANEL: u32 = 288;
/// The long side of the panels with several maps per branch.
const SMALL_PANEL: u32 = 112;
/// The longest side of the small panels, of which there may be dozens.
const MAX_SMALL_PANEL: u32 = 320;
const PER_ROW: usize = 12;
const MARGIN: u32 = 16;
const GAP: u32 = 10;
/// The width of the color bar with its labels.
const BAR_WIDTH: u32 = 46;

/// A heatmap with its label, such as its block.
pub type LabeledHeatmap = (String, Heatmap);

/// The maps of an image as tensors, by name.
pub type MapTensors = Vec<(String, Tensor)>;

/// The content of a figure.
#[derive(Debug, Clone)]
pub struct ExplainedImage {
    /// The image's name.
    pub name: String,
    /// The original image.
    pub image: RgbImage,
    /// The prediction on the dataset's own scale.
    pub score: f64,
    /// The fusion weights of ViT and Mamba, if the fusion strategy defines them.
    pub weights: Option<[f64; 2]>,
    /// The attribution method and its blocks, for people.
    pub method: String,
    /// Whether the method passed on this model, for people; empty to leave it out.
    pub checked: String,
    /// The heatmaps of each branch, with the branch's title.
    pub heatmaps: Vec<(String, Vec<LabeledHeatmap>)>,
    /// The heatmap of the fused map.
    pub fused: Option<Heatmap>,
}

impl ExplainedImage {
    pub(super) fn file_name(&self) -> String {
        let name = std::path::Path::new(&self.name).file_name();
        name.map_or_else(|| self.name.clone(), |name| name.to_string_lossy().into_owned())
    }

    pub(super) fn caption(&self) -> String {
        let weights = match self.weights {
            Some([vit, mamba]) => format!("   weights ViT {vit:.2} Mamba {mamba:.2}"),
            None => String::new(),
        };
        format!("score {:.2}{weights}", self.score)
    }

    /// Returns the last heatmap of each branch and the fused heatmap, with their titles.
    pub(super) fn last_heatmaps(&self) -> Vec<(&str, &Heatmap)> {
        let of_branches = self.heatmaps.iter().filter_map(|(title, heatmaps)| {
            let (_, heatmap) = heatmaps.last()?;
            Some((title.as_str(), heatmap))
        });
        of_branches.chain(self.fused.iter().map(|heatmap| ("fused", heatmap))).collect()
    }
}

/// Splits the explanation of a batch into its images: the content of their figures, and their maps
/// as tensors: `vit`, `mamba` and `fused` from 0 to 1 over the model's input, `vit_grid` and
/// `mamba_grid` as computed, `frame`, `score`. `checked` says whether the method passed. Returns an
/// error if the explanation has fewer images.
pub fn explained_images(
    net: &BeautyNet,
    options: &ExplainOptions,
    checked: &str,
    inputs: Vec<InputImage>,
    explanation: &Explanation,
) -> Result<Vec<(ExplainedImage, MapTensors)>> {
    let blocks = options.describe_blocks(net)?;
    let blocks = if blocks.is_empty() { "pixels".to_string() } else { format!("blocks {blocks}") };
    let method = format!("{}, {blocks}", options.describe(net));
    let scores = values(&explanation.score)?;
    let weights: Vec<f64> = match &explanation.weights {
        Some(weights) => values(&weights.reshape([-1]))?,
        None => Vec::new(),
    };
    let branches = explanation
        .branches()
        .map(|(branch, maps)| Ok((branch, maps, to_cpu(&maps.image()?)?)))
        .collect::<Result<Vec<_>>>()?;
    let fused = explanation.fused()?.map(|fused| to_cpu(&fused)).transpose()?;
    let mut explained = Vec::new();
    for (row, input) in inputs.into_iter().enumerate() {
        let at = row as i64;
        let score = *scores.get(row).context("the explanation has too few images")?;
        let mut tensors = Vec::new();
        let mut heatmaps = Vec::new();
        for (branch, maps, image) in &branches {
            let image = image.get(at);
            let mut of_branch = Vec::new();
            for map in 0..image.size3()?.0 {
                let layer = maps.layers.get(map as usize);
                let label = layer.map_or(String::new(), usize::to_string);
                of_branch.push((label, input.heatmap(&image.get(map))?));
            }
            heatmaps.push((branch.title().to_string(), of_branch));
            tensors.push((branch.name().to_string(), image));
            tensors.push((format!("{}_grid", branch.name()), to_cpu(&maps.grid.get(at))?));
        }
        if let Some(fused) = &fused {
            tensors.push(("fused".to_string(), fused.get(at)));
        }
        let Frame { left, top, width, height } = input.frame;
        tensors.push(("frame".to_string(), Tensor::from_slice(&[left, top, width, height])));
        tensors.push(("score".to_string(), Tensor::from(score as f32)));
        let image = ExplainedImage {
            score,
            weights: weights.chunks_exact(2).nth(row).map(|w| [w[0], w[1]]),
            method: method.clone(),
            checked: checked.to_string(),
            heatmaps,
            fused: fused.as_ref().map(|fused| input.heatmap(&fused.get(at))).transpose()?,
            name: input.name,
            image: input.image,
        };
        explained.push((image, tensors));
    }
    Ok(explained)
}

/// A row of panels: its title, and images with their labels.
type Row = (String, Vec<(String, RgbImage)>);

/// Draws a figure: large panels side by side for one map per branch, rows of small panels for
/// several. `side` is the long side of a panel in pixels; `None` for the default.
pub fn draw_figure(explained: &ExplainedImage, side: Option<u32>) -> Drawing {
    let small = explained.heatmaps.iter().any(|(_, heatmaps)| heatmaps.len() > 1);
    let units = if small { SMALL_PANEL } else { PANEL };
    let side = side.map_or(units, |side| if small { side.min(MAX_SMALL_PANEL) } else { side });
    let image = thumbnail(&explained.image, side);
    let panel = |label: &str, heatmap: &Heatmap| {
        let panel = overlay(&image, explained.image.dimensions(), heatmap);
        (label_of(label, heatmap), panel)
    };
    let mut rows: Vec<Row> = vec![(String::new(), vec![("image".to_string(), image.clone())])];
    if small {
        for (title, heatmaps) in &explained.heatmaps {
            for (at, chunk) in heatmaps.chunks(PER_ROW).enumerate() {
                let panels = chunk.iter().map(|(label, heatmap)| panel(label, heatmap));
                let title = if at == 0 { title.clone() } else { String::new() };
                rows.push((title, panels.collect()));
            }
        }
    } else {
        let heatmaps = explained.last_heatmaps();
        rows[0].1.extend(heatmaps.into_iter().map(|(title, heatmap)| panel(title, heatmap)));
    }
    draw(explained, fitted(&explained.image, units), rows, f64::from(side) / f64::from(units))
}

/// Returns the label below a heatmap, which also says that the heatmap is empty.
fn label_of(label: &str, heatmap: &Heatmap) -> String {
    match (heatmap.is_empty(), label) {
        (false, label) => label.to_string(),
        (true, "") => "empty".to_string(),
        (true, label) => format!("{label}: empty"),
    }
}

fn draw(explained: &ExplainedImage, panel: (u32, u32), rows: Vec<Row>, scale: f64) -> Drawing {
    let (large, letters) = (Letters::Large, Letters::Small);
    let caption = explained.caption();
    let cell = panel.0.max(letters.width("image"));
    let columns = rows.iter().map(|(_, panels)| panels.len()).max().unwrap_or(1) as u32;
    let titles = rows.iter().map(|(title, _)| letters.width(title)).max();
    let titles = titles.filter(|&width| width > 0).map_or(0, |width| width + GAP);
    let panels_width = titles + columns * cell + (columns.max(1) - 1) * GAP;
    let lines = [&caption, &explained.method, &explained.checked];
    let lines: Vec<&String> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    let widest = lines.iter().map(|line| letters.width(line)).max().unwrap_or(0);
    let content = (panels_width + GAP + BAR_WIDTH).max(widest);
    let row_height = panel.1.max(letters.height()) + letters.height() + 4 + GAP;
    let header = large.height() + 4 + lines.len() as u32 * (letters.height() + 4);
    let width = content + 2 * MARGIN;
    let height = 2 * MARGIN + header + GAP + rows.len() as u32 * row_height;
    let mut drawing = Drawing::new((width, height), scale);

    let mut top = MARGIN;
    drawing.text((MARGIN, top), &large.fit(&explained.file_name(), content), large, INK);
    top += large.height() + 4;
    for (at, line) in lines.into_iter().enumerate() {
        drawing.text((MARGIN, top), line, letters, if at == 0 { INK } else { FAINT });
        top += letters.height() + 4;
    }
    top += GAP;
    let bar_height = rows.len() as u32 * row_height - GAP - letters.height() - 4;
    let bar_height = bar_height.clamp(3 * letters.height(), PANEL);
    draw_bar(&mut drawing, (MARGIN + panels_width + GAP, top), bar_height, scale);
    for (title, panels) in rows {
        drawing.text((MARGIN, top), &title, letters, INK);
        for (column, (label, image)) in panels.into_iter().enumerate() {
            let left = MARGIN + titles + column as u32 * (cell + GAP);
            drawing.image((left, top), panel, image);
            let below = top + panel.1.max(letters.height()) + 4;
            drawing.text((left, below), &letters.fit(&label, cell), letters, FAINT);
        }
        top += row_height;
    }
    drawing
}

/// Draws the color bar with its labels.
fn draw_bar(drawing: &mut Drawing, (left, top): (u32, u32), height: u32, scale: f64) {
    const WIDTH: u32 = 14;
    let pixels = |length: u32| (f64::from(length) * scale).round() as u32;
    let bar = color_bar(pixels(WIDTH), pixels(height));
    drawing.image((left, top), (WIDTH, height), bar);
    let letters = Letters::Small;
    for (label, half) in [("1.0", 0), ("0.5", 1), ("0.0", 2)] {
        let y = top + height.saturating_sub(letters.height()) * half / 2;
        drawing.text((left + WIDTH + 5, y), label, letters, FAINT);
    }
}
