//! What `vmbeauty explain` writes: metrics of a model's attribution maps, and folders of figures.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::directory::MAX_TEXT;
use super::provenance::content_hash;
use crate::data::Split;
use crate::eval::statistics::Mean;
use crate::files::{read_text, write_json};
use crate::models::weights::WeightsFile;

/// The file of [`MapMetrics`] in the folder of `--output`.
const METRICS_FILE: &str = "explain_evaluate.json";

/// Metrics of a model's attribution maps over a split: the result of `vmbeauty explain --evaluate`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MapMetrics {
    /// The split of the images.
    pub split: Split,
    /// The attribution method.
    pub method: String,
    /// The explained blocks, such as `ViT 2, Mamba 5`; empty for a method of the pixels.
    #[serde(default)]
    pub blocks: String,
    /// The BLAKE3 hash of the weights file; empty if it is unknown.
    #[serde(default)]
    pub weights: String,
    /// The number of images.
    pub images: usize,
    /// The agreement of the branches' maps; `None` for a model of one branch.
    pub agreement: Option<Agreement>,
    /// Insertion and deletion, one entry per map.
    pub curves: Vec<InsertionDeletion>,
    /// Attribution inside the scored regions of synthetic faces; empty for other images.
    pub regions: Vec<RegionAttribution>,
    /// The result of `--sanity`.
    pub sanity: Option<SanityCheck>,
    /// Whether each map passed, from the numbers above.
    #[serde(default)]
    pub passed: Vec<Verdict>,
}

/// Whether the maps of a branch, or the fused ones, show what the score depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// `vit`, `mamba` or `fused`.
    pub map: String,
    /// Whether every check passed.
    pub passed: bool,
    /// The checks that failed.
    pub failed: Vec<String>,
}

/// The agreement of the two branches' maps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Agreement {
    /// Spearman's correlation of an image's two maps, over patches.
    pub spearman: Mean,
    /// The fraction of one map's top 20 % of patches that is in the other map's top 20 %; ties are
    /// broken at random, in expectation.
    pub top20_overlap: Mean,
    /// The expected overlap of two random maps.
    pub top20_overlap_by_chance: f64,
}

/// Areas under the insertion and deletion curves (RISE, arXiv 1806.07421): the score against the
/// fraction of a map's patches that are shown or hidden, highest attribution first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InsertionDeletion {
    /// `vit`, `mamba` or `fused`.
    pub map: String,
    /// Patches are shown on an image of its own mean color: higher is better.
    pub insertion: Mean,
    /// Insertion minus insertion in random order.
    pub insertion_over_random: Mean,
    /// Patches are replaced by the image's mean color: lower is better.
    pub deletion: Mean,
    /// Deletion minus deletion in random order.
    pub deletion_over_random: Mean,
}

/// The fraction of a map's attribution inside a scored region of synthetic faces.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegionAttribution {
    /// `vit`, `mamba` or `fused`.
    pub map: String,
    /// `eyes`, `nose`, `mouth`, all three as `features`, or `head`.
    pub region: String,
    /// The fraction of the map's attribution inside the region.
    pub attribution: Mean,
    /// The fraction of the image's area inside the region: the attribution of a uniform map.
    pub area: Mean,
    /// Attribution minus area.
    pub over_chance: Mean,
}

/// The result of the randomization test (Adebayo et al., arXiv 1810.03292).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SanityCheck {
    /// The seed of the random weights.
    pub seed: i64,
    /// The stages, from the head down.
    pub stages: Vec<RandomizationStage>,
}

/// The similarity of the maps after one more module has been randomized.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RandomizationStage {
    /// The modules randomized in this stage, as the weights name them: `head`, `fusion`,
    /// `vit.blocks.2` and `mamba.layers.3`, `vit.embeddings` for everything below its blocks. The
    /// modules of earlier stages remain randomized.
    pub randomized: Vec<String>,
    /// The similarity of each branch's maps.
    pub maps: Vec<MapSimilarity>,
}

/// The similarity of a branch's maps to the trained model's maps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MapSimilarity {
    /// `vit` or `mamba`.
    pub map: String,
    /// Spearman's correlation over patches; undefined for a constant map.
    pub rank_correlation: Mean,
    /// Structural similarity of the maps over the image, each from 0 to 1; undefined where the
    /// trained model's map is constant.
    pub ssim: Mean,
}

/// The rank correlation, in magnitude, from which the maps of a model with random weights count as
/// the trained model's.
const MAX_RANDOMIZED: f64 = 0.5;

impl MapMetrics {
    /// Says for each map whether it passed: its insertion is better than in random order, its
    /// attribution on the features of synthetic faces exceeds their area (both with the whole 95 %
    /// interval), and it does not stay the same when all weights are random. What was not measured
    /// does not count.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let above = |mean: &Mean| mean.ci.is_some_and(|ci| ci.lo > 0.0);
        let verdict = |curves: &InsertionDeletion| {
            let map = &curves.map;
            let mut failed = Vec::new();
            if !above(&curves.insertion_over_random) {
                failed.push("insertion is not better than in random order".to_string());
            }
            let region =
                |region: &&RegionAttribution| region.map == *map && region.region == "features";
            if self.regions.iter().find(region).is_some_and(|region| !above(&region.over_chance)) {
                failed.push("attribution on the features does not exceed their area".to_string());
            }
            let random = self.sanity.as_ref().and_then(|sanity| sanity.stages.last());
            let random = random.and_then(|stage| stage.maps.iter().find(|own| own.map == *map));
            let correlation = random.and_then(|random| random.rank_correlation.mean);
            if correlation.is_some_and(|correlation| correlation.abs() >= MAX_RANDOMIZED) {
                failed.push("random weights hardly change the maps".to_string());
            }
            Verdict { map: map.clone(), passed: failed.is_empty(), failed }
        };
        self.curves.iter().map(verdict).collect()
    }

    /// Says in a line which maps passed, for people.
    pub fn verdict(&self) -> String {
        let verdicts = self.verdicts();
        let maps = |passed: bool| -> Vec<&str> {
            let maps = verdicts.iter().filter(|verdict| verdict.passed == passed);
            maps.map(|verdict| match verdict.map.as_str() {
                "vit" => "ViT",
                "mamba" => "Mamba",
                other => other,
            })
            .collect()
        };
        let parts = [("passed", maps(true)), ("did not pass", maps(false))];
        let parts = parts.iter().filter(|(_, maps)| !maps.is_empty());
        let parts = parts.map(|(what, maps)| format!("{what}: {}", maps.join(", ")));
        let parts = parts.collect::<Vec<_>>().join("; ");
        format!("checked on {} {} images: {parts}", self.images, self.split)
    }

    /// Returns the metrics of a weights file's maps by this method at these blocks that its run
    /// directory has, on test, validation or training images. Metrics that cannot be read, or are
    /// of other weights, are none. Returns an error if the weights cannot be read.
    pub fn of_method(weights: &Path, method: &str, blocks: &str) -> Result<Option<Self>> {
        let run = weights.parent().unwrap_or(Path::new("."));
        let splits = [Split::Test, Split::Val, Split::Train].into_iter();
        let measured = splits.filter_map(|split| Self::load(run, split).ok().flatten());
        let measured: Vec<Self> =
            measured.filter(|own| own.method == method && own.blocks == blocks).collect();
        if measured.is_empty() {
            return Ok(None);
        }
        let hash = content_hash(weights)?;
        Ok(measured.into_iter().find(|own| own.weights == hash))
    }

    /// Reads the metrics of a split from a run directory: `explain_SPLIT.json`, or
    /// `explain_evaluate.json` if it is of that split. Returns an error if a file cannot be read or
    /// holds something else.
    pub fn load(run: &Path, split: Split) -> Result<Option<Self>> {
        for path in [Self::file_in_run(run, split), run.join(METRICS_FILE)] {
            if !path.exists() {
                continue;
            }
            let text = read_text(&path, MAX_TEXT)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let metrics: Self = serde_json::from_str(&text).with_context(|| {
                format!(
                    "{} is not a result of `vmbeauty explain RUN --evaluate {split}`",
                    path.display()
                )
            })?;
            if metrics.split == split {
                return Ok(Some(metrics));
            }
        }
        Ok(None)
    }

    /// Writes `explain_SPLIT.json` to a run directory. Returns an error if the file cannot be
    /// written.
    pub fn save_in_run(&self, run: &Path) -> Result<()> {
        write_json(&Self::file_in_run(run, self.split), self)
    }

    /// Writes `explain_evaluate.json` to a folder. Returns an error if the file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(METRICS_FILE), self)
    }

    fn file_in_run(run: &Path, split: Split) -> PathBuf {
        run.join(format!("explain_{split}.json"))
    }
}

/// One explained image in the output of `vmbeauty explain --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExplainedEntry {
    /// The image's name.
    pub image: String,
    /// The prediction on the dataset's own scale.
    pub score: f64,
    /// The fusion weight of the ViT, if the fusion strategy defines it.
    pub weight_vit: Option<f64>,
    /// The fusion weight of the Mamba, if the fusion strategy defines it.
    pub weight_mamba: Option<f64>,
    /// The file of the figure.
    pub figure: PathBuf,
}

/// A folder of figures: `NAME.png`, `NAME.svg` on request, `contact_sheet_N.png`, and the maps
/// `maps/NAME.safetensors` and `maps/NAME_{vit,mamba,fused}.png`.
#[derive(Debug, Clone)]
pub struct FigureFolder(pub PathBuf);

impl FigureFolder {
    /// The name in the metadata of `maps/NAME.safetensors` that holds the image's name.
    pub const IMAGE_KEY: &'static str = "image";
    /// The beginning of the names of contact sheets; no figure has such a name.
    pub const CONTACT_SHEET: &'static str = "contact_sheet";

    /// Returns the file of an image's figure.
    pub fn figure(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.png"))
    }

    /// Returns the file of an image's figure as SVG.
    pub fn svg(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.svg"))
    }

    /// Returns the folder of the maps.
    pub fn maps_folder(&self) -> PathBuf {
        self.0.join("maps")
    }

    /// Returns the file of an image's maps as tensors.
    pub fn maps(&self, name: &str) -> PathBuf {
        self.maps_folder().join(format!("{name}.safetensors"))
    }

    /// Returns the file of one of an image's maps as a gray image.
    pub fn map_image(&self, name: &str, map: &str) -> PathBuf {
        self.maps_folder().join(format!("{name}_{}.png", map.to_lowercase()))
    }

    /// Returns the file of a contact sheet, counted from 1.
    pub fn contact_sheet(&self, number: usize) -> PathBuf {
        self.figure(&format!("{}_{number}", Self::CONTACT_SHEET))
    }

    /// Lists the figures, sorted by file, each with the name of its image. Returns an error if the
    /// folder cannot be listed or a file of maps cannot be read.
    pub fn figures(&self) -> Result<Vec<(PathBuf, String)>> {
        let unreadable = || format!("cannot list {}", self.0.display());
        let mut figures = Vec::new();
        for entry in fs::read_dir(&self.0).with_context(unreadable)? {
            let file = entry.with_context(unreadable)?.path();
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let is_png = file.extension().is_some_and(|extension| extension == "png");
            if !is_png || name.starts_with(Self::CONTACT_SHEET) {
                continue;
            }
            let maps = self.maps(&name);
            let image = if maps.exists() {
                WeightsFile::open(&maps)?.metadata().remove(Self::IMAGE_KEY)
            } else {
                None
            };
            figures.push((file, image.unwrap_or(name)));
        }
        figures.sort();
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_passes_where_every_check_that_was_made_is_better_than_chance() {
        let mean = |mean: f64| serde_json::json!({"mean": mean, "ci": [mean - 0.1, 1.0], "n": 9});
        let curve = |map: &str, over: f64| {
            serde_json::json!({
                "map": map, "insertion": mean(1.0), "insertion_over_random": mean(over),
                "deletion": mean(1.0), "deletion_over_random": mean(0.0)
            })
        };
        let region = |map: &str, over: f64| {
            serde_json::json!({
                "map": map, "region": "features", "attribution": mean(0.3), "area": mean(0.1),
                "over_chance": mean(over)
            })
        };
        let similar = |map: &str, rank: f64| {
            let rank = mean(rank);
            serde_json::json!({"map": map, "rank_correlation": rank, "ssim": mean(0.1)})
        };
        let stage = |vit: f64, mamba: f64| {
            serde_json::json!({
                "randomized": ["x"], "maps": [similar("vit", vit), similar("mamba", mamba)]
            })
        };
        let metrics = serde_json::json!({
            "split": "val", "method": "layer-cam", "images": 9, "agreement": null,
            "curves": [curve("vit", 0.2), curve("mamba", 0.05), curve("fused", 0.2)],
            "regions": [region("vit", 0.2), region("mamba", 0.2), region("fused", 0.05)],
            "sanity": {"seed": 1, "stages": [stage(0.9, 0.9), stage(-0.7, 0.1)]},
        });
        let metrics: MapMetrics = serde_json::from_value(metrics).unwrap();
        let failed: Vec<Vec<String>> = metrics.verdicts().into_iter().map(|v| v.failed).collect();
        assert_eq!(
            failed,
            [
                ["random weights hardly change the maps"],
                ["insertion is not better than in random order"],
                ["attribution on the features does not exceed their area"],
            ]
        );
        let without = MapMetrics { sanity: None, regions: Vec::new(), ..metrics };
        assert_eq!(
            without.verdict(),
            "checked on 9 val images: passed: ViT, fused; did not pass: Mamba"
        );
    }
}
