//! The parameters of a face, how they are sampled, and the formula of its score.

use super::nuisance::{Look, Pose, Scene};
use super::stream::{FaceSeed, Purpose, Stream};

/// All parameters of one synthetic face.
#[derive(Clone, Debug, PartialEq)]
pub struct Face {
    /// The scored proportions; nothing else enters the score.
    pub geometry: Geometry,
    /// The appearance of the person; sampled independently of `geometry`.
    pub look: Look,
    /// The position of the face in the image; sampled independently of `geometry`.
    pub pose: Pose,
    /// Light, background and grain; sampled independently of `geometry`.
    pub scene: Scene,
}

/// The six scored proportions.
///
/// Each is uniform over its range in [`Geometry::RANGES`], independently of the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Signed left-right asymmetry, -1 to 1: one eye higher and larger, the mouth tilted the
    /// other way, the chin and the tip of the nose to one side.
    pub asymmetry: f32,
    /// Height of the head over its width.
    pub face_ratio: f32,
    /// Distance between the pupils over the width of the face.
    pub eye_spacing: f32,
    /// Width of one eye (mean of the two) over the width of the face.
    pub eye_size: f32,
    /// Length of the nose, from the line of the eyes to its tip, over the height of the face.
    pub nose_length: f32,
    /// Expression, -1 (corners of the mouth down, brows knit) to 1 (corners up, lips apart).
    pub smile: f32,
}

/// The mean of the unclamped score over all faces: each term has mean zero.
const MEAN_SCORE: f32 = 3.0;

/// The lowest and the highest rating.
pub(super) const SCORE_RANGE: (f32, f32) = (1.0, 5.0);

impl Geometry {
    /// Lowest and highest value of each field, in the order in which [`Face::terms`] lists them.
    /// The middle of a range is the ideal of the terms that have one.
    pub const RANGES: [(f32, f32); 6] = [
        (-1.0, 1.0),  // asymmetry
        (1.15, 1.65), // face_ratio
        (0.40, 0.58), // eye_spacing
        (0.16, 0.34), // eye_size
        (0.10, 0.25), // nose_length
        (-1.0, 1.0),  // smile
    ];

    /// Returns the fields mapped from their ranges to [-1, 1].
    fn deviations(&self) -> [f32; 6] {
        let Self { asymmetry, face_ratio, eye_spacing, eye_size, nose_length, smile } = *self;
        let values = [asymmetry, face_ratio, eye_spacing, eye_size, nose_length, smile];
        std::array::from_fn(|i| {
            let (low, high) = Self::RANGES[i];
            (2.0 * values[i] - low - high) / (high - low)
        })
    }

    fn sample(stream: &mut Stream) -> Self {
        let [asymmetry, face_ratio, eye_spacing, eye_size, nose_length, smile] =
            Self::RANGES.map(|(low, high)| stream.range(low, high));
        Self { asymmetry, face_ratio, eye_spacing, eye_size, nose_length, smile }
    }
}

impl Face {
    /// Samples all parameters of the face that `seed` names.
    pub fn sample(seed: FaceSeed) -> Self {
        let geometry = Geometry::sample(&mut Stream::new(seed, Purpose::Geometry));
        let mut stream = Stream::new(seed, Purpose::Nuisance);
        Self {
            geometry,
            look: Look::sample(&mut stream),
            pose: Pose::sample(&mut stream),
            scene: Scene::sample(&mut stream),
        }
    }

    /// Returns the score without rater noise, in 1..5: 3 plus the six [`terms`](Self::terms),
    /// clamped.
    pub fn score(&self) -> f32 {
        let points: f32 = self.terms().iter().sum();
        (MEAN_SCORE + points).clamp(SCORE_RANGE.0, SCORE_RANGE.1)
    }

    /// Returns what each proportion adds to the score, in the order of [`Geometry::RANGES`]. The
    /// formula is in the documentation of [the module](super).
    pub fn terms(&self) -> [f32; 6] {
        // More of a good thing, and a distance from the ideal: both of mean zero over [-1, 1].
        let more = |weight: f32, t: f32| weight * t;
        let near = |weight: f32, t: f32| weight * (1.0 - 3.0 * t * t);
        let [asymmetry, face_ratio, eye_spacing, eye_size, nose_length, smile] =
            self.geometry.deviations();
        [
            near(0.37, asymmetry),
            near(0.33, face_ratio),
            near(0.20, eye_spacing),
            more(0.50, eye_size),
            near(0.22, nose_length),
            more(0.55, smile),
        ]
    }

    /// Returns a coarse name of the skin tone: `light`, `medium` or `deep`. Faces of all three have
    /// the same distribution of scores, so metrics by group should agree up to sampling noise.
    pub fn tone_group(&self) -> &'static str {
        match self.look.tone {
            tone if tone < 1.0 / 3.0 => "light",
            tone if tone < 2.0 / 3.0 => "medium",
            _ => "deep",
        }
    }
}
