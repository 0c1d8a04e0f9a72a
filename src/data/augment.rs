//! The training transform: random resized crop, mirror, rotation, colour jitter.

use anyhow::Result;
use image::RgbImage;

use super::color::ColorJitter;
use super::draws::Draws;
use super::resample::{Frame, Workspace};
use super::rotate::{mirror, rotate};
use super::transform::EvalTransform;
use crate::config::{AugmentConfig, DataConfig};

/// The aspect ratios of random crops, as torchvision's.
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// How often a crop that does not fit is drawn anew before the whole picture is taken, as torchvision's.
const ATTEMPTS: usize = 10;

/// Augments a picture to a square of `data.image_size`, with `data.augment`.
///
/// The crop is `RandomResizedCrop`'s, drawn within what the evaluation transform shows (`data.resize`):
/// on a square picture the two are the same, on another one training sees the shapes that evaluation
/// sees. Crop and resize are one resampling. The corners of a turned picture show its reflection, and
/// colour jitter follows torchvision's formulas.
#[derive(Debug, Clone)]
pub struct TrainTransform {
    eval: EvalTransform,
    augment: AugmentConfig,
}

/// What is drawn for one picture in one epoch.
#[derive(Debug, Clone, PartialEq)]
struct Drawn {
    /// The part of the evaluation frame that is kept, in fractions.
    crop: Frame,
    flip: bool,
    degrees: f64,
    jitter: ColorJitter,
}

impl TrainTransform {
    /// The transform that the configuration asks for.
    ///
    /// # Errors
    /// As [`EvalTransform::new`].
    pub fn new(config: &DataConfig) -> Result<Self> {
        Ok(Self {
            eval: EvalTransform::new(config)?,
            augment: config.augment.clone(),
        })
    }

    /// The transform without chance.
    pub fn eval(&self) -> &EvalTransform {
        &self.eval
    }

    /// Writes the augmented picture to `out`: (3, size, size), one plane per colour. `seed`, `epoch` and
    /// `index`, the picture's place in its split, alone decide what is drawn.
    ///
    /// # Errors
    /// A picture without pixels, or an `out` of another length.
    pub fn apply(
        &self,
        picture: &RgbImage,
        (seed, epoch, index): (u64, u64, u64),
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<()> {
        let drawn = Drawn::new(&self.augment, |purpose| {
            Draws::new(seed, epoch, index, purpose)
        });
        let frame = self.eval.frame(picture).part(drawn.crop);
        self.eval.resample(picture, frame, workspace)?;
        let size = self.eval.size();
        if drawn.degrees != 0.0 {
            rotate(size, drawn.degrees, drawn.flip, workspace);
            return drawn.jitter.apply(&workspace.rotated, out);
        }
        if drawn.flip {
            mirror(&mut workspace.framed, size);
        }
        drawn.jitter.apply(&workspace.framed, out)
    }
}

impl Drawn {
    /// Each augmentation has a stream of draws of its own, so that none moves another's.
    fn new(augment: &AugmentConfig, draws: impl Fn(&str) -> Draws) -> Self {
        let whole = Frame {
            left: 0.0,
            top: 0.0,
            width: 1.0,
            height: 1.0,
        };
        Self {
            crop: augment
                .random_resized_crop
                .map_or(whole, |scale| draw_crop(scale, draws("crop"))),
            flip: draws("flip").unit() < augment.horizontal_flip,
            degrees: draws("rotate").uniform(-augment.rotation, augment.rotation),
            jitter: ColorJitter::draw(augment.color_jitter, &mut draws("color")),
        }
    }
}

/// A part of the unit square: its area uniform in `scale`, its ratio log-uniform in [`RATIO`].
fn draw_crop(scale: [f64; 2], mut draws: Draws) -> Frame {
    for _ in 0..ATTEMPTS {
        let area = draws.uniform(scale[0], scale[1]);
        let ratio = draws.uniform(RATIO.0.ln(), RATIO.1.ln()).exp();
        let (width, height) = ((area * ratio).sqrt(), (area / ratio).sqrt());
        if width <= 1.0 && height <= 1.0 {
            let (left, top) = (
                draws.uniform(0.0, 1.0 - width),
                draws.uniform(0.0, 1.0 - height),
            );
            return Frame {
                left,
                top,
                width,
                height,
            };
        }
    }
    Frame {
        left: 0.0,
        top: 0.0,
        width: 1.0,
        height: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::config::Resize;

    fn off() -> AugmentConfig {
        AugmentConfig {
            horizontal_flip: 0.0,
            rotation: 0.0,
            random_resized_crop: None,
            color_jitter: [0.0; 4],
        }
    }

    fn transform(augment: AugmentConfig) -> TrainTransform {
        let config = DataConfig {
            image_size: 32,
            augment,
            ..DataConfig::default()
        };
        TrainTransform::new(&config).unwrap()
    }

    fn picture() -> RgbImage {
        RgbImage::from_fn(48, 40, |x, y| {
            Rgb([x as u8 * 5, y as u8 * 6, (x * y % 256) as u8])
        })
    }

    fn run(transform: &TrainTransform, key: (u64, u64, u64)) -> Vec<u8> {
        let mut out = vec![0; 3 * 32 * 32];
        transform
            .apply(&picture(), key, &mut Workspace::default(), &mut out)
            .unwrap();
        out
    }

    #[test]
    fn without_augmentation_it_is_the_evaluation_transform() {
        let transform = transform(off());
        let mut expected = vec![0; 3 * 32 * 32];
        transform
            .eval()
            .apply(&picture(), &mut Workspace::default(), &mut expected)
            .unwrap();
        assert_eq!(run(&transform, (1, 2, 3)), expected);
    }

    #[test]
    fn seed_epoch_and_index_decide_alone() {
        let transform = transform(AugmentConfig::default());
        let reference = run(&transform, (1, 2, 3));
        assert_eq!(reference, run(&transform, (1, 2, 3)));
        for key in [(2, 2, 3), (1, 3, 3), (1, 2, 4)] {
            assert_ne!(reference, run(&transform, key));
        }
    }

    #[test]
    fn a_certain_flip_mirrors_every_row() {
        let plain = run(&transform(off()), (1, 1, 1));
        let flipped = run(
            &transform(AugmentConfig {
                horizontal_flip: 1.0,
                ..off()
            }),
            (1, 1, 1),
        );
        for (row, mirrored) in plain.chunks(32).zip(flipped.chunks(32)) {
            assert!(row.iter().eq(mirrored.iter().rev()));
        }
    }

    #[test]
    fn one_augmentation_does_not_move_the_draws_of_another() {
        let draws = |purpose: &str| Draws::new(9, 1, 4, purpose);
        let all = Drawn::new(&AugmentConfig::default(), draws);
        let without_crop = AugmentConfig {
            random_resized_crop: None,
            ..AugmentConfig::default()
        };
        let fewer = Drawn::new(&without_crop, draws);
        assert_eq!(
            (all.flip, all.degrees, all.jitter),
            (fewer.flip, fewer.degrees, fewer.jitter)
        );
    }

    #[test]
    fn crops_keep_to_their_scale_ratio_and_picture() {
        let mut areas = Vec::new();
        for index in 0..2000 {
            let crop = draw_crop([0.3, 0.9], Draws::new(1, 1, index, "crop"));
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
    fn every_way_to_resize_can_be_augmented() {
        for resize in [Resize::Squash, Resize::Crop, Resize::Pad] {
            let config = DataConfig {
                image_size: 32,
                resize,
                ..DataConfig::default()
            };
            let transform = TrainTransform::new(&config).unwrap();
            for index in 0..50 {
                run(&transform, (1, 1, index));
            }
        }
    }
}
