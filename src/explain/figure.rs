//! The figure of an explained image: the image, its heatmaps, the score and the branch weights.

use anyhow::{Context, Result};
use image::{GenericImage, RgbImage};
use tch::Tensor;

use super::canvas::{
    BAR_WIDTH, FAINT, INK, Letters, PAPER, color_bar, fitted, overlay, thumbnail, write,
};
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
const PER_ROW: usize = 12;
const MARGIN: u32 = 16;
const GAP: u32 = 10;

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
    /// The attribution method, for people.
    pub method: String,
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
/// `mamba_grid` as computed, `frame`, `score`. Returns an error if the explanation has fewer
/// images.
pub fn explained_images(
    net: &BeautyNet,
    options: &ExplainOptions,
    inputs: Vec<InputImage>,
    explanation: &Explanation,
) -> Result<Vec<(ExplainedImage, MapTensors)>> {
    let method = options.describe(net);
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

/// Renders a figure: large panels side by side for one map per branch, rows of small panels for
/// several.
pub fn draw_figure(explained: &ExplainedImage) -> RgbImage {
    let small = explained.heatmaps.iter().any(|(_, heatmaps)| heatmaps.len() > 1);
    let side = if small { SMALL_PANEL } else { PANEL };
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
    draw(explained, fitted(&explained.image, side), &rows)
}

/// Returns the label below a heatmap, which also says that the heatmap is empty.
fn label_of(label: &str, heatmap: &Heatmap) -> String {
    match (heatmap.is_empty(), label) {
        (false, label) => label.to_string(),
        (true, "") => "empty".to_string(),
        (true, label) => format!("{label}: empty"),
    }
}

fn draw(explained: &ExplainedImage, panel: (u32, u32), rows: &[Row]) -> RgbImage {
    let (large, letters) = (Letters::Large, Letters::Small);
    let caption = explained.caption();
    let cell = panel.0.max(letters.width("image"));
    let columns = rows.iter().map(|(_, panels)| panels.len()).max().unwrap_or(1) as u32;
    let titles = rows.iter().map(|(title, _)| letters.width(title)).max();
    let titles = titles.filter(|&width| width > 0).map_or(0, |width| width + GAP);
    let panels_width = titles + columns * cell + (columns.max(1) - 1) * GAP;
    let content = (panels_width + GAP + BAR_WIDTH)
        .max(letters.width(&caption))
        .max(letters.width(&explained.method));
    let row_height = panel.1.max(letters.height()) + letters.height() + 4 + GAP;
    let header = large.height() + 2 * letters.height() + 3 * 4;
    let width = content + 2 * MARGIN;
    let height = 2 * MARGIN + header + GAP + rows.len() as u32 * row_height;
    let mut canvas = RgbImage::from_pixel(width, height, PAPER);

    let mut top = MARGIN;
    let name = large.fit(&explained.file_name(), content);
    let header =
        [(&name, large, INK), (&caption, letters, INK), (&explained.method, letters, FAINT)];
    for (line, letters, ink) in header {
        write(&mut canvas, (MARGIN, top), line, letters, ink);
        top += letters.height() + 4;
    }
    top += GAP;
    let bar = MARGIN + panels_width + GAP;
    let bar_height = rows.len() as u32 * row_height - GAP - letters.height() - 4;
    color_bar(&mut canvas, bar, top, bar_height.clamp(3 * letters.height(), PANEL));
    for (title, panels) in rows {
        write(&mut canvas, (MARGIN, top), title, letters, INK);
        for (column, (label, image)) in panels.iter().enumerate() {
            let left = MARGIN + titles + column as u32 * (cell + GAP);
            paste(&mut canvas, image, left, top);
            let below = top + panel.1.max(letters.height()) + 4;
            let label = letters.fit(label, cell);
            write(&mut canvas, (left, below), &label, letters, FAINT);
        }
        top += row_height;
    }
    canvas
}

pub(super) fn paste(canvas: &mut RgbImage, image: &RgbImage, left: u32, top: u32) {
    // `copy_from` fails for an image that crosses the edge; the canvas has room for every image.
    let _ = canvas.copy_from(image, left, top);
}
