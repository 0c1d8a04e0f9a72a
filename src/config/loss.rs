//! `train.loss`: what training makes small.

use super::checks::Checks;
use super::names::names;
use super::section::section;

section! {
    /// How `train.loss: label_distribution` learns from the raters' votes.
    pub struct LabelDistributionConfig {
        /// Ratings, evenly spaced over `range`, whose probabilities the head gives; their mean is
        /// the prediction. As many as a rater could choose from are enough: 5 for 1 to 5. A vote
        /// between two is shared by them.
        pub bins: i64 = 10,
        /// The lowest and the highest of them; `null` takes those of the training images' votes.
        pub range: Option<[f64; 2]> = None,
        /// Weight of the absolute error of the mean, in standard deviations of the training scores,
        /// beside the divergence from the votes. It is all that images without votes have.
        pub expectation_weight: f64 = 1.0,
    }
}

names! {
    /// What training makes small.
    pub enum Loss {
        /// Mean square error.
        Mse = "mse",
        /// Square error up to `train.huber_delta`, linear beyond (Huber 1964).
        Huber = "huber",
        /// Mean absolute error.
        L1 = "l1",
        /// One minus Pearson's correlation over the batch.
        Pearson = "pearson",
        /// Divergence of a predicted distribution from that of the raters' votes, and the error of
        /// its mean (DLDL-v2, Gao et al., IJCAI 2018, after arXiv 1611.01731).
        LabelDistribution = "label_distribution",
    }
}

impl LabelDistributionConfig {
    pub(super) fn check(&self, checks: &mut Checks) {
        let key = "train.label_distribution.bins";
        checks.size(key, self.bins);
        checks.require(self.bins != 1, key, "at least 2", self.bins);
        if let Some([low, high]) = self.range {
            checks.require(
                low < high && low.is_finite() && high.is_finite(),
                "train.label_distribution.range",
                "two numbers, the smaller first",
                format_args!("[{low}, {high}]"),
            );
        }
        checks.not_negative("train.label_distribution.expectation_weight", self.expectation_weight);
    }
}
