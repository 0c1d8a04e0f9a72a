//! Maps of a batch, by whatever method.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::Method;
use super::cam::cam;
use super::pixels::{PATH_STEPS, by_patch, integrated_gradients, occlusion};
use super::recorder::Recorder;
use super::request::{Request, present};
use super::rollout::rollout;
use super::scale::{scaled, to_unit};
use crate::config::BackboneKind;
use crate::models::{BeautyNet, Images};

/// One branch's maps of a batch.
#[derive(Debug)]
pub struct BranchMaps {
    /// The blocks that the maps are of; none for a method of the pixels, which has one map.
    pub layers: Vec<usize>,
    /// (b, maps, grid, grid): not scaled.
    pub grid: Tensor,
    /// The side of the branch's image, in pixels.
    pub side: i64,
}

impl BranchMaps {
    /// (b, maps, s, s): over the branch's image, each from 0 to 1.
    ///
    /// # Errors
    /// libtorch's message where memory runs out.
    pub fn image(&self) -> Result<Tensor> {
        let (b, maps, grid, _) = self.grid.size4()?;
        let flat = self.grid.f_reshape([b * maps, grid, grid])?;
        Ok(scaled(&flat, self.side)?.f_reshape([b, maps, self.side, self.side])?)
    }

    /// (b, grid, grid): the last block's map, or the only one, from 0 to 1.
    ///
    /// # Errors
    /// There is no map.
    pub fn last(&self) -> Result<Tensor> {
        let maps = self.grid.size4()?.1;
        to_unit(&self.grid.f_select(1, maps - 1)?)
    }
}

/// What [`explain`] gives; nothing of it is attached to the network.
#[derive(Debug)]
pub struct Explanation {
    /// Of the ViT, if the model has one.
    pub vit: Option<BranchMaps>,
    /// Of the Vision Mamba, if the model has one.
    pub mamba: Option<BranchMaps>,
    /// (b): the prediction on the data set's own scale.
    pub score: Tensor,
    /// (b, 2): shares of the ViT and the Mamba branch, where the fusion strategy defines them.
    pub weights: Option<Tensor>,
}

impl Explanation {
    /// A branch's maps, if the model has the branch.
    pub fn branch(&self, branch: BackboneKind) -> Option<&BranchMaps> {
        match branch {
            BackboneKind::Vit => self.vit.as_ref(),
            BackboneKind::Vim => self.mamba.as_ref(),
        }
    }

    /// (b, s, s), from 0 to 1: the branches' last maps, each from 0 to 1, weighed by the branches'
    /// shares in the prediction, or by halves where the fusion strategy defines no shares. `None`
    /// for a model of one branch.
    ///
    /// # Errors
    /// libtorch's message where memory runs out.
    pub fn fused(&self) -> Result<Option<Tensor>> {
        let (Some(vit), Some(mamba)) = (&self.vit, &self.mamba) else {
            return Ok(None);
        };
        let side = vit.side.max(mamba.side);
        let vit = scaled(&vit.last()?, side)?;
        let mamba = scaled(&mamba.last()?, side)?;
        let mix = match &self.weights {
            Some(weights) => {
                let of = |branch: i64| weights.select(1, branch).view([-1, 1, 1]);
                vit * of(0) + mamba * of(1)
            }
            None => (vit + mamba) * 0.5,
        };
        Ok(Some(to_unit(&mix)?))
    }
}

/// What each branch looks at in each image of a batch, one by one. Gradients of parameters stay as
/// they are.
///
/// # Errors
/// A request that the model cannot be asked, images of a shape that it does not take, or a method
/// that needs gradients where their recording is off.
pub fn explain(net: &BeautyNet, images: Images, request: &Request) -> Result<Explanation> {
    request.check(net)?;
    let mut recorder = Recorder::new(net, request)?;
    let guard = (!recorder.records()).then(tch::no_grad_guard);
    let output = net.forward_tapped(images, &mut recorder)?;
    drop(guard);
    let mut gradients = gradients(net, request, &recorder, &output.score)?.into_iter();
    let integrated = if present(net).any(|b| request.of(b).method == Method::IntegratedGradients) {
        integrated_gradients(net, images, PATH_STEPS)?
    } else {
        Vec::new()
    };
    let score = output.score.detach();
    let mut of = |branch: BackboneKind| -> Result<Option<BranchMaps>> {
        let Some(shape) = net.branch(branch) else {
            return Ok(None);
        };
        let method = request.of(branch).method;
        let layers = request.blocks(net, branch)?;
        let class = net.class_index(branch).unwrap_or(0);
        let grid = shape.grid();
        let maps: Vec<Tensor> = match method {
            Method::IntegratedGradients => {
                let of = integrated.iter().find(|(of, _)| *of == branch);
                let (_, attributions) = of.context("a branch got no attributions")?;
                vec![by_patch(attributions, shape)?.f_relu()?]
            }
            Method::Occlusion => vec![occlusion(net, images, branch, &score)?.f_relu()?],
            _ if method.is_rolled_out() => {
                let _guard = tch::no_grad_guard();
                let mut maps = rollout(net, branch, class, recorder.kept(branch))?;
                maps.split_off(maps.len().saturating_sub(layers.len()))
            }
            _ => recorder
                .kept(branch)
                .iter()
                .map(|tokens| {
                    let gradient = if method.needs_gradients() {
                        Some(without_class(
                            &gradients.next().context("a block got no gradient")?,
                            class,
                        )?)
                    } else {
                        None
                    };
                    cam(method, &without_class(&tokens.detach(), class)?, gradient.as_ref())
                })
                .collect::<Result<_>>()?,
        };
        let maps = Tensor::f_stack(&maps, 1)?.f_reshape([-1, maps.len() as i64, grid, grid])?;
        Ok(Some(BranchMaps { layers, grid: maps.detach(), side: shape.image_size }))
    };
    Ok(Explanation {
        vit: of(BackboneKind::Vit)?,
        mamba: of(BackboneKind::Vim)?,
        score: score.shallow_clone(),
        weights: output.weights.map(|weights| weights.detach()),
    })
}

/// The score's gradients with regard to what was kept for their sake, branch by branch, block by
/// block.
fn gradients(
    net: &BeautyNet,
    request: &Request,
    recorder: &Recorder,
    score: &Tensor,
) -> Result<Vec<Tensor>> {
    let leaves: Vec<&Tensor> = present(net)
        .filter(|&branch| request.of(branch).method.needs_gradients())
        .flat_map(|branch| recorder.kept(branch))
        .collect();
    if leaves.is_empty() {
        return Ok(Vec::new());
    }
    ensure!(
        score.requires_grad(),
        "this method needs gradients: call it where their recording is on"
    );
    // Images of a batch do not depend on each other: the gradient of the sum holds that of each.
    let total = score.f_sum(Kind::Float)?;
    Ok(Tensor::f_run_backward(&[&total], &leaves, false, false)?)
}

/// The patch tokens (b, patches, d) of all tokens (b, 1 + patches, d).
pub(super) fn without_class(tokens: &Tensor, class: i64) -> Result<Tensor> {
    let after = tokens.size3()?.1 - class - 1;
    Ok(Tensor::f_cat(&[tokens.f_narrow(1, 0, class)?, tokens.f_narrow(1, class + 1, after)?], 1)?)
}
