//! VM-BeautyNet (arXiv 2510.16220): a Vision Transformer and a Vision Mamba see the same image, a
//! fusion weighs their features, a head predicts the mean rating.

mod tap;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor, nn};

use super::fusion::{BranchTokens, Fusion};
use super::head::RegressionHead;
use super::vim::{VisionMamba, class_index};
use super::vit::VisionTransformer;
use super::weights::load_branch;
use crate::config::{BackboneShape, Branch, Config, Loss};

pub use tap::Tap;

/// Images as the model takes them.
#[derive(Debug, Clone, Copy)]
pub enum Images<'a> {
    /// (b, 3, s, s) uint8 RGB; each branch normalizes them as its preset says.
    Pixels(&'a Tensor),
    /// (b, 3, s, s) float, normalized already; both branches see the same values.
    Normalized(&'a Tensor),
}

/// What one forward pass gives.
#[derive(Debug)]
pub struct Output {
    /// (b, d_vit): the ViT branch's feature.
    pub vit: Option<Tensor>,
    /// (b, d_mamba): the Mamba branch's feature.
    pub mamba: Option<Tensor>,
    /// (b, fused width).
    pub fused: Tensor,
    /// (b, 2): shares of the ViT and the Mamba branch, where the fusion strategy defines them.
    pub weights: Option<Tensor>,
    /// (b): the prediction on the scale that the loss is computed in.
    pub scaled: Tensor,
    /// (b, k): logarithms of the probabilities of k ratings, where the head gives a distribution;
    /// the prediction is its mean.
    pub log_probabilities: Option<Tensor>,
    /// (b): the prediction on the data set's own scale.
    pub score: Tensor,
}

/// The encoder of one branch: a backbone, its shape and how it normalizes.
#[derive(Debug)]
pub(super) struct Encoder<B> {
    pub backbone: B,
    pub shape: BackboneShape,
    mean: Tensor,
    std: Tensor,
}

impl<B> Encoder<B> {
    pub fn new(backbone: B, shape: BackboneShape, device: Device) -> Self {
        let channels =
            |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]).to_device(device);
        Self { backbone, mean: channels(shape.mean), std: channels(shape.std), shape }
    }

    /// Normalized float images of this branch's size.
    pub fn prepare(&self, images: Images) -> Result<Tensor> {
        let (name, side) = (self.shape.branch, self.shape.image_size);
        let (Images::Pixels(x) | Images::Normalized(x)) = images;
        let fits = matches!(x.size()[..], [_, 3, h, w] if h == side && w == side);
        ensure!(
            fits,
            "the {name} branch takes images of shape (batch, 3, {side}, {side}), got {:?}: set data.image_size or model.{name}.image_size",
            x.size()
        );
        Ok(match images {
            Images::Pixels(x) => (x.to_kind(Kind::Float) / 255.0 - &self.mean) / &self.std,
            Images::Normalized(x) => x.to_kind(Kind::Float),
        })
    }
}

/// The whole network and its parameters.
#[derive(Debug)]
pub struct BeautyNet {
    vit: Option<Encoder<VisionTransformer>>,
    mamba: Option<Encoder<VisionMamba>>,
    fusion: Fusion,
    head: RegressionHead,
    variables: nn::VarStore,
    notes: Vec<String>,
}

impl BeautyNet {
    /// A network with random parameters drawn from torch's generator (seed it first), then the
    /// pretrained weights that the config names.
    ///
    /// # Errors
    /// Sizes that do not fit a preset, or a weights file that cannot be read or does not fit.
    pub fn new(config: &Config, device: Device) -> Result<Self> {
        let mut net = Self::without_pretrained(config, device)?;
        net.load_pretrained(config)?;
        Ok(net)
    }

    /// As [`BeautyNet::new`], without reading the weights files that the config names.
    ///
    /// # Errors
    /// Sizes that do not fit a preset.
    pub fn without_pretrained(config: &Config, device: Device) -> Result<Self> {
        let variables = nn::VarStore::new(device);
        let root = variables.root();
        let vit = config.shape(Branch::Vit)?.map(|shape| {
            Encoder::new(VisionTransformer::new(&(&root / "vit"), &shape), shape, device)
        });
        let mamba = config
            .shape(Branch::Mamba)?
            .map(|shape| Encoder::new(VisionMamba::new(&(&root / "mamba"), &shape), shape, device));
        let fusion = Fusion::new(
            &(&root / "fusion"),
            &config.model,
            vit.as_ref().map(|branch| branch.shape.embed_dim),
            mamba.as_ref().map(|branch| branch.shape.embed_dim),
        )?;
        let path = &root / "head";
        let head = if fusion.predicts() {
            RegressionHead::scale_only(&path)
        } else {
            let (width, head, train) = (fusion.width(), &config.model.head, &config.train);
            match train.loss {
                Loss::LabelDistribution => {
                    let bins = train.label_distribution.bins;
                    RegressionHead::distribution(&path, width, head, bins)
                }
                _ => RegressionHead::new(&path, width, head),
            }
        };
        Ok(Self { vit, mamba, fusion, head, variables, notes: Vec::new() })
    }

    fn load_pretrained(&mut self, config: &Config) -> Result<()> {
        let model = &config.model;
        for &branch in Branch::ALL.iter().filter(|&&branch| model.fusion.strategy.uses(branch)) {
            let notes = load_branch(&self.parameters(), branch, model.backbone(branch))?;
            self.notes.extend(notes);
        }
        Ok(())
    }

    /// What is worth knowing about the pretrained weights that were loaded, a line each: embeddings
    /// that were resampled, names that a file without `strict` lacked.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Lets training keep the tokens between the backbones' blocks alone; backward runs each block
    /// again (`train.checkpoint_activations`). The results are the same.
    pub fn recompute_blocks(&mut self) {
        let named = self.parameters();
        if let Some(branch) = &mut self.vit {
            branch.backbone.recompute_blocks(&named, "vit.");
        }
        if let Some(branch) = &mut self.mamba {
            branch.backbone.recompute_blocks(&named, "mamba.");
        }
    }

    /// One forward pass. `train` turns dropout and stochastic depth on.
    ///
    /// # Errors
    /// Images of another shape than the branches take.
    pub fn forward(&self, images: Images, train: bool) -> Result<Output> {
        let vit = match &self.vit {
            Some(branch) => {
                let tokens = branch.backbone.forward(&branch.prepare(images)?, train)?;
                Some(BranchTokens::new(tokens, 0)) // the class token is the first
            }
            None => None,
        };
        let mamba = match &self.mamba {
            Some(branch) => {
                let tokens = branch.backbone.forward(&branch.prepare(images)?, train)?;
                let class_index = class_index(branch.shape.patches());
                Some(BranchTokens::new(tokens, class_index))
            }
            None => None,
        };
        self.join(vit, mamba, train)
    }

    /// From the branches' tokens to the score.
    fn join(
        &self,
        vit: Option<BranchTokens>,
        mamba: Option<BranchTokens>,
        train: bool,
    ) -> Result<Output> {
        let fused = self.fusion.forward(vit.as_ref(), mamba.as_ref(), train)?;
        let (scaled, log_probabilities) = self.head.predict(&fused.vector, train);
        Ok(Output {
            vit: vit.map(|tokens| tokens.class()),
            mamba: mamba.map(|tokens| tokens.class()),
            fused: fused.vector,
            weights: fused.weights,
            log_probabilities,
            score: self.head.to_scores(&scaled),
            scaled,
        })
    }

    /// Every parameter and buffer by its name in a weights file, sorted by name. The tensors share
    /// their storage with the network.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }

    /// The parameters that want gradients now, in the order in which backward reaches them.
    pub fn learning(&self) -> Vec<Tensor> {
        // The variables stand in the order in which forward goes through their layers.
        let mut learning = self.variables.trainable_variables();
        learning.retain(Tensor::requires_grad);
        learning.reverse();
        learning
    }

    /// The fusion of the branches.
    pub fn fusion(&self) -> &Fusion {
        &self.fusion
    }

    /// The regression head.
    pub fn head(&self) -> &RegressionHead {
        &self.head
    }

    /// Sets the scale of the scores from the training set's mean and standard deviation.
    pub fn set_score_scale(&mut self, mean: f64, std: f64) {
        self.head.set_score_scale(mean, std);
    }

    /// Sets the lowest and the highest rating of a distribution; a head without one has none.
    pub fn set_score_range(&mut self, range: [f64; 2]) {
        self.head.set_score_range(range);
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.variables.device()
    }
}
