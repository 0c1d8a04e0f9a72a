//! What is asked of an explanation: a method and a block for each branch.

use anyhow::{Context, Result, bail, ensure};

use super::Method;
use crate::config::BackboneKind;
use crate::models::BeautyNet;

/// Both branches, in the order of every pair.
pub const BRANCHES: [BackboneKind; 2] = [BackboneKind::Vit, BackboneKind::Vim];

/// The key of a branch in commands, files and weights: `vit` or `mamba`.
pub fn key(branch: BackboneKind) -> &'static str {
    match branch {
        BackboneKind::Vit => "vit",
        BackboneKind::Vim => "mamba",
    }
}

/// The name of a branch for people.
pub fn title(branch: BackboneKind) -> &'static str {
    match branch {
        BackboneKind::Vit => "ViT",
        BackboneKind::Vim => "Mamba",
    }
}

/// Which of a branch's blocks a map is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layers {
    /// The last one.
    #[default]
    Last,
    /// That of this index, from 0.
    One(usize),
    /// Each of them.
    All,
}

/// What is asked of one branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchRequest {
    /// How the map is made.
    pub method: Method,
    /// Of which blocks.
    pub layers: Layers,
}

/// What is asked of both branches; that of a branch which the model lacks is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Of the ViT.
    pub vit: BranchRequest,
    /// Of the Vision Mamba.
    pub mamba: BranchRequest,
}

impl Request {
    /// One method for both branches, at their last blocks.
    pub fn new(method: Method) -> Self {
        let branch = BranchRequest { method, layers: Layers::Last };
        Self { vit: branch, mamba: branch }
    }

    /// From what a user says, each `WHAT` or `BRANCH=WHAT`: methods by name, and blocks as an
    /// index, as `all`, or as the weights name them (`vit.blocks.11`, `mamba.layers.23`). What
    /// names no branch is of those that the model has.
    ///
    /// # Errors
    /// An unknown name, a method that a branch has not, or a block that is not there.
    pub fn parse(net: &BeautyNet, methods: &[String], layers: &[String]) -> Result<Self> {
        let mut request = Self::new(Method::GradCam);
        for text in methods {
            let (branch, name) = split_branch(text);
            let method: Method =
                name.parse().map_err(|error: String| anyhow::anyhow!("--method {error}"))?;
            for of in request.of_each(net, branch, "--method", text)? {
                of.method = method;
            }
        }
        for text in layers {
            let (branch, name) = block_name(text);
            let layers = match name.parse() {
                Ok(index) => Layers::One(index),
                Err(_) if name == "all" => Layers::All,
                Err(_) => bail!(
                    "--layer {text}: name a block by its index, as 3 or mamba=3, or as in the weights, as vit.blocks.3 or mamba.layers.3; or all of them by all"
                ),
            };
            for of in request.of_each(net, branch, "--layer", text)? {
                of.layers = layers;
            }
        }
        request.check(net)?;
        for branch in present(net) {
            let of = request.of(branch);
            ensure!(
                of.method.has_layers() || layers.is_empty(),
                "{} makes its map from the pixels, so there is no layer to choose: leave --layer out",
                of.method
            );
        }
        Ok(request)
    }

    /// What is asked of a branch.
    pub fn of(&self, branch: BackboneKind) -> BranchRequest {
        match branch {
            BackboneKind::Vit => self.vit,
            BackboneKind::Vim => self.mamba,
        }
    }

    /// Whether maps of several blocks are asked for.
    pub fn has_strips(&self) -> bool {
        BRANCHES.iter().any(|&b| self.of(b).layers == Layers::All)
    }

    /// Methods in words: one where both branches have the same.
    pub fn describe(&self, net: &BeautyNet) -> String {
        let of: Vec<_> = present(net).map(|b| (b, self.of(b).method)).collect();
        match of.as_slice() {
            [(_, vit), (_, mamba)] if vit != mamba => format!("{vit} and {mamba}"),
            [(_, method), ..] => method.to_string(),
            [] => String::new(),
        }
    }

    fn of_each(
        &mut self,
        net: &BeautyNet,
        branch: Option<BackboneKind>,
        flag: &str,
        text: &str,
    ) -> Result<Vec<&mut BranchRequest>> {
        if let Some(branch) = branch.filter(|&b| net.branch(b).is_none()) {
            bail!("{flag} {text}: the model has no {} branch", title(branch));
        }
        let wanted = |b: BackboneKind| branch.is_none_or(|only| only == b);
        let mut each = Vec::new();
        if wanted(BackboneKind::Vit) {
            each.push(&mut self.vit);
        }
        if wanted(BackboneKind::Vim) {
            each.push(&mut self.mamba);
        }
        Ok(each)
    }

    /// Whether the model can be asked this.
    ///
    /// # Errors
    /// A branch without the method, naming those that it has, or without the block.
    pub fn check(&self, net: &BeautyNet) -> Result<()> {
        for branch in present(net) {
            let BranchRequest { method, .. } = self.of(branch);
            if method.explains(branch) {
                self.blocks(net, branch)?;
                continue;
            }
            let has: Vec<&str> = Method::ALL
                .iter()
                .filter(|method| method.explains(branch))
                .map(|method| method.name())
                .collect();
            bail!(
                "the {} branch has no {method}; it has {}. One for each branch: --method vit=attention-rollout --method mamba=hidden-attention",
                title(branch),
                has.join(", ")
            );
        }
        Ok(())
    }

    /// The blocks of a branch whose maps are asked for; none for a method of the pixels.
    pub(super) fn blocks(&self, net: &BeautyNet, branch: BackboneKind) -> Result<Vec<usize>> {
        let BranchRequest { method, layers } = self.of(branch);
        let Some(shape) = net.branch(branch).filter(|_| method.has_layers()) else {
            return Ok(Vec::new());
        };
        let depth = shape.depth as usize;
        let last = depth
            .checked_sub(1)
            .with_context(|| format!("the {} branch has no block to look into", title(branch)))?;
        Ok(match layers {
            Layers::Last => vec![last],
            Layers::All => (0..depth).collect(),
            Layers::One(index) if index <= last => vec![index],
            Layers::One(index) => bail!(
                "there is no block {index}: the {} branch has {depth}, from 0 to {last}; name one of a branch by {}={last}",
                title(branch),
                key(branch)
            ),
        })
    }
}

/// The branches that a model has.
pub fn present(net: &BeautyNet) -> impl Iterator<Item = BackboneKind> {
    BRANCHES.into_iter().filter(|&b| net.branch(b).is_some())
}

/// `mamba=WHAT` as the branch and WHAT.
fn split_branch(text: &str) -> (Option<BackboneKind>, &str) {
    for branch in BRANCHES {
        if let Some((before, what)) = text.split_once('=')
            && before == key(branch)
        {
            return (Some(branch), what);
        }
    }
    (None, text)
}

/// A block's branch and index, also from its name in the weights.
fn block_name(text: &str) -> (Option<BackboneKind>, &str) {
    if let Some(index) = text.strip_prefix("vit.blocks.") {
        (Some(BackboneKind::Vit), index)
    } else if let Some(index) = text.strip_prefix("mamba.layers.") {
        (Some(BackboneKind::Vim), index)
    } else {
        split_branch(text)
    }
}
