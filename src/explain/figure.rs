//! One image explained: the image, the maps over it, the score and the branches' shares.

use image::{GenericImage, RgbImage};

use super::canvas::{
    BAR_WIDTH, FAINT, INK, Letters, PAPER, color_bar, fitted, heat, thumbnail, write,
};
use super::heatmap::Heatmap;

/// The long side of the panels.
const PANEL: u32 = 288;
/// The long side of the panels of a strip.
const SMALL_PANEL: u32 = 112;
/// Panels in a row of a strip.
const PER_ROW: usize = 12;
const MARGIN: u32 = 16;
const GAP: u32 = 10;

/// A map with what is written below it in a strip: its block, say.
pub type LabeledMap = (String, Heatmap);

/// What a figure shows.
#[derive(Debug, Clone)]
pub struct ExplainedImage {
    /// The image's name.
    pub name: String,
    /// The original.
    pub image: RgbImage,
    /// On the data set's own scale.
    pub score: f64,
    /// Shares of the ViT and the Mamba branch, where the fusion strategy defines them.
    pub weights: Option<[f64; 2]>,
    /// How the maps were made, for people.
    pub method: String,
    /// Groups of maps: a branch's name with its maps.
    pub maps: Vec<(String, Vec<LabeledMap>)>,
    /// The maps of both branches weighed by their shares.
    pub fused: Option<Heatmap>,
}

impl ExplainedImage {
    /// The image's name without its folder.
    pub(super) fn file_name(&self) -> String {
        let name = std::path::Path::new(&self.name).file_name();
        name.map_or_else(|| self.name.clone(), |name| name.to_string_lossy().into_owned())
    }

    /// The second line of a figure: score, shares, method.
    pub(super) fn caption(&self) -> String {
        let shares = match self.weights {
            Some([vit, mamba]) => format!("   weights ViT {vit:.2} Mamba {mamba:.2}"),
            None => String::new(),
        };
        format!("score {:.2}{shares}", self.score)
    }

    /// The last map of each branch and the fused one, with their names.
    pub(super) fn last_maps(&self) -> Vec<(&str, &Heatmap)> {
        let of_branches = self.maps.iter().filter_map(|(name, maps)| {
            let (_, map) = maps.last()?;
            Some((name.as_str(), map))
        });
        let fused = self.fused.iter().map(|map| ("fused", map));
        of_branches.chain(fused).collect()
    }
}

/// Samples the figure: panels side by side for one map of a branch, rows of smaller ones for several.
pub fn draw_figure(explained: &ExplainedImage) -> RgbImage {
    let strip = explained.maps.iter().any(|(_, maps)| maps.len() > 1);
    let original = explained.image.dimensions();
    let mut rows: Vec<(String, Vec<(String, RgbImage)>)> = Vec::new();
    let side = if strip { SMALL_PANEL } else { PANEL };
    let small = thumbnail(&explained.image, side);
    let mut first = vec![("image".to_string(), small.clone())];
    if strip {
        rows.push((String::new(), first));
        for (name, maps) in &explained.maps {
            for (at, part) in maps.chunks(PER_ROW).enumerate() {
                let panels = part
                    .iter()
                    .map(|(label, map)| (labeled(label, map), heat(&small, original, map)));
                let title = if at == 0 { name.clone() } else { String::new() };
                rows.push((title, panels.collect()));
            }
        }
    } else {
        for (name, map) in explained.last_maps() {
            first.push((labeled(name, map), heat(&small, original, map)));
        }
        rows.push((String::new(), first));
    }
    draw(explained, fitted(&explained.image, side), &rows)
}

/// What stands below a map: that there is nothing on it, too.
fn labeled(label: &str, map: &Heatmap) -> String {
    match (map.is_empty(), label) {
        (false, label) => label.to_string(),
        (true, "") => "empty".to_string(),
        (true, label) => format!("{label}: empty"),
    }
}

type Row = (String, Vec<(String, RgbImage)>);

fn draw(explained: &ExplainedImage, panel: (u32, u32), rows: &[Row]) -> RgbImage {
    let (large, letters) = (Letters::Large, Letters::Small);
    let caption = explained.caption();
    let cell = panel.0.max(letters.width("image"));
    let columns = rows.iter().map(|(_, panels)| panels.len()).max().unwrap_or(1) as u32;
    let titles = rows
        .iter()
        .map(|(title, _)| letters.width(title))
        .max()
        .filter(|&width| width > 0)
        .map_or(0, |width| width + GAP);
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
    write(&mut canvas, (MARGIN, top), &large.fit(&explained.file_name(), content), large, INK);
    top += large.height() + 4;
    write(&mut canvas, (MARGIN, top), &caption, letters, INK);
    top += letters.height() + 4;
    write(&mut canvas, (MARGIN, top), &explained.method, letters, FAINT);
    top += letters.height() + 4 + GAP;
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

/// Copies an image to where it fits.
pub(super) fn paste(canvas: &mut RgbImage, image: &RgbImage, left: u32, top: u32) {
    // An image that would reach over the edge is an error of `copy_from` and stays away; the sizes
    // above leave room for all.
    let _ = canvas.copy_from(image, left, top);
}
