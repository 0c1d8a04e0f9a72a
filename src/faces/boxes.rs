//! Candidates of a detection: their boxes, and which of those that overlap are kept.

/// A box in an image, in pixels from its left and upper edge. It may reach beyond the image.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FaceBox {
    /// Its left edge.
    pub left: f32,
    /// Its upper edge.
    pub top: f32,
    /// Its right edge.
    pub right: f32,
    /// Its lower edge.
    pub bottom: f32,
}

impl FaceBox {
    /// Returns its left, upper, right and lower edge.
    pub fn edges(&self) -> [f32; 4] {
        [self.left, self.top, self.right, self.bottom]
    }

    /// Returns the distance from its left edge to its right one.
    pub fn width(&self) -> f32 {
        self.right - self.left
    }

    /// Returns the distance from its upper edge to its lower one.
    pub fn height(&self) -> f32 {
        self.bottom - self.top
    }

    /// Returns the x and the y of its center.
    pub(super) fn center(&self) -> [f64; 2] {
        [self.left + self.right, self.top + self.bottom].map(|sum| f64::from(sum) / 2.0)
    }

    /// Returns the square about the center whose side is the box's longer one.
    pub(super) fn square(&self) -> Self {
        let side = self.width().max(self.height());
        let left = self.left + self.width() * 0.5 - side * 0.5;
        let top = self.top + self.height() * 0.5 - side * 0.5;
        Self { left, top, right: left + side, bottom: top + side }
    }

    /// Moves each edge by its offset, in units of the box's sides, which are `more` pixels longer
    /// than they look: the later networks were trained on boxes that include their last pixel.
    pub(super) fn moved(&self, offsets: [f32; 4], more: f32) -> Self {
        let (width, height) = (self.width() + more, self.height() + more);
        Self {
            left: self.left + offsets[0] * width,
            top: self.top + offsets[1] * height,
            right: self.right + offsets[2] * width,
            bottom: self.bottom + offsets[3] * height,
        }
    }

    /// Returns the first and the end of the columns and of the rows of an image that the box
    /// covers, `[x, x_end, y, y_end]`; `None` if it covers none. Its edges count pixels from 1.
    pub(super) fn window(&self, width: usize, height: usize) -> Option<[usize; 4]> {
        let range = |from: f32, to: f32, size: usize| {
            let from = (from.trunc() as usize).max(1) - 1;
            let to = (to.trunc().max(0.0) as usize).min(size);
            (from < to).then_some((from, to))
        };
        let (x, x_end) = range(self.left, self.right, width)?;
        let (y, y_end) = range(self.top, self.bottom, height)?;
        Some([x, x_end, y, y_end])
    }
}

/// A box that may show a face.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Candidate {
    pub(super) bounds: FaceBox,
    /// The probability that it does.
    pub(super) probability: f32,
    /// By how much its edges are off, in units of its sides.
    pub(super) offsets: [f32; 4],
    pub(super) landmarks: [[f32; 2]; 5],
}

/// What the intersection of two boxes is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Overlap {
    /// Their union.
    Union,
    /// The smaller box, of two that include their last pixels.
    Smaller,
}

impl Overlap {
    fn of(self, a: &FaceBox, b: &FaceBox) -> f32 {
        let more = if self == Self::Smaller { 1.0 } else { 0.0 };
        let length = |from: f32, to: f32| (to - from + more).max(0.0);
        let area = |of: &FaceBox| (of.width() + more) * (of.height() + more);
        let shared = length(a.left.max(b.left), a.right.min(b.right))
            * length(a.top.max(b.top), a.bottom.min(b.bottom));
        match self {
            Self::Union => shared / (area(a) + area(b) - shared),
            Self::Smaller => shared / area(a).min(area(b)),
        }
    }
}

/// Keeps the most probable candidates, in this order: none overlaps a better one by more than
/// `most` (non-maximum suppression).
pub(super) fn suppress(
    mut candidates: Vec<Candidate>,
    most: f32,
    overlap: Overlap,
) -> Vec<Candidate> {
    candidates.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let is_other = |better: &Candidate| {
            // Of an empty box the fraction is undefined.
            let overlap = overlap.of(&better.bounds, &candidate.bounds);
            overlap.is_nan() || overlap <= most
        };
        if kept.iter().all(is_other) {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(left: f32, top: f32, right: f32, bottom: f32) -> FaceBox {
        FaceBox { left, top, right, bottom }
    }

    fn candidate(probability: f32, left: f32, side: f32) -> Candidate {
        let bounds = bounds(left, 0.0, left + side, side);
        Candidate { bounds, probability, ..Candidate::default() }
    }

    fn kept(candidates: &[Candidate], most: f32, overlap: Overlap) -> Vec<f32> {
        let kept = suppress(candidates.to_vec(), most, overlap);
        kept.iter().map(|candidate| candidate.probability).collect()
    }

    #[test]
    fn of_boxes_that_overlap_the_most_probable_is_kept() {
        // 0.8 and 0.9 share 5 of 15 parts; 0.7 is far.
        let all =
            [candidate(0.7, 100.0, 10.0), candidate(0.8, 5.0, 10.0), candidate(0.9, 0.0, 10.0)];
        assert_eq!(kept(&all, 0.3, Overlap::Union), [0.9, 0.7]);
        assert_eq!(kept(&all, 0.4, Overlap::Union), [0.9, 0.8, 0.7]);
        // What was suppressed suppresses nothing.
        let chain =
            [candidate(0.9, 0.0, 10.0), candidate(0.8, 5.0, 10.0), candidate(0.7, 10.0, 10.0)];
        assert_eq!(kept(&chain, 0.3, Overlap::Union), [0.9, 0.7]);
    }

    #[test]
    fn a_small_box_inside_a_large_one_overlaps_by_its_own_area() {
        let all = [candidate(0.9, 0.0, 100.0), candidate(0.8, 10.0, 10.0)];
        assert_eq!(kept(&all, 0.7, Overlap::Union), [0.9, 0.8]);
        assert_eq!(kept(&all, 0.7, Overlap::Smaller), [0.9]);
    }

    #[test]
    fn a_box_becomes_the_square_about_its_center() {
        assert_eq!(bounds(10.0, 10.0, 20.0, 40.0).square(), bounds(0.0, 10.0, 30.0, 40.0));
        let moved = bounds(10.0, 10.0, 20.0, 30.0).moved([0.1, -0.1, 0.0, 0.5], 0.0);
        assert_eq!(moved, bounds(11.0, 8.0, 20.0, 40.0));
    }

    #[test]
    fn a_window_is_the_part_of_the_box_in_the_image() {
        assert_eq!(bounds(1.0, 2.9, 4.9, 9.0).window(20, 20), Some([0, 4, 1, 9]));
        assert_eq!(bounds(-5.0, -5.0, 30.0, 8.0).window(20, 20), Some([0, 20, 0, 8]));
        for outside in [bounds(25.0, 0.0, 30.0, 9.0), bounds(-9.0, 0.0, -2.0, 9.0)] {
            assert_eq!(outside.window(20, 20), None);
        }
        assert_eq!(bounds(f32::NAN, 0.0, f32::NAN, 9.0).window(20, 20), None);
    }
}
