//! VM-BeautyNet (arXiv 2510.16220): a Vision Transformer and a Vision Mamba see the same image, a
//! fusion weighs their features, a head predicts the mean rating.

mod tap;

use anyhow::Result;
use tch::{Device, Tensor, nn};

use super::encoder::Encoder;
use super::forward_context::ForwardContext;
use super::fusion::{BranchTokens, Fusion};
use super::head::RegressionHead;
use super::images::Images;
use super::weights::load_branch;
use crate::config::{Branch, Config, Loss};

pub use tap::Tap;

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

/// The whole network and its parameters.
#[derive(Debug)]
pub struct BeautyNet {
    vit: Option<Encoder>,
    mamba: Option<Encoder>,
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
        let encoder = |shape| Encoder::new(&root, shape);
        let vit = config.shape(Branch::Vit)?.map(encoder);
        let mamba = config.shape(Branch::Mamba)?.map(encoder);
        let fusion = Fusion::new(
            &(&root / "fusion"),
            &config.model,
            vit.as_ref().map(|encoder| encoder.shape.embed_dim),
            mamba.as_ref().map(|encoder| encoder.shape.embed_dim),
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
        for encoder in [&mut self.vit, &mut self.mamba].into_iter().flatten() {
            encoder.recompute_blocks(&named);
        }
    }

    /// Predicts the scores of images.
    ///
    /// # Examples
    /// ```
    /// use tch::{Device, Kind, Tensor};
    /// use vm_beautynet::config::Config;
    /// use vm_beautynet::models::{BeautyNet, ForwardContext, Images};
    ///
    /// let yaml = "
    /// data: {image_size: 32}
    /// model: {vit: {name: vit_micro_patch8_64}, mamba: {name: vim_micro_patch8_64}}";
    /// let config = Config::from_yaml(yaml, "example", &[])?;
    /// let net = BeautyNet::new(&config, Device::Cpu)?;
    /// let pixels = Tensor::zeros([2, 3, 32, 32], (Kind::Uint8, Device::Cpu));
    /// let output = net.forward(Images::Pixels(&pixels), ForwardContext::eval())?;
    /// assert_eq!(output.score.size(), [2]);
    /// assert_eq!(output.weights.unwrap().size(), [2, 2], "of the ViT and the Mamba branch");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the images have another shape than the branches take, or an operator's
    /// message, for example if memory runs out.
    pub fn forward(&self, images: Images, ctx: ForwardContext) -> Result<Output> {
        let encode = |encoder: &Option<Encoder>| {
            let encode = |encoder: &Encoder| encoder.forward(&encoder.normalize(images)?, ctx);
            encoder.as_ref().map(encode).transpose()
        };
        self.join(encode(&self.vit)?, encode(&self.mamba)?, ctx)
    }

    /// From the branches' tokens to the score.
    fn join(
        &self,
        vit: Option<BranchTokens>,
        mamba: Option<BranchTokens>,
        ctx: ForwardContext,
    ) -> Result<Output> {
        let fused = self.fusion.forward(vit.as_ref(), mamba.as_ref(), ctx)?;
        let (scaled, log_probabilities) = self.head.predict(&fused.vector, ctx);
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
