//! Grad-CAM (arXiv 1610.02391) on the tokens of both branches.
//!
//! The map is taken where a block's mixer receives its tokens: of the last block's output only the class token's row is used, so
//! the gradient at its patch tokens is zero and a map taken there is blank.

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor};

use super::recorder::Recorder;
use super::scale::scaled;
use crate::config::BackboneKind;
use crate::models::{BeautyNet, Images};

/// One branch's maps of a batch.
#[derive(Debug)]
pub struct BranchMap {
    /// (b, grid, grid): the parts that raise the score; not scaled.
    pub grid: Tensor,
    /// (b, s, s): the same over the branch's picture, from 0 to 1.
    pub picture: Tensor,
}

/// What [`grad_cam`] gives; nothing of it is attached to the network.
#[derive(Debug)]
pub struct GradCam {
    /// Of the ViT, if the model has one.
    pub vit: Option<BranchMap>,
    /// Of the Vision Mamba, if the model has one.
    pub mamba: Option<BranchMap>,
    /// (b): the prediction on the data set's own scale.
    pub score: Tensor,
    /// (b, 2): shares of the ViT and the Mamba branch, where the fusion strategy defines them.
    pub weights: Option<Tensor>,
}

/// Grad-CAM of the predicted score at one block of each branch; `None` is the last block. Gradients of parameters stay as they are.
///
/// # Errors
/// A block that is not there, pictures of a shape that the model does not take, or a call where recording of gradients is off.
pub fn grad_cam(
    net: &BeautyNet,
    images: Images,
    vit_layer: Option<usize>,
    mamba_layer: Option<usize>,
) -> Result<GradCam> {
    let mut recorder = Recorder::new(
        block(net, BackboneKind::Vit, vit_layer)?,
        block(net, BackboneKind::Vim, mamba_layer)?,
    );
    let output = net.forward_tapped(images, &mut recorder)?;
    let branches = [BackboneKind::Vit, BackboneKind::Vim];
    let leaves: Vec<&Tensor> = branches.iter().filter_map(|&b| recorder.kept(b)).collect();
    ensure!(
        output.score.requires_grad(),
        "Grad-CAM needs gradients: call it where their recording is on"
    );
    // Pictures of a batch do not depend on each other: the gradient of the sum holds that of each.
    let total = output.score.f_sum(Kind::Float)?;
    let mut gradients = Tensor::f_run_backward(&[&total], &leaves, false, false)?.into_iter();
    let mut map = |branch: BackboneKind| -> Result<Option<BranchMap>> {
        let (Some(leaf), Some(shape)) = (recorder.kept(branch), net.branch(branch)) else {
            return Ok(None);
        };
        let gradient = gradients.next().context("a branch got no gradient")?;
        let class = net
            .class_index(branch)
            .context("a branch has no class token")?;
        let weights = patches(&gradient, class)?.f_mean_dim(1, true, Kind::Float)?; // (b, 1, d)
        let map = (patches(&leaf.detach(), class)? * weights)
            .f_sum_dim_intlist(-1, false, Kind::Float)?
            .f_relu()?;
        let grid = map.f_reshape([-1, shape.grid(), shape.grid()])?;
        Ok(Some(BranchMap {
            picture: scaled(&grid, shape.image_size)?,
            grid,
        }))
    };
    Ok(GradCam {
        vit: map(BackboneKind::Vit)?,
        mamba: map(BackboneKind::Vim)?,
        score: output.score.detach(),
        weights: output.weights.map(|weights| weights.detach()),
    })
}

/// The index of the chosen block of a branch; 0 where the model lacks the branch.
fn block(net: &BeautyNet, branch: BackboneKind, chosen: Option<usize>) -> Result<usize> {
    let Some(shape) = net.branch(branch) else {
        return Ok(0);
    };
    let depth = shape.depth as usize;
    match chosen {
        Some(layer) if layer >= depth => bail!(
            "there is no block {layer}: the {} has {depth}, from 0 to {}",
            match branch {
                BackboneKind::Vit => "ViT",
                BackboneKind::Vim => "Vision Mamba",
            },
            depth.saturating_sub(1)
        ),
        Some(layer) => Ok(layer),
        None => Ok(depth.saturating_sub(1)),
    }
}

/// The patch tokens (b, patches, d) of all tokens (b, 1 + patches, d).
fn patches(tokens: &Tensor, class: i64) -> Result<Tensor> {
    let after = tokens.size3()?.1 - class - 1;
    Ok(Tensor::f_cat(
        &[
            tokens.f_narrow(1, 0, class)?,
            tokens.f_narrow(1, class + 1, after)?,
        ],
        1,
    )?)
}
