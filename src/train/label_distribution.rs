//! Label-distribution learning from the raters' votes (Geng, IEEE TKDE 2016; DLDL, arXiv
//! 1611.01731): the head predicts the probabilities of evenly spaced ratings. The loss is their
//! divergence from the votes' distribution plus the error of their mean (DLDL-v2, IJCAI 2018).

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use crate::config::LabelDistributionConfig;
use crate::data::{Sample, Vote};

/// The loss with the ratings of its distribution.
#[derive(Debug, Clone)]
pub(super) struct LabelDistribution {
    bins: usize,
    range: [f64; 2],
    expectation_weight: f64,
}

impl LabelDistribution {
    /// Creates the loss for these training images. Returns an error if none of the images has
    /// votes.
    pub(super) fn new(config: &LabelDistributionConfig, samples: &[Sample]) -> Result<Self> {
        let votes = || samples.iter().flat_map(|sample| &sample.votes);
        ensure!(
            votes().next().is_some(),
            "train.loss is label_distribution, but no training image has its raters' votes: set \
             data.votes or data.csv.votes_columns, or choose another loss"
        );
        let (low, high) = votes().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &vote| {
            (low.min(vote), high.max(vote))
        });
        let voted = if low < high {
            [low.into(), high.into()]
        } else {
            // All votes are equal: the range needs some width to divide.
            [f64::from(low) - 0.5, f64::from(high) + 0.5]
        };
        Ok(Self {
            bins: config.bins.max(2) as usize,
            range: config.range.unwrap_or(voted),
            expectation_weight: config.expectation_weight,
        })
    }

    /// Returns the number of ratings.
    pub(super) fn bins(&self) -> usize {
        self.bins
    }

    /// Returns the lowest and the highest rating.
    pub(super) fn range(&self) -> [f64; 2] {
        self.range
    }

    /// Returns the concatenated distributions of each image's votes, zeros for an image without
    /// votes. A vote between two ratings is divided between them, so that the distribution's mean
    /// is that of the votes.
    pub(super) fn histograms(&self, images: &[Vec<Vote>]) -> Vec<f32> {
        let mut histograms = vec![0.0; images.len() * self.bins];
        let [low, high] = self.range;
        let last = self.bins - 1;
        for (votes, histogram) in images.iter().zip(histograms.chunks_exact_mut(self.bins)) {
            for vote in votes {
                let place = (f64::from(vote.rating) - low) / (high - low) * last as f64;
                let place = place.clamp(0.0, last as f64);
                let below = (place as usize).min(last - 1);
                let above = (place - below as f64) as f32;
                histogram[below] += vote.probability * (1.0 - above);
                histogram[below + 1] += vote.probability * above;
            }
        }
        histograms
    }

    /// Computes the loss of each image (b) from predictions (b) and log-probabilities (b, bins),
    /// scaled scores (b) and the votes' [distributions](Self::histograms) (b, bins).
    pub(super) fn loss(
        &self,
        predictions: &Tensor,
        log_probabilities: &Tensor,
        scores: &Tensor,
        votes: &Tensor,
    ) -> Result<Tensor> {
        let divergence = (votes.f_xlogy(votes)? - votes.f_mul(log_probabilities)?)
            .f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?;
        let error = predictions.f_sub(scores)?.f_abs()?;
        Ok(divergence.f_add(&error.f_mul_scalar(self.expectation_weight)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Source;
    use std::path::PathBuf;

    fn sample(votes: &[f32]) -> Sample {
        Sample {
            votes: votes.to_vec(),
            ..Sample::new("a", Source::File(PathBuf::new()), 1.0, None)
        }
    }

    fn learning(config: LabelDistributionConfig) -> LabelDistribution {
        LabelDistribution::new(&config, &[sample(&[2.0, 5.0]), sample(&[1.0]), sample(&[])])
            .unwrap()
    }

    fn with_bins(bins: i64) -> LabelDistribution {
        learning(LabelDistributionConfig { bins, ..LabelDistributionConfig::default() })
    }

    fn votes(list: &[(f32, f32)]) -> Vec<Vote> {
        let votes = list.iter();
        votes.map(|&(rating, probability)| Vote { rating, probability }).collect()
    }

    #[test]
    fn ratings_range_over_the_votes_or_the_configured_range() {
        assert_eq!(with_bins(5).range(), [1.0, 5.0]);
        let range = Some([0.0, 10.0]);
        let config = LabelDistributionConfig { range, ..LabelDistributionConfig::default() };
        assert_eq!(Some(learning(config.clone()).range()), range);
        let error = LabelDistribution::new(&config, &[sample(&[])]).unwrap_err();
        assert!(error.to_string().contains("data.csv.votes_columns"), "{error}");
        let default = LabelDistributionConfig::default();
        let agreed = LabelDistribution::new(&default, &[sample(&[3.0])]).unwrap();
        assert_eq!(agreed.range(), [2.5, 3.5]);
    }

    #[test]
    fn the_distribution_of_votes_on_the_ratings_is_their_histogram() {
        let images = [votes(&[(1.0, 0.25), (2.0, 0.5), (5.0, 0.25)]), vec![]];
        let expected = [0.25, 0.5, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(with_bins(5).histograms(&images), expected);
    }

    #[test]
    fn votes_between_ratings_keep_their_mean_and_those_outside_count_at_the_ends() {
        let learning = with_bins(3); // 1, 3, 5
        let found = learning.histograms(&[votes(&[(2.0, 0.5), (4.5, 0.5)])]);
        let mean: f32 = found.iter().zip([1.0, 3.0, 5.0]).map(|(p, rating)| p * rating).sum();
        assert!((mean - 3.25).abs() < 1e-6 && (found.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(learning.histograms(&[votes(&[(9.0, 1.0)])]), [0.0, 0.0, 1.0]);
        assert_eq!(learning.histograms(&[votes(&[(-9.0, 1.0)])]), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn the_loss_is_the_divergence_and_the_error_of_the_mean() {
        let learning = learning(LabelDistributionConfig {
            bins: 2,
            expectation_weight: 0.5,
            ..LabelDistributionConfig::default()
        });
        let probabilities =
            Tensor::from_slice(&[0.25f32, 0.75, 0.25, 0.75, 0.25, 0.75]).view([3, 2]);
        let voted = Tensor::from_slice(&[0.25f32, 0.75, 1.0, 0.0, 0.0, 0.0]).view([3, 2]);
        let predicted = Tensor::from_slice(&[1.0f32, 1.0, 1.0]);
        let scores = Tensor::from_slice(&[1.0f32, 1.5, -1.0]);
        let found = learning.loss(&predicted, &probabilities.log(), &scores, &voted).unwrap();
        // Agreement; a divergence of log 4 and an error of 1/2; no votes and an error of 2.
        let expected = [0.0, 4f64.ln() + 0.25, 1.0];
        for (found, expected) in
            Vec::<f64>::try_from(found.to_kind(Kind::Double)).unwrap().iter().zip(expected)
        {
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }
}
