//! Everything in an image except the scored proportions, and how it is sampled.

use super::stream::Stream;

/// The appearance of a person apart from the scored proportions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Skin tone, 0 (fair) to 1 (deep).
    pub tone: f32,
    /// Redness of cheeks and lips, 0 to 1.
    pub blush: f32,
    /// Strength of the blotches on the skin, 0 to 1.
    pub texture: f32,
    /// Strength of the freckles, 0 to 1; 0 on most faces.
    pub freckles: f32,
    /// Lines from the nose to the corners of the mouth, 0 to 1.
    pub lines: f32,
    /// Fullness of the jaw, -1 (pointed) to 1 (square).
    pub jaw: f32,
    /// Width of the neck over the width of the face.
    pub neck: f32,
    /// Protrusion of the ears, 0 to 1.
    pub ears: f32,
    /// Cut of the hair.
    pub hair_style: HairStyle,
    /// Color of the hair, sRGB in 0..1.
    pub hair_color: [f32; 3],
    /// Volume of the hair, 0 to 1.
    pub hair_volume: f32,
    /// Position of the parting, -1 (left) to 1 (right).
    pub parting: f32,
    /// Thickness of the brows, 0 to 1.
    pub brow: f32,
    /// Arch of the brows, 0 (flat) to 1.
    pub brow_arch: f32,
    /// Color of the iris, sRGB in 0..1.
    pub iris_color: [f32; 3],
    /// The gaze direction, in units of half an eye, right and down positive.
    pub gaze: [f32; 2],
    /// Slant of the eyes, -1 (outer corners down) to 1 (outer corners up).
    pub slant: f32,
    /// Width of the nose, 0 (narrow) to 1 (wide).
    pub nose_width: f32,
    /// Width of the mouth over the width of the face, of a straight face.
    pub mouth_width: f32,
    /// Fullness of the lips, 0 to 1.
    pub lips: f32,
    /// Facial hair, a distractor.
    pub beard: Beard,
    /// Color of the glasses' frame, or none.
    pub glasses: Option<[f32; 3]>,
    /// Color of the clothes, sRGB in 0..1.
    pub clothes: [f32; 3],
    /// Seed of everything that is speckled or streaked: skin, hair, background.
    pub grain_seed: u32,
}

/// Cut of the hair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HairStyle {
    /// No hair.
    Bald,
    /// A few millimeters.
    Buzz,
    /// Short, the forehead free.
    Short,
    /// Short, combed to one side.
    SideParting,
    /// A straight fringe over the forehead.
    Fringe,
    /// To the jaw.
    Bob,
    /// Over the shoulders.
    Long,
    /// Round and curly.
    Curly,
    /// Tied up on top.
    Bun,
}

impl HairStyle {
    /// All cuts, all equally likely except `Bald`, which is rarer.
    pub const ALL: [Self; 9] = {
        use HairStyle::*;
        [Bald, Buzz, Short, SideParting, Fringe, Bob, Long, Curly, Bun]
    };
}

/// Facial hair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Beard {
    /// Clean shaven.
    None,
    /// A shadow over jaw and upper lip.
    Stubble,
    /// A full beard.
    Full,
}

/// The position of the face in the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// Shift of the center of the face, in half images, right and down positive.
    pub shift: [f32; 2],
    /// Roll of the head in radians, clockwise in the image.
    pub roll: f32,
    /// Size relative to the usual one.
    pub scale: f32,
}

/// Light, background and camera.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scene {
    /// Direction towards the light: right, down, towards the viewer; of length one.
    pub light: [f32; 3],
    /// Fraction of the light that comes from everywhere, 0 to 1.
    pub ambient: f32,
    /// Color of the light, per channel, near one.
    pub tint: [f32; 3],
    /// Colors of the background, top and bottom, sRGB in 0..1.
    pub background: [[f32; 3]; 2],
    /// Strength of the background's clouds and spots, 0 to 1.
    pub clutter: f32,
    /// Amplitude of the camera's grain, in sRGB units of 0..1.
    pub grain: f32,
}

#[rustfmt::skip]
const HAIR_COLORS: [[f32; 3]; 8] = [
    [0.09, 0.07, 0.07], [0.17, 0.11, 0.08], [0.30, 0.19, 0.12], [0.44, 0.28, 0.16],
    [0.72, 0.54, 0.30], [0.86, 0.74, 0.50], [0.55, 0.24, 0.12], [0.62, 0.61, 0.60],
];

const IRIS_COLORS: [[f32; 3]; 5] = [
    [0.22, 0.13, 0.07],
    [0.36, 0.22, 0.11],
    [0.40, 0.38, 0.18],
    [0.28, 0.45, 0.33],
    [0.30, 0.46, 0.62],
];

impl Look {
    pub(super) fn sample(stream: &mut Stream) -> Self {
        let hair_style = match stream.below(2 * HairStyle::ALL.len() - 1) {
            0 => HairStyle::Bald,
            other => HairStyle::ALL[other.div_ceil(2)],
        };
        let vary = stream.range(0.85, 1.15);
        let hair_color = HAIR_COLORS[stream.below(HAIR_COLORS.len())].map(|c| c * vary);
        let beard = match stream.unit() {
            u if u < 0.88 => Beard::None,
            u if u < 0.96 => Beard::Stubble,
            _ => Beard::Full,
        };
        let frame = [stream.range(0.05, 0.6), stream.range(0.05, 0.35), stream.range(0.05, 0.35)];
        let glasses = stream.chance(0.08).then_some(frame);
        let freckled = stream.chance(0.15);
        Self {
            tone: stream.unit(),
            blush: stream.unit(),
            texture: stream.unit(),
            freckles: stream.unit() * f32::from(u8::from(freckled)),
            lines: stream.unit(),
            jaw: stream.range(-1.0, 1.0),
            neck: stream.range(0.55, 0.72),
            ears: stream.unit(),
            hair_style,
            hair_color,
            hair_volume: stream.unit(),
            parting: stream.range(-1.0, 1.0),
            brow: stream.unit(),
            brow_arch: stream.unit(),
            iris_color: IRIS_COLORS[stream.below(IRIS_COLORS.len())],
            gaze: [stream.range(-0.14, 0.14), stream.range(-0.06, 0.06)],
            slant: stream.range(-1.0, 1.0),
            nose_width: stream.unit(),
            mouth_width: stream.range(0.40, 0.48),
            lips: stream.unit(),
            beard,
            glasses,
            clothes: [stream.range(0.08, 0.9), stream.range(0.08, 0.9), stream.range(0.08, 0.9)],
            grain_seed: (stream.unit() * 16_777_216.0) as u32,
        }
    }
}

impl Pose {
    pub(super) fn sample(stream: &mut Stream) -> Self {
        Self {
            shift: [stream.range(-0.03, 0.03), stream.range(-0.03, 0.03)],
            roll: stream.range(-0.05, 0.05),
            scale: stream.range(0.97, 1.03),
        }
    }
}

impl Scene {
    pub(super) fn sample(stream: &mut Stream) -> Self {
        let (x, y) = (stream.range(-0.8, 0.8), stream.range(-0.7, 0.15));
        let length = (x * x + y * y + 0.64).sqrt();
        let warmth = stream.range(-0.06, 0.06);
        let gain = stream.range(0.90, 1.08);
        let mut color = || [stream.range(0.1, 0.9), stream.range(0.1, 0.9), stream.range(0.1, 0.9)];
        let (first, second) = (color(), color());
        // Half of the way to gray: backgrounds are seldom as colorful as clothes.
        let mute = |c: [f32; 3]| {
            let gray = (c[0] + c[1] + c[2]) / 3.0;
            c.map(|channel| 0.5 * (channel + gray))
        };
        Self {
            light: [x / length, y / length, 0.8 / length],
            ambient: stream.range(0.50, 0.72),
            tint: [gain * (1.0 + warmth), gain, gain * (1.0 - warmth)],
            background: [mute(first), mute(second)],
            clutter: stream.unit(),
            grain: stream.range(0.0, 0.035),
        }
    }
}
