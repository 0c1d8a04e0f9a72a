//! Names what sets the architecture of a weights file apart from ours, by its parameters' names.

use std::collections::BTreeSet;

use crate::config::{Branch, PRESETS, Preset};

/// Components of names that our ViT does not have, or some presets alone, and what they are.
const VIT: [(&str, &str); 27] = [
    ("ls1", "LayerScale"),
    ("ls2", "LayerScale"),
    ("gamma_1", "LayerScale"),
    ("gamma_2", "LayerScale"),
    ("fc_norm", "average pooling of its tokens, with a norm behind it"),
    ("norm_pre", "a norm before its blocks"),
    ("q_norm", "norms of queries and keys"),
    ("k_norm", "norms of queries and keys"),
    ("reg_token", "register tokens"),
    ("register_tokens", "the names of DINOv2's own files, which differ from timm's"),
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
    ("relative_position_index", "the windows of a Swin Transformer"),
    ("mixer", "Mamba layers, which model.mamba has"),
    ("layer1", "the layers of a ResNet"),
    ("stages", "stages of a hierarchical or convolutional network"),
];
/// Components of names that our Vision Mamba does not have, or some presets alone, and what they
/// are.
const VIM: [(&str, &str); 10] = [
    ("cls_token_head", "class tokens at both ends"),
    ("cls_token_tail", "class tokens at both ends"),
    ("pos_embed_cls", "the class tokens of a Mamba-Reg"),
    ("neck", "the class tokens of a Mamba-Reg"),
    ("rope", "rotary position embeddings"),
    ("dt_bias", "Mamba-2 layers"),
    ("init_layer_scale", "LayerScale"),
    ("gamma", "LayerScale"),
    ("attn", "attention, which model.vit has"),
    ("dist_token", "a distillation token"),
];
/// Parameters that our architectures have and others lack, and what is without them.
const MISSING: [(&str, &str); 10] = [
    ("cls_token", "no class token"),
    ("dist_token", "no distillation token"),
    ("reg_token", "no register tokens"),
    ("pos_embed_cls", "one class token, where a Mamba-Reg has several"),
    ("pos_embed", "no position embedding"),
    ("norm_pre.weight", "no norm before its blocks"),
    ("blocks.0.ls1.gamma", "no LayerScale"),
    ("blocks.0.attn.qkv.bias", "no biases of queries, keys and values"),
    ("layers.0.mixer.A_b_log", "scans in one direction"),
    ("layers.0.mixer.conv1d_b.weight", "one convolution for both directions"),
];

/// The components among these that some preset has.
const OF_PRESETS: [&str; 7] =
    ["ls1", "ls2", "norm_pre", "reg_token", "dist_token", "pos_embed_cls", "neck"];

fn parts(branch: Branch) -> &'static [(&'static str, &'static str)] {
    match branch {
        Branch::Vit => &VIT,
        Branch::Mamba => &VIM,
    }
}

/// Returns what sets a file's architecture apart: the parts that a branch's backbone does not have,
/// each with the first name that shows it, and what it lacks. Empty if the names show nothing.
pub(super) fn differences(
    branch: Branch,
    missing: &[String],
    unexpected: &[String],
) -> Vec<String> {
    let (mut known, mut found) = (BTreeSet::new(), Vec::new());
    for name in unexpected {
        let mut parts = parts(branch).iter();
        let part = parts.find(|(part, _)| name.split('.').any(|component| component == *part));
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

/// Returns the presets of a branch that have the width, the number of blocks and the variant of a
/// file with these names and shapes; none if it has a part that no preset has.
pub(super) fn presets<'a>(
    branch: Branch,
    shapes: impl Iterator<Item = (&'a str, &'a [i64])>,
) -> Vec<&'static str> {
    let (mut width, mut blocks) = (None, BTreeSet::new());
    let (mut class_tokens, mut register_tokens) = (0, 0);
    let (mut layer_scale, mut pre_norm) = (false, false);
    let is_foreign = |component: &str| {
        !OF_PRESETS.contains(&component) && parts(branch).iter().any(|(part, _)| *part == component)
    };
    for (name, shape) in shapes {
        if name.split('.').any(is_foreign) {
            return Vec::new();
        }
        let count = shape.get(1).copied().unwrap_or(0);
        match name.split('.').collect::<Vec<_>>()[..] {
            ["cls_token"] => {
                width = shape.last().copied();
                class_tokens += count;
            }
            ["dist_token"] => class_tokens += count,
            ["reg_token"] => register_tokens = count,
            ["norm_pre", ..] => pre_norm = true,
            ["blocks" | "layers", number, ref rest @ ..] => {
                blocks.insert(number);
                layer_scale |= rest.first() == Some(&"ls1");
            }
            _ => {}
        }
    }
    let depth = blocks.len() as i64;
    let presets = PRESETS.iter().filter(|Preset { shape, .. }| {
        let variant = &shape.variant;
        shape.branch == branch
            && Some(shape.embed_dim) == width
            && shape.depth == depth
            && [variant.class_tokens, variant.register_tokens] == [class_tokens, register_tokens]
            && [variant.layer_scale, variant.pre_norm] == [layer_scale, pre_norm]
    });
    presets.map(|preset| preset.name).collect()
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
    fn no_preset_is_named_for_a_file_with_a_part_that_none_has() {
        let blocks: Vec<String> =
            (0..12).map(|block| format!("blocks.{block}.ls1.gamma")).collect();
        let of = |more: &str| {
            let names = blocks.iter().map(|name| (name.as_str(), &[384][..]));
            let more = [("cls_token", &[1, 1, 384][..]), (more, &[1, 4, 384][..])];
            presets(Branch::Vit, names.chain(more))
        };
        assert_eq!(of("reg_token"), ["vit_small_patch14_reg4_dinov2"]);
        assert_eq!(of("norm.weight"), ["vit_small_patch14_dinov2"]);
        assert_eq!(of("register_tokens"), [""; 0]);
        assert_eq!(of("fc_norm.weight"), [""; 0]);
    }

    #[test]
    fn a_part_is_named_once_with_the_first_parameter_that_shows_it() {
        let names = ["blocks.0.ls1.gamma", "blocks.0.ls2.gamma", "fc_norm.bias", "head_norm"];
        let expected = "LayerScale: blocks.0.ls1.gamma; \
                        average pooling of its tokens, with a norm behind it: fc_norm.bias";
        assert_eq!(found(Branch::Vit, &[], &names), expected);
    }
}
