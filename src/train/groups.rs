//! Which parameters are optimized alike: rules on names and dimensions, written once.

use tch::Tensor;

use crate::config::{FreezeConfig, FrozenBlocks, OptimizerConfig};

/// Names whose last part is one of these are not decayed, whatever their shape (Vision Mamba's and
/// timm's rule).
const NOT_DECAYED: [&str; 6] = ["A_log", "A_b_log", "D", "D_b", "cls_token", "pos_embed"];

/// Whether weight decay applies: to matrices and kernels, not to biases, norms, tokens, or the
/// scan's A and D.
pub fn is_decayed(name: &str, parameter: &Tensor) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    parameter.dim() > 1 && !NOT_DECAYED.contains(&last)
}

/// A part of a backbone that has a rate of its own under layer decay, from the bottom up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    /// Patch embedding, class token, position embedding.
    Embedding,
    /// A block, from 0.
    Block(usize),
    /// The norm behind the last block.
    Norm,
}

/// The branch (0: ViT, 1: Vision Mamba) and layer of a backbone's parameter; `None` for fusion and
/// head.
fn layer_of(name: &str) -> Option<(usize, Layer)> {
    let (branch, rest) = [("vit.", 0), ("mamba.", 1)]
        .iter()
        .find_map(|(prefix, branch)| Some((*branch, name.strip_prefix(prefix)?)))?;
    let mut parts = rest.split('.');
    let layer = match (parts.next(), parts.next().map(str::parse)) {
        (Some("blocks" | "layers"), Some(Ok(block))) => Layer::Block(block),
        (Some("norm" | "norm_f"), _) => Layer::Norm,
        _ => Layer::Embedding,
    };
    Some((branch, layer))
}

/// The number of blocks of the ViT and the Vision Mamba with these parameters.
pub fn depths<'a>(names: impl Iterator<Item = &'a str>) -> [usize; 2] {
    let mut depths = [0; 2];
    for name in names {
        if let Some((branch, Layer::Block(block))) = layer_of(name) {
            depths[branch] = depths[branch].max(block + 1);
        }
    }
    depths
}

/// What parameters of one group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// Whether they are of a backbone.
    pub backbone: bool,
    /// Whether weight decay applies.
    pub decayed: bool,
    /// Whether the config freezes them for a time.
    pub freezable: bool,
    /// Bits of the factor on their rate: it is not negative, so that they are ordered as the
    /// numbers are.
    lr_scale: u64,
}

impl GroupKey {
    /// The group of a parameter of backbones with so many blocks.
    ///
    /// Layer decay (ELECTRA, arXiv 2003.10555; BEiT, arXiv 2106.08254): the last block's rate is
    /// `layer_decay` times the full one, each block's below it `layer_decay` times that, the
    /// embeddings' below the first block's; the norm behind the blocks has the full rate.
    pub fn new(
        name: &str,
        parameter: &Tensor,
        depths: [usize; 2],
        config: &OptimizerConfig,
        freeze: &FreezeConfig,
    ) -> Self {
        let place = layer_of(name);
        let lr_scale = place.map_or(1.0, |(branch, layer)| {
            let below_the_top = match layer {
                Layer::Norm => 0,
                Layer::Block(block) => depths[branch] - block,
                Layer::Embedding => depths[branch] + 1,
            };
            config.layer_decay.powi(below_the_top as i32)
        });
        let freezable =
            place.is_some_and(|(branch, layer)| match [freeze.vit, freeze.mamba][branch] {
                FrozenBlocks::All => true,
                FrozenBlocks::First(blocks) => blocks > 0 && layer < Layer::Block(blocks),
            });
        Self {
            backbone: place.is_some(),
            decayed: is_decayed(name, parameter),
            freezable,
            lr_scale: lr_scale.to_bits(),
        }
    }

    /// The factor on the rate.
    pub fn lr_scale(&self) -> f64 {
        f64::from_bits(self.lr_scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn decay_leaves_out_what_the_published_recipes_leave_out() {
        let matrix = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
        for name in [
            "mamba.layers.0.mixer.A_log",
            "mamba.layers.0.mixer.A_b_log",
            "vit.cls_token",
            "mamba.pos_embed",
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
    fn depths_are_counted_by_branch() {
        let names = ["vit.blocks.11.norm1.weight", "vit.blocks.2.norm1.weight"];
        let more = ["mamba.layers.23.norm.weight", "head.layers.0.weight"];
        assert_eq!(depths(names.into_iter().chain(more)), [12, 24]);
    }
}
