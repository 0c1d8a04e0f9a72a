//! The part of a pass that one of several processes makes.

use std::ops::Range;

/// One of several processes that go through the same pass together. In training each batch is
/// divided among them, so that together they see the batches that one process would; in evaluation
/// the batches are, so that each is computed as one process would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    rank: usize,
    processes: usize,
}

impl Share {
    /// Of a process that is alone.
    pub const WHOLE: Self = Self { rank: 0, processes: 1 };

    /// Of process `rank` (from 0) of `processes`; `None` where there is no such process.
    pub fn new(rank: usize, processes: usize) -> Option<Self> {
        (rank < processes).then_some(Self { rank, processes })
    }

    /// This process's part of `0..count`: adjacent to those of the ranks before and after, and none
    /// larger than another by more than one.
    pub fn of(self, count: usize) -> Range<usize> {
        let bound = |rank: usize| count * rank / self.processes;
        bound(self.rank)..bound(self.rank + 1)
    }

    /// Those of all processes, by rank.
    pub fn all(self) -> impl Iterator<Item = Self> {
        (0..self.processes).map(move |rank| Self { rank, ..self })
    }

    /// This process's part of the images of an evaluation pass over `images` in batches of
    /// `batch_size`: whole batches.
    pub fn of_images(self, images: usize, batch_size: usize) -> Range<usize> {
        let batches = self.of(images.div_ceil(batch_size.max(1)));
        (batches.start * batch_size).min(images)..(batches.end * batch_size).min(images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once_and_evenly() {
        for processes in 1..6 {
            for count in 0..20 {
                let shares = Share::new(0, processes).unwrap().all();
                let parts: Vec<Range<usize>> = shares.map(|share| share.of(count)).collect();
                assert_eq!(parts.iter().cloned().flatten().count(), count);
                assert_eq!(parts[0].start, 0);
                assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
                let sizes = || parts.iter().map(ExactSizeIterator::len);
                assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
            }
        }
        assert_eq!(Share::new(2, 2), None);
    }

    #[test]
    fn images_to_evaluate_are_shared_by_whole_batches() {
        let share = |rank| Share::new(rank, 2).unwrap().of_images(21, 8);
        assert_eq!((share(0), share(1)), (0..8, 8..21));
        assert_eq!(Share::WHOLE.of_images(21, 8), 0..21);
    }
}
