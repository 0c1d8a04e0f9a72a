//! Turns a square picture about its middle, mirroring it on the way if asked.

use super::resample::Workspace;

/// Bits of a fixed-point coordinate behind the point.
const FRACTION: u32 = 16;
/// Bits of those that weigh the pixels on either side.
const WEIGHT: u32 = 6;

/// Turns `workspace.framed`, (size, size, 3), into `workspace.rotated`: mirrored first if `flip`, then
/// turned counter-clockwise by `degrees`. Bilinear, in steps of 1/64 pixel. What lies outside is the
/// picture reflected at its edge, so that the corners hold the face's own surroundings instead of a
/// colour that gives the angle away.
pub(super) fn rotate(size: usize, degrees: f64, flip: bool, workspace: &mut Workspace) {
    let Workspace {
        framed,
        rotated,
        packed,
        ..
    } = workspace;
    packed.clear();
    packed.extend(framed.chunks_exact(3).map(pack));
    rotated.resize(framed.len(), 0);

    let (sin, cos) = degrees.to_radians().sin_cos();
    let middle = (size as f64 - 1.0) / 2.0;
    let side = if flip { -1.0 } else { 1.0 };
    let fixed = |value: f64| (value * f64::from(1u32 << FRACTION)).round() as i64;
    // Half a step of the weights makes cutting off their lower bits a rounding.
    let half = 1i64 << (FRACTION - WEIGHT - 1);
    // One pixel to the right in the output, seen in the input.
    let (step_x, step_y) = (fixed(side * cos), fixed(sin));
    let inside = size.saturating_sub(1) as u64;
    for (row, line) in rotated.chunks_exact_mut(size * 3).enumerate() {
        let (dx, dy) = (-middle, row as f64 - middle);
        let mut x = fixed(middle + side * (dx * cos - dy * sin)) + half;
        let mut y = fixed(middle + dx * sin + dy * cos) + half;
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
}

/// How much the right or lower pixel counts, in 64ths.
fn weight(coordinate: i64) -> u64 {
    (coordinate as u64 >> (FRACTION - WEIGHT)) & ((1 << WEIGHT) - 1)
}

/// The three colours in one word, 21 bits each: room for the sum of four pixels whose weights add up to
/// 64 x 64, so that one multiplication weighs all three.
fn pack(pixel: &[u8]) -> u64 {
    pixel
        .iter()
        .rev()
        .fold(0, |word, &colour| word << 21 | u64::from(colour))
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

/// Mirrors a picture of rows of `size` pixels from left to right, in place.
pub(super) fn mirror(picture: &mut [u8], size: usize) {
    for line in picture.chunks_exact_mut(size * 3) {
        let (pixels, _) = line.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

/// The pixel that shows at `at` when the picture is reflected about its outermost pixels.
fn reflect(at: i64, size: usize) -> usize {
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
            .flat_map(|i| {
                [
                    (i % size * 5) as u8,
                    (i / size * 5) as u8,
                    (i * 97 % 251) as u8,
                ]
            })
            .collect()
    }

    fn turn(picture: Vec<u8>, size: usize, degrees: f64, flip: bool) -> Vec<u8> {
        let mut workspace = Workspace::default();
        workspace.framed = picture;
        rotate(size, degrees, flip, &mut workspace);
        workspace.rotated
    }

    fn turned(size: usize, degrees: f64, flip: bool) -> Vec<u8> {
        turn(gradient(size), size, degrees, flip)
    }

    #[test]
    fn no_angle_changes_nothing() {
        assert_eq!(turned(31, 0.0, false), gradient(31));
    }

    #[test]
    fn a_mirrored_picture_is_the_same_from_either_way() {
        let mut mirrored = gradient(32);
        mirror(&mut mirrored, 32);
        assert_ne!(mirrored, gradient(32));
        assert_eq!(turned(32, 0.0, true), mirrored);
        mirror(&mut mirrored, 32);
        assert_eq!(mirrored, gradient(32));
    }

    #[test]
    fn a_right_angle_goes_counter_clockwise() {
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
    fn the_mirror_comes_before_the_turn() {
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
    fn a_turn_about_the_middle_interpolates_between_pixels() {
        let out = turned(41, 10.0, false);
        let (sin, cos) = 10f64.to_radians().sin_cos();
        for (x, y) in [(20, 20), (10, 15), (30, 28), (22, 9)] {
            let (dx, dy) = (x as f64 - 20.0, y as f64 - 20.0);
            let expected =
                [20.0 + dx * cos - dy * sin, 20.0 + dx * sin + dy * cos].map(|v| v * 5.0);
            for (channel, expected) in expected.iter().enumerate() {
                let found = f64::from(out[(y * 41 + x) * 3 + channel]);
                assert!(
                    (found - expected).abs() < 0.6,
                    "{x},{y}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn corners_show_the_reflection() {
        let bright = vec![200; 20 * 20 * 3];
        for degrees in [-30.0, 45.0, 170.0] {
            let out = turn(bright.clone(), 20, degrees, false);
            assert!(out.iter().all(|&value| value == 200));
        }
        assert_eq!(
            [-2, -1, 0, 3, 4, 5].map(|at| reflect(at, 4)),
            [2, 1, 0, 3, 2, 1]
        );
        assert_eq!(reflect(-5, 1), 0);
    }
}
