//! The results of `vmbeauty explain`: explained images, and metrics of the maps.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::models::Model;
use crate::data::Split;
use crate::eval::comparison::RankedModel;
use crate::eval::statistics::Mean;
use crate::models::weights::WeightsFile;

/// What `vmbeauty explain RUN --evaluate SPLIT` found, as far as it is shown.
#[derive(Debug, Clone, Deserialize)]
pub struct Measures {
    /// How the maps were made.
    pub method: String,
    /// Images looked at.
    pub images: usize,
    /// Which images.
    #[serde(default)]
    pub split: Option<Split>,
    /// Of models with two branches.
    pub agreement: Option<Agreement>,
    /// By map.
    pub curves: Vec<Curves>,
}

/// How much alike the two branches' maps are.
#[derive(Debug, Clone, Deserialize)]
pub struct Agreement {
    /// Spearman's correlation over patches.
    pub spearman: Mean,
    /// The part of one map's top 20 % of patches that is in the other's.
    pub top20_overlap: Mean,
}

/// What showing or hiding a map's patches first does to the score, beyond random orders.
#[derive(Debug, Clone, Deserialize)]
pub struct Curves {
    /// `vit`, `mamba` or `fused`.
    pub map: String,
    /// More is better.
    pub insertion_over_random: Mean,
    /// Less is better.
    pub deletion_over_random: Mean,
}

/// The measures in a run directory: `explain_SPLIT.json`, or `explain_evaluate.json` where that
/// says the same split (an older one that says none is taken for test).
///
/// # Errors
/// A file that is no such result.
pub fn measures(run: &Path, split: Split) -> Result<Option<Measures>> {
    for name in [format!("explain_{split}.json"), "explain_evaluate.json".to_string()] {
        let path = run.join(&name);
        if !path.exists() {
            continue;
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let measures: Measures = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not what `vmbeauty explain RUN --evaluate {split} --json` prints",
                path.display()
            )
        })?;
        let of = if name.starts_with("explain_evaluate") {
            measures.split.unwrap_or(Split::Test)
        } else {
            split
        };
        if of == split {
            return Ok(Some(measures));
        }
    }
    Ok(None)
}

/// An image with its attribution maps, as `vmbeauty explain` drew them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedImage {
    /// The figure's PNG file.
    pub file: PathBuf,
    /// The image's name.
    pub image: String,
    /// The model, if it is known.
    pub model: Option<String>,
}

/// Returns the explained images in `explain/` of the models' run directories and in the given
/// folders, and the number of skipped ones. Unless the split is test, images on which no model was
/// evaluated are skipped: they may be test images.
///
/// # Errors
/// Returns an error if a folder cannot be listed, or if a given folder holds no figure.
pub fn explained_images(
    models: &[Model],
    ranked: &[&RankedModel],
    given: &[PathBuf],
    split: Split,
) -> Result<(Vec<ExplainedImage>, usize)> {
    let mut found = Vec::new();
    for model in models {
        for run in &model.runs {
            let folder = run.folder.join("explain");
            if folder.is_dir() {
                found.extend(in_folder(&folder, Some(&model.name))?);
            }
        }
    }
    for folder in given {
        let explained = in_folder(folder, None)?;
        ensure!(
            !explained.is_empty(),
            "{} holds no figure: --explain takes a folder that \
             `vmbeauty explain RUN IMAGE… --output DIR` wrote",
            folder.display()
        );
        found.extend(explained);
    }
    let all = found.len();
    if split != Split::Test {
        let evaluated = |image: &str| {
            let sets = ranked.iter().filter_map(|ranked| ranked.predictions.first());
            let mut ids = sets.flat_map(|set| &set.images);
            ids.any(|id| Path::new(image).ends_with(id.trim_start_matches("./")))
        };
        found.retain(|explained| evaluated(&explained.image));
    }
    let skipped = all - found.len();
    Ok((found, skipped))
}

fn in_folder(folder: &Path, model: Option<&str>) -> Result<Vec<ExplainedImage>> {
    let unreadable = || format!("cannot list {}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_png = file.extension().is_some_and(|extension| extension == "png");
        if !is_png || stem.starts_with("contact_sheet") {
            continue;
        }
        let maps = folder.join("maps").join(format!("{stem}.safetensors"));
        let image =
            if maps.exists() { WeightsFile::open(&maps)?.metadata().remove("image") } else { None };
        let image = image.unwrap_or(stem);
        found.push(ExplainedImage { file, image, model: model.map(str::to_string) });
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(found)
}
