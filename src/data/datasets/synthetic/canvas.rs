//! A small renderer: anti-aliased shapes from signed distances, soft spots, noise and colors.
//!
//! Only additions, multiplications, divisions and square roots are used, which IEEE 754 rounds
//! the same on every machine; hence no sine, power or exponential from the machine's library.

use std::cell::Cell;

use image::RgbImage;

use super::layout::Frame;

/// An sRGB color in 0..1. Light and shade are mixed in sRGB, as an illustrator would.
pub(super) type Color = [f32; 3];

/// A point in the face's frame, or, for the background, in the image's.
pub(super) type Point = [f32; 2];

/// A rectangle in the face's frame: left, top, right, bottom.
pub(super) type Bounds = [f32; 4];

/// The image being painted.
pub(super) struct Canvas {
    size: u32,
    frame: Frame,
    pixels: Vec<Color>,
}

impl Canvas {
    pub(super) fn new(size: u32, frame: Frame) -> Self {
        let count = size as usize * size as usize;
        Self { size, frame, pixels: vec![[0.0; 3]; count] }
    }

    /// Returns the side of a pixel in face units: the width over which an edge fades.
    pub(super) fn pixel(&self) -> f32 {
        2.0 / (self.size as f32 * self.frame.scale)
    }

    /// Calls `shade` for every pixel with its position in the image, [-1, 1] squared.
    pub(super) fn paint_all(&mut self, shade: impl Fn(Point, &mut Color)) {
        let step = 2.0 / self.size as f32;
        let size = self.size as usize;
        for (row, line) in self.pixels.chunks_exact_mut(size.max(1)).enumerate() {
            let y = (row as f32 + 0.5) * step - 1.0;
            for (column, pixel) in line.iter_mut().enumerate() {
                shade([(column as f32 + 0.5) * step - 1.0, y], pixel);
            }
        }
    }

    /// Calls `shade` for every pixel whose position in the face's frame can lie in `bounds`.
    pub(super) fn paint(&mut self, bounds: Bounds, shade: impl Fn(Point, &mut Color)) {
        let [left, top, right, bottom] = bounds;
        let corners = [[left, top], [right, top], [left, bottom], [right, bottom]]
            .map(|corner| self.frame.to_image(corner));
        let side = self.size as f32;
        // First and one past the last pixel on an axis; a margin of one pixel for the edges.
        let span = |axis: usize| {
            let values = corners.map(|corner| (corner[axis] + 1.0) * 0.5 * side);
            let low = values.iter().copied().fold(f32::INFINITY, f32::min) - 1.0;
            let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max) + 2.0;
            (low.clamp(0.0, side) as usize, high.clamp(0.0, side) as usize)
        };
        let ((x0, x1), (y0, y1)) = (span(0), span(1));
        let step = 2.0 / side;
        for row in y0..y1 {
            let y = (row as f32 + 0.5) * step - 1.0;
            let start = row * self.size as usize;
            for column in x0..x1 {
                let x = (column as f32 + 0.5) * step - 1.0;
                let at = self.frame.to_face([x, y]);
                if at[0] >= left && at[0] <= right && at[1] >= top && at[1] <= bottom {
                    shade(at, &mut self.pixels[start + column]);
                }
            }
        }
    }

    /// Returns the finished image, 8 bits per channel.
    pub(super) fn into_image(self) -> RgbImage {
        let bytes = self.pixels.iter().flatten();
        let bytes = bytes.map(|v| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8).collect();
        // The buffer holds exactly size * size * 3 bytes.
        RgbImage::from_raw(self.size, self.size, bytes).unwrap_or_default()
    }
}

/// Returns the fraction of a pixel of side `pixel` that lies inside a shape at signed distance
/// `distance`.
pub(super) fn coverage(distance: f32, pixel: f32) -> f32 {
    (0.5 - distance / pixel).clamp(0.0, 1.0)
}

/// Returns the [`coverage`] for an edge that is blurred over `blur`, at least a pixel.
pub(super) fn soft_coverage(distance: f32, blur: f32) -> f32 {
    smooth((0.5 - distance / blur).clamp(0.0, 1.0))
}

/// Returns the coverage of a line of the given width whose middle is at distance `distance`. Lines
/// thinner than a pixel fade instead of vanishing, so that small images keep them.
pub(super) fn line(distance: f32, width: f32, pixel: f32) -> f32 {
    let half = 0.5 * width;
    let inner = (half - distance.abs()) / pixel + 0.5;
    inner.clamp(0.0, 1.0).min(width / pixel)
}

/// Computes the smooth step 3t² - 2t³ for t in [0, 1].
pub(super) fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// Returns a soft spot: 1 at `center`, falling smoothly to 0 on the ellipse with the given radii.
pub(super) fn spot([x, y]: Point, center: Point, radii: [f32; 2]) -> f32 {
    let (u, v) = ((x - center[0]) / radii[0], (y - center[1]) / radii[1]);
    let inside = (1.0 - u * u - v * v).max(0.0);
    inside * inside
}

/// Returns the signed distance to an ellipse, exact to first order near its outline.
pub(super) fn ellipse([x, y]: Point, center: Point, radii: [f32; 2]) -> f32 {
    let (u, v) = ((x - center[0]) / radii[0], (y - center[1]) / radii[1]);
    let gradient = 2.0 * ((u / radii[0]) * (u / radii[0]) + (v / radii[1]) * (v / radii[1])).sqrt();
    let shortest = radii[0].min(radii[1]);
    (u * u + v * v - 1.0) / gradient.max(1.0 / shortest)
}

/// Mixes `color` over `pixel`.
pub(super) fn blend(pixel: &mut Color, color: Color, alpha: f32) {
    for (channel, value) in pixel.iter_mut().zip(color) {
        *channel += (value - *channel) * alpha;
    }
}

/// Multiplies `pixel` by a mix of white and `color`.
pub(super) fn tint(pixel: &mut Color, color: Color, alpha: f32) {
    for (channel, value) in pixel.iter_mut().zip(color) {
        *channel *= 1.0 + (value - 1.0) * alpha;
    }
}

/// Interpolates the color between `a` (at 0) and `b` (at 1).
pub(super) fn mix(a: Color, b: Color, t: f32) -> Color {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// Makes `color` lighter (`factor` above 1) or darker.
pub(super) fn scaled(color: Color, factor: f32) -> Color {
    color.map(|channel| channel * factor)
}

/// Smooth noise in [-1, 1] with features of size one.
///
/// It remembers the corners of the last cell of the lattice: neighboring pixels often lie in one.
#[derive(Debug)]
pub(super) struct Noise {
    seed: u32,
    cell: Cell<LatticeCell>,
}

/// A cell of the lattice, and the random numbers of its corners: top left, top right, bottom left
/// and bottom right.
#[derive(Clone, Copy, Debug)]
struct LatticeCell {
    position: (i32, i32),
    corners: [f32; 4],
}

impl LatticeCell {
    fn new(position: (i32, i32), seed: u32) -> Self {
        let (i, j) = position;
        let corners = [(i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)];
        Self { position, corners: corners.map(|(i, j)| lattice(i, j, seed)) }
    }
}

impl Noise {
    pub(super) fn new(seed: u32) -> Self {
        Self { seed, cell: Cell::new(LatticeCell::new((0, 0), seed)) }
    }

    pub(super) fn at(&self, [x, y]: Point) -> f32 {
        // Like `f32::floor`, which is a call into a library on the oldest x86-64 machines.
        let floor = |v: f32| v as i32 - i32::from(v < 0.0);
        let (i, j) = (floor(x), floor(y));
        if self.cell.get().position != (i, j) {
            self.cell.set(LatticeCell::new((i, j), self.seed));
        }
        let [a, b, c, d] = self.cell.get().corners;
        let (u, v) = (smooth(x - i as f32), smooth(y - j as f32));
        let top = a * (1.0 - u) + b * u;
        let bottom = c * (1.0 - u) + d * u;
        top * (1.0 - v) + bottom * v
    }
}

/// Three octaves of [`Noise`].
#[derive(Debug)]
pub(super) struct Clouds([Noise; 3]);

impl Clouds {
    pub(super) fn new(seed: u32) -> Self {
        Self([seed, seed ^ 0x5bd1, seed ^ 0xa3c7].map(Noise::new))
    }

    pub(super) fn at(&self, [x, y]: Point) -> f32 {
        let [low, middle, high] = &self.0;
        0.57 * low.at([x, y])
            + 0.29 * middle.at([2.1 * x, 2.1 * y])
            + 0.14 * high.at([4.3 * x, 4.3 * y])
    }
}

/// Returns a fixed random number in [-1, 1] for each point of the integer lattice.
pub(super) fn lattice(i: i32, j: i32, seed: u32) -> f32 {
    let mut h = (i as u32).wrapping_mul(0x9e37_79b1)
        ^ (j as u32).wrapping_mul(0x85eb_ca77)
        ^ seed.wrapping_mul(0xc2b2_ae3d);
    h ^= h >> 15;
    h = h.wrapping_mul(0x2c1b_3c6d);
    h ^= h >> 12;
    h = h.wrapping_mul(0x297a_2d39);
    h ^= h >> 15;
    (h >> 8) as f32 / (1u32 << 23) as f32 - 1.0
}
