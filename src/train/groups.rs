//! Groups of parameters that share their learning rate, weight decay and freezing, by name and
//! shape.

use tch::Tensor;

use crate::config::{FreezeConfig, FrozenBlocks, OptimizerConfig};

/// Last components of the names of parameters that are not decayed, whatever their shape (Vision
/// Mamba's and timm's rule).
const NOT_DECAYED: [&str; 9] = [
    "A_log",
    "A_b_log",
    "D",
    "D_b",
    "cls_token",
    "dist_token",
    "reg_token",
    "pos_embed",
    "pos_embed_cls",
];

/// Returns whether weight decay applies: to matrices and kernels, not to biases, norms, tokens, or
/// the scan's A and D.
pub fn is_decayed(name: &str, parameter: &Tensor) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    parameter.dim() > 1 && !NOT_DECAYED.contains(&last)
}

/// A section of a backbone that has its own learning rate under layer decay, from the bottom up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    /// The patch embedding, special tokens, position embedding, and the norm before the blocks.
    Embedding,
    /// The block with this index, from 0.
    Block(usize),
    /// The norm behind the last block, and the neck.
    Norm,
}

/// Returns the branch (0: ViT, 1: Vision Mamba) and layer of a backbone's parameter; `None` for
/// fusion and head.
pub(super) fn layer_of(name: &str) -> Option<(usize, Layer)> {
    let (branch, rest) = [("vit.", 0), ("mamba.", 1)]
        .iter()
        .find_map(|(prefix, branch)| Some((*branch, name.strip_prefix(prefix)?)))?;
    let mut components = rest.split('.');
    let layer = match (components.next(), components.next().map(str::parse)) {
        (Some("blocks" | "layers"), Some(Ok(block))) => Layer::Block(block),
        (Some("norm" | "norm_f" | "neck" | "norm_neck"), _) => Layer::Norm,
        _ => Layer::Embedding,
    };
    Some((branch, layer))
}

/// Returns the number of blocks of the ViT and the Vision Mamba with these parameters.
pub fn depths<'a>(names: impl Iterator<Item = &'a str>) -> [usize; 2] {
    let mut depths = [0; 2];
    for name in names {
        if let Some((branch, Layer::Block(block))) = layer_of(name) {
            depths[branch] = depths[branch].max(block + 1);
        }
    }
    depths
}

fn is_freezable(branch: usize, layer: Layer, freeze: &FreezeConfig) -> bool {
    match [freeze.vit, freeze.mamba][branch] {
        FrozenBlocks::All => true,
        FrozenBlocks::First(blocks) => blocks > 0 && layer < Layer::Block(blocks),
    }
}

/// Freezes the parameters that stay frozen for the entire run, and returns these and the others.
pub fn freeze_for_the_run(
    parameters: Vec<(String, Tensor)>,
    freeze: &FreezeConfig,
) -> [Vec<(String, Tensor)>; 2] {
    if freeze.epochs.is_some() {
        return [Vec::new(), parameters];
    }
    let stays = |name: &str| {
        layer_of(name).is_some_and(|(branch, layer)| is_freezable(branch, layer, freeze))
    };
    let (frozen, others): (Vec<_>, Vec<_>) =
        parameters.into_iter().partition(|(name, _)| stays(name));
    for (_, parameter) in &frozen {
        let _ = parameter.set_requires_grad(false);
    }
    [frozen, others]
}

/// The properties that the parameters of one group share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// Whether they belong to a backbone.
    pub backbone: bool,
    /// Whether weight decay applies.
    pub decayed: bool,
    /// Whether the config freezes them for a time.
    pub freezable: bool,
    /// Bits of the factor on their learning rate: it is not negative, so the bits are ordered as
    /// the numbers are.
    lr_scale: u64,
}

impl GroupKey {
    /// Returns the group of a parameter; `depths` are the backbones' numbers of blocks.
    ///
    /// Layer decay (ELECTRA, arXiv 2003.10555; BEiT, arXiv 2106.08254): the last block's learning
    /// rate is `layer_decay` times the full one, and each layer's below it `layer_decay` times that
    /// of the layer above, down to the embeddings. The norm behind the blocks has the full one.
    pub fn new(
        name: &str,
        parameter: &Tensor,
        depths: [usize; 2],
        config: &OptimizerConfig,
        freeze: &FreezeConfig,
    ) -> Self {
        let layer = layer_of(name);
        let lr_scale = layer.map_or(1.0, |(branch, layer)| {
            let below_the_top = match layer {
                Layer::Norm => 0,
                Layer::Block(block) => depths[branch] - block,
                Layer::Embedding => depths[branch] + 1,
            };
            config.layer_decay.powi(below_the_top as i32)
        });
        let freezable = layer.is_some_and(|(branch, layer)| is_freezable(branch, layer, freeze));
        Self {
            backbone: layer.is_some(),
            decayed: is_decayed(name, parameter),
            freezable,
            lr_scale: lr_scale.to_bits(),
        }
    }

    /// Returns the factor on the learning rate.
    pub fn lr_scale(&self) -> f64 {
        f64::from_bits(self.lr_scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn decay_skips_what_the_published_recipes_skip() {
        let matrix = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
        for name in [
            "mamba.layers.0.mixer.A_log",
            "mamba.layers.0.mixer.A_b_log",
            "vit.cls_token",
            "mamba.pos_embed",
            "vit.dist_token",
            "vit.reg_token",
            "mamba.pos_embed_cls",
        ] {
            assert!(!is_decayed(name, &matrix), "{name}");
        }
        assert!(is_decayed("mamba.layers.0.mixer.in_proj.weight", &matrix));
        assert!(!is_decayed("vit.norm.weight", &matrix.select(0, 0)));
    }

    #[test]
    fn without_layer_decay_and_freezing_there_are_four_groups() {
        let matrix = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
        let bias = matrix.select(0, 0);
        let names = ["head.layers.0", "vit.blocks.0", "vit.pos_embed", "mamba.norm_f"];
        let depths = depths(names.into_iter());
        let mut keys: Vec<GroupKey> = names
            .iter()
            .flat_map(|name| [(name, &matrix), (name, &bias)])
            .map(|(name, parameter)| {
                let (config, freeze) = (OptimizerConfig::default(), FreezeConfig::default());
                GroupKey::new(name, parameter, depths, &config, &freeze)
            })
            .collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 4);
        assert!(keys.iter().all(|key| key.lr_scale() == 1.0 && !key.freezable));
    }

    #[test]
    fn tokens_and_the_norm_before_the_blocks_are_below_them_and_a_neck_is_above() {
        let matrix = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
        let config = OptimizerConfig { layer_decay: 0.5, ..OptimizerConfig::default() };
        let freeze = FreezeConfig {
            vit: FrozenBlocks::First(1),
            mamba: FrozenBlocks::First(2),
            ..FreezeConfig::default()
        };
        for (name, below_the_top, frozen) in [
            ("vit.norm_pre.weight", 4, true),
            ("vit.reg_token", 4, true),
            ("vit.dist_token", 4, true),
            ("vit.blocks.0.ls1.gamma", 3, true),
            ("vit.blocks.2.ls2.gamma", 1, false),
            ("vit.norm.weight", 0, false),
            ("mamba.pos_embed_cls", 3, true),
            ("mamba.neck.weight", 0, false),
            ("mamba.norm_neck.weight", 0, false),
        ] {
            let key = GroupKey::new(name, &matrix, [3, 2], &config, &freeze);
            assert_eq!(key.lr_scale(), 0.5f64.powi(below_the_top), "{name}");
            assert_eq!(key.freezable, frozen, "{name}");
        }
    }

    #[test]
    fn blocks_are_counted_by_branch() {
        let names = ["vit.blocks.11.norm1.weight", "vit.blocks.2.norm1.weight"];
        let more = ["mamba.layers.23.norm.weight", "head.layers.0.weight"];
        assert_eq!(depths(names.into_iter().chain(more)), [12, 24]);
    }
}
