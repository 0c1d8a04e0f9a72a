//! Maps that come from changing the pixels.
//!
//! An image without content is, for both methods, one of the normalization's mean color. The other
//! branch sees the image whole.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::request::present;
use crate::config::{BackboneKind, BackboneShape};
use crate::models::{BeautyNet, Images, Tap};

/// Points on the way from the image without content to the image, at the middles of as many equal
/// parts. The paper finds 20 to 300 enough for the attributions to add up to the score's
/// difference; more are closer.
pub const PATH_STEPS: usize = 32;

/// Patches a side of the window that occlusion covers.
const WINDOW: i64 = 2;

/// Gives each branch its images times a factor, and keeps them as leaves that want their gradients.
struct Faded {
    factor: f64,
    leaves: Vec<(BackboneKind, Tensor)>,
}

impl Tap for Faded {
    fn images(&mut self, branch: BackboneKind, x: Tensor) -> Tensor {
        let leaf = (x * self.factor).detach().set_requires_grad(true);
        self.leaves.push((branch, leaf.shallow_clone()));
        leaf
    }
}

/// Keeps each branch's images.
#[derive(Default)]
struct Seen(Vec<(BackboneKind, Tensor)>);

impl Tap for Seen {
    fn images(&mut self, branch: BackboneKind, x: Tensor) -> Tensor {
        self.0.push((branch, x.shallow_clone()));
        x
    }
}

/// Integrated gradients (Sundararajan et al., arXiv 1703.01365) of the score for the branches that
/// the model has: what each value of each branch's normalized images (b, 3, s, s) adds to the
/// score. Over both branches they add up to the score's difference from that of the image without
/// content.
///
/// # Errors
/// Images that the model does not take, or recording of gradients is off.
pub fn integrated_gradients(
    net: &BeautyNet,
    images: Images,
    steps: usize,
) -> Result<Vec<(BackboneKind, Tensor)>> {
    let mut sums: Vec<Tensor> = Vec::new();
    for step in 0..steps.max(1) {
        let mut faded =
            Faded { factor: (step as f64 + 0.5) / steps.max(1) as f64, leaves: Vec::new() };
        let output = net.forward_tapped(images, &mut faded)?;
        ensure!(
            output.score.requires_grad(),
            "integrated gradients need gradients: call it where their recording is on"
        );
        let leaves: Vec<&Tensor> = faded.leaves.iter().map(|(_, leaf)| leaf).collect();
        let total = output.score.f_sum(Kind::Float)?;
        let gradients = Tensor::f_run_backward(&[&total], &leaves, false, false)?;
        sums = if sums.is_empty() {
            gradients
        } else {
            sums.iter().zip(&gradients).map(|(a, b)| a + b).collect()
        };
    }
    let _guard = tch::no_grad_guard();
    let mut seen = Seen::default();
    net.forward_tapped(images, &mut seen)?;
    let mean = 1.0 / steps.max(1) as f64;
    let attributions = seen.0.into_iter().zip(sums);
    Ok(attributions.map(|((branch, x), sum)| (branch, (x * sum * mean).detach())).collect())
}

/// Attributions (b, 3, s, s) summed over each patch: (b, grid, grid).
pub(super) fn by_patch(attributions: &Tensor, shape: &BackboneShape) -> Result<Tensor> {
    let grid = shape.grid();
    let area = (shape.image_size / grid).pow(2) as f64;
    let pixels = attributions.f_sum_dim_intlist(1, true, Kind::Float)?;
    Ok(pixels.f_adaptive_avg_pool2d([grid, grid])?.f_squeeze_dim(1)? * area)
}

/// Covers a window of one branch's images.
struct Covered {
    branch: BackboneKind,
    /// Top, left, height, width in pixels.
    window: [i64; 4],
}

impl Tap for Covered {
    fn images(&mut self, branch: BackboneKind, x: Tensor) -> Tensor {
        if branch != self.branch {
            return x;
        }
        let x = x.copy();
        let [top, left, height, width] = self.window;
        let _ = x.narrow(2, top, height).narrow(3, left, width).zero_();
        x
    }
}

/// By how much the score falls where a window over each patch is covered in one branch's image
/// (Zeiler and Fergus, arXiv 1311.2901), mean over the windows that cover the patch: (b, grid,
/// grid). `score` (b) is that of the whole image.
pub(super) fn occlusion(
    net: &BeautyNet,
    images: Images,
    branch: BackboneKind,
    score: &Tensor,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let shape = net.branch(branch).context("the model lacks the branch")?;
    let (grid, side) = (shape.grid(), shape.image_size);
    let window = WINDOW.min(grid);
    let edge = |patch: i64| patch * side / grid;
    let other = present(net).find(|&other| other != branch);
    // What the other branch sees does not change: it runs once.
    let other_tokens = match other {
        Some(other) => net.branch_tokens(other, images, &mut Seen::default())?,
        None => None,
    };
    let batch = score.size1()?;
    let sums = Tensor::f_zeros([batch, grid, grid], (Kind::Float, score.device()))?;
    let counts = Tensor::f_zeros([grid, grid], (Kind::Float, score.device()))?;
    for row in 0..=grid - window {
        for column in 0..=grid - window {
            let (top, left) = (edge(row), edge(column));
            let mut covered = Covered {
                branch,
                window: [top, left, edge(row + window) - top, edge(column + window) - left],
            };
            let tokens = net.branch_tokens(branch, images, &mut covered)?;
            let other = other_tokens.as_ref().map(|tokens| tokens.shallow_clone());
            let output = match branch {
                BackboneKind::Vit => net.join_tokens(tokens, other)?,
                BackboneKind::Vim => net.join_tokens(other, tokens)?,
            };
            let fall = (score - output.score).view([batch, 1, 1]);
            let part =
                |x: &Tensor, dim: i64| x.narrow(dim, row, window).narrow(dim + 1, column, window);
            let _ = part(&sums, 1).g_add_(&fall);
            let _ = part(&counts, 0).g_add_scalar_(1.0);
        }
    }
    Ok(sums / counts)
}
