//! The summary of a model: parameters and cost by module.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use tch::Device;

use super::beauty_net::BeautyNet;
use super::cost::Cost;
use super::head::BRANCH_HEADS;
use crate::config::{Branch, Config};

/// A module of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// The common prefix of its parameters' names, for example `mamba.layers.0`.
    pub name: String,
    /// Number of parameters.
    pub parameters: i64,
    /// Multiply-adds for one image; element-wise work (norms, activations) is not counted.
    pub multiply_adds: i64,
    /// Bytes that the forward pass of one image keeps for backward, in float32; 0 for fusion and
    /// head, which keep little.
    pub activation_bytes: i64,
}

/// The modules of a network and their totals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The modules in the order of the forward pass.
    pub layers: Vec<Layer>,
    /// Sum over the layers.
    pub parameters: i64,
    /// Sum over the layers.
    pub multiply_adds: i64,
    /// Sum over the layers.
    pub activation_bytes: i64,
    /// `train.batch_size`: a training step that computes a batch at once, as on a GPU, keeps
    /// `batch_size * activation_bytes`.
    pub batch_size: usize,
}

/// Builds the network without reading pretrained weights, and counts parameters and cost.
pub fn summarize(config: &Config) -> Result<Summary> {
    let net = BeautyNet::without_pretrained(config, Device::Cpu)?;
    let mut by_module: BTreeMap<(usize, usize, String), Layer> = BTreeMap::new();
    for (name, tensor) in net.parameters().iter().filter(|(_, t)| t.requires_grad()) {
        // They are for training: a prediction does not need them.
        if name.starts_with(BRANCH_HEADS) {
            continue;
        }
        let module = module_of(name).to_string();
        let key = (order(&module), block_index(&module), module.clone());
        let new = || Layer { name: module, ..Layer::default() };
        let layer = by_module.entry(key).or_insert_with(new);
        layer.parameters += tensor.numel() as i64;
        if matches!(layer.name.as_str(), "fusion" | "head") && tensor.dim() == 2 {
            // Every matrix there multiplies one vector; work on more tokens is added below.
            layer.multiply_adds += tensor.numel() as i64;
        }
    }
    let mut layers: Vec<Layer> = by_module.into_values().collect();
    let shapes = [config.shape(Branch::Vit)?, config.shape(Branch::Mamba)?];
    for layer in &mut layers {
        if layer.name == "fusion" {
            let patches = shapes.map(|shape| shape.map_or(0, |shape| shape.patches()));
            layer.multiply_adds += net.fusion().token_multiply_adds(patches);
        }
        let mut names = layer.name.split('.');
        let branch = names.next();
        let shape = shapes.iter().flatten().find(|shape| Some(shape.branch.name()) == branch);
        let Some(shape) = shape else { continue };
        let cost = match names.next() {
            Some("patch_embed") => Cost::patch_embed(shape),
            Some("blocks" | "layers") => Cost::block(shape, config.train.checkpoint_activations),
            Some("norm_pre" | "norm" | "norm_f") => Cost::norm(shape),
            Some("neck") => Cost::neck(shape),
            _ => continue,
        };
        (layer.multiply_adds, layer.activation_bytes) = (cost.multiply_adds, cost.activation_bytes);
    }
    Ok(Summary {
        parameters: layers.iter().map(|layer| layer.parameters).sum(),
        multiply_adds: layers.iter().map(|layer| layer.multiply_adds).sum(),
        activation_bytes: layers.iter().map(|layer| layer.activation_bytes).sum(),
        batch_size: config.train.batch_size,
        layers,
    })
}

/// Returns the module of a parameter: a block (`vit.blocks.3`, `mamba.layers.7`), another module of
/// a backbone (`vit.patch_embed`), `fusion` or `head`.
pub fn module_of(name: &str) -> &str {
    let depth = match name.split('.').collect::<Vec<_>>()[..] {
        ["vit" | "mamba", "blocks" | "layers", _, ..] => 3,
        ["vit" | "mamba", _, ..] => 2,
        _ => 1,
    };
    let end = name.match_indices('.').nth(depth - 1).map_or(name.len(), |(at, _)| at);
    &name[..end]
}

/// Returns a module's position in the forward pass; blocks of a backbone have the same.
fn order(module: &str) -> usize {
    let mut names = module.split('.');
    let branch = match names.next() {
        Some("vit") => 0,
        Some("mamba") => 10,
        Some("fusion") => 20,
        _ => 30,
    };
    let inside = match names.next() {
        Some("patch_embed") => 0,
        Some("cls_token" | "dist_token" | "reg_token") => 1,
        Some("pos_embed" | "pos_embed_cls") => 2,
        Some("norm_pre") => 3,
        Some("blocks" | "layers") => 4,
        Some("norm" | "norm_f") => 5,
        _ => 6,
    };
    branch + inside
}

fn block_index(module: &str) -> usize {
    module.split('.').nth(2).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(overrides: &[&str]) -> Summary {
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        summarize(&Config::from_yaml("", "test", &overrides).unwrap()).unwrap()
    }

    #[test]
    fn a_parameter_belongs_to_its_block() {
        for (name, module) in [
            ("vit.blocks.3.attn.qkv.weight", "vit.blocks.3"),
            ("mamba.layers.11.mixer.A_log", "mamba.layers.11"),
            ("vit.cls_token", "vit.cls_token"),
            ("mamba.patch_embed.proj.weight", "mamba.patch_embed"),
            ("fusion.gate.weight", "fusion"),
            ("head.layers.0.bias", "head"),
        ] {
            assert_eq!(module_of(name), module);
        }
    }

    #[test]
    fn vit_tiny_has_timms_parameters_and_about_timms_multiply_adds() {
        let summary = summary(&["model.fusion.strategy=vit_only", "model.head.hidden=[]"]);
        // timm: 5.72 M parameters with 1000 classes (193,000 in the classifier), 1.26 G
        // multiply-adds.
        assert_eq!(summary.parameters, 5_717_416 - 193_000 + 193);
        assert!(
            (1.2e9..1.3e9).contains(&(summary.multiply_adds as f64)),
            "{}",
            summary.multiply_adds
        );
    }

    #[test]
    fn vim_tiny_has_the_papers_parameters() {
        let summary = summary(&["model.fusion.strategy=mamba_only", "model.head.hidden=[]"]);
        // 7.15 M with 1000 classes.
        let published = summary.parameters + 193_000 - 193;
        assert_eq!((published as f64 / 1e4).round(), 715.0, "{published}");
    }

    #[test]
    fn a_stride_of_half_a_patch_costs_in_proportion_to_the_tokens() {
        let of = |name: &str| {
            let name = format!("model.mamba.name={name}");
            summary(&["model.fusion.strategy=mamba_only", &name])
        };
        let wide = of("vim_tiny_patch16_224"); // 197 tokens
        let narrow = of("vim_tiny_patch16_stride8_224"); // 730
        let block = |summary: &Summary| {
            let layers = summary.layers.iter();
            let mut blocks = layers.filter(|layer| layer.name == "mamba.layers.0");
            blocks.next().unwrap().multiply_adds
        };
        assert_eq!(block(&narrow) * 197, block(&wide) * 730);
        assert!(narrow.activation_bytes > 3 * wide.activation_bytes);
        assert_eq!(narrow.parameters - wide.parameters, (730 - 197) * 192);
    }

    #[test]
    fn recomputed_blocks_keep_their_input_only() {
        let sizes = "model.fusion.strategy=mamba_only";
        let [kept, recomputed] = [false, true]
            .map(|value| summary(&[sizes, &format!("train.checkpoint_activations={value}")]));
        for (before, after) in kept.layers.iter().zip(&recomputed.layers) {
            assert_eq!(before.multiply_adds, after.multiply_adds);
            if before.name.starts_with("mamba.layers.") {
                assert_eq!(after.activation_bytes, 4 * 197 * 192);
            } else {
                assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn a_convolutional_stem_counts_every_convolution() {
        let sizes = [
            "data.image_size=64",
            "model.fusion.strategy=vit_only",
            "model.vit={name: vit_micro_patch8_64, stem: conv}",
        ];
        let summary = summary(&sizes);
        let stem = summary.layers.iter().find(|layer| layer.name == "vit.patch_embed").unwrap();
        // 3, 24, 48 and 96 channels at 32, 16 and 8 pixels a side, then a product for each of 64
        // patches.
        let convolutions = 9 * (1024 * 24 * 3 + 256 * 48 * 24 + 64 * 96 * 48);
        assert_eq!(stem.multiply_adds, convolutions + 64 * 96 * 96);
        let norms = 2 * (24 + 48 + 96);
        let weights = 9 * (24 * 3 + 48 * 24 + 96 * 48) + 96 * 96 + 96;
        assert_eq!(stem.parameters, weights + norms);
    }

    #[test]
    fn cross_attention_counts_its_work_on_every_token() {
        let sizes = ["data.image_size=32", "model.fusion={strategy: cross_attention, dim: 32}"];
        let summary = summary(&sizes);
        let fusion = summary.layers.iter().find(|layer| layer.name == "fusion");
        // 4 patches and the class token of each branch, 192 wide: projections; keys and values;
        // query and output; scores and the weighted sum.
        let projections = 2 * 5 * 192 * 32;
        let attention = 2 * (2 * 5 * 32 * 32 + 2 * 32 * 32 + 2 * 5 * 32);
        assert_eq!(fusion.unwrap().multiply_adds, projections + attention);
    }

    #[test]
    fn layers_come_in_the_order_of_the_forward_pass() {
        let names: Vec<String> = summary(&[]).layers.into_iter().map(|layer| layer.name).collect();
        let index = |name: &str| names.iter().position(|n| n == name).unwrap();
        assert!(index("vit.blocks.2") < index("vit.blocks.10"));
        assert!(index("vit.norm") < index("mamba.patch_embed"));
        assert!(index("mamba.norm_f") < index("fusion") && index("fusion") < index("head"));
    }
}
