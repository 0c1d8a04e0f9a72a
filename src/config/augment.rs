//! `data.augment`: random changes to training images.

use super::checks::Checks;
use super::names::names;
use super::section::section;

section! {
    /// Random changes to training images, with torchvision's conventions. `data::TrainTransform`
    /// documents their order.
    pub struct AugmentConfig {
        /// Probability of a horizontal flip.
        pub horizontal_flip: f64 = 0.5,
        /// Largest rotation in either direction, in degrees.
        pub rotation: f64 = 10.0,
        /// Area of a random crop as a fraction of the image, `[min, max]`; `null` does not crop.
        pub random_resized_crop: Option<[f64; 2]> = Some([0.8, 1.0]),
        /// Largest relative change of brightness, contrast and saturation, and of hue in turns (at
        /// most 0.5).
        pub color_jitter: [f64; 4] = [0.2, 0.2, 0.2, 0.02],
        /// Shift, scale and shear, in one resampling with the rotation.
        pub affine: AffineConfig = AffineConfig::default(),
        /// One change of a random kind and strength.
        pub trivial_augment: TrivialAugmentConfig = TrivialAugmentConfig::default(),
        /// Probability of conversion to grayscale.
        pub grayscale: f64 = 0.0,
        /// Gaussian blur.
        pub gaussian_blur: BlurConfig = BlurConfig::default(),
        /// Erasing of a random rectangle.
        pub random_erasing: ErasingConfig = ErasingConfig::default(),
        /// Parameter a of mixup: each image and its score are mixed with another one of the batch,
        /// by a weight that is sampled from Beta(a, a) once per batch; 0 does not mix.
        pub mixup: f64 = 0.0,
        /// Parameter a of CutMix: a rectangle of another image of the batch is pasted, whose area
        /// is sampled from Beta(a, a), and the scores are mixed by area; 0 does not mix. With
        /// `mixup` too, each batch gets one of the two at random.
        pub cutmix: f64 = 0.0,
    }
}

section! {
    /// A random affine change about the center.
    pub struct AffineConfig {
        /// Largest shift, horizontal and vertical, as fractions of the side, `[x, y]`.
        pub translate: [f64; 2] = [0.0, 0.0],
        /// Scale factor, `[min, max]`; above 1 enlarges.
        pub scale: [f64; 2] = [1.0, 1.0],
        /// Largest shear in either direction, in degrees, `[x, y]`.
        pub shear: [f64; 2] = [0.0, 0.0],
    }
}

section! {
    /// TrivialAugment (arXiv 2103.10158), the wide space.
    pub struct TrivialAugmentConfig {
        /// Probability of the change; the paper uses 1.
        pub probability: f64 = 0.0,
        /// Fraction of the paper's largest shear, shift (of 224 pixels, in proportion for other
        /// sizes) and rotation (135 degrees) that is used. Less keeps faces upright.
        pub geometry: f64 = 1.0,
    }
}

section! {
    /// Gaussian blur.
    pub struct BlurConfig {
        /// Probability of the blur.
        pub probability: f64 = 0.0,
        /// Side of the kernel in pixels, odd.
        pub kernel_size: usize = 9,
        /// Standard deviation in pixels, `[min, max]`.
        pub sigma: [f64; 2] = [0.1, 2.0],
    }
}

section! {
    /// Random erasing (arXiv 1708.04896).
    pub struct ErasingConfig {
        /// Probability of the erasing.
        pub probability: f64 = 0.0,
        /// Erased area as a fraction of the image, `[min, max]`.
        pub scale: [f64; 2] = [0.02, 0.33],
        /// Ratio of height to width, `[min, max]`.
        pub ratio: [f64; 2] = [0.3, 3.3],
        /// Fill value: `mean` (about zero after normalization) or `noise`.
        pub fill: EraseFill = EraseFill::Mean,
    }
}

names! {
    /// The fill of an erased rectangle.
    pub enum EraseFill {
        /// ImageNet's mean color.
        Mean = "mean",
        /// Normal noise around it with ImageNet's standard deviation.
        Noise = "noise",
    }
}

impl AugmentConfig {
    /// Returns a config that changes nothing: every image as evaluation sees it.
    pub fn off() -> Self {
        Self {
            horizontal_flip: 0.0,
            rotation: 0.0,
            random_resized_crop: None,
            color_jitter: [0.0; 4],
            // The others are off by default.
            ..Self::default()
        }
    }

    /// Returns whether training sees every image as evaluation does.
    pub fn is_off(&self) -> bool {
        let jitter = self.color_jitter == [0.0; 4] && self.grayscale == 0.0;
        let shape = self.horizontal_flip == 0.0
            && self.rotation == 0.0
            && self.random_resized_crop.is_none()
            && self.affine == AffineConfig::default();
        let others = [
            self.trivial_augment.probability,
            self.gaussian_blur.probability,
            self.random_erasing.probability,
        ];
        jitter && shape && others == [0.0; 3] && !self.mixes()
    }

    /// Returns whether images are mixed with others of their batch.
    pub fn mixes(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        checks.probability("horizontal_flip", self.horizontal_flip);
        let holds = (0.0..=180.0).contains(&self.rotation);
        checks.require(holds, "rotation", "between 0 and 180 degrees", self.rotation);
        if let Some(range) = self.random_resized_crop {
            fraction_range(checks, "random_resized_crop", range);
        }
        let jitter = self.color_jitter;
        let holds = jitter.iter().zip([1.0, 1.0, 1.0, 0.5]).all(|(s, max)| (0.0..=max).contains(s));
        let rule = "brightness, contrast and saturation from 0 to 1 and hue from 0 to 0.5";
        checks.require(holds, "color_jitter", rule, format_args!("{jitter:?}"));
        let AffineConfig { translate, scale, shear } = self.affine;
        up_to(checks, "affine.translate", translate, 0.5, "0.5");
        range(checks, "affine.scale", scale, 0.1, 10.0);
        up_to(checks, "affine.shear", shear, 60.0, "60 degrees");
        let trivial = &self.trivial_augment;
        checks.probability("trivial_augment.probability", trivial.probability);
        checks.probability("trivial_augment.geometry", trivial.geometry);
        checks.probability("grayscale", self.grayscale);
        let blur = &self.gaussian_blur;
        checks.probability("gaussian_blur.probability", blur.probability);
        let (side, key) = (blur.kernel_size, "gaussian_blur.kernel_size");
        checks.require(side % 2 == 1 && side <= 101, key, "an odd number up to 101", side);
        range(checks, "gaussian_blur.sigma", blur.sigma, 0.01, 100.0);
        let erasing = &self.random_erasing;
        checks.probability("random_erasing.probability", erasing.probability);
        fraction_range(checks, "random_erasing.scale", erasing.scale);
        range(checks, "random_erasing.ratio", erasing.ratio, 0.01, 100.0);
        for (key, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            checks.require((0.0..=100.0).contains(&alpha), key, "between 0 and 100", alpha);
        }
    }
}

/// Requires numbers from 0 to `most`, which messages call `title`.
fn up_to(checks: &mut Checks, key: &str, values: [f64; 2], most: f64, title: &str) {
    let holds = values.iter().all(|value| (0.0..=most).contains(value));
    let rule = format_args!("[x, y], each from 0 to {title}");
    checks.require(holds, key, rule, format_args!("{values:?}"));
}

fn fraction_range(checks: &mut Checks, key: &str, [min, max]: [f64; 2]) {
    let holds = 0.0 < min && min <= max && max <= 1.0;
    let rule = "[min, max] with 0 < min <= max <= 1";
    checks.require(holds, key, rule, format_args!("[{min}, {max}]"));
}

fn range(checks: &mut Checks, key: &str, [min, max]: [f64; 2], lowest: f64, highest: f64) {
    let holds = lowest <= min && min <= max && max <= highest;
    let rule = format_args!("[min, max] with {lowest} <= min <= max <= {highest}");
    checks.require(holds, key, rule, format_args!("[{min}, {max}]"));
}
