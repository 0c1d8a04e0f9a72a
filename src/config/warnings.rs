//! Values that are valid, but hardly meant.

use super::presets::preset;
use super::{BackboneConfig, BackboneShape, Branch, Config};

impl Config {
    /// Returns warnings about values that are valid, but hardly meant.
    pub fn warnings(&self) -> Vec<String> {
        let warning = |&branch: &Branch| {
            let shape = self.shape(branch).ok()??;
            unusual_patches(&format!("model.{branch}"), self.model.backbone(branch), &shape)
        };
        Branch::ALL.iter().filter_map(warning).collect()
    }
}

/// Describes a number of patches that is far from what a preset is designed for, as that of a
/// preset for large images on small ones.
fn unusual_patches(key: &str, backbone: &BackboneConfig, shape: &BackboneShape) -> Option<String> {
    /// The largest factor between the number of patches and that of the preset.
    const FACTOR: i64 = 8;
    let (count, usual) = (shape.patches(), preset(&backbone.name)?.shape.patches());
    let few = FACTOR * count < usual;
    if !few && count <= FACTOR * usual {
        return None;
    }
    let (size, patch) = (shape.image_size, shape.patch_size);
    let how = if few { "few details" } else { "slow, and much memory" };
    let (set, raise) = if few { ("smaller", "raise") } else { ("larger", "lower") };
    let grid = shape.grid();
    Some(format!(
        "{key}: {} cuts an image of {size} pixels into {grid}x{grid} = {count} patches of {patch} \
         pixels ({how}); it is designed for {usual}: choose a preset with {set} patches, set \
         {key}.patch_size, or {raise} data.image_size",
        backbone.name,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(overrides: &[&str]) -> Vec<String> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Config::from_yaml("", "a.yaml", &overrides).unwrap().warnings()
    }

    #[test]
    fn a_number_of_patches_far_from_that_of_the_preset_is_warned_about() {
        let found = warnings(&["data.image_size=64"]);
        assert_eq!(found.len(), 2, "{found:?}");
        let words = "model.vit: vit_tiny_patch16_224 cuts an image of 64 pixels into 4x4 = 16 \
                     patches of 16 pixels (few details); it is designed for 196: choose a preset \
                     with smaller patches, set model.vit.patch_size, or raise data.image_size";
        assert_eq!(found[0], words);
        let micro = ["model.vit.name=vit_micro_patch8_64", "model.fusion.strategy=vit_only"];
        let found = warnings(&micro);
        assert!(found.len() == 1 && found[0].contains("= 784 patches"), "{found:?}");
        assert!(found[0].contains("lower data.image_size"), "{found:?}");
        for fits in ["data.image_size=112", "data.image_size=384", "data.image_size=224"] {
            assert_eq!(warnings(&[fits]), [""; 0]);
        }
        let patches =
            ["data.image_size=64", "model={vit: {patch_size: 8}, mamba: {patch_size: 8}}"];
        assert_eq!(warnings(&patches), [""; 0]);
    }
}
