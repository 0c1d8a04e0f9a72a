//! VM-BeautyNet (arXiv 2510.16220): a Vision Transformer and a Vision Mamba encode the same image,
//! a fusion combines their features, a head predicts the mean rating.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use tch::{Device, Tensor, nn};

use super::encoder::{Backbone, Encoder, branch_parameters, named_parameters};
use super::forward_context::ForwardContext;
use super::fusion::{BranchTokens, Fusion};
use super::head::{BRANCH_HEADS, Prediction, RegressionHead};
use super::images::Images;
use super::layers::{Init, Linear};
use super::onnx::{Graph, InputType, OnnxModel, OnnxOptions, Value, int};
use super::slicer::Slicer;
use super::tokens::TokenLayout;
use super::vim::ScanOperands;
use super::weights::{Note, load_backbone, load_model};
use crate::config::{BackboneShape, Branch, Config, FusionStrategy};
use crate::ops::SharedTensor;

/// The output of a forward pass.
#[derive(Debug)]
pub struct Output {
    /// (b, d_vit): the ViT branch's feature vectors.
    pub vit: Option<Tensor>,
    /// (b, d_mamba): the Mamba branch's feature vectors.
    pub mamba: Option<Tensor>,
    /// (b, fused width).
    pub fused: Tensor,
    /// (b, 2): the weights of the ViT and the Mamba branch, if the fusion strategy defines them.
    pub weights: Option<Tensor>,
    /// The head's prediction.
    pub prediction: Prediction,
    /// The predictions of the branches' own heads, of the ViT's and the Mamba's; empty without
    /// them.
    pub branches: Vec<Prediction>,
    /// (b): the prediction on the dataset's own scale.
    pub score: Tensor,
    /// (b, 2): the predictions of the branches' own heads on that scale, if there are such heads.
    pub branch_scores: Option<Tensor>,
}

impl Output {
    /// Returns the branches' feature vectors, the ViT's first: (b, d_vit + d_mamba).
    pub fn features(&self) -> Result<Tensor> {
        let branches: Vec<&Tensor> = [&self.vit, &self.mamba].into_iter().flatten().collect();
        Ok(Tensor::f_cat(&branches, 1)?)
    }

    /// Joins the outputs for several batches, in order. Returns an error if there are none.
    pub fn concatenate(mut outputs: Vec<Self>) -> Result<Self> {
        if outputs.len() == 1 {
            return Ok(outputs.remove(0));
        }
        let optional = |of: fn(&Self) -> Option<&Tensor>| -> Result<Option<Tensor>> {
            let tensors: Option<Vec<&Tensor>> = outputs.iter().map(of).collect();
            Ok(tensors.map(|tensors| Tensor::f_cat(&tensors, 0)).transpose()?)
        };
        let joined = |of: fn(&Self) -> Option<&Tensor>| optional(of)?.context("there is no output");
        let predictions: Vec<&Prediction> =
            outputs.iter().map(|output| &output.prediction).collect();
        let heads = outputs.first().map_or(0, |output| output.branches.len());
        let of_branch = |branch: usize| {
            let all: Vec<_> = outputs.iter().filter_map(|o| o.branches.get(branch)).collect();
            Prediction::concatenate(&all)
        };
        Ok(Self {
            vit: optional(|output| output.vit.as_ref())?,
            mamba: optional(|output| output.mamba.as_ref())?,
            fused: joined(|output| Some(&output.fused))?,
            weights: optional(|output| output.weights.as_ref())?,
            prediction: Prediction::concatenate(&predictions)?,
            branches: (0..heads).map(of_branch).collect::<Result<_>>()?,
            score: joined(|output| Some(&output.score))?,
            branch_scores: optional(|output| output.branch_scores.as_ref())?,
        })
    }
}

/// Observes a forward pass, and may replace tensors in it.
pub trait Tap {
    /// Gets a branch's normalized images (b, 3, s, s), and returns those to use instead.
    fn images(&mut self, _branch: Branch, x: Tensor) -> Tensor {
        x
    }

    /// Gets the normalized input (b, tokens, d) of a block's mixer (a ViT's attention, a Vision
    /// Mamba's scans), and returns the input to use instead.
    fn mixer_input(&mut self, _branch: Branch, _layer: usize, tokens: Tensor) -> Tensor {
        tokens
    }
}

/// The network and its parameters.
#[derive(Debug)]
pub struct BeautyNet {
    vit: Option<Encoder>,
    mamba: Option<Encoder>,
    fusion: Fusion,
    head: RegressionHead,
    /// The ViT's and the Mamba's own heads, or none.
    branch_heads: Vec<Linear>,
    variables: nn::VarStore,
    notes: Vec<Note>,
}

impl BeautyNet {
    /// Returns a network with random parameters, sampled from torch's generator (seed it first),
    /// then loads the pretrained weights that the config names.
    pub fn new(config: &Config, device: Device) -> Result<Self> {
        let mut net = Self::without_pretrained(config, device)?;
        if let Some(file) = &config.model.weights {
            let of = "model.weights must be of a network as the section model describes it";
            load_model(&net.parameters(), file).context(of)?;
            return Ok(net);
        }
        for &branch in Branch::ALL {
            if net.encoder(branch).is_some() {
                let backbone = config.model.backbone(branch);
                net.notes.extend(load_backbone(&net.branch_parameters(branch), branch, backbone)?);
            }
        }
        Ok(net)
    }

    /// As [`new`](Self::new), without reading the weights files that the config names.
    pub fn without_pretrained(config: &Config, device: Device) -> Result<Self> {
        let variables = nn::VarStore::new(device);
        let root = variables.root();
        let encoder = |shape| Encoder::new(&root, shape);
        let vit = config.shape(Branch::Vit)?.map(encoder);
        let mamba = config.shape(Branch::Mamba)?.map(encoder);
        let width = |encoder: &Encoder| match config.model.fusion.strategy {
            FusionStrategy::CrossAttention => encoder.shape.embed_dim,
            _ => encoder.shape.feature_width(),
        };
        let (vit_width, mamba_width) = (vit.as_ref().map(width), mamba.as_ref().map(width));
        let fusion = Fusion::new(&(&root / "fusion"), &config.model, vit_width, mamba_width)?;
        let (path, output) = (&root / "head", config.head_output());
        let head = RegressionHead::new(&path, fusion.width(), &config.model.head, output);
        // The last ones, so that all other parameters are those of a network without them.
        let branch_head = |encoder: &Encoder| {
            let (width, outputs) = (encoder.shape.feature_width(), head.outputs());
            let path = &root / BRANCH_HEADS / encoder.shape.branch.name();
            Linear::new(path, width, outputs, true, Init::pytorch_default(width))
        };
        let encoders = [&vit, &mamba].into_iter().flatten();
        let encoders = encoders.filter(|_| config.has_branch_heads());
        let branch_heads = encoders.map(branch_head).collect();
        Ok(Self { vit, mamba, fusion, head, branch_heads, variables, notes: Vec::new() })
    }

    /// Returns notes on the pretrained weights that were loaded: resampled embeddings, and a
    /// warning of what changes the features of a file loaded without `strict`.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Turns on activation checkpointing (`train.checkpoint_activations`): training keeps only the
    /// tokens between the blocks, and backward runs each block again, with the same results.
    pub fn recompute_blocks(&mut self) {
        for encoder in [&mut self.vit, &mut self.mamba].into_iter().flatten() {
            encoder.recompute_blocks(&self.variables);
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
    pub fn forward(&self, images: Images, ctx: ForwardContext) -> Result<Output> {
        let encode = |branch| self.encode(branch, images, ctx);
        self.join_tokens(encode(Branch::Vit)?, encode(Branch::Mamba)?, ctx)
    }

    /// Returns a branch's tokens; `None` if the model lacks the branch.
    pub fn encode(
        &self,
        branch: Branch,
        images: Images,
        ctx: ForwardContext,
    ) -> Result<Option<BranchTokens>> {
        let Some(encoder) = self.encoder(branch) else {
            return Ok(None);
        };
        encoder.forward(&encoder.normalize(images)?, None, ctx.of_branch(branch)).map(Some)
    }

    /// As [`forward`](Self::forward) in evaluation, without gradients, slice by slice.
    pub fn infer(&self, images: Images, slicer: &Slicer) -> Result<Output> {
        let (Images::Pixels(x) | Images::Normalized(x)) = images;
        let count = x.size().first().map_or(0, |&count| count as usize);
        let part = |rows: Range<usize>| x.narrow(0, rows.start as i64, rows.len() as i64).into();
        let slices: Vec<SharedTensor> = slicer.slices(count).into_iter().map(part).collect();
        let normalized = matches!(images, Images::Normalized(_));
        let outputs = slicer.map(slices.len(), |slice| {
            let _guard = tch::no_grad_guard();
            let x = &*slices[slice];
            let images = if normalized { Images::Normalized(x) } else { Images::Pixels(x) };
            self.forward(images, ForwardContext::eval())
        })?;
        Output::concatenate(outputs)
    }

    /// As [`forward`](Self::forward) in evaluation, with a tap: the ViT first, then the Vision
    /// Mamba.
    pub fn forward_tapped(&self, images: Images, tap: &mut dyn Tap) -> Result<Output> {
        let vit = self.branch_tokens(Branch::Vit, images, tap)?;
        let mamba = self.branch_tokens(Branch::Mamba, images, tap)?;
        self.join_tokens(vit, mamba, ForwardContext::eval())
    }

    /// Returns a branch's tokens in evaluation, with a tap; `None` if the model lacks the branch.
    pub fn branch_tokens(
        &self,
        branch: Branch,
        images: Images,
        tap: &mut dyn Tap,
    ) -> Result<Option<BranchTokens>> {
        let Some(encoder) = self.encoder(branch) else {
            return Ok(None);
        };
        let x = tap.images(branch, encoder.normalize(images)?);
        let mut mixer_input = |layer: usize, x: Tensor| tap.mixer_input(branch, layer, x);
        Ok(Some(encoder.forward_tapped(&x, &mut mixer_input)?))
    }

    /// Predicts from the branches' tokens.
    pub fn join_tokens(
        &self,
        vit: Option<BranchTokens>,
        mamba: Option<BranchTokens>,
        ctx: ForwardContext,
    ) -> Result<Output> {
        let fused = self.fusion.forward(vit.as_ref(), mamba.as_ref(), ctx.of_part(2))?;
        let prediction = self.head.forward(&fused.vector, ctx.of_part(3));
        let branches: Vec<Prediction> = (self.branch_heads.iter())
            .zip([&vit, &mamba].into_iter().flatten())
            .map(|(head, tokens)| self.head.prediction(&head.forward(tokens.features())))
            .collect();
        let scores = |of: &Prediction| self.head.to_scores(&of.scaled);
        let branch_scores: Vec<Tensor> = branches.iter().map(scores).collect();
        let branch_scores =
            (!branches.is_empty()).then(|| Tensor::f_stack(&branch_scores, 1)).transpose()?;
        Ok(Output {
            vit: vit.map(|tokens| tokens.features().shallow_clone()),
            mamba: mamba.map(|tokens| tokens.features().shallow_clone()),
            fused: fused.vector,
            weights: fused.weights,
            score: scores(&prediction),
            prediction,
            branches,
            branch_scores,
        })
    }

    /// Returns the network in evaluation as ONNX. From its input `images` it computes `score`
    /// (batch) on the dataset's own scale, `features` (batch, width), which is the fused vector,
    /// and `branch_weights` (batch, 2) if the fusion strategy defines them. The branches must take
    /// images of the same size.
    pub fn onnx(&self, options: OnnxOptions) -> Result<OnnxModel> {
        let mut graph = Graph::new(&self.parameters(), options.scan);
        let encoders = [&self.vit, &self.mamba].map(Option::as_ref);
        let shape = encoders.iter().flatten().map(|encoder| &encoder.shape).next();
        let side = shape.context("internal: the model has no branch")?.image_size;
        let mut pixels = pixels_onnx(&mut graph, options.input, side);
        if options.test_time_flip {
            // The mirror images are a second half of the batch.
            let [last, end, axis, back] =
                [-1, i64::from(i32::MIN), 3, -1].map(|value| graph.integers(&[value]));
            let mirrored = graph.op("Slice", &[&pixels, &last, &end, &axis, &back]);
            pixels = graph.concat(&[&pixels, &mirrored], 0);
        }
        let [vit, mamba] = encoders.map(|encoder| {
            encoder.map(|encoder| {
                let name = encoder.shape.branch.name();
                graph.scoped(name, |graph| encoder.onnx(graph, &pixels))
            })
        });
        let fused = graph
            .scoped("fusion", |graph| self.fusion.onnx(graph, vit.as_ref(), mamba.as_ref()))?;
        let score = graph.scoped("head", |graph| self.head.onnx(graph, &fused.vector));
        let mut output = |name: &str, value: &Value, rest: &[i64], mean: bool| {
            let mut value = value.clone();
            if options.test_time_flip {
                let halves = graph.reshape(&value, &[&[2, -1], rest].concat());
                value =
                    if mean { graph.mean(&halves, 0, false) } else { graph.select(&halves, 0, 0) };
            }
            graph.output(name, &value, rest);
        };
        output("score", &score, &[], true);
        if let Some(weights) = &fused.weights {
            output("branch_weights", weights, &[2], true);
        }
        output("features", &fused.vector, &[self.fusion.width()], false);
        graph.into_model()
    }

    fn encoder(&self, branch: Branch) -> Option<&Encoder> {
        match branch {
            Branch::Vit => self.vit.as_ref(),
            Branch::Mamba => self.mamba.as_ref(),
        }
    }

    /// Returns the shape of a branch, if the model has it.
    pub fn branch(&self, branch: Branch) -> Option<&BackboneShape> {
        self.encoder(branch).map(|encoder| &encoder.shape)
    }

    /// Returns the order of a branch's tokens, if the model has the branch.
    pub fn token_layout(&self, branch: Branch) -> Option<TokenLayout> {
        self.encoder(branch).map(|encoder| encoder.layout)
    }

    /// Returns the attention of the ViT's block `layer` for the mixer input `normed` (b, l, d): (b,
    /// heads, l, l), rows sum to 1. Returns an error if the model has no ViT or no such block.
    pub fn attention(&self, layer: usize, normed: &Tensor) -> Result<Tensor> {
        match self.vit.as_ref().map(|encoder| &encoder.backbone) {
            Some(Backbone::Vit(vit)) => vit.attention(layer, normed),
            _ => bail!("the model has no ViT branch"),
        }
    }

    /// Returns the operands of both scans of the Vision Mamba's block `layer` for the mixer input
    /// `normed` (b, l, d). Returns an error if the model has no Vision Mamba or no such block.
    pub fn scan_operands(&self, layer: usize, normed: &Tensor) -> Result<[ScanOperands; 2]> {
        match self.mamba.as_ref().map(|encoder| &encoder.backbone) {
            Some(Backbone::Mamba(mamba)) => mamba.scan_operands(layer, normed),
            _ => bail!("the model has no Mamba branch"),
        }
    }

    /// Returns every parameter and buffer by its name in a weights file, sorted by name. The
    /// tensors share their storage with the network.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        named_parameters(&self.variables)
    }

    /// Returns a backbone's parameters under their published names, sorted by name; none if the
    /// model lacks the branch.
    pub fn branch_parameters(&self, branch: Branch) -> Vec<(String, Tensor)> {
        branch_parameters(&self.variables, branch)
    }

    /// Returns the parameters that are trained now, in the order in which backward reaches them.
    pub fn trainable_parameters(&self) -> Vec<Tensor> {
        // The variables are in the order in which forward uses them.
        let mut trainable = self.variables.trainable_variables();
        trainable.retain(Tensor::requires_grad);
        trainable.reverse();
        trainable
    }

    /// Returns the fusion of the branches.
    pub fn fusion(&self) -> &Fusion {
        &self.fusion
    }

    /// Returns the number of the branches' own heads: 2, or 0 without them.
    pub fn branch_heads(&self) -> usize {
        self.branch_heads.len()
    }

    /// Returns the regression head.
    pub fn head(&self) -> &RegressionHead {
        &self.head
    }

    /// Returns the regression head, to set the scale of its scores.
    pub fn head_mut(&mut self) -> &mut RegressionHead {
        &mut self.head
    }

    /// Returns the device of the parameters.
    pub fn device(&self) -> Device {
        self.variables.device()
    }
}

/// Adds the input to a graph, and returns its pixels from 0 to 1 (b, 3, side, side).
fn pixels_onnx(graph: &mut Graph, input: InputType, side: i64) -> Value {
    match input {
        InputType::Float => graph.input("images", false, &[3, side, side]),
        InputType::Uint8 => {
            let images = graph.input("images", true, &[side, side, 3]);
            let levels = graph.op_with("Cast", &[&images], vec![int("to", 1)]);
            let planes = graph.transpose(&levels, &[0, 3, 1, 2]);
            let most = graph.number(255.0);
            graph.op("Div", &[&planes, &most])
        }
    }
}
