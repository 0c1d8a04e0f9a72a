//! Export of a trained model: its weights under the parameter names of timm and Vim, or all of it
//! as ONNX or as a web page, and a model card.

mod front_matter;
mod model_card;
mod onnx;
mod web;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use tch::Tensor;

use crate::config::{BackboneConfig, BackboneShape, Branch, Features, Stem};
use crate::files::write_atomic;
use crate::models::onnx::OnnxOptions;
use crate::models::weights;
use crate::run::{CONFIG_FILE, FEATURE_DISTRIBUTION_FILE, Run, write_feature_distribution};

/// The files in which the model is written; the variants' comments are the program's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// A .safetensors file for each backbone under its published names, and the complete model
    Safetensors,
    /// A folder for timm with the ViT, and a .pth checkpoint for Vim's code with the Vision
    /// Mamba
    Timm,
    /// The whole model as one .onnx file, with preprocess.json and programs that use both
    Onnx,
    /// A web page that scores photos in the browser and needs no server
    Web,
}

/// Writes a run's model and its model card into `folder`, as ONNX with these options; returns the
/// files' paths.
pub fn export(
    run: &Run,
    layout: Layout,
    options: OnnxOptions,
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    let mut writer = Writer { folder, files: Vec::new() };
    match layout {
        Layout::Safetensors => safetensors(run, &mut writer)?,
        Layout::Timm => timm(run, &mut writer)?,
        Layout::Onnx => onnx::write(run, options, &mut writer)?,
        Layout::Web => web::write(run, &mut writer)?,
    }
    writer.write("README.md", model_card::markdown(run, layout)?)?;
    Ok(writer.files)
}

struct Writer<'a> {
    folder: &'a Path,
    files: Vec<PathBuf>,
}

impl Writer<'_> {
    fn create_path(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let folder = path.parent().unwrap_or(self.folder);
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        self.files.push(path.clone());
        Ok(path)
    }

    fn write(&mut self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.create_path(name)?;
        write_atomic(&path, |file| Ok(file.write_all(content.as_ref())?))
    }

    fn json(&mut self, name: &str, content: &impl Serialize) -> Result<()> {
        self.write(name, serde_json::to_string_pretty(content)? + "\n")
    }

    fn tensors(&mut self, name: &str, tensors: &[(String, Tensor)]) -> Result<()> {
        let path = self.create_path(name)?;
        // Python libraries require it.
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        weights::save(&path, tensors, metadata)
    }
}

fn safetensors(run: &Run, writer: &mut Writer) -> Result<()> {
    for &branch in Branch::ALL {
        let tensors = run.net.branch_parameters(branch);
        if !tensors.is_empty() {
            writer.tensors(&format!("{branch}.safetensors"), &tensors)?;
        }
    }
    writer.tensors("model.safetensors", &run.net.parameters())?;
    if let Some(distribution) = run.feature_distribution()? {
        let path = writer.create_path(FEATURE_DISTRIBUTION_FILE)?;
        write_feature_distribution(&path, &distribution, &run.net)?;
    }
    writer.write(CONFIG_FILE, run.config.without_folders().to_yaml()?)
}

fn timm(run: &Run, writer: &mut Writer) -> Result<()> {
    for &branch in Branch::ALL {
        let shape = run.config.shape(branch)?;
        ensure!(
            shape.is_none_or(|shape| shape.stem == Stem::Patchify),
            "neither timm nor Vim's code supports model.{branch}.stem: conv; \
             use --format safetensors"
        );
    }
    if let Some(shape) = run.config.shape(Branch::Vit)? {
        writer.json("vit/config.json", &TimmConfig::new(&run.config.model.vit, &shape))?;
        writer.tensors("vit/model.safetensors", &run.net.branch_parameters(Branch::Vit))?;
    }
    let mamba = run.net.branch_parameters(Branch::Mamba);
    if !mamba.is_empty() {
        let path = writer.create_path("mamba/model.pth")?;
        weights::save_torch(&path, &mamba)?;
    }
    Ok(())
}

/// Returns the features of a ViT that is exported for timm, which has no `cls_mean`; its distilled
/// models have no other features than `cls`.
fn timm_features(shape: &BackboneShape) -> Features {
    match shape.features {
        Features::Mean if shape.variant.class_tokens == 1 => Features::Mean,
        _ => Features::Cls,
    }
}

/// `config.json`, which timm's hub code reads: the architecture, its arguments, and the
/// normalization of images. The sizes are always stated, so that presets which timm does not know
/// work too.
#[derive(Serialize)]
struct TimmConfig<'a> {
    architecture: &'a str,
    num_classes: i64,
    num_features: i64,
    global_pool: &'static str,
    model_args: TimmModelArgs,
    pretrained_cfg: TimmPretrainedCfg,
}

#[derive(Serialize)]
struct TimmModelArgs {
    img_size: i64,
    patch_size: i64,
    embed_dim: i64,
    depth: i64,
    num_heads: i64,
    #[serde(flatten)]
    pool: Option<TimmPool>,
}

/// The mean of the patch tokens after the last norm, where timm would pool before it.
#[derive(Serialize)]
struct TimmPool {
    global_pool: &'static str,
    fc_norm: bool,
}

#[derive(Serialize)]
struct TimmPretrainedCfg {
    input_size: [i64; 3],
    fixed_input_size: bool,
    interpolation: &'static str,
    crop_pct: f64,
    mean: [f32; 3],
    std: [f32; 3],
    num_classes: i64,
    pool_size: Option<i64>,
    first_conv: &'static str,
    classifier: &'static str,
}

impl<'a> TimmConfig<'a> {
    fn new(backbone: &'a BackboneConfig, shape: &BackboneShape) -> Self {
        let is_mean = timm_features(shape) == Features::Mean;
        let global_pool = if is_mean { "avg" } else { "token" };
        Self {
            architecture: match backbone.published() {
                [] => "vit_tiny_patch16_224",
                _ => &backbone.name,
            },
            num_classes: 0,
            num_features: shape.embed_dim,
            global_pool,
            model_args: TimmModelArgs {
                img_size: shape.image_size,
                patch_size: shape.patch_size,
                embed_dim: shape.embed_dim,
                depth: shape.depth,
                num_heads: shape.num_heads,
                pool: is_mean.then_some(TimmPool { global_pool, fc_norm: false }),
            },
            pretrained_cfg: TimmPretrainedCfg {
                input_size: [3, shape.image_size, shape.image_size],
                fixed_input_size: true,
                interpolation: "bicubic",
                crop_pct: 1.0,
                mean: shape.mean,
                std: shape.std,
                num_classes: 0,
                pool_size: None,
                first_conv: "patch_embed.proj",
                classifier: "head",
            },
        }
    }
}
