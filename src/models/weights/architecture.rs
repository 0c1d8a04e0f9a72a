//! Names what sets the architecture of a weights file apart from ours, by its parameters' names.

use std::collections::BTreeSet;

use crate::config::{Branch, PRESETS};

/// Components of names that our ViT does not have, and what they are.
const VIT: [(&str, &str); 28] = [
    ("ls1", "LayerScale"),
    ("ls2", "LayerScale"),
    ("gamma_1", "LayerScale"),
    ("gamma_2", "LayerScale"),
    ("fc_norm", "average pooling of its tokens, with a norm behind it"),
    ("norm_pre", "a norm before its blocks"),
    ("q_norm", "norms of queries and keys"),
    ("k_norm", "norms of queries and keys"),
    ("reg_token", "register tokens"),
    ("register_tokens", "register tokens"),
    ("dist_token", "a distillation token"),
    ("w12", "SwiGLU blocks"),
    ("fc1_g", "SwiGLU blocks"),
    ("relative_position_bias_table", "relative position biases"),
    ("rel_pos_bias", "relative position biases"),
    ("rel_pos", "relative position biases"),
    ("q_bias", "separate biases of queries and values"),
    ("v_bias", "separate biases of queries and values"),
    ("rope", "rotary position embeddings"),
    ("attn_pool", "attention pooling"),
    ("pre_logits", "a layer between features and classifier"),
    ("embeddings", "the names of Hugging Face's transformers, which differ from timm's"),
    ("conv_proj", "the names of torchvision, which differ from timm's"),
    ("resblocks", "the names of CLIP, which differ from timm's"),
    ("relative_position_index", "the windows of a Swin Transformer"),
    ("mixer", "Mamba layers, which model.mamba has"),
    ("layer1", "the layers of a ResNet"),
    ("stages", "stages of a hierarchical or convolutional network"),
];
/// Components of names that our Vision Mamba does not have, and what they are.
const VIM: [(&str, &str); 8] = [
    ("cls_token_head", "class tokens at both ends"),
    ("cls_token_tail", "class tokens at both ends"),
    ("rope", "rotary position embeddings"),
    ("dt_bias", "Mamba-2 layers"),
    ("init_layer_scale", "LayerScale"),
    ("gamma", "LayerScale"),
    ("attn", "attention, which model.vit has"),
    ("dist_token", "a distillation token"),
];
/// Parameters that our architectures have and others lack, and what is without them.
const MISSING: [(&str, &str); 5] = [
    ("cls_token", "no class token"),
    ("pos_embed", "no position embedding"),
    ("blocks.0.attn.qkv.bias", "no biases of queries, keys and values"),
    ("layers.0.mixer.A_b_log", "scans in one direction"),
    ("layers.0.mixer.conv1d_b.weight", "one convolution for both directions"),
];

/// Returns what sets a file's architecture apart: the parts that a branch's backbone does not have,
/// each with the first name that shows it, and what it lacks. Empty if the names show nothing.
pub(super) fn differences(
    branch: Branch,
    missing: &[String],
    unexpected: &[String],
) -> Vec<String> {
    let parts = match branch {
        Branch::Vit => &VIT[..],
        Branch::Mamba => &VIM[..],
    };
    let (mut known, mut found) = (BTreeSet::new(), Vec::new());
    for name in unexpected {
        let part =
            parts.iter().find(|(part, _)| name.split('.').any(|component| component == *part));
        if let Some((_, what)) = part
            && known.insert(*what)
        {
            found.push(format!("{what}: {name}"));
        }
    }
    let lacks = |name: &str| missing.iter().any(|missing| missing == name);
    let lacking = MISSING.iter().find(|(name, _)| lacks(name));
    found.extend(lacking.map(|(_, what)| what.to_string()));
    found
}

/// Returns the presets of a branch that have the width and the number of blocks of a file with
/// these names and shapes.
pub(super) fn presets<'a>(
    branch: Branch,
    shapes: impl Iterator<Item = (&'a str, &'a [i64])>,
) -> Vec<&'static str> {
    let (mut width, mut blocks) = (None, BTreeSet::new());
    for (name, shape) in shapes {
        let mut components = name.split('.');
        match (components.next(), components.next()) {
            (Some("cls_token"), None) => width = shape.last().copied(),
            (Some("blocks" | "layers"), Some(number)) => {
                blocks.insert(number);
            }
            _ => {}
        }
    }
    let depth = blocks.len() as i64;
    let presets = PRESETS.iter().filter(|preset| preset.shape.branch == branch);
    presets
        .filter(|preset| Some(preset.shape.embed_dim) == width && preset.shape.depth == depth)
        .map(|preset| preset.name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(branch: Branch, missing: &[&str], unexpected: &[&str]) -> String {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        differences(branch, &owned(missing), &owned(unexpected)).join("; ")
    }

    #[test]
    fn variants_of_vision_mamba_are_told_apart() {
        for (missing, unexpected, expected) in [
            (&["layers.0.mixer.A_b_log"][..], &[][..], "scans in one direction"),
            (&["layers.0.mixer.conv1d_b.weight"], &[], "one convolution for both directions"),
            (&["cls_token"], &["cls_token_head"], "class tokens at both ends: cls_token_head"),
            (&[], &["layers.0.mixer.dt_bias"], "Mamba-2 layers: layers.0.mixer.dt_bias"),
            (&[], &["rope.freqs_cos"], "rotary position embeddings: rope.freqs_cos"),
            (&["pos_embed"], &[], "no position embedding"),
            (&["layers.3.norm.weight"], &["layers.0.mixer.other"], ""),
        ] {
            let found = found(Branch::Mamba, missing, unexpected);
            assert!(found.starts_with(expected) && (expected.is_empty() == found.is_empty()));
        }
    }

    #[test]
    fn a_part_is_named_once_with_the_first_parameter_that_shows_it() {
        let names = ["blocks.0.ls1.gamma", "blocks.0.ls2.gamma", "fc_norm.bias", "head_norm"];
        let expected = "LayerScale: blocks.0.ls1.gamma; \
                        average pooling of its tokens, with a norm behind it: fc_norm.bias";
        assert_eq!(found(Branch::Vit, &[], &names), expected);
    }
}
