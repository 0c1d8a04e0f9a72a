//! Random numbers that are the same on every machine and with every version of `rand`.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Identifies one face.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FaceSeed {
    /// Seed of the dataset.
    pub seed: u64,
    /// Index of the face in it.
    pub index: u64,
}

/// The purpose of a stream of random numbers. Each purpose has its own key, so that sampling more
/// numbers for one of them never changes another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// The scored geometry.
    Geometry = 1,
    /// Everything that does not enter the score.
    Nuisance = 2,
    /// The errors of the simulated raters.
    Raters = 3,
}

/// A ChaCha stream for one face and one purpose.
///
/// Only the generator's raw words are used: how `rand`'s own distributions turn words into
/// numbers may change between its versions, and the dataset must not.
pub(super) struct Stream(ChaCha8Rng);

impl Stream {
    pub(super) fn new(face: FaceSeed, purpose: Purpose) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&face.seed.to_le_bytes());
        key[8..16].copy_from_slice(&face.index.to_le_bytes());
        key[16] = purpose as u8;
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Samples uniformly from [0, 1).
    pub(super) fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Samples uniformly from [low, high).
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Returns true with the given probability.
    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Samples an integer from 0..count.
    pub(super) fn below(&mut self, count: usize) -> usize {
        ((self.unit() * count as f32) as usize).min(count - 1)
    }

    /// Samples from the standard normal distribution, approximately: the sum of twelve uniforms
    /// less six, which needs no logarithm, whose last bit depends on the machine.
    pub(super) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}
