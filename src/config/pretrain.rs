//! `pretrain`: masked image modeling on the training images, which needs no scores.

use super::augment::AugmentConfig;
use super::backbone_shape::BackboneShape;
use super::checks::Checks;
use super::error::ConfigError;
use super::section::section;

section! {
    /// What `vmbeauty pretrain` does: masked image modeling (SimMIM, arXiv 2111.09886) of the
    /// backbones.
    pub struct PretrainConfig {
        /// Passes over the training images, for each backbone.
        pub epochs: usize = 400,
        /// Images per optimizer step.
        pub batch_size: usize = 64,
        /// Fraction of each image that is masked.
        pub mask_ratio: f64 = 0.6,
        /// Side of a masked square, in patches.
        pub mask_patch: i64 = 1,
        /// Predict each patch's pixels normalized by its own mean and standard deviation (as MAE,
        /// arXiv 2111.06377); `false` predicts the pixels as the backbone gets them.
        pub normalized_pixels: bool = true,
        /// Weight of a second task: the feature vector that the rating is predicted from, usually
        /// the class token's output, predicts the mean color of every masked patch. 0 leaves that
        /// output untrained, as SimMIM does.
        pub class_token_weight: f64 = 1.0,
        /// Learning rate of `adamw` after warm-up; its betas are 0.9 and 0.95.
        pub lr: f64 = 1e-3,
        /// Decoupled weight decay. Biases, norms, tokens, position embeddings and the scan's A and
        /// D are not decayed.
        pub weight_decay: f64 = 0.05,
        /// Epochs, which may be fractional, in which the learning rate rises from 0; then it falls
        /// along half a cosine.
        pub warmup_epochs: f64 = 10.0,
        /// Learning rate at the end.
        pub min_lr: f64 = 1e-5,
        /// Random changes to the images, in place of `data.augment`.
        pub augment: AugmentConfig = AugmentConfig {
            horizontal_flip: 0.5,
            random_resized_crop: Some([0.5, 1.0]),
            ..AugmentConfig::off()
        },
    }
}

impl PretrainConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        checks.size("epochs", self.epochs);
        checks.size("batch_size", self.batch_size);
        let ratio = self.mask_ratio;
        checks.require(0.0 < ratio && ratio < 1.0, "mask_ratio", "above 0 and less than 1", ratio);
        checks.size("mask_patch", self.mask_patch);
        checks.not_negative("class_token_weight", self.class_token_weight);
        checks.positive("lr", self.lr);
        checks.not_negative("weight_decay", self.weight_decay);
        checks.not_negative("warmup_epochs", self.warmup_epochs);
        checks.not_negative("min_lr", self.min_lr);
        if self.min_lr > self.lr {
            let rule = format!("at most pretrain.lr, {}", self.lr);
            checks.require(false, "min_lr", rule, self.min_lr);
        }
        checks.within("augment", |checks| self.augment.check(checks));
    }

    /// Checks that a batch fits into memory, and that a backbone's images can be masked: some
    /// squares hidden, some visible. Not part of [`Config::validate`](super::Config::validate),
    /// which also accepts configs that are never pretrained. Returns an error that names the key.
    pub fn check_masks(&self, shape: &BackboneShape) -> Result<(), ConfigError> {
        let (branch, mut checks) = (shape.branch, Checks::default());
        if shape.stride < shape.patch_size {
            let rest = ": its patches overlap, so the neighbors of a masked patch show its pixels: \
                        choose a preset whose patches do not overlap";
            checks.fail(&format!("model.{branch}.name"), rest);
        }
        let grid = shape.grid();
        let rule =
            format_args!("less than the {grid} patches on a side of model.{branch}'s images");
        checks.require(self.mask_patch < grid, "pretrain.mask_patch", rule, self.mask_patch);
        checks.batch("pretrain.batch_size", self.batch_size, shape.image_size, "");
        checks.finish()
    }
}
