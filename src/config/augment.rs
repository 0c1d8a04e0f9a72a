//! `data.augment`: random changes to training images.

use super::checks::Checks;
use super::names::names;
use super::section::section;

section! {
    /// Random changes to training images, with torchvision's conventions. `data::TrainTransform`
    /// says in which order.
    pub struct AugmentConfig {
        /// Probability of mirroring left and right.
        pub horizontal_flip: f64 = 0.5,
        /// Largest rotation either way, in degrees.
        pub rotation: f64 = 10.0,
        /// Area of a random crop as a part of the image, `[least, most]`; `null` does not
        /// crop.
        pub random_resized_crop: Option<[f64; 2]> = Some([0.8, 1.0]),
        /// Largest relative change of brightness, contrast and saturation, and of hue in turns
        /// (0.5 at most).
        pub color_jitter: [f64; 4] = [0.2, 0.2, 0.2, 0.02],
        /// Shift, scaling and shear, in one resampling with the rotation.
        pub affine: AffineConfig = AffineConfig::default(),
        /// One change of a random kind and strength.
        pub trivial_augment: TrivialAugmentConfig = TrivialAugmentConfig::default(),
        /// Probability of taking the color away.
        pub grayscale: f64 = 0.0,
        /// Blur with a Gaussian.
        pub gaussian_blur: BlurConfig = BlurConfig::default(),
        /// A rectangle that is painted over.
        pub random_erasing: ErasingConfig = ErasingConfig::default(),
        /// Mixes each image and its score with another one of the batch: the share is drawn from
        /// Beta(a, a) with this a, once a batch; 0 does not mix.
        pub mixup: f64 = 0.0,
        /// Pastes a rectangle of another image of the batch and mixes the scores by area: Beta(a,
        /// a) with this a; 0 does not. With `mixup` too, each batch gets one of the two at random.
        pub cutmix: f64 = 0.0,
    }
}

section! {
    /// A random affine change about the middle.
    pub struct AffineConfig {
        /// Largest shift to either side and up or down, as parts of the side, `[x, y]`.
        pub translate: [f64; 2] = [0.0, 0.0],
        /// Scaling, `[least, most]`; above 1 enlarges.
        pub scale: [f64; 2] = [1.0, 1.0],
        /// Largest shear either way, in degrees, `[x, y]`.
        pub shear: [f64; 2] = [0.0, 0.0],
    }
}

section! {
    /// TrivialAugment (arXiv 2103.10158), the wide space.
    pub struct TrivialAugmentConfig {
        /// Probability; the paper's is 1.
        pub probability: f64 = 0.0,
        /// Part of the paper's largest shear, shift (of 224 pixels, in proportion for others) and
        /// rotation (135 degrees) that is used. Less keeps faces upright.
        pub geometry: f64 = 1.0,
    }
}

section! {
    /// Gaussian blur.
    pub struct BlurConfig {
        /// Probability.
        pub probability: f64 = 0.0,
        /// Side of the kernel in pixels, odd.
        pub kernel_size: usize = 9,
        /// Standard deviation in pixels, `[least, most]`.
        pub sigma: [f64; 2] = [0.1, 2.0],
    }
}

section! {
    /// Random erasing (arXiv 1708.04896).
    pub struct ErasingConfig {
        /// Probability.
        pub probability: f64 = 0.0,
        /// Area as a part of the image, `[least, most]`.
        pub scale: [f64; 2] = [0.02, 0.33],
        /// Height by width, `[least, most]`.
        pub ratio: [f64; 2] = [0.3, 3.3],
        /// What is painted: `mean` (about zero after normalization) or `noise`.
        pub fill: EraseFill = EraseFill::Mean,
    }
}

names! {
    /// What an erased rectangle shows.
    pub enum EraseFill {
        /// ImageNet's mean color.
        Mean = "mean",
        /// Normal noise about it, as wide as ImageNet's pixels spread.
        Noise = "noise",
    }
}

impl AugmentConfig {
    /// Nothing random: every image as evaluation sees it.
    pub fn off() -> Self {
        Self {
            horizontal_flip: 0.0,
            rotation: 0.0,
            random_resized_crop: None,
            color_jitter: [0.0; 4],
            affine: AffineConfig::default(),
            trivial_augment: TrivialAugmentConfig::default(),
            grayscale: 0.0,
            gaussian_blur: BlurConfig::default(),
            random_erasing: ErasingConfig::default(),
            mixup: 0.0,
            cutmix: 0.0,
        }
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        checks.probability("data.augment.horizontal_flip", self.horizontal_flip);
        checks.require(
            (0.0..=180.0).contains(&self.rotation),
            "data.augment.rotation",
            "between 0 and 180 degrees",
            self.rotation,
        );
        if let Some(range) = self.random_resized_crop {
            part_range(checks, "data.augment.random_resized_crop", range);
        }
        let [brightness, contrast, saturation, hue] = self.color_jitter;
        checks.require(
            [brightness, contrast, saturation].iter().all(|change| (0.0..=1.0).contains(change))
                && (0.0..=0.5).contains(&hue),
            "data.augment.color_jitter",
            "brightness, contrast and saturation from 0 to 1 and hue from 0 to 0.5",
            format_args!("{:?}", self.color_jitter),
        );
        self.affine.check(checks);
        let trivial = &self.trivial_augment;
        checks.probability("data.augment.trivial_augment.probability", trivial.probability);
        checks.probability("data.augment.trivial_augment.geometry", trivial.geometry);
        checks.probability("data.augment.grayscale", self.grayscale);
        self.gaussian_blur.check(checks);
        self.random_erasing.check(checks);
        for (key, alpha) in
            [("data.augment.mixup", self.mixup), ("data.augment.cutmix", self.cutmix)]
        {
            checks.require((0.0..=100.0).contains(&alpha), key, "between 0 and 100", alpha);
        }
    }
}

impl AffineConfig {
    fn check(&self, checks: &mut Checks) {
        checks.require(
            self.translate.iter().all(|part| (0.0..=0.5).contains(part)),
            "data.augment.affine.translate",
            "[x, y], each from 0 to 0.5",
            format_args!("{:?}", self.translate),
        );
        range(checks, "data.augment.affine.scale", self.scale, 0.1, 10.0);
        checks.require(
            self.shear.iter().all(|degrees| (0.0..=60.0).contains(degrees)),
            "data.augment.affine.shear",
            "[x, y], each from 0 to 60 degrees",
            format_args!("{:?}", self.shear),
        );
    }
}

impl BlurConfig {
    fn check(&self, checks: &mut Checks) {
        checks.probability("data.augment.gaussian_blur.probability", self.probability);
        checks.require(
            self.kernel_size % 2 == 1 && self.kernel_size <= 101,
            "data.augment.gaussian_blur.kernel_size",
            "an odd number up to 101",
            self.kernel_size,
        );
        range(checks, "data.augment.gaussian_blur.sigma", self.sigma, 0.01, 100.0);
    }
}

impl ErasingConfig {
    fn check(&self, checks: &mut Checks) {
        checks.probability("data.augment.random_erasing.probability", self.probability);
        part_range(checks, "data.augment.random_erasing.scale", self.scale);
        range(checks, "data.augment.random_erasing.ratio", self.ratio, 0.01, 100.0);
    }
}

fn part_range(checks: &mut Checks, key: &str, [least, most]: [f64; 2]) {
    checks.require(
        0.0 < least && least <= most && most <= 1.0,
        key,
        "[least, most] with 0 < least <= most <= 1",
        format_args!("[{least}, {most}]"),
    );
}

fn range(checks: &mut Checks, key: &str, [least, most]: [f64; 2], lowest: f64, highest: f64) {
    checks.require(
        lowest <= least && least <= most && most <= highest,
        key,
        format_args!("[least, most] with {lowest} <= least <= most <= {highest}"),
        format_args!("[{least}, {most}]"),
    );
}
