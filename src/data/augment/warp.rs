//! Affine transforms of a square image about its center, in one resampling.

use crate::data::image::Workspace;

/// Bits of a fixed-point coordinate behind the point.
const FRACTION: u32 = 16;
/// Fraction bits used as bilinear weights.
const WEIGHT: u32 = 6;
/// Bits that a fixed-point coordinate has before the point; the rest of the 64 is room for sums
/// along a line.
const WHOLE: f64 = (1u64 << 30) as f64;

/// Where each pixel of the output comes from: `source = linear · output + shift`, with coordinates
/// in pixels from the center, x to the right and y down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Warp {
    linear: [[f64; 2]; 2],
    shift: [f64; 2],
}

impl Warp {
    pub(super) const IDENTITY: Warp = Warp { linear: [[1.0, 0.0], [0.0, 1.0]], shift: [0.0, 0.0] };
    /// Mirrors left and right.
    pub(super) const MIRROR: Warp = Warp { linear: [[-1.0, 0.0], [0.0, 1.0]], shift: [0.0, 0.0] };

    /// Rotates counter-clockwise.
    pub(super) fn rotation(degrees: f64) -> Self {
        let (sin, cos) = degrees.to_radians().sin_cos();
        Self { linear: [[cos, -sin], [sin, cos]], shift: [0.0, 0.0] }
    }

    /// Scales and shears as `affine` of torchvision with the angle 0 (`shear` in degrees, `[x,
    /// y]`), then moves by `translate` pixels.
    pub(super) fn affine(translate: [f64; 2], scale: f64, shear: [f64; 2]) -> Self {
        let [x, y] = shear.map(|degrees| degrees.to_radians().tan());
        // Forward: scale · [[1, -x], [-y, x y + 1]], whose determinant is scale².
        let inverse = [[(x * y + 1.0) / scale, x / scale], [y / scale, 1.0 / scale]];
        let moved = apply(inverse, translate);
        Self { linear: inverse, shift: moved.map(|v| -v) }
    }

    /// Composes this transform with `next`, applied after it.
    pub(super) fn then(self, next: Warp) -> Self {
        let columns = [0, 1].map(|column| apply(self.linear, next.linear.map(|row| row[column])));
        let shift = apply(self.linear, next.shift);
        Self {
            linear: [0, 1].map(|row| columns.map(|column| column[row])),
            shift: [shift[0] + self.shift[0], shift[1] + self.shift[1]],
        }
    }
}

fn apply(matrix: [[f64; 2]; 2], vector: [f64; 2]) -> [f64; 2] {
    matrix.map(|row| row[0] * vector[0] + row[1] * vector[1])
}

/// Applies a transform to `workspace.framed`, (size, size, 3), bilinearly in steps of 1/64 pixel.
/// Pixels outside show the image reflected at its edge, so that the corners hold the face's own
/// surroundings instead of a color that reveals the angle.
pub(super) fn warp(size: usize, change: Warp, workspace: &mut Workspace) {
    let Workspace { framed, warped, packed, .. } = workspace;
    if change == Warp::IDENTITY {
        return;
    }
    if change == Warp::MIRROR {
        mirror(framed, size);
        return;
    }
    packed.clear();
    packed.extend(framed.chunks_exact(3).map(pack));
    warped.resize(framed.len(), 0);

    let middle = (size as f64 - 1.0) / 2.0;
    let fixed =
        |value: f64| (value.clamp(-WHOLE, WHOLE) * f64::from(1u32 << FRACTION)).round() as i64;
    // Half a step of the weights makes cutting off their lower bits a rounding.
    let half = 1i64 << (FRACTION - WEIGHT - 1);
    // One pixel to the right in the output, seen in the input.
    let (step_x, step_y) = (fixed(change.linear[0][0]), fixed(change.linear[1][0]));
    let inside = size.saturating_sub(1) as u64;
    for (row, line) in warped.chunks_exact_mut(size * 3).enumerate() {
        let first = apply(change.linear, [-middle, row as f64 - middle]);
        let mut x = fixed(middle + first[0] + change.shift[0]) + half;
        let mut y = fixed(middle + first[1] + change.shift[1]) + half;
        let (pixels, _) = line.as_chunks_mut::<3>();
        for pixel in pixels {
            let (column, line) = (x >> FRACTION, y >> FRACTION);
            // The casts send what is negative beyond the edge.
            let corners = if (column as u64) < inside && (line as u64) < inside {
                let first = line as usize * size + column as usize;
                [first, first + 1, first + size, first + size + 1]
            } else {
                let (left, right) = (reflect(column, size), reflect(column + 1, size));
                let (up, down) = (reflect(line, size) * size, reflect(line + 1, size) * size);
                [up + left, up + right, down + left, down + right]
            };
            *pixel = blend(packed, corners, weight(x), weight(y));
            x += step_x;
            y += step_y;
        }
    }
    std::mem::swap(framed, warped);
}

/// Returns the weight of the right or lower pixel, in 64ths.
fn weight(coordinate: i64) -> u64 {
    (coordinate as u64 >> (FRACTION - WEIGHT)) & ((1 << WEIGHT) - 1)
}

/// Packs the three colors into one word, 21 bits each: room for the sum of four pixels whose
/// weights add up to 64 x 64, so that one multiplication weighs all three.
fn pack(pixel: &[u8]) -> u64 {
    pixel.iter().rev().fold(0, |word, &color| word << 21 | u64::from(color))
}

/// Mixes four pixels: `x` and `y` are the weights of the right and the lower ones.
#[inline]
fn blend(packed: &[u64], corners: [usize; 4], x: u64, y: u64) -> [u8; 3] {
    const ONE: u64 = 1 << WEIGHT;
    const HALF: u64 = 1 << (2 * WEIGHT - 1);
    let weights = [(ONE - x) * (ONE - y), x * (ONE - y), (ONE - x) * y, x * y];
    let sum = corners
        .iter()
        .zip(weights)
        .fold(HALF | HALF << 21 | HALF << 42, |sum, (&corner, weight)| {
            sum + packed.get(corner).copied().unwrap_or_default() * weight
        });
    [0, 21, 42].map(|shift| (sum >> (shift + 2 * WEIGHT)) as u8)
}

/// Mirrors an image of rows of `size` pixels from left to right, in place.
fn mirror(image: &mut [u8], size: usize) {
    for line in image.chunks_exact_mut(size * 3) {
        let (pixels, _) = line.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

/// Returns the pixel at `at` when the image is reflected about its outermost pixels.
pub(super) fn reflect(at: i64, size: usize) -> usize {
    let last = size as i64 - 1;
    if last <= 0 {
        return 0;
    }
    let at = at.rem_euclid(2 * last);
    at.min(2 * last - at) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(size: usize) -> Vec<u8> {
        (0..size * size)
            .flat_map(|i| [(i % size * 5) as u8, (i / size * 5) as u8, (i * 97 % 251) as u8])
            .collect()
    }

    fn turn(image: Vec<u8>, size: usize, degrees: f64, flip: bool) -> Vec<u8> {
        let mut workspace = Workspace::default();
        workspace.framed = image;
        let flip = if flip { Warp::MIRROR } else { Warp::IDENTITY };
        warp(size, flip.then(Warp::rotation(degrees)), &mut workspace);
        workspace.framed
    }

    fn turned(size: usize, degrees: f64, flip: bool) -> Vec<u8> {
        turn(gradient(size), size, degrees, flip)
    }

    #[test]
    fn no_angle_changes_nothing() {
        assert_eq!(turned(31, 0.0, false), gradient(31));
    }

    #[test]
    fn mirroring_twice_restores_the_image() {
        let mut mirrored = gradient(32);
        mirror(&mut mirrored, 32);
        assert_ne!(mirrored, gradient(32));
        assert_eq!(turned(32, 0.0, true), mirrored);
        mirror(&mut mirrored, 32);
        assert_eq!(mirrored, gradient(32));
    }

    #[test]
    fn a_right_angle_rotates_counter_clockwise() {
        let (from, to) = (gradient(16), turned(16, 90.0, false));
        for row in 0..16 {
            for column in 0..16 {
                // The top row of the output is the right column of the input.
                let source = (column * 16 + 15 - row) * 3;
                let target = (row * 16 + column) * 3;
                assert_eq!(to[target..target + 3], from[source..source + 3]);
            }
        }
    }

    #[test]
    fn the_flip_precedes_the_rotation() {
        let mut mirrored = gradient(24);
        mirror(&mut mirrored, 24);
        let expected = turn(mirrored, 24, 10.0, false);
        let differing = turned(24, 10.0, true)
            .iter()
            .zip(&expected)
            .filter(|(a, b)| a.abs_diff(**b) > 5)
            .count();
        assert_eq!(differing, 0);
    }

    #[test]
    fn a_rotation_about_the_center_interpolates_between_pixels() {
        let out = turned(41, 10.0, false);
        let (sin, cos) = 10f64.to_radians().sin_cos();
        for (x, y) in [(20, 20), (10, 15), (30, 28), (22, 9)] {
            let (dx, dy) = (x as f64 - 20.0, y as f64 - 20.0);
            let expected =
                [20.0 + dx * cos - dy * sin, 20.0 + dx * sin + dy * cos].map(|v| v * 5.0);
            for (channel, expected) in expected.iter().enumerate() {
                let found = f64::from(out[(y * 41 + x) * 3 + channel]);
                assert!((found - expected).abs() < 0.6, "{x},{y}: {found} {expected}");
            }
        }
    }

    #[test]
    fn an_affine_transform_moves_points_as_the_matrix_of_torchvision_does() {
        // torchvision: scale · [[cos(-sy)/cos sy, -cos(-sy)·tan(sx)/cos sy], [sin(-sy)/cos sy,
        // -sin(-sy)·tan(sx)/cos sy + 1]].
        let (scale, [sx, sy], translate) = (1.25, [20f64, -10.0], [3.0, -2.0]);
        let change = Warp::affine(translate, scale, [sx, sy]);
        let (sx, sy) = (sx.to_radians(), sy.to_radians());
        let forward = [
            [(-sy).cos() / sy.cos(), -(-sy).cos() * sx.tan() / sy.cos()],
            [(-sy).sin() / sy.cos(), 1.0 - (-sy).sin() * sx.tan() / sy.cos()],
        ];
        for point in [[0.0, 0.0], [5.0, -7.0], [-11.0, 2.0]] {
            let moved = apply(forward.map(|row| row.map(|v| v * scale)), point);
            let output = [moved[0] + translate[0], moved[1] + translate[1]];
            let back = apply(change.linear, output);
            for axis in 0..2 {
                assert!((back[axis] + change.shift[axis] - point[axis]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_translation_moves_every_pixel_and_scaling_keeps_the_center() {
        let mut workspace = Workspace::default();
        workspace.framed = gradient(20);
        warp(20, Warp::affine([3.0, -2.0], 1.0, [0.0; 2]), &mut workspace);
        let (from, to) = (gradient(20), &workspace.framed);
        let at = |x: usize, y: usize| (y * 20 + x) * 3;
        assert_eq!(to[at(10, 5)..][..3], from[at(7, 7)..][..3]);
        workspace.framed = gradient(21);
        warp(21, Warp::affine([0.0; 2], 2.0, [0.0; 2]), &mut workspace);
        let at = |x: usize, y: usize| (y * 21 + x) * 3;
        assert_eq!(workspace.framed[at(10, 10)..][..3], gradient(21)[at(10, 10)..][..3]);
        assert_eq!(workspace.framed[at(14, 10)..][..2], gradient(21)[at(12, 10)..][..2]);
    }

    #[test]
    fn corners_show_the_reflection() {
        let bright = vec![200; 20 * 20 * 3];
        for degrees in [-30.0, 45.0, 170.0] {
            let out = turn(bright.clone(), 20, degrees, false);
            assert!(out.iter().all(|&value| value == 200));
        }
        assert_eq!([-2, -1, 0, 3, 4, 5].map(|at| reflect(at, 4)), [2, 1, 0, 3, 2, 1]);
        assert_eq!(reflect(-5, 1), 0);
    }
}
