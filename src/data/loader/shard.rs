//! The shard of a pass that one of several processes loads.

use std::ops::Range;

/// One of several processes that go through the same pass together. In training they divide each
/// batch, so that together they see the batches that one process would; in evaluation they divide
/// the list of batches, so that each batch is computed as one process would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankShard {
    rank: usize,
    world_size: usize,
}

impl RankShard {
    /// The shard of a process that is alone: everything.
    pub const SINGLE: Self = Self { rank: 0, world_size: 1 };

    /// Returns the shard of process `rank` (from 0) of `world_size`; `None` if there is no such
    /// process.
    pub fn new(rank: usize, world_size: usize) -> Option<Self> {
        (rank < world_size).then_some(Self { rank, world_size })
    }

    /// Returns this process's range of `0..count`: adjacent to those of the ranks before and after,
    /// and at most one longer or shorter than any other.
    pub fn range(self, count: usize) -> Range<usize> {
        let bound = |rank: usize| count * rank / self.world_size;
        bound(self.rank)..bound(self.rank + 1)
    }

    /// Iterates over the shards of all processes, by rank.
    pub fn of_all_ranks(self) -> impl Iterator<Item = Self> {
        (0..self.world_size).map(move |rank| Self { rank, ..self })
    }

    /// Returns the images that this process evaluates in a pass over `images` in batches of
    /// `batch_size`: full batches, except for the last of the pass.
    pub fn image_range(self, images: usize, batch_size: usize) -> Range<usize> {
        let batches = self.range(images.div_ceil(batch_size.max(1)));
        (batches.start * batch_size).min(images)..(batches.end * batch_size).min(images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_cover_everything_once_and_evenly() {
        for world_size in 1..6 {
            for count in 0..20 {
                let shards = RankShard::new(0, world_size).unwrap().of_all_ranks();
                let ranges: Vec<Range<usize>> = shards.map(|shard| shard.range(count)).collect();
                assert_eq!(ranges.iter().cloned().flatten().count(), count);
                assert_eq!(ranges[0].start, 0);
                assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
                let sizes = || ranges.iter().map(ExactSizeIterator::len);
                assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
            }
        }
        assert_eq!(RankShard::new(2, 2), None);
    }

    #[test]
    fn evaluation_shards_hold_full_batches() {
        let range = |rank| RankShard::new(rank, 2).unwrap().image_range(21, 8);
        assert_eq!((range(0), range(1)), (0..8, 8..21));
        assert_eq!(RankShard::SINGLE.image_range(21, 8), 0..21);
    }
}
