//! `model`: the two backbones, their fusion, the head.

use std::path::PathBuf;

use super::backbone_shape::{BackboneShape, Features, Stem};
use super::branch::Branch;
use super::checks::{Checks, MAX_SIDE};
use super::error::{ConfigError, Problem};
use super::fusion::{FusionConfig, HeadConfig};
use super::names::nearest;
use super::presets::{PRESETS, Preset, preset};
use super::section::section;
use super::weights_source::{WeightsSource, weights_in};

/// Maximum number of a backbone's blocks.
const MAX_DEPTH: i64 = 1024;
/// Maximum number of attention heads, and largest state of the scan.
const MAX_SIZE: i64 = 1024;
/// Maximum number of patches on a side of the image.
const MAX_GRID: i64 = 256;
/// Maximum number of a backbone's parameters.
const MAX_PARAMETERS: f64 = 32e9;

section! {
    /// The network.
    pub struct ModelConfig {
        /// File of the weights of an entire network, as a run's `best.safetensors`, that training
        /// starts from; `vmbeauty train --from RUN` sets it. `null` starts from those of the
        /// backbones, or random ones.
        pub weights: Option<PathBuf> = None,
        /// The Vision Transformer.
        pub vit: BackboneConfig = BackboneConfig::default(),
        /// The Vision Mamba.
        pub mamba: BackboneConfig = BackboneConfig {
            name: "vim_tiny_patch16_224".into(),
            ..BackboneConfig::default()
        },
        /// How the two feature vectors are combined.
        pub fusion: FusionConfig = FusionConfig::default(),
        /// How the fused vector becomes a score.
        pub head: HeadConfig = HeadConfig::default(),
    }
}

section! {
    /// A backbone: a preset, and the sizes that override it.
    pub struct BackboneConfig {
        /// Preset, which fixes the sizes and the normalization.
        pub name: String = "vit_tiny_patch16_224".into(),
        /// Pretrained weights: `pretrained` (those published for the preset), a name on the Hugging
        /// Face hub (`hf://ORG/NAME[@REVISION][/FILE]`), or a file: `.safetensors`, or a checkpoint
        /// of torch.save (`.pth`, `.pt`, `.bin`). `null` starts from random weights.
        pub weights: Option<WeightsSource> = None,
        /// Load the EMA weights of a training checkpoint (`model_ema`) instead of its trained
        /// weights.
        pub weights_ema: bool = false,
        /// Require every name and shape in the file to be the model's, except the classifier's;
        /// `false` loads what fits, and warns of what changes the features.
        pub strict: bool = true,
        /// Feature vector: `cls` (the class token, the mean of a DeiT's class and distillation
        /// token, or a Mamba-Reg's class tokens, concatenated), `mean` (the mean of the patch
        /// tokens), `cls_mean` (both, concatenated) or `patches` (the patch tokens,
        /// concatenated), which keeps the places of eyes and mouth apart where faces are aligned.
        pub features: Features = Features::Cls,
        /// Largest probability of skipping a block in training (stochastic depth); it grows with
        /// depth up to this.
        pub drop_path: f64 = 0.1,
        /// Side of this backbone's input image, in pixels; `null` is `data.image_size`.
        pub image_size: Option<i64> = None,
        /// Side of a patch, in pixels; `null` is the preset's.
        pub patch_size: Option<i64> = None,
        /// How pixels become tokens: `patchify` (one projection of each patch, as published) or
        /// `conv` (3x3 convolutions, each halving the side, down to one point per patch; arXiv
        /// 2106.14881), which learns more from few images.
        pub stem: Stem = Stem::Patchify,
        /// Width of the tokens; `null` is the preset's.
        pub embed_dim: Option<i64> = None,
        /// Number of blocks; `null` is the preset's.
        pub depth: Option<i64> = None,
        /// Attention heads, for a ViT only; `null` is the preset's.
        pub num_heads: Option<i64> = None,
        /// Size of the scan's state, for a Vision Mamba only; `null` is the preset's.
        pub d_state: Option<i64> = None,
    }
}

impl BackboneConfig {
    /// Returns the names of published weights for the preset; none for an unknown preset.
    pub fn published(&self) -> &'static [&'static str] {
        preset(&self.name).map_or(&[], |preset| preset.published)
    }

    /// Returns where the weights are, the name on the hub in place of `pretrained`; `None` for
    /// random weights. Returns an error, with the key relative to this section, if none are
    /// published for the preset.
    pub fn weights_source(&self) -> Result<Option<WeightsSource>, ConfigError> {
        if self.weights != Some(WeightsSource::Pretrained) {
            return Ok(self.weights.clone());
        }
        let published = preset(&self.name).and_then(Preset::pretrained);
        published.map(|file| Some(WeightsSource::Hub(file))).ok_or_else(|| {
            let branch = preset(&self.name).map(|preset| preset.shape.branch);
            let others = preset_names(|known| {
                Some(known.shape.branch) == branch && known.pretrained().is_some()
            });
            let message = format!(
                "weights: none are published for {}; there are some for {others}: set name to one \
                 of these, or weights to a file or null",
                self.name
            );
            ConfigError::single("weights", message)
        })
    }

    /// Returns the shape to build, for images of `data_image_size` unless `image_size` overrides
    /// it. Ignores `data.normalize`: see [`Config::shape`](super::Config::shape). Returns
    /// [`ConfigError::Invalid`], with keys relative to this section, for an unknown name, sizes
    /// that do not fit, or a size that this kind of backbone does not have.
    pub fn resolve(&self, data_image_size: i64) -> Result<BackboneShape, ConfigError> {
        let preset = preset(&self.name).ok_or_else(|| {
            let names = PRESETS.iter().map(|preset| preset.name);
            let message = match nearest(&self.name, names) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("known are {}", preset_names(|_| true)),
            };
            ConfigError::single("name", format!("name: unknown backbone {}; {message}", self.name))
        })?;
        let shape = self.override_sizes(preset.shape, data_image_size);
        self.check_sizes(&shape)?;
        self.check_tiling(&shape)?;
        Ok(shape)
    }

    /// Returns a preset's shape with the sizes of this section, which may not fit.
    fn override_sizes(&self, preset: BackboneShape, data_image_size: i64) -> BackboneShape {
        let patch_size = self.patch_size.unwrap_or(preset.patch_size);
        BackboneShape {
            image_size: self.image_size.unwrap_or(data_image_size),
            patch_size,
            stride: if preset.stride == preset.patch_size { patch_size } else { preset.stride },
            stem: self.stem,
            embed_dim: self.embed_dim.unwrap_or(preset.embed_dim),
            depth: self.depth.unwrap_or(preset.depth),
            num_heads: self.num_heads.unwrap_or(preset.num_heads),
            d_state: self.d_state.unwrap_or(preset.d_state),
            drop_path: self.drop_path,
            features: self.features,
            ..preset
        }
    }

    /// Checks each size on its own.
    fn check_sizes(&self, shape: &BackboneShape) -> Result<(), ConfigError> {
        let mut checks = Checks::default();
        checks.fraction("drop_path", self.drop_path);
        checks.size_up_to("image_size", MAX_SIDE, shape.image_size);
        checks.size_up_to("patch_size", MAX_SIDE, shape.patch_size);
        checks.size("embed_dim", shape.embed_dim);
        checks.size_up_to("depth", MAX_DEPTH, shape.depth);
        let (own, size, other, set, kind) = match shape.branch {
            Branch::Vit => ("num_heads", shape.num_heads, "d_state", self.d_state, "ViT"),
            Branch::Mamba => {
                ("d_state", shape.d_state, "num_heads", self.num_heads, "Vision Mamba")
            }
        };
        checks.size_up_to(own, MAX_SIZE, size);
        if set.is_some() {
            checks.fail(other, format_args!(" does not apply: {} is a {kind}", self.name));
        }
        checks.finish()
    }

    /// Checks that the sizes fit each other.
    fn check_tiling(&self, shape: &BackboneShape) -> Result<(), ConfigError> {
        let mut checks = Checks::default();
        if let Some(rest) = shape.untiled().or_else(|| too_many_patches(shape)) {
            checks.fail("image_size", rest);
        }
        let parameters = shape.parameters();
        if parameters > MAX_PARAMETERS {
            let rest = format_args!(
                " {} makes {:.0} billion parameters, with depth {} and patch_size {}; no machine \
                 has the memory for more than {:.0} billion: choose smaller sizes",
                shape.embed_dim,
                parameters / 1e9,
                shape.depth,
                shape.patch_size,
                MAX_PARAMETERS / 1e9,
            );
            checks.fail("embed_dim", rest);
        }
        if shape.stem == Stem::Conv {
            let halves = shape.patch_size >= 2 && shape.patch_size.count_ones() == 1;
            let rule =
                "a power of two of at least 2 for stem: conv, whose convolutions halve the side";
            checks.require(halves, "patch_size", rule, shape.patch_size);
            if shape.stride < shape.patch_size {
                let rest = format_args!(
                    ": conv does not apply: the patches of {} overlap; choose a preset whose \
                     patches do not",
                    self.name
                );
                checks.fail("stem", rest);
            }
        }
        if shape.branch == Branch::Vit {
            let rule = format_args!("a multiple of num_heads, {}", shape.num_heads);
            let holds = shape.embed_dim % shape.num_heads == 0;
            checks.require(holds, "embed_dim", rule, shape.embed_dim);
        }
        let reduction = shape.variant.class_reduction;
        let rule = format_args!("a multiple of {reduction}, by which the neck divides it");
        checks.require(shape.embed_dim % reduction == 0, "embed_dim", rule, shape.embed_dim);
        checks.finish()
    }

    /// Returns [`resolve`](Self::resolve) for the section `key`: errors have full keys, and name
    /// `data.image_size` where the image size comes from it.
    pub(super) fn resolve_as(
        &self,
        key: &str,
        data_image_size: i64,
    ) -> Result<BackboneShape, ConfigError> {
        let resolved = self.resolve(data_image_size);
        resolved.map_err(|error| match error.under(key) {
            ConfigError::Invalid(mut problems) if self.image_size.is_none() => {
                let own = format!("{key}.image_size");
                for problem in problems.iter_mut().filter(|problem| problem.key == own) {
                    problem.key = "data.image_size".into();
                    problem.message = problem.message.replacen(&own, &problem.key, 1);
                }
                ConfigError::Invalid(problems)
            }
            error => error,
        })
    }
}

/// Describes what is wrong with an image of more patches than the memory of any machine holds.
fn too_many_patches(shape: &BackboneShape) -> Option<String> {
    if shape.patches() <= MAX_GRID * MAX_GRID {
        return None;
    }
    let largest = shape.patch_size + (MAX_GRID - 1) * shape.stride;
    Some(format!(
        " {} makes {} patches of {} pixels, at most {} fit into memory: at this patch_size the \
         largest is {largest}",
        shape.image_size,
        shape.patches(),
        shape.patch_size,
        MAX_GRID * MAX_GRID,
    ))
}

fn preset_names(wanted: impl Fn(&Preset) -> bool) -> String {
    let names: Vec<&str> =
        PRESETS.iter().filter(|preset| wanted(preset)).map(|preset| preset.name).collect();
    names.join(", ")
}

impl ModelConfig {
    /// Checks that the weights files of the branches in use exist. Not part of
    /// [`Config::validate`](super::Config::validate): a summary needs no weights, and neither does
    /// a run that is evaluated on another machine. Returns an error that names the key and the
    /// file.
    pub fn check_weights(&self) -> Result<(), ConfigError> {
        let mut checks = Checks::default();
        if let Some(file) = &self.weights {
            let rest = format_args!(
                ": there is no file {}; name a run's best.safetensors, or set it to null",
                file.display()
            );
            if !file.is_file() {
                checks.fail("model.weights", rest);
            }
            return checks.finish();
        }
        for &branch in Branch::ALL {
            let backbone = self.backbone(branch);
            let used = self.fusion.strategy.uses(branch);
            let Some(WeightsSource::File(file)) = backbone.weights.as_ref().filter(|_| used) else {
                continue;
            };
            let key = format!("model.{branch}.weights");
            if file.is_dir() {
                checks.fail(&key, format_args!(" {}", weights_in(file)));
            } else if !file.exists() {
                let published = match backbone.published().first() {
                    Some(name) => format!(", set {key} to pretrained, which downloads {name},"),
                    None => String::new(),
                };
                let rest = format_args!(
                    ": there is no file {}; put the weights there{published} or set {key} to null \
                     to start from random weights",
                    file.display(),
                );
                checks.fail(&key, rest);
            }
        }
        checks.finish()
    }

    /// Returns the section of a branch.
    pub fn backbone(&self, branch: Branch) -> &BackboneConfig {
        match branch {
            Branch::Vit => &self.vit,
            Branch::Mamba => &self.mamba,
        }
    }

    /// Returns the image sizes nearest to `size` that the patches of both branches tile; `None` if
    /// `size` is one, or if the branches have patches or image sizes of their own.
    fn sizes_for_both(&self, size: i64) -> Option<String> {
        let shape = |branch: Branch| {
            let backbone = self.backbone(branch);
            let takes = self.fusion.strategy.uses(branch) && backbone.image_size.is_none();
            Some(backbone.override_sizes(preset(&backbone.name).filter(|_| takes)?.shape, size))
        };
        let (vit, mamba) = (shape(Branch::Vit)?, shape(Branch::Mamba)?);
        let fits = |size: &i64| vit.tiles(*size) && mamba.tiles(*size);
        let same = (vit.patch_size, vit.stride) == (mamba.patch_size, mamba.stride);
        if same || fits(&size) {
            return None;
        }
        let below = (1..size.min(MAX_SIDE)).rev().find(fits);
        let sizes = below.into_iter().chain((size.max(1)..=MAX_SIDE).find(fits));
        let sizes: Vec<String> = sizes.map(|size| size.to_string()).collect();
        (!sizes.is_empty()).then(|| sizes.join(" or "))
    }

    pub(super) fn check(&self, data_image_size: i64, checks: &mut Checks) {
        let for_both = self.sizes_for_both(data_image_size);
        for &branch in Branch::ALL {
            let backbone = self.backbone(branch);
            let used = self.fusion.strategy.uses(branch);
            if let Some(preset) = preset(&backbone.name)
                && preset.shape.branch != branch
            {
                let rule = format!("one of {}", preset_names(|known| known.shape.branch == branch));
                checks.require(false, &format!("{branch}.name"), rule, preset.name);
            } else if (used || preset(&backbone.name).is_none())
                && let Err(mut error) =
                    backbone.resolve_as(&format!("model.{branch}"), data_image_size)
            {
                if let (ConfigError::Invalid(problems), Some(sizes)) = (&mut error, &for_both) {
                    let is_size = |problem: &&mut Problem| problem.key == "data.image_size";
                    for problem in problems.iter_mut().filter(is_size) {
                        problem.message += &format!("; both branches take {sizes}");
                    }
                }
                // The sizes of an unused branch need not fit the images.
                checks.include(error);
            }
            if used
                && preset(&backbone.name).is_some()
                && let Err(error) = backbone.weights_source()
            {
                checks.include(error.under(&format!("model.{branch}")));
            }
        }
        checks.within("fusion", |checks| self.fusion.check(checks));
        checks.within("head", |checks| self.head.check(checks));
    }
}
