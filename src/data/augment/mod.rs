//! The training transform of an image, and [`mix`](mix()), that of a batch.

mod blur;
mod color;
mod erase;
mod mix;
mod tone;
mod trivial;
mod warp;

use anyhow::Result;
use image::RgbImage;

use self::blur::Blur;
use self::color::{ColorJitter, Step};
use self::trivial::TrivialAugment;
use self::warp::{Warp, warp};
use super::image::{EvalTransform, Frame, Workspace};
use super::random_stream::RandomStream;
use crate::config::{AffineConfig, AugmentConfig, DataConfig};

pub(super) use self::mix::mix;

/// The range of aspect ratios of random crops, as in torchvision.
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// The crop of the full image, in fractions of its sides.
const FULL: Frame = Frame { left: 0.0, top: 0.0, width: 1.0, height: 1.0 };
/// Attempts to sample a crop that fits before the full image is used, as in torchvision.
const ATTEMPTS: usize = 10;

/// Augments an image to a square of `data.image_size`, with `data.augment`, in this order: crop,
/// mirror, rotation, affine change, TrivialAugment, color jitter, grayscale, blur, erasing.
///
/// The crop is that of `RandomResizedCrop`, sampled within the frame of the evaluation transform
/// (`data.resize`), so that training sees the aspect ratios that evaluation sees; on a square image
/// the two are the same. Crop and resize are one resampling; mirror, rotation and every other
/// affine change are one more. The corners of a rotated image show its reflection, and colors
/// follow torchvision's formulas.
#[derive(Debug, Clone)]
pub struct TrainTransform {
    eval: EvalTransform,
    augment: AugmentConfig,
}

/// What is sampled for one image in one epoch; random erasing is sampled when it is applied.
#[derive(Debug, Clone, PartialEq)]
struct SampledAugmentation {
    /// The crop of the evaluation frame, in fractions of its sides.
    crop: Frame,
    warp: Warp,
    trivial: TrivialAugment,
    jitter: ColorJitter,
    blur: Blur,
}

impl TrainTransform {
    /// Creates the configured transform. Returns an error if [`EvalTransform::new`] does.
    pub fn new(config: &DataConfig) -> Result<Self> {
        Ok(Self { eval: EvalTransform::new(config)?, augment: config.augment.clone() })
    }

    /// Returns the deterministic transform of evaluation.
    pub fn eval(&self) -> &EvalTransform {
        &self.eval
    }

    /// Returns the configured augmentations.
    pub fn config(&self) -> &AugmentConfig {
        &self.augment
    }

    /// Writes the augmented image to `out`: (3, size, size), one plane per color. `seed`, `epoch`
    /// and `index`, the image's index in its split, alone decide what is sampled. Returns an error
    /// if the image has no pixels or `out` has another length.
    pub fn apply(
        &self,
        image: &RgbImage,
        (seed, epoch, index): (u64, u64, u64),
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<()> {
        let stream = |purpose: &str| RandomStream::new(seed, epoch, index, purpose);
        let size = self.eval.size();
        let sampled = SampledAugmentation::new(&self.augment, size, stream);
        let frame = self.eval.frame(image).crop(sampled.crop);
        self.eval.resample(image, frame, workspace)?;
        warp(size, sampled.warp, workspace);
        if let TrivialAugment::Tone(tone) = sampled.trivial {
            tone.apply(&mut workspace.framed, size, &mut workspace.warped);
        }
        sampled.jitter.apply(&workspace.framed, out)?;
        sampled.blur.apply(out, size, &mut workspace.levels);
        erase::erase(&self.augment.random_erasing, out, size, &mut stream("erase"));
        Ok(())
    }
}

impl SampledAugmentation {
    /// Samples each augmentation from a random stream of its own, so that none shifts another's.
    fn new(augment: &AugmentConfig, size: usize, stream: impl Fn(&str) -> RandomStream) -> Self {
        let flips = stream("flip").unit() < augment.horizontal_flip;
        let flip = if flips { Warp::MIRROR } else { Warp::IDENTITY };
        let degrees = stream("rotate").uniform(-augment.rotation, augment.rotation);
        let affine = sample_affine(&augment.affine, size, stream("affine"));
        let mut warp = flip.then(Warp::rotation(degrees)).then(affine);
        let mut jitter = ColorJitter::sample(augment.color_jitter, &mut stream("color"));
        let trivial =
            TrivialAugment::sample(&augment.trivial_augment, size, &mut stream("trivial"));
        match trivial {
            TrivialAugment::Warp(change) => warp = warp.then(change),
            TrivialAugment::Color(step) => jitter.steps.insert(0, step),
            TrivialAugment::Tone(_) | TrivialAugment::Nothing => {}
        }
        if stream("gray").unit() < augment.grayscale {
            jitter.steps.push(Step::Saturation(0.0));
        }
        let crop = augment.random_resized_crop;
        let crop = crop.map_or(FULL, |scale| sample_crop(scale, stream("crop")));
        let blur = Blur::sample(&augment.gaussian_blur, &mut stream("blur"));
        Self { crop, warp, trivial, jitter, blur }
    }
}

fn sample_affine(affine: &AffineConfig, size: usize, mut rng: RandomStream) -> Warp {
    let side = size as f64;
    let translate =
        affine.translate.map(|fraction| rng.uniform(-fraction * side, fraction * side).round());
    let scale = rng.uniform(affine.scale[0], affine.scale[1]);
    let shear = affine.shear.map(|most| rng.uniform(-most, most));
    Warp::affine(translate, scale, shear)
}

/// Samples a crop of the unit square: its area uniform in `scale`, its ratio log-uniform in
/// [`RATIO`].
fn sample_crop(scale: [f64; 2], mut rng: RandomStream) -> Frame {
    for _ in 0..ATTEMPTS {
        let area = rng.uniform(scale[0], scale[1]);
        let ratio = rng.uniform(RATIO.0.ln(), RATIO.1.ln()).exp();
        let (width, height) = ((area * ratio).sqrt(), (area / ratio).sqrt());
        if width <= 1.0 && height <= 1.0 {
            let (left, top) = (rng.uniform(0.0, 1.0 - width), rng.uniform(0.0, 1.0 - height));
            return Frame { left, top, width, height };
        }
    }
    FULL
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::config::{BlurConfig, ErasingConfig, Resize, TrivialAugmentConfig};

    fn transform(augment: AugmentConfig) -> TrainTransform {
        let config = DataConfig { image_size: 32, augment, ..DataConfig::default() };
        TrainTransform::new(&config).unwrap()
    }

    fn image() -> RgbImage {
        RgbImage::from_fn(48, 40, |x, y| Rgb([x as u8 * 5, y as u8 * 6, (x * y % 256) as u8]))
    }

    fn run(transform: &TrainTransform, key: (u64, u64, u64)) -> Vec<u8> {
        let mut out = vec![0; 3 * 32 * 32];
        transform.apply(&image(), key, &mut Workspace::default(), &mut out).unwrap();
        out
    }

    #[test]
    fn without_augmentation_it_is_the_evaluation_transform() {
        let transform = transform(AugmentConfig::off());
        let mut expected = vec![0; 3 * 32 * 32];
        transform.eval().apply(&image(), &mut Workspace::default(), &mut expected).unwrap();
        assert_eq!(run(&transform, (1, 2, 3)), expected);
    }

    #[test]
    fn seed_epoch_and_index_alone_determine_the_augmentation() {
        let transform = transform(AugmentConfig::default());
        let reference = run(&transform, (1, 2, 3));
        assert_eq!(reference, run(&transform, (1, 2, 3)));
        for key in [(2, 2, 3), (1, 3, 3), (1, 2, 4)] {
            assert_ne!(reference, run(&transform, key));
        }
    }

    #[test]
    fn a_flip_of_probability_one_mirrors_every_row() {
        let plain = run(&transform(AugmentConfig::off()), (1, 1, 1));
        let flipped = run(
            &transform(AugmentConfig { horizontal_flip: 1.0, ..AugmentConfig::off() }),
            (1, 1, 1),
        );
        for (row, mirrored) in plain.chunks(32).zip(flipped.chunks(32)) {
            assert!(row.iter().eq(mirrored.iter().rev()));
        }
    }

    #[test]
    fn one_augmentation_does_not_shift_the_stream_of_another() {
        let stream = |purpose: &str| RandomStream::new(9, 1, 4, purpose);
        let all = SampledAugmentation::new(&AugmentConfig::default(), 32, stream);
        let without_crop = AugmentConfig { random_resized_crop: None, ..AugmentConfig::default() };
        let fewer = SampledAugmentation::new(&without_crop, 32, stream);
        assert_eq!((all.warp, all.jitter, all.blur), (fewer.warp, fewer.jitter, fewer.blur));
    }

    #[test]
    fn every_augmentation_changes_the_image_and_follows_the_key() {
        let off = AugmentConfig::off;
        let each = [
            AugmentConfig {
                affine: AffineConfig { translate: [0.1; 2], ..AffineConfig::default() },
                ..off()
            },
            AugmentConfig {
                affine: AffineConfig { scale: [0.7, 0.9], ..AffineConfig::default() },
                ..off()
            },
            AugmentConfig {
                affine: AffineConfig { shear: [20.0, 5.0], ..AffineConfig::default() },
                ..off()
            },
            AugmentConfig {
                trivial_augment: TrivialAugmentConfig { probability: 1.0, geometry: 0.5 },
                ..off()
            },
            AugmentConfig { grayscale: 1.0, ..off() },
            AugmentConfig {
                gaussian_blur: BlurConfig { probability: 1.0, ..BlurConfig::default() },
                ..off()
            },
            AugmentConfig {
                random_erasing: ErasingConfig { probability: 1.0, ..ErasingConfig::default() },
                ..off()
            },
        ];
        let plain = run(&transform(off()), (1, 2, 3));
        for augment in each {
            let transform = transform(augment.clone());
            let images: Vec<_> = (0..20).map(|index| run(&transform, (1, 2, index))).collect();
            let again: Vec<_> = (0..20).map(|index| run(&transform, (1, 2, index))).collect();
            assert!(images == again, "{augment:?}");
            let changed = images.iter().filter(|image| **image != plain).count();
            assert!(changed >= 15, "{changed} of 20: {augment:?}");
            if augment.grayscale == 1.0 {
                assert!(images.iter().all(|p| p[..1024] == p[1024..2048]));
            }
        }
    }

    #[test]
    fn crops_keep_to_their_scale_ratio_and_image() {
        let mut areas = Vec::new();
        for index in 0..2000 {
            let crop = sample_crop([0.3, 0.9], RandomStream::new(1, 1, index, "crop"));
            assert!(crop.left >= 0.0 && crop.left + crop.width <= 1.0 + 1e-12);
            assert!(crop.top >= 0.0 && crop.top + crop.height <= 1.0 + 1e-12);
            let (area, ratio) = (crop.width * crop.height, crop.width / crop.height);
            assert!((0.3..=0.9).contains(&area) || area == 1.0, "{area}");
            assert!((0.75 - 1e-9..=4.0 / 3.0 + 1e-9).contains(&ratio), "{ratio}");
            areas.push(area);
        }
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!((0.55..0.62).contains(&mean), "{mean}");
    }

    #[test]
    fn every_resize_mode_can_be_augmented() {
        for resize in [Resize::Squash, Resize::Crop, Resize::Pad] {
            let config = DataConfig { image_size: 32, resize, ..DataConfig::default() };
            let transform = TrainTransform::new(&config).unwrap();
            for index in 0..50 {
                run(&transform, (1, 1, index));
            }
        }
    }
}
