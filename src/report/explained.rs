//! What `vmbeauty explain` has left: figures of images, and measures of the maps.

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

/// An image with its maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// The PNG file.
    pub file: PathBuf,
    /// The image's name.
    pub image: String,
    /// Its model, where that is known.
    pub model: Option<String>,
}

/// The figures in `explain/` of the models' run directories and in the folders given beside. On
/// validation, only those of images that the models were judged on: the others may be test images.
/// The number that was left out for that.
///
/// # Errors
/// A folder that cannot be listed, or one given that holds no figure.
pub fn figures(
    models: &[Model],
    judged: &[&RankedModel],
    given: &[PathBuf],
    split: Split,
) -> Result<(Vec<Figure>, usize)> {
    let mut found = Vec::new();
    for model in models {
        for run in &model.runs {
            let folder = run.folder.join("explain");
            if folder.is_dir() {
                found.extend(figures_in(&folder, Some(&model.name))?);
            }
        }
    }
    for folder in given {
        let figures = figures_in(folder, None)?;
        ensure!(
            !figures.is_empty(),
            "{} holds no figure: --explain takes a folder that `vmbeauty explain RUN IMAGE… --output DIR` wrote",
            folder.display()
        );
        found.extend(figures);
    }
    let all = found.len();
    if split != Split::Test {
        let names = || judged.iter().flat_map(|judged| judged.predictions.first());
        let listed = |image: &str| {
            let mut images = names().flat_map(|set| &set.images);
            images.any(|id| Path::new(image).ends_with(id.trim_start_matches("./")))
        };
        found.retain(|figure| listed(&figure.image));
    }
    let left_out = all - found.len();
    Ok((found, left_out))
}

fn figures_in(folder: &Path, model: Option<&str>) -> Result<Vec<Figure>> {
    let unreadable = || format!("cannot list {}", folder.display());
    let mut figures = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        if file.extension().is_none_or(|ending| ending != "png")
            || stem.starts_with("contact_sheet")
        {
            continue;
        }
        let maps = folder.join("maps").join(format!("{stem}.safetensors"));
        let image =
            if maps.exists() { WeightsFile::open(&maps)?.metadata().remove("image") } else { None };
        figures.push(Figure {
            image: image.unwrap_or_else(|| stem.to_string()),
            model: model.map(str::to_string),
            file: file.clone(),
        });
    }
    figures.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(figures)
}
