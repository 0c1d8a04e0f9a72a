//! Random draws that depend on what they are for, never on who makes them.
//!
//! Every draw comes from a generator keyed by (seed, epoch, index, purpose), so that neither the
//! number of workers nor the presence of another augmentation moves it. The conversions from bits to
//! numbers are written out here, because those of a library may change between its versions.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers for one purpose.
pub(crate) struct Draws(ChaCha8Rng);

impl Draws {
    /// The stream for `purpose` (at most 8 bytes count) at `index` in `epoch`.
    pub(crate) fn new(seed: u64, epoch: u64, index: u64, purpose: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&epoch.to_le_bytes());
        key[16..24].copy_from_slice(&index.to_le_bytes());
        for (to, from) in key[24..].iter_mut().zip(purpose.bytes()) {
            *to = from;
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number in [0, 1), in steps of 2^-53.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number between `low` and `high`.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A whole number in 0..`n`; 0 where `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        // The high half of a 128-bit product: its bias is n / 2^64.
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_changes_the_draws() {
        let first = |seed, epoch, index, purpose| Draws::new(seed, epoch, index, purpose).unit();
        let reference = first(1, 2, 3, "crop");
        assert_eq!(reference, first(1, 2, 3, "crop"));
        for other in [
            first(2, 2, 3, "crop"),
            first(1, 3, 3, "crop"),
            first(1, 2, 4, "crop"),
            first(1, 2, 3, "flip"),
        ] {
            assert_ne!(reference, other);
        }
    }

    #[test]
    fn draws_fill_their_range_evenly() {
        let mut draws = Draws::new(7, 0, 0, "test");
        let mut counts = [0usize; 10];
        for _ in 0..10_000 {
            counts[draws.below(10)] += 1;
            let value = draws.uniform(-2.0, 3.0);
            assert!((-2.0..3.0).contains(&value));
        }
        assert!(
            counts.iter().all(|&count| (850..1150).contains(&count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..100).collect();
        Draws::new(7, 0, 0, "shuffle").shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
