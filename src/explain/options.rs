//! Options of an explanation: an attribution method and layers for each branch.

use anyhow::{Context, Result, bail, ensure};

use crate::config::names::names;
use crate::config::{BackboneShape, Branch};
use crate::models::BeautyNet;

names! {
    /// An attribution method.
    pub enum Method {
        /// Tokens weighted by their mean gradients (arXiv 1610.02391): what raises the score.
        GradCam = "grad-cam",
        /// Grad-CAM with weights that do not favor large regions (arXiv 1710.11063).
        GradCamPlusPlus = "grad-cam++",
        /// The tokens' first principal component (arXiv 2008.00299), with the sign with which the
        /// score rises: what is salient.
        EigenCam = "eigen-cam",
        /// Each token weighted by its own gradient (LayerCAM, IEEE TIP 30, 2021): what raises the
        /// score, token by token.
        LayerCam = "layer-cam",
        /// Gradients of the pixels along the path from a baseline image (arXiv 1703.01365): what
        /// raises the score.
        IntegratedGradients = "integrated-gradients",
        /// The drop of the score where a window of the image is occluded (arXiv 1311.2901).
        Occlusion = "occlusion",
        /// Attention multiplied through the blocks (arXiv 2005.00928): what the class token attends
        /// to. ViT only.
        AttentionRollout = "attention-rollout",
        /// The hidden attention of the scans (arXiv 2403.01590), rolled out likewise. Mamba only.
        HiddenAttention = "hidden-attention",
    }
}

impl Method {
    /// The method that passes the checks of docs/explanation.md at the cost of Grad-CAM.
    pub const DEFAULT: Self = Method::LayerCam;

    /// Whether the method applies to this kind of branch.
    pub fn applies_to(self, branch: Branch) -> bool {
        match self {
            Method::AttentionRollout => branch == Branch::Vit,
            Method::HiddenAttention => branch == Branch::Mamba,
            _ => true,
        }
    }

    /// Whether the map is of a block, which can be chosen, and not of the pixels.
    pub fn has_layers(self) -> bool {
        !matches!(self, Method::IntegratedGradients | Method::Occlusion)
    }

    /// Whether the map is attention multiplied from the first block up to the chosen one.
    pub(super) fn is_rollout(self) -> bool {
        matches!(self, Method::AttentionRollout | Method::HiddenAttention)
    }

    /// Whether the method needs the score's gradients with regard to the blocks' tokens.
    pub(super) fn needs_gradients(self) -> bool {
        matches!(
            self,
            Method::GradCam | Method::GradCamPlusPlus | Method::EigenCam | Method::LayerCam
        )
    }
}

/// The blocks of a branch to compute maps for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layers {
    /// The last block.
    #[default]
    Last,
    /// The block with this index, from 0.
    One(usize),
    /// Every block.
    All,
}

/// The options of one branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchOptions {
    /// The attribution method.
    pub method: Method,
    /// The blocks.
    pub layers: Layers,
}

impl BranchOptions {
    /// The indices of the chosen blocks; empty for a method of the pixels.
    pub(super) fn blocks(self, branch: Branch, shape: &BackboneShape) -> Result<Vec<usize>> {
        if !self.method.has_layers() {
            return Ok(Vec::new());
        }
        let (title, depth) = (branch.title(), shape.depth as usize);
        let last = depth
            .checked_sub(1)
            .with_context(|| format!("the {title} branch has no blocks to explain"))?;
        Ok(match self.layers {
            Layers::Last => vec![last],
            Layers::All => (0..depth).collect(),
            Layers::One(index) if index <= last => vec![index],
            Layers::One(index) => bail!(
                "there is no block {index}: the {title} branch has {depth}, from 0 to {last}; \
                 name a block of one branch as {}={last}",
                branch.name()
            ),
        })
    }
}

/// The options of both branches; those of a branch that the model lacks are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExplainOptions {
    /// Options of the ViT.
    pub vit: BranchOptions,
    /// Options of the Vision Mamba.
    pub mamba: BranchOptions,
}

impl ExplainOptions {
    /// Selects one method for both branches, at their last blocks.
    pub fn new(method: Method) -> Self {
        let branch = BranchOptions { method, layers: Layers::Last };
        Self { vit: branch, mamba: branch }
    }

    /// Parses command-line values, each `VALUE` or `BRANCH=VALUE`: methods by name; layers as an
    /// index, as `all`, or as the weights name them (`vit.blocks.11`, `mamba.layers.23`). A value
    /// without a branch applies to both. Returns an error if a name is unknown, a branch lacks the
    /// method, or a block does not exist.
    pub fn parse(net: &BeautyNet, methods: &[String], layers: &[String]) -> Result<Self> {
        let mut options = Self::new(Method::DEFAULT);
        for text in methods {
            let (branch, name) = split_branch(text);
            let method: Method =
                name.parse().map_err(|error: String| anyhow::anyhow!("--method {error}"))?;
            for selected in options.select(net, branch, "--method", text)? {
                selected.method = method;
            }
        }
        for text in layers {
            let (branch, name) = block_name(text);
            let layers = match name.parse() {
                Ok(index) => Layers::One(index),
                Err(_) if name == "all" => Layers::All,
                Err(_) => bail!(
                    "--layer {text}: name a block by its index, such as 3 or mamba=3, or by its \
                     name in the weights, such as vit.blocks.3 or mamba.layers.3; all selects \
                     every block"
                ),
            };
            for selected in options.select(net, branch, "--layer", text)? {
                selected.layers = layers;
            }
        }
        options.check(net)?;
        for (branch, _) in branches(net) {
            let method = options.branch(branch).method;
            ensure!(
                method.has_layers() || layers.is_empty(),
                "{method} attributes to the pixels, so there is no layer to choose: remove --layer"
            );
        }
        Ok(options)
    }

    /// Returns the options of a branch.
    pub fn branch(&self, branch: Branch) -> BranchOptions {
        match branch {
            Branch::Vit => self.vit,
            Branch::Mamba => self.mamba,
        }
    }

    /// Describes the methods for people: one name if both branches use the same method.
    pub fn describe(&self, net: &BeautyNet) -> String {
        let mut methods: Vec<&str> =
            branches(net).map(|(branch, _)| self.branch(branch).method.name()).collect();
        methods.dedup();
        methods.join(" and ")
    }

    /// Describes the blocks for people: `ViT 2, Mamba 0 to 5`; empty for methods of the pixels.
    pub fn describe_blocks(&self, net: &BeautyNet) -> Result<String> {
        let mut blocks = Vec::new();
        for (branch, shape) in branches(net) {
            match self.branch(branch).blocks(branch, shape)?[..] {
                [] => {}
                [one] => blocks.push(format!("{} {one}", branch.title())),
                [first, .., last] => blocks.push(format!("{} {first} to {last}", branch.title())),
            }
        }
        Ok(blocks.join(", "))
    }

    /// Returns the options of the given branch, or of both if none is given.
    fn select(
        &mut self,
        net: &BeautyNet,
        branch: Option<Branch>,
        flag: &str,
        text: &str,
    ) -> Result<Vec<&mut BranchOptions>> {
        if let Some(branch) = branch.filter(|&branch| net.branch(branch).is_none()) {
            bail!("{flag} {text}: the model has no {} branch", branch.title());
        }
        Ok(match branch {
            Some(Branch::Vit) => vec![&mut self.vit],
            Some(Branch::Mamba) => vec![&mut self.mamba],
            None => vec![&mut self.vit, &mut self.mamba],
        })
    }

    /// Checks that the options fit the model. Returns an error if a branch lacks the method (the
    /// message lists those it has) or a block.
    pub fn check(&self, net: &BeautyNet) -> Result<()> {
        for (branch, shape) in branches(net) {
            let options = self.branch(branch);
            if options.method.applies_to(branch) {
                options.blocks(branch, shape)?;
                continue;
            }
            let available = Method::ALL.iter().filter(|method| method.applies_to(branch));
            let available: Vec<&str> = available.map(|method| method.name()).collect();
            bail!(
                "the {} branch has no {}; it has {}. To choose one method for each branch: \
                 --method vit=attention-rollout --method mamba=hidden-attention",
                branch.title(),
                options.method,
                available.join(", ")
            );
        }
        Ok(())
    }
}

/// Iterates over the branches of a model with their shapes.
pub fn branches(net: &BeautyNet) -> impl Iterator<Item = (Branch, &BackboneShape)> {
    Branch::ALL.iter().filter_map(|&branch| Some((branch, net.branch(branch)?)))
}

/// Splits `mamba=VALUE` into the branch and VALUE.
fn split_branch(text: &str) -> (Option<Branch>, &str) {
    let split = text.split_once('=');
    let split = split.and_then(|(branch, value)| Some((branch.parse().ok()?, value)));
    split.map_or((None, text), |(branch, value)| (Some(branch), value))
}

/// Splits a block into branch and index, also by its name in the weights.
fn block_name(text: &str) -> (Option<Branch>, &str) {
    if let Some(index) = text.strip_prefix("vit.blocks.") {
        (Some(Branch::Vit), index)
    } else if let Some(index) = text.strip_prefix("mamba.layers.") {
        (Some(Branch::Mamba), index)
    } else {
        split_branch(text)
    }
}
