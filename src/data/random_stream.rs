//! Random streams keyed by their purpose, independent of the thread that samples from them.
//!
//! Every stream is a generator keyed by (seed, epoch, index, purpose), so that neither the number
//! of workers nor the presence of another augmentation changes it. The conversions from bits to
//! numbers are written out here, because those of a library may change between its versions.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Returns the seed with number `n` of those that derive from `seed` (SplitMix64's mixing).
pub(crate) fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed ^ n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) struct RandomStream(ChaCha8Rng);

impl RandomStream {
    /// Creates the stream for `purpose` (of which the first 8 bytes count) at `index` in `epoch`.
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

    /// Samples from [0, 1), in steps of 2^-53.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Samples an integer from 0..`n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        // The high half of a 128-bit product: its bias is n / 2^64.
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Samples from the standard normal distribution (Box and Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.unit())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }

    /// Samples from Beta(`alpha`, `alpha`), for an `alpha` above 0.
    pub(crate) fn beta(&mut self, alpha: f64) -> f64 {
        let (a, b) = (self.log_gamma(alpha), self.log_gamma(alpha));
        // a / (a + b) from the logarithms, which do not underflow for a small alpha.
        1.0 / (1.0 + libm::exp(b - a))
    }

    /// Samples the logarithm of a gamma variate of this shape (Marsaglia and Tsang, 2000).
    fn log_gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            // Gamma(a) is Gamma(a + 1) times U^(1/a).
            let boost = libm::log(1.0 - self.unit()) / shape;
            return self.log_gamma(shape + 1.0) + boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - self.unit();
            if v > 0.0 && libm::log(u) < 0.5 * x * x + d * (1.0 - v + libm::log(v)) {
                return libm::log(d * v);
            }
        }
    }

    /// Shuffles `items` (Fisher and Yates).
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
    fn every_field_of_the_key_changes_the_stream() {
        let first =
            |seed, epoch, index, purpose| RandomStream::new(seed, epoch, index, purpose).unit();
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
    fn samples_fill_their_range_evenly() {
        let mut rng = RandomStream::new(7, 0, 0, "test");
        let mut counts = [0usize; 10];
        for _ in 0..10_000 {
            counts[rng.below(10)] += 1;
            let value = rng.uniform(-2.0, 3.0);
            assert!((-2.0..3.0).contains(&value));
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }

    #[test]
    fn normal_and_beta_numbers_have_their_mean_and_variance() {
        let mut rng = RandomStream::new(7, 0, 0, "test");
        let mut moments = |draw: &mut dyn FnMut(&mut RandomStream) -> f64| {
            let values: Vec<f64> = (0..20_000).map(|_| draw(&mut rng)).collect();
            let mean = values.iter().sum::<f64>() / 20_000.0;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20_000.0;
            (mean, variance)
        };
        let (mean, variance) = moments(&mut |rng| rng.normal());
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        for alpha in [0.1, 0.8, 1.0, 4.0] {
            let (mean, variance) = moments(&mut |rng| rng.beta(alpha));
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 0.015, "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.05, "{alpha}: {variance}");
        }
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..100).collect();
        RandomStream::new(7, 0, 0, "shuffle").shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
