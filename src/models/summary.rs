//! What a model is made of: parameters by part, and what an image costs.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use tch::Device;

use super::beauty_net::BeautyNet;
use super::cost::Cost;
use crate::config::{Branch, Config};

/// One part of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its parameters' common name, for example `mamba.layers.0`.
    pub name: String,
    /// Parameters.
    pub parameters: i64,
    /// Multiply-adds for one image; element-wise work (norms, activations) is not counted.
    pub multiply_adds: i64,
    /// Bytes that the forward pass of one image keeps for backward, in float32; of fusion and head,
    /// which see one vector, 0.
    pub activation_bytes: i64,
}

/// The whole network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// In the order of the forward pass.
    pub layers: Vec<Layer>,
    /// Of all layers.
    pub parameters: i64,
    /// Of all layers.
    pub multiply_adds: i64,
    /// Of all layers.
    pub activation_bytes: i64,
    /// Images in a training step, from the config: it keeps `batch_size * activation_bytes`.
    pub batch_size: usize,
}

/// Builds the network without reading pretrained weights, and counts.
///
/// # Errors
/// Sizes that do not fit.
pub fn summarize(config: &Config) -> Result<Summary> {
    let net = BeautyNet::without_pretrained(config, Device::Cpu)?;
    let mut by_part: BTreeMap<(usize, usize, String), [i64; 3]> = BTreeMap::new();
    for (name, tensor) in net.parameters().iter().filter(|(_, t)| t.requires_grad()) {
        let part = part_of(name);
        let entry = by_part.entry((rank(&part), number(&part), part)).or_default();
        entry[0] += tensor.numel() as i64;
        if name.starts_with("fusion.") || name.starts_with("head.") {
            // Every matrix there multiplies one vector; what multiplies more tokens is added below.
            entry[1] += if tensor.dim() == 2 { tensor.numel() as i64 } else { 0 };
        }
    }
    let shapes = [config.shape(Branch::Vit)?, config.shape(Branch::Mamba)?];
    let patches = shapes.map(|shape| shape.map_or(0, |shape| shape.patches()));
    if let Some((_, fusion)) = by_part.iter_mut().find(|((_, _, part), _)| part == "fusion") {
        fusion[1] += net.fusion().token_multiply_adds(patches);
    }
    for shape in shapes.into_iter().flatten() {
        let prefix = shape.branch.name();
        for ((_, _, part), entry) in
            by_part.iter_mut().filter(|((_, _, part), _)| part.starts_with(prefix))
        {
            let cost = match part.split('.').nth(1) {
                Some("patch_embed") => Cost::patch_embed(&shape),
                Some("blocks" | "layers") => Cost::block(&shape),
                Some("norm" | "norm_f") => Cost::norm(&shape),
                _ => continue,
            };
            entry[1] = cost.multiply_adds;
            entry[2] = cost.activation_bytes;
        }
    }
    let layers: Vec<Layer> = by_part
        .into_iter()
        .map(|((_, _, name), [parameters, multiply_adds, activation_bytes])| Layer {
            name,
            parameters,
            multiply_adds,
            activation_bytes,
        })
        .collect();
    Ok(Summary {
        parameters: layers.iter().map(|layer| layer.parameters).sum(),
        multiply_adds: layers.iter().map(|layer| layer.multiply_adds).sum(),
        activation_bytes: layers.iter().map(|layer| layer.activation_bytes).sum(),
        batch_size: config.train.batch_size,
        layers,
    })
}

/// `vit.blocks.3.attn.qkv.weight` belongs to `vit.blocks.3`, `vit.norm.weight` to `vit.norm`,
/// `fusion.gate.bias` to `fusion`.
fn part_of(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let length = match parts[..] {
        ["vit" | "mamba", "blocks" | "layers", ..] => 3,
        ["vit" | "mamba", ..] => 2,
        _ => 1,
    };
    parts[..length.min(parts.len())].join(".")
}

/// The order of the forward pass.
fn rank(part: &str) -> usize {
    let branch = match part.split('.').next() {
        Some("vit") => 0,
        Some("mamba") => 10,
        Some("fusion") => 20,
        _ => 30,
    };
    let inside = match part.split('.').nth(1) {
        Some("patch_embed") => 0,
        Some("cls_token") => 1,
        Some("pos_embed") => 2,
        Some("blocks" | "layers") => 3,
        _ => 4,
    };
    branch + inside
}

fn number(part: &str) -> usize {
    part.split('.').nth(2).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(overrides: &[&str]) -> Summary {
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        summarize(&Config::from_yaml("", "test", &overrides).unwrap()).unwrap()
    }

    #[test]
    fn vit_tiny_has_the_parameters_and_about_the_multiply_adds_that_timm_reports() {
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
    fn a_stride_of_half_a_patch_costs_as_many_times_more_as_there_are_tokens() {
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
        // query and output; scores and their use.
        let projections = 2 * 5 * 192 * 32;
        let attention = 2 * (2 * 5 * 32 * 32 + 2 * 32 * 32 + 2 * 5 * 32);
        assert_eq!(fusion.unwrap().multiply_adds, projections + attention);
    }

    #[test]
    fn layers_come_in_the_order_of_the_forward_pass() {
        let names: Vec<String> = summary(&[]).layers.into_iter().map(|layer| layer.name).collect();
        let place = |name: &str| names.iter().position(|n| n == name).unwrap();
        assert!(place("vit.blocks.2") < place("vit.blocks.10"));
        assert!(place("vit.norm") < place("mamba.patch_embed"));
        assert!(place("mamba.norm_f") < place("fusion") && place("fusion") < place("head"));
    }
}
