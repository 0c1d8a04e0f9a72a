//! A trained model's weights for others: the backbones under the names that timm and Vim give them,
//! and a model card.

mod model_card;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tch::Tensor;

use crate::config::{BackboneConfig, BackboneShape, Branch, Stem};
use crate::files::write_atomic;
use crate::models::weights;
use crate::run::{CONFIG_FILE, Run};

/// How the backbones are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `vit.safetensors` and `mamba.safetensors`, and the whole network as `model.safetensors` with
    /// its `config.yaml`.
    Safetensors,
    /// What each backbone's own code opens: `vit/`, a folder for timm's
    /// `create_model("local-dir:…")`, and `mamba/model.pth`, a checkpoint as Vim's training code
    /// saves it.
    Timm,
}

/// Writes a run's weights and its model card into `folder`; returns the files.
///
/// # Errors
/// Names the file that cannot be written.
pub fn export(run: &Run, layout: Layout, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut writer = Writer { folder, files: Vec::new() };
    match layout {
        Layout::Safetensors => safetensors(run, &mut writer)?,
        Layout::Timm => timm(run, &mut writer)?,
    }
    let card = model_card::markdown(run, layout)?;
    writer.text("README.md", &card)?;
    Ok(writer.files)
}

struct Writer<'a> {
    folder: &'a Path,
    files: Vec<PathBuf>,
}

impl Writer<'_> {
    fn place(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let folder = path.parent().unwrap_or(self.folder);
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        self.files.push(path.clone());
        Ok(path)
    }

    fn text(&mut self, name: &str, text: &str) -> Result<()> {
        let path = self.place(name)?;
        write_atomic(&path, |file| Ok(file.write_all(text.as_bytes())?))
    }

    fn tensors(&mut self, name: &str, tensors: &[(String, Tensor)]) -> Result<()> {
        let path = self.place(name)?;
        // Readers in Python ask for it.
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
    writer.text(CONFIG_FILE, &run.config.to_yaml()?)
}

fn timm(run: &Run, writer: &mut Writer) -> Result<()> {
    for &branch in Branch::ALL {
        let shape = run.config.shape(branch)?;
        ensure!(
            shape.is_none_or(|shape| shape.stem == Stem::Patchify),
            "neither timm nor Vim's code can build model.{branch}.stem: conv; use --format safetensors"
        );
    }
    if let Some(shape) = run.config.shape(Branch::Vit)? {
        let config = timm_config(&run.config.model.vit, &shape);
        writer.text("vit/config.json", &(serde_json::to_string_pretty(&config)? + "\n"))?;
        writer.tensors("vit/model.safetensors", &run.net.branch_parameters(Branch::Vit))?;
    }
    let mamba = run.net.branch_parameters(Branch::Mamba);
    if !mamba.is_empty() {
        let path = writer.place("mamba/model.pth")?;
        weights::save_torch(&path, &mamba)?;
    }
    Ok(())
}

/// The `config.json` of a folder that timm's hub code reads: which architecture, what differs from
/// it, and how images are normalized. The sizes are stated whether they differ or not, so that
/// presets that timm does not know work too.
fn timm_config(backbone: &BackboneConfig, shape: &BackboneShape) -> Value {
    let architecture = match backbone.published() {
        [] => "vit_tiny_patch16_224",
        _ => &backbone.name,
    };
    json!({
        "architecture": architecture,
        "num_classes": 0,
        "num_features": shape.embed_dim,
        "global_pool": "token",
        "model_args": {
            "img_size": shape.image_size,
            "patch_size": shape.patch_size,
            "embed_dim": shape.embed_dim,
            "depth": shape.depth,
            "num_heads": shape.num_heads,
        },
        "pretrained_cfg": {
            "input_size": [3, shape.image_size, shape.image_size],
            "fixed_input_size": true,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": shape.mean,
            "std": shape.std,
            "num_classes": 0,
            "pool_size": null,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    })
}
