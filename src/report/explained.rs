//! The figures that `vmbeauty explain` drew.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::models::Model;
use crate::data::Split;
use crate::eval::comparison::RankedModel;
use crate::run::explanations::FigureFolder;

/// An image with its attribution maps, as `vmbeauty explain` drew them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedImage {
    pub file: PathBuf,
    pub image: String,
    pub model: Option<String>,
}

/// Returns the explained images in `explain/` of the models' run directories and in the given
/// folders, and the number of skipped ones. Unless the split is test, images on which no model was
/// evaluated are skipped: they may be test images.
pub(super) fn explained_images(
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
    let model = model.map(str::to_string);
    let figures = FigureFolder(folder.to_path_buf()).figures()?.into_iter();
    Ok(figures.map(|(file, image)| ExplainedImage { file, image, model: model.clone() }).collect())
}
