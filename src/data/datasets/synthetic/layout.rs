//! Positions of the features of a face, in the face's own frame and in the image.
//!
//! The face's frame has its origin at the center of the head, x to the right and y down as the
//! viewer sees them; one unit is about half the side of the image.

use super::face::Face;
use super::nuisance::Pose;

/// Geometric mean of half the width and half the height of a head, in face units.
const HEAD_RADIUS: f32 = 0.60;
/// Size of the face in the image at a pose scale of one.
const ZOOM: f32 = 1.18;
/// The head sits a little below the middle of the image, to leave room for hair.
const CENTER_Y: f32 = 0.03;
/// The line of the eyes, in half heights of the head above its center.
const EYE_LINE: f32 = 0.08;
/// The line of the mouth, in half heights of the head below its center.
const MOUTH_LINE: f32 = 0.60;

/// Maps between the image ([-1, 1] squared, y down) and the face's frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    center: [f32; 2],
    cos: f32,
    sin: f32,
    pub(super) scale: f32,
}

impl Frame {
    pub(super) fn new(pose: &Pose) -> Self {
        let (sin, cos) = small_sin_cos(pose.roll);
        let center = [pose.shift[0], CENTER_Y + pose.shift[1]];
        Self { center, cos, sin, scale: ZOOM * pose.scale }
    }

    pub(super) fn to_face(self, [x, y]: [f32; 2]) -> [f32; 2] {
        let (x, y) = (x - self.center[0], y - self.center[1]);
        [(self.cos * x + self.sin * y) / self.scale, (self.cos * y - self.sin * x) / self.scale]
    }

    pub(super) fn to_image(self, [x, y]: [f32; 2]) -> [f32; 2] {
        [
            self.center[0] + self.scale * (self.cos * x - self.sin * y),
            self.center[1] + self.scale * (self.sin * x + self.cos * y),
        ]
    }
}

/// Computes sine and cosine by their series: enough for the few degrees of a pose, and, unlike the
/// machine's own, the same to the last bit everywhere.
fn small_sin_cos(a: f32) -> (f32, f32) {
    let q = a * a;
    (a * (1.0 - q / 6.0 * (1.0 - q / 20.0)), 1.0 - q / 2.0 * (1.0 - q / 12.0 * (1.0 - q / 30.0)))
}

/// One eye in the face's frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eye {
    pub(super) center: [f32; 2],
    /// Half the width of the opening.
    pub(super) half_width: f32,
    /// Heights of the upper and the lower lid over the line of the corners.
    pub(super) upper: f32,
    pub(super) lower: f32,
    /// Drop of the outer corner per unit of x; the sign already fits the side.
    pub(super) slope: f32,
    /// Lowering of the brow's inner end, and rise of the whole brow.
    pub(super) knit: f32,
    pub(super) raise: f32,
    /// -1 for the eye at the left of the image, 1 for the other.
    pub(super) side: f32,
}

/// The nose in the face's frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nose {
    /// Height of the upper end of the bridge.
    pub(super) root: [f32; 2],
    pub(super) tip: [f32; 2],
    /// Half the width over the wings.
    pub(super) half_width: f32,
}

/// The mouth in the face's frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mouth {
    pub(super) center: [f32; 2],
    pub(super) half_width: f32,
    /// Rise of the corners over the middle (negative: they hang).
    pub(super) lift: f32,
    /// Slope of the line through the corners.
    pub(super) slope: f32,
    /// Height of the gap between the lips.
    pub(super) open: f32,
    /// Heights of the lips.
    pub(super) upper: f32,
    pub(super) lower: f32,
}

/// The features of a face in its own frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Half the width and half the height of the head.
    pub(super) half: [f32; 2],
    /// Sideways shift of the chin.
    pub(super) chin: f32,
    jaw: f32,
    /// The eye at the left of the image first.
    pub(super) eyes: [Eye; 2],
    pub(super) nose: Nose,
    pub(super) mouth: Mouth,
}

impl Layout {
    pub(super) fn new(face: &Face) -> Self {
        let (geometry, look) = (&face.geometry, &face.look);
        let root = geometry.face_ratio.sqrt();
        let half = [HEAD_RADIUS / root, HEAD_RADIUS * root];
        let asymmetry = geometry.asymmetry;
        let eye_y = -EYE_LINE * half[1];
        let eyes = [-1.0, 1.0].map(|side: f32| {
            let half_width = geometry.eye_size * half[0] * (1.0 + 0.14 * asymmetry * side);
            Eye {
                center: [side * geometry.eye_spacing * half[0], eye_y - 0.085 * asymmetry * side],
                half_width,
                upper: 0.50 * half_width,
                lower: 0.36 * half_width,
                slope: -0.10 * look.slant * side,
                knit: 0.12 * (-geometry.smile).max(0.0),
                raise: 0.02 * geometry.smile,
                side,
            }
        });
        let nose = Nose {
            root: [0.0, eye_y],
            tip: [0.05 * asymmetry, eye_y + 2.0 * geometry.nose_length * half[1]],
            half_width: 0.095 + 0.05 * look.nose_width,
        };
        let chin = 0.14 * asymmetry;
        let half_width = (look.mouth_width + 0.08 * geometry.smile) * half[0];
        let mouth = Mouth {
            center: [0.6 * chin, MOUTH_LINE * half[1] + 0.05 * geometry.smile],
            half_width,
            lift: 0.14 * geometry.smile,
            open: 0.08 * (geometry.smile - 0.1).max(0.0),
            slope: 0.28 * asymmetry,
            upper: 0.042 + 0.022 * look.lips,
            lower: 0.058 + 0.030 * look.lips,
        };
        Self { half, chin, jaw: look.jaw, eyes, nose, mouth }
    }

    /// Returns the signed distance to the outline of the head, negative inside; exact to first
    /// order, so good near the outline, where it is used.
    pub(super) fn head_distance(&self, [x, y]: [f32; 2]) -> f32 {
        let [w, h] = self.half;
        let t = y / h;
        let below = t.clamp(0.0, 1.3);
        // Below the line of the ears the outline is widened or narrowed, and leans to the chin.
        let fullness = 1.0 + 0.16 * self.jaw * below * below;
        let fullness_slope = 0.32 * self.jaw * below / h;
        let u = (x - self.chin * below * below) / (w * fullness);
        let u_slope = -2.0 * self.chin * below / (h * w * fullness) - u * fullness_slope / fullness;
        let (round, round_slope) = skull(t);
        let gradient = [2.0 * u / (w * fullness), 2.0 * u * u_slope + round_slope / h];
        let length = (gradient[0] * gradient[0] + gradient[1] * gradient[1]).sqrt();
        (u * u + round - 1.0) / length.max(0.5)
    }
}

/// Replaces t² in the equation of an ellipse: t² below the equator (t > 0), flatter
/// above, where skulls are broader than ellipses. The second number is the slope.
pub(super) fn skull(t: f32) -> (f32, f32) {
    if t > 0.0 {
        (t * t, 2.0 * t)
    } else {
        let q = t * t;
        (0.55 * q + 0.45 * q * q, 1.10 * t + 1.80 * q * t)
    }
}

/// An ellipse around a feature of the face, in pixels of a square image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// `left_eye` and `right_eye` (as the viewer sees them), `nose`, `mouth` or `head`.
    pub name: &'static str,
    /// Center, x to the right and y down; pixel (i, j) covers i..i+1, j..j+1.
    pub center: [f32; 2],
    /// Half axes along the face's own x and y.
    pub radii: [f32; 2],
    /// Roll of the axes in radians, clockwise in the image.
    pub roll: f32,
}

impl Region {
    /// Returns whether the point, in pixels, lies in the ellipse.
    pub fn contains(&self, x: f32, y: f32) -> bool {
        let (sin, cos) = small_sin_cos(self.roll);
        let (x, y) = (x - self.center[0], y - self.center[1]);
        let u = (cos * x + sin * y) / self.radii[0];
        let v = (cos * y - sin * x) / self.radii[1];
        u * u + v * v <= 1.0
    }
}

pub(super) fn regions(face: &Face, size: u32) -> Vec<Region> {
    let layout = Layout::new(face);
    let frame = Frame::new(&face.pose);
    let half_side = size as f32 / 2.0;
    let region = |name, center: [f32; 2], radii: [f32; 2]| Region {
        name,
        center: frame.to_image(center).map(|v| (v + 1.0) * half_side),
        radii: radii.map(|r| r * frame.scale * half_side),
        roll: face.pose.roll,
    };
    let eye =
        |name, eye: Eye| region(name, eye.center, [1.45 * eye.half_width, 1.0 * eye.half_width]);
    let Nose { root, tip, half_width } = layout.nose;
    let mouth = layout.mouth;
    let rise = mouth.lift.abs() + mouth.slope.abs() * mouth.half_width;
    let nose_center = [0.5 * (root[0] + tip[0]), 0.5 * (root[1] + tip[1]) + 0.02];
    let mouth_y = mouth.center[1] - 0.35 * mouth.lift + 0.5 * mouth.open + 0.02;
    let mouth_radii = [1.2 * mouth.half_width + 0.02, 0.12 + 0.7 * rise + 0.5 * mouth.open];
    vec![
        eye("left_eye", layout.eyes[0]),
        eye("right_eye", layout.eyes[1]),
        region("nose", nose_center, [1.3 * half_width, 0.5 * (tip[1] - root[1]) + 0.06]),
        region("mouth", [mouth.center[0], mouth_y], mouth_radii),
        region("head", [0.3 * layout.chin, 0.0], layout.half),
    ]
}
