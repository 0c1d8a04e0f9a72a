//! The names in OpenAI's CLIP and what was trained from it, such as FaRL (arXiv 2112.03109).

use super::{StoredTensor, WeightsFile};

/// Parts of CLIP's names, and those of timm's.
const NAMES: [(&str, &str); 12] = [
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1.", "patch_embed.proj."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    ("transformer.resblocks.", "blocks."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
];

impl WeightsFile {
    /// Gives the parameters of CLIP's image encoder timm's names and shapes, behind the same
    /// prefix: usually `visual.`. A file without such an encoder does not change.
    pub(super) fn rename_clip(&mut self) {
        let mut towers =
            self.tensors.keys().filter_map(|name| name.strip_suffix("class_embedding"));
        let Some(prefix) =
            towers.find(|prefix| self.tensors.contains_key(&format!("{prefix}ln_pre.weight")))
        else {
            return;
        };
        let prefix = prefix.to_string();
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors
            .map(|(name, stored)| match name.strip_prefix(&prefix).map(timm_name) {
                Some(ours) => {
                    let dims = if matches!(&ours[..], "cls_token" | "pos_embed") { 3 } else { 0 };
                    (format!("{prefix}{ours}"), with_dims(stored, dims))
                }
                None => (name, stored),
            })
            .collect();
    }
}

fn timm_name(name: &str) -> String {
    // The projection to the width of the text.
    if name == "proj" {
        return "head.weight".into();
    }
    NAMES.iter().fold(name.to_string(), |name, (clip, timm)| name.replacen(clip, timm, 1))
}

/// Adds dimensions of size 1 in front, up to `dims`.
fn with_dims(mut stored: StoredTensor, dims: usize) -> StoredTensor {
    for _ in stored.size.len()..dims {
        stored.size.insert(0, 1);
        if let Some(stride) = &mut stored.stride {
            stride.insert(0, 0);
        }
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::timm_name;

    #[test]
    fn names_of_clip_become_those_of_timm() {
        for (clip, timm) in [
            ("conv1.weight", "patch_embed.proj.weight"),
            ("ln_pre.bias", "norm_pre.bias"),
            ("ln_post.weight", "norm.weight"),
            ("proj", "head.weight"),
            ("transformer.resblocks.11.ln_1.weight", "blocks.11.norm1.weight"),
            ("transformer.resblocks.0.attn.in_proj_weight", "blocks.0.attn.qkv.weight"),
            ("transformer.resblocks.0.attn.out_proj.bias", "blocks.0.attn.proj.bias"),
            ("transformer.resblocks.3.mlp.c_fc.weight", "blocks.3.mlp.fc1.weight"),
            ("transformer.resblocks.3.mlp.c_proj.weight", "blocks.3.mlp.fc2.weight"),
        ] {
            assert_eq!(timm_name(clip), timm);
        }
    }
}
