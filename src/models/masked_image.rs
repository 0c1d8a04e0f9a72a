//! Masked image modeling (SimMIM, arXiv 2111.09886): a backbone gets an image with masked patches,
//! and a linear layer on each token predicts the pixels of its patch.

use anyhow::Result;
use tch::{Device, Kind, Tensor, nn};

use super::encoder::{Encoder, branch_parameters, named_parameters};
use super::forward_context::ForwardContext;
use super::images::Images;
use super::layers::{Init, Linear, Masked, Parameter};
use super::patch_embed::pixels_of_patches;
use super::weights::{Note, load_backbone};
use crate::config::{BackboneConfig, BackboneShape, Branch, Stem};

/// Added to the variance of a patch's pixels.
const VARIANCE_EPS: f64 = 1e-6;
const WEIGHT: Init = Init::TruncNormal { std: 0.02 };

/// The predictions for a batch's images.
#[derive(Debug)]
pub struct Prediction {
    /// (b, patches, 3·p·p), from each patch's own token: by channel, then row, then column.
    pub pixels: Tensor,
    /// (b, patches, 3): each patch's mean color, from the feature vector.
    pub colors: Option<Tensor>,
}

/// Scalar losses, means over the masked patches.
#[derive(Debug)]
pub struct Losses {
    /// Squared error of the pixels.
    pub pixels: Tensor,
    /// Squared error of the mean colors, in normalized pixels.
    pub colors: Option<Tensor>,
}

/// A backbone with the layers that pretrain it on images without scores.
#[derive(Debug)]
pub struct MaskedImageModel {
    encoder: Encoder,
    mask_token: Parameter,
    pixels: Linear,
    colors: Option<Linear>,
    variables: nn::VarStore,
    notes: Vec<Note>,
}

impl MaskedImageModel {
    /// Returns a model with random parameters, sampled from torch's generator (seed it first), then
    /// loads the weights that the backbone's config names. `colors` adds the feature vector's task.
    pub fn new(
        config: &BackboneConfig,
        shape: BackboneShape,
        colors: bool,
        device: Device,
    ) -> Result<Self> {
        let variables = nn::VarStore::new(device);
        let root = variables.root();
        let (dim, patch) = (shape.embed_dim, shape.patch_size);
        let mut model = Self {
            encoder: Encoder::new(&root, shape),
            mask_token: WEIGHT.parameter(&root, "mask_token", &[dim]),
            pixels: Linear::new(&root / "pixels", dim, 3 * patch * patch, true, WEIGHT),
            colors: colors.then(|| {
                let (path, patches) = (&root / "colors", shape.patches());
                Linear::new(path, shape.feature_width(), 3 * patches, true, WEIGHT)
            }),
            variables,
            notes: Vec::new(),
        };
        model.notes = load_backbone(&model.branch_parameters(), shape.branch, config)?;
        Ok(model)
    }

    /// Returns the backbone's branch.
    pub fn branch(&self) -> Branch {
        self.shape().branch
    }

    /// Returns the backbone's shape.
    pub fn shape(&self) -> &BackboneShape {
        &self.encoder.shape
    }

    /// Returns notes on the weights that were loaded.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Turns on activation checkpointing: training keeps only the tokens between the blocks, and
    /// backward runs each block again.
    pub fn recompute_blocks(&mut self) {
        self.encoder.recompute_blocks(&self.variables);
    }

    /// Normalizes uint8 images (b, 3, s, s) for the backbone.
    pub fn normalize(&self, images: &Tensor) -> Result<Tensor> {
        self.encoder.normalize(Images::Pixels(images))
    }

    /// Predicts the patches that `mask` (b, patches) masks in [normalized](Self::normalize) images.
    pub fn predict(&self, x: &Tensor, mask: &Tensor, ctx: ForwardContext) -> Result<Prediction> {
        let masked = Masked { mask, token: &self.mask_token };
        // Convolutions reach beyond their patch: masked pixels must not reach the neighbors.
        let masked_x = match self.shape().stem {
            Stem::Conv => Some(self.gray_out(x, mask)),
            Stem::Patchify => None,
        };
        let x = masked_x.as_ref().unwrap_or(x);
        let tokens = self.encoder.forward(x, Some(&masked), ctx)?;
        let patches = self.shape().patches();
        let colors = |layer: &Linear| layer.forward(tokens.features()).view([-1, patches, 3]);
        Ok(Prediction {
            pixels: self.pixels.forward(&tokens.patches()?),
            colors: self.colors.as_ref().map(colors),
        })
    }

    /// Returns the losses of a prediction for the images x over the patches that `mask` masks. With
    /// `normalized_pixels`, the targets are normalized by each patch's own mean and deviation.
    pub fn losses(
        &self,
        prediction: &Prediction,
        x: &Tensor,
        mask: &Tensor,
        normalized_pixels: bool,
    ) -> Result<Losses> {
        let patches = self.patches(x);
        let target = if normalized_pixels {
            let (mean, std) = mean_and_std(&patches);
            (&patches - mean) / std
        } else {
            patches.shallow_clone()
        };
        let color_error = |colors| masked_error(colors, &mean_colors(&patches), mask);
        let colors = prediction.colors.as_ref().map(color_error).transpose()?;
        Ok(Losses { pixels: masked_error(&prediction.pixels, &target, mask)?, colors })
    }

    /// Returns the images x with the patches that `mask` masks replaced by the predictions.
    /// Predictions of normalized pixels are rescaled with the patch's own mean and standard
    /// deviation.
    pub fn reconstruct(
        &self,
        prediction: &Prediction,
        x: &Tensor,
        mask: &Tensor,
        normalized_pixels: bool,
    ) -> Tensor {
        let patches = self.patches(x);
        let predicted = if normalized_pixels {
            let (mean, std) = mean_and_std(&patches);
            &prediction.pixels * std + mean
        } else {
            prediction.pixels.shallow_clone()
        };
        self.image(&predicted.where_self(&mask.unsqueeze(-1), &patches))
    }

    /// Returns the images x with their masked patches gray.
    pub fn gray_out(&self, x: &Tensor, mask: &Tensor) -> Tensor {
        let patches = self.patches(x);
        self.image(&patches.masked_fill(&mask.unsqueeze(-1), 0.0))
    }

    /// Returns [normalized](Self::normalize) images as uint8.
    pub fn denormalize(&self, x: &Tensor) -> Tensor {
        self.encoder.normalization.denormalize(x)
    }

    /// Images (b, 3, s, s) to patches (b, patches, 3·p·p).
    fn patches(&self, x: &Tensor) -> Tensor {
        let shape = self.shape();
        pixels_of_patches(x, shape.patch_size, shape.stride)
    }

    /// Patches (b, patches, 3·p·p) to images (b, 3, s, s).
    fn image(&self, patches: &Tensor) -> Tensor {
        let shape = self.shape();
        let (grid, p) = (shape.grid(), shape.patch_size);
        patches.view([-1, grid, grid, 3, p, p]).permute([0, 3, 1, 4, 2, 5]).reshape([
            -1,
            3,
            grid * p,
            grid * p,
        ])
    }

    /// Returns every parameter by name, sorted; the backbone's under `vit.` or `mamba.`. The
    /// tensors share their storage with the model.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        named_parameters(&self.variables)
    }

    /// Returns the backbone's parameters under their published names, sorted by name.
    pub fn branch_parameters(&self) -> Vec<(String, Tensor)> {
        branch_parameters(&self.variables, self.branch())
    }

    /// Returns the device of the parameters.
    pub fn device(&self) -> Device {
        self.variables.device()
    }
}

/// Returns mean and standard deviation of each patch's pixels (b, patches, 3·p·p), both
/// (b, patches, 1).
fn mean_and_std(patches: &Tensor) -> (Tensor, Tensor) {
    let mean = patches.mean_dim(-1, true, Kind::Float);
    let variance = patches.var_dim(-1, true, true);
    (mean, (variance + VARIANCE_EPS).sqrt())
}

/// Returns the mean color (b, patches, 3) of each patch's pixels (b, patches, 3·p·p).
fn mean_colors(patches: &Tensor) -> Tensor {
    patches.unflatten(-1, [3, -1]).mean_dim(-1, false, Kind::Float)
}

/// Returns the mean squared error of values (b, patches, n) over the patches that `mask`
/// (b, patches) masks.
fn masked_error(values: &Tensor, target: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let error = values.to_kind(Kind::Float).f_sub(target)?.f_square()?;
    let of_patches = error.f_mean_dim(-1, false, Kind::Float)?; // (b, patches)
    let mask = mask.to_kind(Kind::Float);
    Ok((of_patches * &mask).sum(Kind::Float) / mask.sum(Kind::Float))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn model(vit: bool, colors: bool) -> MaskedImageModel {
        model_with(vit, colors, Stem::Patchify)
    }

    fn model_with(vit: bool, colors: bool, stem: Stem) -> MaskedImageModel {
        // Stochastic depth would skip a block of the only image now and then.
        let sizes = format!("embed_dim: 24, depth: 2, drop_path: 0, stem: {stem}");
        let set = [
            "data.image_size=32".to_string(),
            format!("model.vit={{name: vit_micro_patch8_64, {sizes}}}"),
            format!("model.mamba={{name: vim_micro_patch8_64, {sizes}}}"),
        ];
        let config = Config::from_yaml("", "a.yaml", &set).unwrap();
        tch::manual_seed(1);
        let (branch, shape) = if vit {
            (&config.model.vit, config.shape(Branch::Vit))
        } else {
            (&config.model.mamba, config.shape(Branch::Mamba))
        };
        let shape = shape.unwrap().unwrap();
        MaskedImageModel::new(branch, shape, colors, Device::Cpu).unwrap()
    }

    fn images(b: i64) -> Tensor {
        Tensor::randint(256, [b, 3, 32, 32], (Kind::Uint8, Device::Cpu))
    }

    /// Returns a mask (1, 16) of the patches with these indices.
    fn mask(masked: &[usize]) -> Tensor {
        let mask: Vec<bool> = (0..16).map(|i| masked.contains(&i)).collect();
        Tensor::from_slice(&mask).view([1, 16])
    }

    #[test]
    fn every_parameter_gets_a_gradient() {
        for vit in [true, false] {
            let model = model(vit, true);
            let x = model.normalize(&images(1)).unwrap();
            let mask = mask(&[0, 3, 7, 9, 12]);
            let prediction = model.predict(&x, &mask, ForwardContext::train()).unwrap();
            let losses = model.losses(&prediction, &x, &mask, true).unwrap();
            (losses.pixels + losses.colors.unwrap()).backward();
            for (name, parameter) in model.parameters() {
                let gradient = parameter.grad();
                assert!(
                    gradient.defined() && gradient.abs().max().double_value(&[]) > 0.0,
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn every_parameter_gets_a_gradient_without_the_class_tokens_task() {
        for vit in [true, false] {
            let model = model(vit, false);
            let x = model.normalize(&images(1)).unwrap();
            let mask = mask(&[1, 2, 14]);
            let prediction = model.predict(&x, &mask, ForwardContext::train()).unwrap();
            let losses = model.losses(&prediction, &x, &mask, true).unwrap();
            assert!(losses.colors.is_none());
            losses.pixels.backward();
            for (name, parameter) in model.parameters() {
                assert!(parameter.grad().defined(), "{name}");
            }
        }
    }

    #[test]
    fn predictions_do_not_depend_on_masked_pixels() {
        for (vit, stem) in [
            (true, Stem::Patchify),
            (false, Stem::Patchify),
            (true, Stem::Conv),
            (false, Stem::Conv),
        ] {
            let model = model_with(vit, true, stem);
            let mask = mask(&[5, 6]);
            let a = model.normalize(&images(1)).unwrap();
            // Another image only in the masked patches.
            let b = model.normalize(&images(1)).unwrap();
            let patches = model.patches(&b).where_self(&mask.unsqueeze(-1), &model.patches(&a));
            let b = model.image(&patches);
            assert!(a != b);
            let predict = |x: &Tensor| model.predict(x, &mask, ForwardContext::eval()).unwrap();
            assert_eq!(predict(&a).pixels, predict(&b).pixels);
            assert_eq!(predict(&a).colors, predict(&b).colors);
        }
    }

    #[test]
    fn only_masked_patches_count() {
        let model = model(true, true);
        let x = model.normalize(&images(1)).unwrap();
        let mask = mask(&[5]);
        let prediction = model.predict(&x, &mask, ForwardContext::eval()).unwrap();
        let loss = |change: i64| {
            let pixels = prediction.pixels.copy();
            let _ = pixels.narrow(1, change, 1).detach().fill_(100.0);
            let changed = Prediction { pixels, colors: None };
            let losses = model.losses(&changed, &x, &mask, true).unwrap();
            losses.pixels.double_value(&[])
        };
        let unchanged = model.losses(&prediction, &x, &mask, true).unwrap();
        assert_eq!(loss(4), unchanged.pixels.double_value(&[]));
        assert!(loss(5) > 1000.0);
    }

    #[test]
    fn a_perfect_prediction_has_no_loss_and_reconstructs_the_image() {
        let model = model(false, true);
        let images = images(2);
        let x = model.normalize(&images).unwrap();
        let mask = Tensor::cat(&[mask(&[0, 1, 2]), mask(&[15])], 0);
        for normalized_pixels in [true, false] {
            let patches = model.patches(&x);
            let (mean, std) = mean_and_std(&patches);
            let prediction = Prediction {
                pixels: if normalized_pixels {
                    (&patches - mean) / std
                } else {
                    patches.shallow_clone()
                },
                colors: Some(mean_colors(&patches)),
            };
            let losses = model.losses(&prediction, &x, &mask, normalized_pixels).unwrap();
            assert!(losses.pixels.double_value(&[]) < 1e-9);
            assert_eq!(losses.colors.unwrap().double_value(&[]), 0.0);
            let reconstructed = model.reconstruct(&prediction, &x, &mask, normalized_pixels);
            assert_eq!(model.denormalize(&reconstructed), images);
            assert_eq!(model.denormalize(&x), images);
        }
    }

    #[test]
    fn masked_patches_turn_gray_and_the_others_do_not_change() {
        let model = model(true, false);
        let x = model.normalize(&images(1)).unwrap();
        let masked = model.gray_out(&x, &mask(&[1]));
        let patches = |x: &Tensor| model.patches(x);
        assert_eq!(patches(&masked).get(0).get(1).abs().max().double_value(&[]), 0.0);
        assert_eq!(patches(&masked).get(0).get(0), patches(&x).get(0).get(0));
        assert_eq!(patches(&masked).get(0).get(2), patches(&x).get(0).get(2));
    }
}
