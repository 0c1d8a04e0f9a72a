//! A face as several upright views show it: a detector's boxes change by some percent with the
//! angle and the size of a face in the image, and with them what a crop would show.

use anyhow::Result;
use image::RgbImage;
use image::imageops::flip_horizontal;

use super::align::{Cut, Similarity, cut};
use super::boxes::FaceBox;
use super::detect::{Detector, Face, shrink};

/// The side of the largest view, and the longer side of the face in it, in pixels.
const VIEW: u32 = 240;
const FACE: f64 = 134.0;
/// The sides of the views. Each also counts as its mirror image does.
const SIDES: [u32; 3] = [VIEW, 209, 181];
/// The least face that is looked for in a view, in units of the one that is there.
const LEAST: f64 = 0.4;

/// A face in coordinates of its own: from the center of its box, along the line of its eyes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Upright {
    pub(super) to_image: Similarity,
    pub(super) bounds: FaceBox,
    pub(super) landmarks: [[f64; 2]; 5],
}

impl Upright {
    /// Finds a face again in upright views. Its edges and landmarks are the medians over the views
    /// and the image. `None` if the face has no extent.
    pub(super) fn find(detector: &Detector, image: &RgbImage, face: &Face) -> Result<Option<Self>> {
        let center = face.bounds.center();
        let sides = [face.bounds.width(), face.bounds.height()].map(f64::from);
        let landmarks = face.landmarks.map(|point| point.map(f64::from));
        let eyes = (landmarks[1][1] - landmarks[0][1]).atan2(landmarks[1][0] - landmarks[0][0]);
        let scale = sides[0].max(sides[1]) / FACE;
        let middle = f64::from(VIEW) / 2.0;
        let view = Similarity::about([middle; 2], center, scale, eyes);
        let own = Similarity::about([0.0; 2], center, 1.0, eyes);
        let back = Similarity::about(center, [0.0; 2], 1.0, -eyes);
        let (Some(view), Some(own), Some(back)) = (view, own, back) else {
            return Ok(None);
        };
        let half = sides.map(|side| side / 2.0);
        let edges = [-half[0], -half[1], half[0], half[1]];
        let mut found = vec![(edges, landmarks.map(|point| back.apply(point)))];
        let view = cut(image, &Cut { to_image: view, size: VIEW, half: None })?;
        for side in SIDES {
            let view = shrink(&view, side, side)?;
            let ratio = f64::from(VIEW) / f64::from(side);
            let least = LEAST * FACE / ratio;
            for mirrored in [false, true] {
                let view = if mirrored { &flip_horizontal(&view) } else { &view };
                let faces = detector.detect_from(view, least)?;
                let seen = faces.iter().map(|face| seen(face, side, scale * ratio, mirrored));
                let off = |(edges, _): &([f64; 4], _)| {
                    (edges[0] + edges[2]).abs() + (edges[1] + edges[3]).abs()
                };
                found.extend(seen.min_by(|a, b| off(a).total_cmp(&off(b))));
            }
        }
        let [left, top, right, bottom] =
            std::array::from_fn(|edge| median(found.iter().map(|(edges, _)| edges[edge])) as f32);
        let landmarks = std::array::from_fn(|point| {
            [0, 1].map(|axis| median(found.iter().map(|(_, landmarks)| landmarks[point][axis])))
        });
        let bounds = FaceBox { left, top, right, bottom };
        Ok(Some(Self { to_image: own, bounds, landmarks }))
    }
}

/// Returns the edges and the landmarks of a face in a view of this side in its own coordinates.
fn seen(face: &Face, side: u32, scale: f64, mirrored: bool) -> ([f64; 4], [[f64; 2]; 5]) {
    let own = |at: f32| (f64::from(at) - f64::from(side) / 2.0) * scale;
    let edges = face.bounds.edges().map(own);
    let landmarks = face.landmarks.map(|point| point.map(own));
    if !mirrored {
        return (edges, landmarks);
    }
    let [left, top, right, bottom] = edges;
    let [left_eye, right_eye, nose, mouth_left, mouth_right] = landmarks.map(|[x, y]| [-x, y]);
    ([-right, top, -left, bottom], [right_eye, left_eye, nose, mouth_right, mouth_left])
}

/// Returns the median, of an even number of values the upper one of the middle pair; NaN of none.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_image_shows_the_same_face() {
        let points = [[70.0, 90.0], [120.0, 92.0], [90.0, 115.0], [75.0, 140.0], [118.0, 141.0]];
        let bounds = FaceBox { left: 60.0, top: 50.0, right: 130.0, bottom: 160.0 };
        let face = Face { bounds, probability: 1.0, landmarks: points };
        let flip = |x: f32| 200.0 - x;
        let bounds = FaceBox { left: flip(130.0), right: flip(60.0), ..bounds };
        let [a, b, nose, c, d] = points.map(|[x, y]| [flip(x), y]);
        let mirrored = Face { bounds, probability: 1.0, landmarks: [b, a, nose, d, c] };
        assert_eq!(seen(&face, 200, 0.5, false), seen(&mirrored, 200, 0.5, true));
        assert_eq!(seen(&face, 200, 0.5, false).0, [-20.0, -25.0, 15.0, 30.0]);
    }

    #[test]
    fn a_median_is_no_outlier() {
        assert_eq!(median([3.0, 900.0, 1.0].into_iter()), 3.0);
        assert_eq!(median([2.0].into_iter()), 2.0);
    }
}
