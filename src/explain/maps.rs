//! Attribution maps of a batch, by any method.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::attention::rollout;
use super::cam::cam;
use super::options::{ExplainOptions, Method, branches};
use super::pixel_attribution::{PATH_STEPS, integrated_gradients, occlusion, sum_by_patch};
use super::recorder::Recorder;
use crate::config::Branch;
use crate::models::tokens::TokenLayout;
use crate::models::{BeautyNet, Images};

/// Avoids a division by zero when a map is scaled; pytorch-grad-cam's value.
const EPS: f64 = 1e-7;

/// One branch's attribution maps of a batch.
#[derive(Debug)]
pub struct BranchMaps {
    /// The explained blocks; empty for a method of the pixels, which has one map.
    pub layers: Vec<usize>,
    /// The maps (b, maps, grid, grid) over the branch's patches, not scaled.
    pub grid: Tensor,
    /// The side of the branch's input image, in pixels.
    pub side: i64,
}

impl BranchMaps {
    /// Returns the maps over the branch's input image: (b, maps, s, s), each from 0 to 1.
    pub fn image(&self) -> Result<Tensor> {
        let (b, maps, grid, _) = self.grid.size4()?;
        let flat = self.grid.f_reshape([b * maps, grid, grid])?;
        Ok(scale_maps(&flat, self.side)?.f_reshape([b, maps, self.side, self.side])?)
    }

    /// Returns the last block's map, or the only map: (b, grid, grid), from 0 to 1. Returns an
    /// error if there is no map.
    pub fn last(&self) -> Result<Tensor> {
        let maps = self.grid.size4()?.1;
        min_max_scale(&self.grid.f_select(1, maps - 1)?)
    }
}

/// The explanation of a batch, detached from the network.
#[derive(Debug)]
pub struct Explanation {
    /// Maps of the ViT, if the model has one.
    pub vit: Option<BranchMaps>,
    /// Maps of the Vision Mamba, if the model has one.
    pub mamba: Option<BranchMaps>,
    /// The predictions (b) on the dataset's own scale.
    pub score: Tensor,
    /// The fusion weights (b, 2) of ViT and Mamba, if the fusion strategy defines them.
    pub weights: Option<Tensor>,
}

impl Explanation {
    /// Returns a branch's maps, if the model has the branch.
    pub fn branch(&self, branch: Branch) -> Option<&BranchMaps> {
        match branch {
            Branch::Vit => self.vit.as_ref(),
            Branch::Mamba => self.mamba.as_ref(),
        }
    }

    pub(super) fn branches(&self) -> impl Iterator<Item = (Branch, &BranchMaps)> {
        Branch::ALL.iter().filter_map(|&branch| Some((branch, self.branch(branch)?)))
    }

    /// Returns the mean of the branches' last maps, weighted by the fusion weights, or equally if
    /// the fusion strategy defines none: (b, s, s), from 0 to 1. `None` for a model of one branch.
    pub fn fused(&self) -> Result<Option<Tensor>> {
        let (Some(vit), Some(mamba)) = (&self.vit, &self.mamba) else {
            return Ok(None);
        };
        let side = vit.side.max(mamba.side);
        let [vit, mamba] = [vit, mamba].map(|maps| scale_maps(&maps.last()?, side));
        Ok(Some(min_max_scale(&self.fuse(&vit?, &mamba?))?))
    }

    /// Returns the mean of the branches' maps (b, h, w), weighted by the fusion weights.
    pub(super) fn fuse(&self, vit: &Tensor, mamba: &Tensor) -> Tensor {
        match &self.weights {
            Some(weights) => {
                let weight = |branch: i64| weights.select(1, branch).view([-1, 1, 1]);
                vit * weight(0) + mamba * weight(1)
            }
            None => (vit + mamba) * 0.5,
        }
    }
}

/// Computes the attribution maps of each branch for every image of a batch. The parameters'
/// gradients do not change. Returns an error if the options do not fit the model, the images have
/// the wrong shape, or the method needs gradients while autograd is off.
pub fn explain(net: &BeautyNet, images: Images, options: &ExplainOptions) -> Result<Explanation> {
    options.check(net)?;
    let mut recorder = Recorder::new(net, options)?;
    let guard = (!recorder.has_gradients()).then(tch::no_grad_guard);
    let output = net.forward_tapped(images, &mut recorder)?;
    drop(guard);
    let mut gradients = gradients(net, options, &recorder, &output.score)?.into_iter();
    let mut integrated = Vec::new();
    let mut explanation = Explanation {
        vit: None,
        mamba: None,
        score: output.score.detach(),
        weights: output.weights.map(|weights| weights.detach()),
    };
    for (branch, shape) in branches(net) {
        let method = options.branch(branch).method;
        let layers = options.branch(branch).blocks(branch, shape)?;
        let layout = net.token_layout(branch).context("the model lacks the branch")?;
        let inputs = recorder.inputs(branch);
        let maps: Vec<Tensor> = match method {
            Method::IntegratedGradients => {
                if integrated.is_empty() {
                    integrated = integrated_gradients(net, images, PATH_STEPS)?;
                }
                let attributions = integrated.iter().find(|(of, _)| *of == branch);
                let (_, attributions) = attributions.context("a branch got no attributions")?;
                vec![sum_by_patch(attributions, shape)?.f_relu()?]
            }
            Method::Occlusion => {
                vec![occlusion(net, images, branch, &explanation.score)?.f_relu()?]
            }
            _ if method.is_rollout() => {
                let _guard = tch::no_grad_guard();
                let mut maps = rollout(net, branch, layout, inputs)?;
                maps.split_off(maps.len().saturating_sub(layers.len()))
            }
            _ => cam_maps(method, inputs, &mut gradients, layout)?,
        };
        let shape_of_maps = [-1, maps.len() as i64, shape.grid(), shape.grid()];
        let grid = Tensor::f_stack(&maps, 1)?.f_reshape(shape_of_maps)?.detach();
        let maps = Some(BranchMaps { layers, grid, side: shape.image_size });
        match branch {
            Branch::Vit => explanation.vit = maps,
            Branch::Mamba => explanation.mamba = maps,
        }
    }
    Ok(explanation)
}

/// Computes a class activation map of each block from its input tokens (b, tokens, d).
fn cam_maps(
    method: Method,
    inputs: &[Tensor],
    gradients: &mut impl Iterator<Item = Tensor>,
    layout: TokenLayout,
) -> Result<Vec<Tensor>> {
    inputs
        .iter()
        .map(|tokens| {
            let gradient = gradients.next().context("a block got no gradient")?;
            let gradient = layout.patches_of(&gradient)?;
            cam(method, &layout.patches_of(&tokens.detach())?, &gradient)
        })
        .collect()
}

/// Computes the score's gradients with regard to the recorded inputs, branch by branch and block by
/// block.
fn gradients(
    net: &BeautyNet,
    options: &ExplainOptions,
    recorder: &Recorder,
    score: &Tensor,
) -> Result<Vec<Tensor>> {
    let leaves: Vec<&Tensor> = branches(net)
        .filter(|&(branch, _)| options.branch(branch).method.needs_gradients())
        .flat_map(|(branch, _)| recorder.inputs(branch))
        .collect();
    if leaves.is_empty() {
        return Ok(Vec::new());
    }
    ensure!(score.requires_grad(), "this method needs gradients, but autograd is off");
    // The images of a batch are independent: the sum's gradient holds the gradient of each score.
    let total = score.f_sum(Kind::Float)?;
    Ok(Tensor::f_run_backward(&[&total], &leaves, false, false)?)
}

/// Resizes maps (b, g, g) to (b, side, side) with values from 0 to 1, as pytorch-grad-cam does:
/// each map is min-max scaled, resized bilinearly, and min-max scaled again. Returns libtorch's
/// error if the maps have another shape.
pub fn scale_maps(maps: &Tensor, side: i64) -> Result<Tensor> {
    let resized = min_max_scale(maps)?
        .f_unsqueeze(1)?
        .f_upsample_bilinear2d([side, side], false, None, None)?
        .f_squeeze_dim(1)?;
    min_max_scale(&resized)
}

/// Scales each map (b, h, w) linearly so that its minimum is 0 and its maximum 1. A constant map
/// becomes 0.
fn min_max_scale(maps: &Tensor) -> Result<Tensor> {
    let maps = maps.f_to_kind(Kind::Float)?;
    let shifted = &maps - maps.f_amin([1, 2], true)?;
    Ok(&shifted / (shifted.f_amax([1, 2], true)? + EPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_map_becomes_zero() {
        let flat = Tensor::full([2, 3, 3], 0.7, (Kind::Float, tch::Device::Cpu));
        let out = scale_maps(&flat, 12).unwrap();
        assert_eq!(out.size(), [2, 12, 12]);
        assert_eq!(out.abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn maps_are_scaled_independently_and_keep_their_position() {
        let maps = Tensor::zeros([2, 4, 4], (Kind::Float, tch::Device::Cpu));
        let _ = maps.get(0).get(1).get(2).fill_(5.0);
        let _ = maps.get(1).get(3).get(0).fill_(0.1);
        let out = scale_maps(&maps, 16).unwrap();
        for (map, row, column) in [(0, 5, 9), (1, 14, 1)] {
            let value = out.double_value(&[map, row, column]);
            assert!(value > 0.7, "map {map}: {value}");
            assert!((out.get(map).max().double_value(&[]) - 1.0).abs() < 1e-5);
        }
    }
}
