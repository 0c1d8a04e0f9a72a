//! `train.freeze`: the frozen layers, and whether their features are cached.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Config;
use super::branch::Branch;
use super::checks::Checks;
use super::schema::VARIABLE;
use super::section::{KeyType, section};
use super::write::flow;

section! {
    /// The frozen layers.
    pub struct FreezeConfig {
        /// Frozen layers of the ViT: `all`, or a number of blocks from the first on, with the
        /// embeddings below them; 0 freezes nothing.
        pub vit: FrozenBlocks = FrozenBlocks::First(0),
        /// Frozen layers of the Vision Mamba, likewise.
        pub mamba: FrozenBlocks = FrozenBlocks::First(0),
        /// Epochs after which the layers are unfrozen; `null` keeps them frozen for the entire run.
        pub epochs: Option<usize> = None,
        /// Compute the features of each image once, and keep them on disk for all runs, where the
        /// backbones in use are frozen entirely and for the entire run. Augmented images need
        /// `views` for it.
        pub cache: bool = true,
        /// Augmented views of each training image whose features are cached, with those of the
        /// image as it is. Each epoch trains on one view of each image, in turn. 0 trains on the
        /// images as they are, whatever `data.augment` says; `null` caches features only where
        /// nothing is augmented.
        pub views: Option<usize> = None,
    }
}

/// The largest number of cached views of an image.
const MAX_VIEWS: usize = 1000;

impl FreezeConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        let rule = format_args!("at most {MAX_VIEWS}");
        let views = self.views.unwrap_or(0);
        checks.require(views <= MAX_VIEWS, "views", rule, views);
    }

    /// Returns the frozen layers of a branch.
    pub fn of(&self, branch: Branch) -> FrozenBlocks {
        match branch {
            Branch::Vit => self.vit,
            Branch::Mamba => self.mamba,
        }
    }

    /// Returns whether the entire backbone of a branch is frozen in an epoch, from 0.
    pub fn freezes(&self, branch: Branch, epoch: usize) -> bool {
        let frozen = self.epochs.is_none_or(|epochs| epoch < epochs);
        frozen && self.of(branch) == FrozenBlocks::All
    }
}

/// The frozen layers of a backbone, from its embeddings upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrozenBlocks {
    /// This many blocks and the embeddings below them; 0 freezes nothing.
    First(usize),
    /// The entire backbone.
    All,
}

impl Serialize for FrozenBlocks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::First(blocks) => serializer.serialize_u64(*blocks as u64),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl KeyType for FrozenBlocks {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": format!("^all$|{VARIABLE}"),
        })
    }
}

impl<'de> Deserialize<'de> for FrozenBlocks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_yaml::Value::deserialize(deserializer)?;
        match (value.as_u64(), value.as_str()) {
            (Some(blocks), _) => Ok(Self::First(blocks as usize)),
            (_, Some("all")) => Ok(Self::All),
            _ => Err(de::Error::custom(format!(
                "must be all or a number of blocks, is {}",
                flow(&value)
            ))),
        }
    }
}

impl Config {
    /// Returns whether training computes the features of each image once: the backbones in use are
    /// frozen entirely and for the entire run, and each image has a fixed number of views.
    pub fn caches_features(&self) -> bool {
        let fixed = self.train.freeze.views.is_some() || self.data.augment.is_off();
        self.train.freeze.cache && fixed && self.freezes_backbones()
    }

    /// Returns whether the backbones in use are frozen entirely and for the entire run.
    pub fn freezes_backbones(&self) -> bool {
        let freeze = &self.train.freeze;
        let used = |branch: &&Branch| self.model.fusion.strategy.uses(**branch);
        let mut used = Branch::ALL.iter().filter(used);
        freeze.epochs.is_none() && used.all(|&branch| freeze.of(branch) == FrozenBlocks::All)
    }

    /// Checks that cached views are of backbones that do not change, and of single images.
    pub(super) fn check_views(&self, checks: &mut Checks) {
        let freeze = &self.train.freeze;
        let Some(views) = freeze.views else { return };
        let fails = [
            (
                !self.freezes_backbones(),
                "are of backbones that are frozen for the entire run: set train.freeze.vit and \
                 train.freeze.mamba to all and train.freeze.epochs to null",
            ),
            (!freeze.cache, "are cached: set train.freeze.cache to true"),
            (
                self.data.augment.mixes(),
                "are of one image each: set data.augment.mixup and data.augment.cutmix to 0",
            ),
        ];
        for (_, rule) in fails.into_iter().filter(|(fails, _)| *fails) {
            checks.fail("train.freeze.views", format_args!(" {views}: views {rule}, or remove it"));
        }
    }

    /// Checks that no more blocks are frozen than the backbones have.
    pub(super) fn check_frozen(&self, checks: &mut Checks) {
        let freeze = &self.train.freeze;
        for &branch in Branch::ALL {
            let shape = self.shape(branch);
            if let (FrozenBlocks::First(blocks), Ok(Some(shape))) = (freeze.of(branch), shape) {
                let key = format!("train.freeze.{branch}");
                let rule = format!("all, or at most the depth of model.{branch}, {}", shape.depth);
                checks.require(blocks as u64 <= shape.depth as u64, &key, rule, blocks);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_cached_where_backbones_are_frozen_and_images_have_fixed_views() {
        let off = "data.augment={horizontal_flip: 0, rotation: 0, random_resized_crop: null, \
                   color_jitter: [0, 0, 0, 0]}";
        let all = "train.freeze={vit: all, mamba: all}";
        let config = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
            Config::from_yaml("", "a.yaml", &set).unwrap()
        };
        let caches = |set: &[&str]| config(set).caches_features();
        assert!(caches(&[off, all]) && caches(&[all, "train.freeze.views=0"]));
        assert!(caches(&[off, "train.freeze.vit=all", "model.fusion.strategy=vit_only"]));
        for set in [
            &[off, "train.freeze.vit=all"][..],
            &[off, all, "train.freeze.mamba=24"],
            &[off, all, "train.freeze.epochs=9"],
            &[off, all, "train.freeze.cache=false"],
        ] {
            assert!(!caches(set), "{set:?}");
        }
        for augment in "horizontal_flip=0.1; rotation=1; random_resized_crop=[1, 1]; \
             color_jitter=[0, 0, 0, 0.1]; affine.scale=[1, 2]; trivial_augment.probability=0.1; \
             grayscale=0.1; gaussian_blur.probability=0.1; random_erasing.probability=0.1; \
             mixup=0.1; cutmix=0.1"
            .split("; ")
        {
            let augment = format!("data.augment.{augment}");
            assert!(!caches(&[off, all, &augment]), "{augment}");
        }
    }
}
