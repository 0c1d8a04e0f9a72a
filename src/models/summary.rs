//! What a model is made of: parameters by part, and multiply-adds for one picture.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use tch::Device;

use super::beauty_net::BeautyNet;
use super::vim::dt_rank;
use crate::config::{BackboneShape, Config};

/// One part of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its parameters' common name, for example `mamba.layers.0`.
    pub name: String,
    /// Parameters.
    pub parameters: i64,
    /// Multiply-adds for one picture; element-wise work (norms, activations) is not counted.
    pub multiply_adds: i64,
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
}

/// Builds the network without reading pretrained weights, and counts.
///
/// # Errors
/// Sizes that do not fit.
pub fn summarise(config: &Config) -> Result<Summary> {
    let net = BeautyNet::without_pretrained(config, Device::Cpu)?;
    let mut by_part: BTreeMap<(usize, usize, String), [i64; 2]> = BTreeMap::new();
    for (name, tensor) in net.parameters().iter().filter(|(_, t)| t.requires_grad()) {
        let part = part_of(name);
        let entry = by_part
            .entry((rank(&part), number(&part), part))
            .or_default();
        entry[0] += tensor.numel() as i64;
        if name.starts_with("fusion.") || name.starts_with("head.") {
            // Every matrix there multiplies one vector; what multiplies more tokens is added below.
            entry[1] += if tensor.dim() == 2 {
                tensor.numel() as i64
            } else {
                0
            };
        }
    }
    let patches = [config.vit_shape()?, config.mamba_shape()?]
        .map(|shape| shape.map_or(0, |shape| shape.patches()));
    if let Some((_, fusion)) = by_part
        .iter_mut()
        .find(|((_, _, part), _)| part == "fusion")
    {
        fusion[1] += net.fusion().token_multiply_adds(patches);
    }
    for (prefix, shape, block) in [
        (
            "vit",
            config.vit_shape()?,
            vit_block as fn(&BackboneShape) -> i64,
        ),
        ("mamba", config.mamba_shape()?, vim_block),
    ] {
        let Some(shape) = shape else { continue };
        for ((_, _, part), entry) in by_part
            .iter_mut()
            .filter(|((_, _, part), _)| part.starts_with(prefix))
        {
            if part.ends_with("patch_embed") {
                entry[1] = shape.patches() * 3 * shape.patch_size.pow(2) * shape.embed_dim;
            } else if part.contains(".blocks.") || part.contains(".layers.") {
                entry[1] = block(&shape);
            }
        }
    }
    let layers: Vec<Layer> = by_part
        .into_iter()
        .map(|((_, _, name), [parameters, multiply_adds])| Layer {
            name,
            parameters,
            multiply_adds,
        })
        .collect();
    Ok(Summary {
        parameters: layers.iter().map(|layer| layer.parameters).sum(),
        multiply_adds: layers.iter().map(|layer| layer.multiply_adds).sum(),
        layers,
    })
}

/// `vit.blocks.3.attn.qkv.weight` belongs to `vit.blocks.3`, `vit.norm.weight` to `vit.norm`, `fusion.gate.bias` to `fusion`.
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
    part.split('.')
        .nth(2)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// qkv and projection, queries times keys and weights times values, and the MLP of ratio 4.
fn vit_block(shape: &BackboneShape) -> i64 {
    let (l, d) = (shape.patches() + 1, shape.embed_dim);
    l * d * 4 * d + 2 * l * l * d + l * d * 8 * d
}

/// The projections, and for each direction the convolution (4 taps), the step sizes, and the scan: per channel, step and state
/// one multiplication of dt and A, two for the state and one for its reading.
fn vim_block(shape: &BackboneShape) -> i64 {
    let (l, d, n) = (shape.patches() + 1, shape.embed_dim, shape.d_state);
    let (inner, rank) = (2 * d, dt_rank(d));
    let direction =
        l * inner * 4 + l * inner * (rank + 2 * n) + l * rank * inner + 4 * l * inner * n;
    l * d * 2 * inner + 2 * direction + l * inner * d
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(overrides: &[&str]) -> Summary {
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        summarise(&Config::from_yaml("", "test", &overrides).unwrap()).unwrap()
    }

    #[test]
    fn vit_tiny_has_the_parameters_and_about_the_multiply_adds_that_timm_reports() {
        let summary = summary(&["model.fusion.strategy=vit_only", "model.head.hidden=[]"]);
        // timm: 5.72 M parameters with 1000 classes (193,000 in the classifier), 1.26 G multiply-adds.
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
    fn cross_attention_counts_its_work_on_every_token() {
        let sizes = [
            "data.image_size=32",
            "model.fusion={strategy: cross_attention, dim: 32}",
        ];
        let summary = summary(&sizes);
        let fusion = summary.layers.iter().find(|layer| layer.name == "fusion");
        // 4 patches and the class token of each branch, 192 wide: projections; keys and values; query and output; scores and
        // their use.
        let projections = 2 * 5 * 192 * 32;
        let attention = 2 * (2 * 5 * 32 * 32 + 2 * 32 * 32 + 2 * 5 * 32);
        assert_eq!(fusion.unwrap().multiply_adds, projections + attention);
    }

    #[test]
    fn layers_come_in_the_order_of_the_forward_pass() {
        let names: Vec<String> = summary(&[])
            .layers
            .into_iter()
            .map(|layer| layer.name)
            .collect();
        let place = |name: &str| names.iter().position(|n| n == name).unwrap();
        assert!(place("vit.blocks.2") < place("vit.blocks.10"));
        assert!(place("vit.norm") < place("mamba.patch_embed"));
        assert!(place("mamba.norm_f") < place("fusion") && place("fusion") < place("head"));
    }
}
