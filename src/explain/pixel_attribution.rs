//! Attribution to the pixels: integrated gradients and occlusion.
//!
//! The baseline of both methods is the normalization's mean color. Occlusion of one branch's image
//! leaves the other branch's image intact.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::options::branches;
use crate::config::{BackboneShape, Branch};
use crate::models::{BeautyNet, ForwardContext, Images, Tap};

/// Points on the path from the baseline to the image, at the midpoints of as many equal intervals.
/// The paper recommends 20 to 300; with more points the attributions sum closer to the score's
/// difference.
pub const PATH_STEPS: usize = 32;

/// Patches per side of the occluded window.
const WINDOW: i64 = 2;

/// Scales each branch's images and keeps them as leaves with gradients.
struct ScaledImages {
    factor: f64,
    leaves: Vec<(Branch, Tensor)>,
}

impl Tap for ScaledImages {
    fn images(&mut self, branch: Branch, x: Tensor) -> Tensor {
        let leaf = (x * self.factor).detach().set_requires_grad(true);
        self.leaves.push((branch, leaf.shallow_clone()));
        leaf
    }
}

/// Computes integrated gradients (Sundararajan et al., arXiv 1703.01365) of the score for each
/// branch: the contribution of each value of its normalized images (b, 3, s, s). Over both branches
/// they sum to the difference between the scores of image and baseline. Returns an error if the
/// images have the wrong shape or autograd is off.
pub fn integrated_gradients(
    net: &BeautyNet,
    images: Images,
    steps: usize,
) -> Result<Vec<(Branch, Tensor)>> {
    let mut sums: Vec<Tensor> = Vec::new();
    for step in 0..steps.max(1) {
        let factor = (step as f64 + 0.5) / steps.max(1) as f64;
        let mut scaled = ScaledImages { factor, leaves: Vec::new() };
        let output = net.forward_tapped(images, &mut scaled)?;
        ensure!(output.score.requires_grad(), "integrated gradients need autograd, which is off");
        let leaves: Vec<&Tensor> = scaled.leaves.iter().map(|(_, leaf)| leaf).collect();
        let total = output.score.f_sum(Kind::Float)?;
        let gradients = Tensor::f_run_backward(&[&total], &leaves, false, false)?;
        sums = if sums.is_empty() {
            gradients
        } else {
            sums.iter().zip(&gradients).map(|(a, b)| a + b).collect()
        };
    }
    let _guard = tch::no_grad_guard();
    let mut unscaled = ScaledImages { factor: 1.0, leaves: Vec::new() };
    net.forward_tapped(images, &mut unscaled)?;
    let mean = 1.0 / steps.max(1) as f64;
    let attributions = unscaled.leaves.into_iter().zip(sums);
    Ok(attributions.map(|((branch, x), sum)| (branch, (x * sum * mean).detach())).collect())
}

/// Sums attributions (b, 3, s, s) over each patch: (b, grid, grid).
pub(super) fn sum_by_patch(attributions: &Tensor, shape: &BackboneShape) -> Result<Tensor> {
    let grid = shape.grid();
    let area = (shape.image_size / grid).pow(2) as f64;
    let pixels = attributions.f_sum_dim_intlist(1, true, Kind::Float)?;
    Ok(pixels.f_adaptive_avg_pool2d([grid, grid])?.f_squeeze_dim(1)? * area)
}

/// Occludes a window: top, left, height, width in pixels; a window of 0 pixels hides nothing.
struct Occluder([i64; 4]);

impl Tap for Occluder {
    fn images(&mut self, _branch: Branch, x: Tensor) -> Tensor {
        let x = x.copy();
        let [top, left, height, width] = self.0;
        let _ = x.narrow(2, top, height).narrow(3, left, width).zero_();
        x
    }
}

/// Computes the drop of the score when a window over each patch of one branch's image is occluded
/// (Zeiler and Fergus, arXiv 1311.2901), averaged over the windows that contain the patch: (b,
/// grid, grid). `score` (b) is the score of the intact image.
pub(super) fn occlusion(
    net: &BeautyNet,
    images: Images,
    branch: Branch,
    score: &Tensor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let shape = net.branch(branch).context("the model lacks the branch")?;
    let (grid, side) = (shape.grid(), shape.image_size);
    let window = WINDOW.min(grid);
    let edge = |patch: i64| patch * side / grid;
    let other = branches(net).find(|&(other, _)| other != branch);
    // The other branch's image does not change, so that branch runs once.
    let other_tokens = match other {
        Some((other, _)) => net.branch_tokens(other, images, &mut Occluder([0; 4]))?,
        None => None,
    };
    let batch = score.size1()?;
    let sums = Tensor::f_zeros([batch, grid, grid], (Kind::Float, score.device()))?;
    let counts = Tensor::f_zeros([grid, grid], (Kind::Float, score.device()))?;
    for row in 0..=grid - window {
        for column in 0..=grid - window {
            let (top, left) = (edge(row), edge(column));
            let hidden = [top, left, edge(row + window) - top, edge(column + window) - left];
            let tokens = net.branch_tokens(branch, images, &mut Occluder(hidden))?;
            let other = other_tokens.as_ref().map(|tokens| tokens.shallow_clone());
            let eval = ForwardContext::eval();
            let output = match branch {
                Branch::Vit => net.join_tokens(tokens, other, eval)?,
                Branch::Mamba => net.join_tokens(other, tokens, eval)?,
            };
            let drop = (score - output.score).view([batch, 1, 1]);
            let region =
                |x: &Tensor, dim: i64| x.narrow(dim, row, window).narrow(dim + 1, column, window);
            let _ = region(&sums, 1).g_add_(&drop);
            let _ = region(&counts, 0).g_add_scalar_(1.0);
        }
    }
    Ok(sums / counts)
}
