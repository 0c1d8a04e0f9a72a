//! Images embedded in the page: those with the largest errors or disagreements, and attribution
//! maps.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use indexmap::IndexMap;
use maud::{Markup, html};

use crate::data::embed::embedded;
use crate::data::{Source, Split, load_split, read_image, synthetic};
use crate::eval::comparison::RankedModel;
use crate::files::without_own_folders;
use crate::report::assemble::{DetailedModel, RunReport};
use crate::report::compare::{Disagreement, TwoModels};
use crate::report::explained::ExplainedImage;
use crate::report::models::Model;

/// Images with the largest errors that are shown of each model.
const WORST_IMAGES: usize = 12;
/// Models whose images with the largest errors are shown.
const WORST_MODELS: usize = 3;
/// Longer side of an image, in pixels.
const SIDE: u32 = 160;
/// Explained images that are shown of each model.
const EXPLAINED: usize = 12;
/// Longer side of an explained image's figure, in pixels.
const FIGURE_SIDE: u32 = 900;

/// Whether the page shows images, and where they are.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedImages {
    /// Whether only the images' names are shown.
    pub names_only: bool,
    /// Folder of the dataset, if it is not the one in the configs.
    pub data_root: Option<PathBuf>,
}

impl EmbeddedImages {
    /// Finds the images of a model's runs of one seed: all folds.
    fn sources(&self, model: &Model, seed: u64, split: Split) -> Result<HashMap<String, Source>> {
        let mut sources = HashMap::new();
        let configs = model.runs.iter().filter_map(|run| run.config.as_ref());
        for config in configs.filter(|config| config.seed == seed) {
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

/// The images of a model's runs, if they are shown.
struct Shown(Result<HashMap<String, Source>>);

impl Shown {
    fn of(report: &RunReport, ranked: &RankedModel, images: &EmbeddedImages) -> Self {
        if images.names_only {
            return Self(Ok(HashMap::new()));
        }
        // All seeds of a ranked model have the same images.
        let model = &report.models[ranked.candidate];
        Self(
            ranked.seeds.first().map_or_else(
                || Ok(HashMap::new()),
                |seed| images.sources(model, *seed, report.split),
            ),
        )
    }

    fn image(&self, name: &str) -> Option<Markup> {
        image(self.0.as_ref().ok()?.get(name)?, file_name(name))
    }

    /// Says why the images are not shown, if they cannot be.
    fn note(&self) -> Markup {
        html! {
            @if let Err(error) = &self.0 {
                p.note {
                    "The images are not shown: " (format!("{error:#}"))
                    ". --data-root names the folder of the dataset."
                }
            }
        }
    }
}

fn image(source: &Source, name: &str) -> Option<Markup> {
    let image = match source {
        Source::File(path) => read_image(path).ok()?,
        Source::Synthetic(seed) => synthetic::render(*seed, SIDE),
    };
    embedded(&image, SIDE, 82, name)
}

fn file_name(image: &str) -> &str {
    image.rsplit('/').next().unwrap_or(image)
}

pub(super) fn worst(report: &RunReport, images: &EmbeddedImages) -> Markup {
    html! {
        @for (i, detail) in report.details.iter().take(WORST_MODELS).enumerate() {
            details open[i == 0] {
                summary { (report.ranked(detail).name) }
                (worst_of(report, detail, images))
            }
        }
    }
}

fn worst_of(report: &RunReport, detail: &DetailedModel, images: &EmbeddedImages) -> Markup {
    let ranked = report.ranked(detail);
    let Some(set) = ranked.predictions.first() else {
        return Markup::default();
    };
    let (absolute, errors) = (ranked.errors(f64::abs), ranked.errors(|error| error));
    let mut order: Vec<usize> = (0..absolute.len()).collect();
    order.sort_by(|&a, &b| absolute[b].total_cmp(&absolute[a]));
    order.truncate(WORST_IMAGES);
    let shown = Shown::of(report, ranked, images);
    html! {
        (shown.note())
        div.faces {
            @for row in order {
                @let (name, target, error) = (&set.images[row], set.targets[row], errors[row]);
                figure title=(name) {
                    @if let Some(image) = shown.image(name) { (image) }
                    figcaption {
                        b { (format!("{error:+.2}")) }
                        (format!(" (true {target:.2}, predicted {:.2})", target + error))
                        br; (file_name(name))
                        @if let Some(Some(group)) = set.groups.get(row) { br; (group) }
                    }
                }
            }
        }
    }
}

/// The images that two models rate most differently.
pub(super) fn disagreements(
    report: &RunReport,
    two: &TwoModels,
    images: &EmbeddedImages,
) -> Markup {
    let ranked = &report.leaderboards[two.board].models[two.places[0]];
    let shown = Shown::of(report, ranked, images);
    html! {
        (shown.note())
        div.faces {
            @for row in &two.disagreements {
                @let Disagreement { image, target, predictions: [first, second] } = row;
                figure title=(image) {
                    @if let Some(shown) = shown.image(image) { (shown) }
                    figcaption {
                        b { (format!("{first:.2} and {second:.2}")) }
                        (format!(" (true {target:.2})"))
                        br; (file_name(image))
                    }
                }
            }
        }
    }
}

pub(super) fn explained(report: &RunReport, images: &EmbeddedImages) -> Markup {
    let mut models: IndexMap<&Option<String>, Vec<&ExplainedImage>> = IndexMap::new();
    for explained in &report.explained {
        models.entry(&explained.model).or_default().push(explained);
    }
    let figure = |explained: &ExplainedImage| {
        let name = file_name(&explained.image);
        let image = (!images.names_only).then(|| read_image(&explained.file).ok()).flatten();
        let image = image.and_then(|image| embedded(&image, FIGURE_SIDE, 85, name));
        html! {
            figure title=(explained.image) {
                @if let Some(image) = image { (image) }
                figcaption { (name) }
            }
        }
    };
    html! {
        @for (model, all) in &models {
            @if let Some(name) = model { h3 { (name) } }
            div.maps { @for explained in all.iter().take(EXPLAINED) { (figure(explained)) } }
            @if all.len() > EXPLAINED {
                @let folder = all[0].file.with_file_name("").display().to_string();
                @let folder = without_own_folders(&folder);
                p.note {
                    (EXPLAINED) " of " (all.len()) ". All of them are in " (folder) "."
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::report::sources::{FoundRun, SourceKind};
    use crate::run::Status;

    #[test]
    fn images_of_each_seed_are_found_where_seeds_have_splits_of_their_own() {
        let run = |seed: u64| FoundRun {
            folder: PathBuf::new(),
            name: format!("seed-{seed}"),
            source: PathBuf::new(),
            kind: SourceKind::Run,
            config: Some(Config { seed, ..Config::default() }),
            status: Status::Stopped,
            epochs: Vec::new(),
        };
        let (name, config) = ("model".to_string(), Config::default());
        let model = Model { name, config: config.clone(), runs: vec![run(1), run(2)] };
        for seed in [1, 2] {
            let (samples, _) = load_split(&config.data, seed, Split::Val).unwrap();
            let found = EmbeddedImages::default().sources(&model, seed, Split::Val).unwrap();
            assert_eq!(found.len(), samples.len());
            assert!(samples.iter().all(|sample| found.contains_key(&sample.id)), "seed {seed}");
        }
    }
}
