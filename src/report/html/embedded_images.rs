//! EmbeddedImages within the page: those with the largest errors, and explained ones.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::data::embed::{embedded, escape};
use crate::data::{Source, Split, load_split, read_image, synthetic};
use crate::report::assemble::{Detail, Report};
use crate::report::models::Model;

/// EmbeddedImages with the largest errors, of each model.
const WORST: usize = 12;
/// Models whose worst images are shown.
const MODELS: usize = 3;
/// The longer side of an image, in pixels.
const SIDE: u32 = 160;
/// Explained images of each model, and the longer side of their figures.
const FIGURES: usize = 12;
const FIGURE_SIDE: u32 = 900;

/// Whether images stand in the page, and where they come from.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedImages {
    /// Names only.
    pub left_out: bool,
    /// The data set's folder, where it is not that of the configs.
    pub data_root: Option<PathBuf>,
}

impl EmbeddedImages {
    /// Where the images of a model's split are, by name.
    fn sources(&self, model: &Model, split: Split) -> Result<HashMap<String, Source>> {
        let mut sources = HashMap::new();
        let mut known: Vec<&str> = Vec::new();
        for run in &model.runs {
            let Some(config) = &run.config else { continue };
            // Other seeds have the same images.
            if known.contains(&config.data.split.as_str()) {
                continue;
            }
            known.push(&config.data.split);
            let mut data = config.data.clone();
            (data.verify, data.votes) = (false, false);
            if let Some(root) = &self.data_root {
                data.root = root.clone();
            }
            let (samples, _) = load_split(&data, config.seed, split)?;
            sources.extend(samples.into_iter().map(|sample| (sample.id, sample.source)));
        }
        Ok(sources)
    }
}

fn image(source: Option<&Source>, name: &str) -> Option<String> {
    let image = match source? {
        Source::File(path) => read_image(path).ok()?,
        Source::Synthetic(seed) => synthetic::render(*seed, SIDE),
    };
    embedded(&image, SIDE, 82, name)
}

/// The images with the largest errors of the best models, the first open.
pub fn worst(report: &Report, images: &EmbeddedImages) -> String {
    let mut text = String::new();
    for (at, detail) in report.details.iter().take(MODELS).enumerate() {
        let judged = report.judged(detail);
        let open = if at == 0 { " open" } else { "" };
        text += &format!(
            "<details{open}><summary>{}</summary>\n{}</details>\n",
            escape(&judged.name),
            worst_of(report, detail, images)
        );
    }
    text
}

fn worst_of(report: &Report, detail: &Detail, images: &EmbeddedImages) -> String {
    let judged = report.judged(detail);
    let Some(set) = judged.predictions.first() else {
        return String::new();
    };
    let (sizes, errors) = (judged.errors(f64::abs), judged.errors(|error| error));
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by(|&a, &b| sizes[b].total_cmp(&sizes[a]));
    let mut note = String::new();
    let sources = if images.left_out {
        HashMap::new()
    } else {
        images
    .sources(&report.models[judged.candidate], report.split)
    .unwrap_or_else(|error| {
        note = format!(
            "<p class=\"note\">The images are not shown: {}. --data-root names the data set's folder.</p>\n",
            escape(&format!("{error:#}"))
        );
        HashMap::new()
    })
    };
    let figures = order.into_iter().take(WORST).map(|row| {
        let name = &set.images[row];
        let short = name.rsplit('/').next().unwrap_or(name);
        let group = set.groups.get(row).and_then(|group| group.as_deref());
        format!(
            "<figure title=\"{}\">{}<figcaption><b>{:+.2}</b> (true {:.2}, predicted {:.2})<br>{}{}</figcaption></figure>\n",
            escape(name),
            image(sources.get(name), short).unwrap_or_default(),
            errors[row],
            set.targets[row],
            set.targets[row] + errors[row],
            escape(short),
            group.map(|group| format!("<br>{}", escape(group))).unwrap_or_default()
        )
    });
    format!("{note}<div class=\"faces\">{}</div>\n", figures.collect::<String>())
}

/// The explained images, model by model; names only where images are left out.
pub fn explained(report: &Report, images: &EmbeddedImages) -> String {
    let mut models: Vec<&Option<String>> = Vec::new();
    for figure in &report.figures {
        if !models.contains(&&figure.model) {
            models.push(&figure.model);
        }
    }
    let mut text = String::new();
    for model in models {
        let of: Vec<_> = report.figures.iter().filter(|f| f.model == *model).collect();
        if let Some(name) = model {
            text += &format!("<h3>{}</h3>\n", escape(name));
        }
        let figures = of.iter().take(FIGURES).map(|figure| {
            let name = figure.image.rsplit('/').next().unwrap_or(&figure.image);
            let shown = if images.left_out { None } else { read_image(&figure.file).ok() };
            let shown = shown.and_then(|image| embedded(&image, FIGURE_SIDE, 85, name));
            format!(
                "<figure title=\"{}\">{}<figcaption>{}</figcaption></figure>\n",
                escape(&figure.image),
                shown.unwrap_or_default(),
                escape(name)
            )
        });
        text += &format!("<div class=\"maps\">{}</div>\n", figures.collect::<String>());
        if of.len() > FIGURES {
            let folder = of[0].file.parent().map(|f| f.display().to_string());
            text += &format!(
                "<p class=\"note\">{FIGURES} of {}; all of them are in {}.</p>\n",
                of.len(),
                escape(&folder.unwrap_or_default())
            );
        }
    }
    text
}
