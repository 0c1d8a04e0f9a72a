//! The model card (arXiv 1810.03993) of an export: usage, intended use and limits, architecture,
//! training data and recipe, results by group.

use std::fmt::Write;

use anyhow::Result;

use super::front_matter::front_matter;
use super::{Layout, timm_features};
use crate::config::{
    BackboneConfig, BackboneShape, Branch, Config, DatasetName, Stem, WeightsSource,
};
use crate::data::Split;
use crate::eval::baselines::Baselines;
use crate::eval::metrics::{Metric, Metrics};
use crate::eval::statistics::MetricsWithCi;
use crate::models::head::BRANCH_HEADS;
use crate::report::{Breakdown, Estimate, by_group};
use crate::run::{Run, RunDir, Summary, finished_predictions};

const USE_SAFETENSORS: &str = "\
Crop the face as those of the training images are: the whole image is resized to the model's input.

```sh
vmbeauty predict model.safetensors face.jpg
vmbeauty features model.safetensors face.jpg --output features.safetensors
```

The backbones alone, in Python (`pip install safetensors torch`):

```python
from safetensors.torch import load_file

for name in [BRANCHES]:
    parameters = load_file(f\"{name}.safetensors\")
    print(name, sum(tensor.numel() for tensor in parameters.values()), \"parameters\")
```
";

const USE_TIMM: &str = "\
In Python (`pip install timm torch`):

```python
import timm
import torch
";

const USE_ONNX: &str = "\
With Python (`pip install onnxruntime pillow`), for a face that is cropped as those of the training
images are:

```sh
python3 predict.py face.jpg
```
";

const USE_WEB: &str = "\
Open `index.html` in a browser and drop photos on it, of faces that are cropped as those of the
training images are. The photos stay in the browser.
";

const LIMITS: &str = "\
The model predicts the mean rating that a certain group of raters, at one time and place, would give
an image. Ratings are opinions; they are not a property of a face. It is meant for research on such
ratings and on the model itself: comparing architectures, studying agreement between raters,
measuring bias.

It must not be used to evaluate, rank, select or identify people, nor shown to them as a verdict.

- It reproduces the taste and the prejudices of its raters. Its error can differ between groups of
  people; inspect the error by group before drawing any conclusion.
- It was evaluated on images like those it was trained on. Other cameras, crops, ages, expressions
  or groups of people may be rated badly. `vmbeauty predict` marks images that are quite unlike the
  training images (`in_distribution: false`), but does not notice subtle differences.
- Images of SCUT-FBP5500 and MEBeauty are for non-commercial research only, which extends to weights
  trained on them.
";

const ONNX_FILES: &str = "\
- `model.onnx`: the whole model, from `images` to `score`, `features` and, where the fusion has
  them, `branch_weights`
- `preprocess.json`: how an image becomes `images`
- `predict.py`, `predict.mjs`: programs that score images with onnxruntime and onnxruntime-web
";

const WEB_FILES: &str = "\
- `index.html`: the page, which a browser opens from the disk or from any web server
- `model.js`, and `model-2.js` and so on of a big one: the whole model
- `onnxruntime.js`: ONNX Runtime Web
- `page.js`, `resample.js`, `style.css`: the rest of the page
";

/// Writes the card as Markdown.
pub(super) fn markdown(run: &Run, layout: Layout) -> Result<String> {
    let config = &run.config;
    let summary = run.summary()?;
    let (results, groups) = match &summary {
        Some(summary) => (results(summary), groups(run)?),
        None => (
            "No metrics: the run has not finished, or these are not its best weights.\n".into(),
            String::new(),
        ),
    };
    Ok(format!(
        "{}# {}\n\nVM-BeautyNet (arXiv 2510.16220): a Vision Transformer and a bidirectional \
         Vision Mamba encode the same face image, a fusion module combines their features, and a \
         head predicts the mean rating. Trained with vm-beautynet.\n\n## Usage\n\n{}\n## Intended \
         use and limits\n\n{LIMITS}\n## Model\n\n{}\n## Training data\n\n{}\n\
         ## Training recipe\n\n{}\n\
         ## Results\n\n{results}\n{groups}## Files\n\n{}\n## Config\n\n```yaml\n{}```\n",
        front_matter(config, summary.as_ref())?,
        config.name,
        usage(config, layout)?,
        model(run)?,
        data(config, summary.as_ref()),
        recipe(config, summary.as_ref())?,
        files(config, layout)?,
        config.without_folders().to_yaml()?
    ))
}

/// Returns code that runs in the folder of the files.
fn usage(config: &Config, layout: Layout) -> Result<String> {
    let branches = Branch::ALL.iter().filter(|&&of| config.model.fusion.strategy.uses(of));
    match layout {
        Layout::Onnx => Ok(USE_ONNX.to_string()),
        Layout::Web => Ok(USE_WEB.to_string()),
        Layout::Safetensors => {
            let named: Vec<String> = branches.map(|branch| format!("\"{branch}\"")).collect();
            Ok(USE_SAFETENSORS.replace("BRANCHES", &named.join(", ")))
        }
        Layout::Timm => {
            let mut text = USE_TIMM.to_string();
            if let Some(shape) = config.shape(Branch::Vit)? {
                let size = shape.image_size;
                text += "\nvit = timm.create_model(\"local-dir:vit\", pretrained=True).eval()\n";
                text += &format!("print(vit(torch.zeros(1, 3, {size}, {size})).shape)\n");
            } else {
                text = text.replace("import timm\n", "").replace("timm torch", "torch");
            }
            if config.model.fusion.strategy.uses(Branch::Mamba) {
                text += "\nmamba = torch.load(\"mamba/model.pth\")[\"model\"]\n";
                text += "print(len(mamba), \"tensors of the Vision Mamba\")\n";
            }
            Ok(text + "```\n")
        }
    }
}

fn model(run: &Run) -> Result<String> {
    let config = &run.config;
    let mut text = String::new();
    for &branch in Branch::ALL {
        if let Some(shape) = config.shape(branch)? {
            text += &branch_line(branch, config.model.backbone(branch), &shape);
        }
    }
    let fusion = &config.model.fusion;
    writeln!(text, "- Fusion: `{}`, width {}", fusion.strategy, fusion.dim)?;
    let parameters = run.net.parameters();
    let trained = parameters.iter().filter(|(_, p)| p.requires_grad());
    let (heads, used): (Vec<_>, Vec<_>) =
        trained.partition(|(name, _)| name.starts_with(BRANCH_HEADS));
    let count: usize = used.iter().map(|(_, p)| p.numel()).sum();
    writeln!(text, "- {:.2} M parameters", count as f64 / 1e6)?;
    if !heads.is_empty() {
        let weight = config.train.branch_loss;
        writeln!(
            text,
            "- A linear head of each branch, which trained it (`train.branch_loss: {weight}`) and \
             is not used to predict"
        )?;
    }
    Ok(text)
}

/// Lists what training did, shortly; the config has all of it.
fn recipe(config: &Config, summary: Option<&Summary>) -> Result<String> {
    let (train, augment) = (&config.train, &config.data.augment);
    let (optimizer, schedule) = (&train.optimizer, &train.schedule);
    let mut text = format!(
        "- Loss `{}`; `{}` with lr {}, backbones {}, weight decay {}; batches of {} images\n\
         - Schedule `{}` over {} epochs, {} of warmup\n",
        train.loss,
        optimizer.name,
        optimizer.lr,
        optimizer.backbone_lr(),
        optimizer.weight_decay,
        train.batch_size * train.accumulate,
        schedule.name,
        train.epochs,
        schedule.warmup_epochs
    );
    let crop = augment.random_resized_crop.map(|[min, max]| format!("crop {min} to {max}, "));
    writeln!(
        text,
        "- Augmentation: horizontal flip {}, rotation {}, {}color jitter {:?}, and what \
         `data.augment` adds",
        augment.horizontal_flip,
        augment.rotation,
        crop.unwrap_or_default(),
        augment.color_jitter
    )?;
    if let Some(decay) = train.ema_decay {
        writeln!(text, "- EMA weights (decay {decay})")?;
    }
    if let Some(summary) = summary {
        let made = &summary.provenance;
        let commit = made.commit.as_ref().map(|commit| format!(" (commit {commit})"));
        writeln!(
            text,
            "- Best of {} epochs by validation {}: epoch {}; seed {}",
            summary.epochs, summary.monitor, summary.best_epoch, summary.seed
        )?;
        writeln!(
            text,
            "- Trained in {:.0} s on {} by vm-beautynet {}{}, libtorch {}",
            summary.seconds,
            made.device,
            made.version,
            commit.unwrap_or_default(),
            made.libtorch
        )?;
    }
    Ok(text)
}

fn branch_line(branch: Branch, backbone: &BackboneConfig, shape: &BackboneShape) -> String {
    // The folder of the weights is private.
    let initialization = match backbone.weights_source().ok().flatten() {
        None => "randomly initialized".to_string(),
        Some(WeightsSource::File(path)) => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            format!("initialized from `{}`", name.to_string_lossy())
        }
        Some(published) => format!("initialized from `{published}`"),
    };
    let stem = match shape.stem {
        Stem::Patchify => "",
        Stem::Conv => "a convolutional stem, ",
    };
    let BackboneShape { depth, embed_dim, patch_size, stride, image_size, mean, std, .. } = shape;
    let features = shape.features;
    format!(
        "- {}: `{}`, {stem}{depth} blocks of width {embed_dim}, patches of {patch_size} px every \
         {stride} px, features `{features}`, images of {image_size} px, mean {mean:?}, std \
         {std:?}; {initialization}\n",
        branch.title(),
        backbone.name
    )
}

fn data(config: &Config, summary: Option<&Summary>) -> String {
    let data = &config.data;
    let name = match data.dataset {
        DatasetName::Synthetic => "Synthetic faces (`synthetic`): no images of people",
        DatasetName::Mebeauty => "MEBeauty, release of 2021 (`mebeauty`)",
        DatasetName::ScutFbp5500 => "SCUT-FBP5500 v2 (`scut_fbp5500`)",
        DatasetName::Csv => "The user's own images (`csv`)",
        DatasetName::Folder => "The user's own images (`folder`)",
    };
    let mut text = format!("{name}, split `{}`.", data.split);
    if let Some([train, val, test]) = summary.map(|summary| summary.images) {
        text += &format!(" {train} training, {val} validation and {test} test images.");
    }
    text + "\n"
}

/// Tabulates the metrics on each split with their 95 % intervals, and the baselines' metrics.
fn results(summary: &Summary) -> String {
    let mut text = String::from(
        "| split | model | n | PC | MAE | RMSE | SRCC |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let row = |split: &str, model: &str, metrics: &Metrics, ci: Option<&MetricsWithCi>| {
        let cell = |metric: Metric| {
            let value = Some(metric.of(metrics)).filter(|value| value.is_finite());
            estimate(Estimate { value, ci: ci.and_then(|ci| ci.interval(metric)) })
        };
        let cells = Metric::ALL.map(cell).join(" | ");
        format!("| {split} | {model} | {} | {cells} |\n", metrics.n)
    };
    let baselines = &summary.baselines;
    for (split, evaluated, baselines) in [
        ("val", Some(&summary.val), Some(&baselines.val)),
        ("test", summary.test.as_ref(), baselines.test.as_ref()),
    ] {
        if let Some(with_ci) = evaluated {
            text += &row(split, "this model", &with_ci.metrics, Some(with_ci));
        }
        for (name, metrics) in baselines.into_iter().flat_map(Baselines::named) {
            text += &row(split, name, &metrics, None);
        }
    }
    text + "\nIn brackets: 95 % intervals over the images of the split, for these weights. \
            The variation over seeds is larger.\n"
}

/// Tabulates the errors by group on the test images, or the validation images where there are none;
/// empty if images have no group.
fn groups(run: &Run) -> Result<String> {
    let Some(folder) = run.finished_folder() else {
        return Ok(String::new());
    };
    let tested = RunDir::predictions_in(&folder, Split::Test).exists();
    let split = if tested { Split::Test } else { Split::Val };
    let breakdowns = by_group(&[finished_predictions(&folder, split)?.sorted()])?;
    let mut text = String::new();
    for Breakdown { by, subsets } in breakdowns {
        text += &format!(
            "### By {by} ({split})\n\n| {by} | n | PC | MAE | bias |\n\
             | --- | --- | --- | --- | --- |\n"
        );
        for subset in subsets {
            let [pc, mae, bias] = [subset.pc, subset.mae, subset.bias].map(estimate);
            text += &format!("| {} | {} | {pc} | {mae} | {bias} |\n", subset.label, subset.images);
        }
        text.push('\n');
    }
    if !text.is_empty() {
        text +=
            "Bias: the mean of prediction minus rating. Groups of few images have no interval.\n\n";
    }
    Ok(text)
}

fn estimate(Estimate { value, ci }: Estimate) -> String {
    match (value, ci) {
        (None, _) => "–".to_string(),
        (Some(value), None) => format!("{value:.4}"),
        (Some(value), Some(ci)) => format!("{value:.4} [{:.4}, {:.4}]", ci.lo, ci.hi),
    }
}

/// Lists the files and the code that opens them.
fn files(config: &Config, layout: Layout) -> Result<String> {
    let of_timm = |shape: BackboneShape| (shape.features, timm_features(&shape));
    let of_vit = match config.shape(Branch::Vit)?.map(of_timm) {
        Some((ours, timms)) if ours != timms => {
            format!("the ViT, whose features in timm are `{timms}`, not `{ours}`")
        }
        _ => "the ViT's features".to_string(),
    };
    let vit_for_timm =
        format!("`vit/`: {of_vit}, for `timm.create_model(\"local-dir:vit\", pretrained=True)`");
    let [vit, mamba, other] = match layout {
        Layout::Safetensors => [
            "`vit.safetensors`: the ViT under timm's names, without a classifier",
            "`mamba.safetensors`: the Vision Mamba under Vim's names, without a classifier",
            "`model.safetensors`, `config.yaml`: the complete model, for \
             `vmbeauty predict model.safetensors IMAGE`",
        ],
        Layout::Onnx => return Ok(ONNX_FILES.to_string()),
        Layout::Web => return Ok(WEB_FILES.to_string()),
        Layout::Timm => [
            &vit_for_timm,
            "`mamba/model.pth`: a checkpoint for Vim's or Mamba-Reg's code, \
             `model.load_state_dict(torch.load(path)[\"model\"], strict=False)`; only `head` is \
             missing",
            "`README.md`: this model card",
        ],
    };
    let mut lines = vec![(Branch::Vit, vit), (Branch::Mamba, mamba)];
    lines.retain(|(branch, _)| config.model.fusion.strategy.uses(*branch));
    let lines = lines.into_iter().map(|(_, line)| line).chain([other]);
    Ok(lines.map(|line| format!("- {line}\n")).collect())
}
