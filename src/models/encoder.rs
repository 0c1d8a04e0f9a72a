//! The encoder of one branch: normalized images to tokens.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor, nn};

use super::forward_context::ForwardContext;
use super::fusion::{BranchTokens, BranchValues};
use super::images::{Images, Normalization};
use super::layers::Masked;
use super::onnx::{Graph, Value};
use super::tokens::TokenLayout;
use super::vim::VisionMamba;
use super::vit::VisionTransformer;
use crate::config::{BackboneShape, Branch, Features};

#[derive(Debug)]
pub(super) struct Encoder {
    pub backbone: Backbone,
    pub shape: BackboneShape,
    pub layout: TokenLayout,
    pub normalization: Normalization,
}

#[derive(Debug)]
pub(super) enum Backbone {
    Vit(VisionTransformer),
    Mamba(VisionMamba),
}

impl Encoder {
    pub(super) fn new(root: &nn::Path, shape: BackboneShape) -> Self {
        let path = root / shape.branch.name();
        let backbone = match shape.branch {
            Branch::Vit => Backbone::Vit(VisionTransformer::new(&path, &shape)),
            Branch::Mamba => Backbone::Mamba(VisionMamba::new(&path, &shape)),
        };
        let normalization = Normalization::new(shape.mean, shape.std, root.device());
        Self { backbone, shape, layout: TokenLayout::new(&shape), normalization }
    }

    pub(super) fn normalize(&self, images: Images) -> Result<Tensor> {
        let (branch, side) = (self.shape.branch, self.shape.image_size);
        let (Images::Pixels(x) | Images::Normalized(x)) = images;
        let fits = matches!(x.size()[..], [_, 3, h, w] if h == side && w == side);
        ensure!(
            fits,
            "the {branch} branch takes images of shape (batch, 3, {side}, {side}), got {:?}: set \
             data.image_size or model.{branch}.image_size",
            x.size()
        );
        Ok(match images {
            Images::Pixels(x) => self.normalization.normalize(x),
            Images::Normalized(x) => x.to_kind(Kind::Float),
        })
    }

    /// Normalized images (b, 3, s, s) to tokens, with some of the patches masked if `masked` is
    /// given.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        masked: Option<&Masked>,
        ctx: ForwardContext,
    ) -> Result<BranchTokens> {
        self.tokens(match &self.backbone {
            Backbone::Vit(vit) => vit.forward(x, masked, ctx)?,
            Backbone::Mamba(mamba) => mamba.forward(x, masked, ctx)?,
        })
    }

    pub(super) fn forward_tapped(
        &self,
        x: &Tensor,
        tap: &mut dyn FnMut(usize, Tensor) -> Tensor,
    ) -> Result<BranchTokens> {
        self.tokens(match &self.backbone {
            Backbone::Vit(vit) => vit.forward_tapped(x, tap)?,
            Backbone::Mamba(mamba) => mamba.forward_tapped(x, tap)?,
        })
    }

    /// Makes the feature vector of tokens (b, tokens, d).
    fn tokens(&self, tokens: Tensor) -> Result<BranchTokens> {
        let class = || match &self.backbone {
            Backbone::Vit(_) => self.layout.class_mean(&tokens),
            Backbone::Mamba(mamba) => mamba.class_features(&tokens),
        };
        let mean = || self.layout.patch_mean(&tokens);
        let features = match self.shape.features {
            Features::Cls => class()?,
            Features::Mean => mean()?,
            Features::ClsMean => Tensor::f_cat(&[class()?, mean()?], -1)?,
            Features::Patches => self.layout.patches_of(&tokens)?.f_flatten(1, 2)?,
        };
        Ok(BranchTokens::new(tokens, self.layout, features))
    }

    /// Adds the encoder in evaluation to a graph, for pixels from 0 to 1 (b, 3, s, s).
    pub(super) fn onnx(&self, graph: &mut Graph, pixels: &Value) -> BranchValues {
        let x = self.normalization.onnx(graph, pixels);
        let tokens = match &self.backbone {
            Backbone::Vit(vit) => vit.onnx(graph, &x),
            Backbone::Mamba(mamba) => mamba.onnx(graph, &x),
        };
        let class = |graph: &mut Graph| match &self.backbone {
            Backbone::Vit(_) => self.layout.class_mean_onnx(graph, &tokens),
            Backbone::Mamba(mamba) => mamba.class_features_onnx(graph, &tokens),
        };
        let features = match self.shape.features {
            Features::Cls => class(graph),
            Features::Mean => self.layout.patch_mean_onnx(graph, &tokens),
            Features::ClsMean => {
                let both = [class(graph), self.layout.patch_mean_onnx(graph, &tokens)];
                graph.concat(&[&both[0], &both[1]], -1)
            }
            Features::Patches => {
                let patches = self.layout.patches_of_onnx(graph, &tokens);
                graph.reshape(&patches, &[0, self.shape.feature_width()])
            }
        };
        BranchValues { tokens, layout: self.layout, features }
    }

    pub(super) fn recompute_blocks(&mut self, variables: &nn::VarStore) {
        let named = branch_parameters(variables, self.shape.branch);
        match &mut self.backbone {
            Backbone::Vit(vit) => vit.recompute_blocks(&named),
            Backbone::Mamba(mamba) => mamba.recompute_blocks(&named),
        }
    }
}

pub(super) fn named_parameters(variables: &nn::VarStore) -> Vec<(String, Tensor)> {
    let mut named: Vec<_> = variables.variables().into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

pub(super) fn branch_parameters(variables: &nn::VarStore, branch: Branch) -> Vec<(String, Tensor)> {
    let prefix = format!("{branch}.");
    let named = named_parameters(variables).into_iter();
    named
        .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_string(), tensor)))
        .collect()
}
