//! `train.loss`: what training minimizes.

use super::checks::Checks;
use super::names::names;
use super::section::section;

section! {
    /// The `label_distribution` loss, which trains on the raters' votes.
    pub struct LabelDistributionConfig {
        /// Number of ratings, evenly spaced over `range`, whose probabilities the head predicts;
        /// their mean is the prediction. The number of choices that a rater had is enough: 5 for 1
        /// to 5. A vote between two ratings counts for both, by distance.
        pub bins: i64 = 10,
        /// The lowest and the highest rating; `null` uses those of the training images' votes.
        pub range: Option<[f64; 2]> = None,
        /// Weight of the absolute error of the mean, in standard deviations of the training scores,
        /// relative to the divergence from the votes. Images without votes have this term only.
        pub expectation_weight: f64 = 1.0,
    }
}

names! {
    /// The loss that training minimizes.
    pub enum Loss {
        /// Mean squared error.
        Mse = "mse",
        /// Squared error up to `train.huber_delta`, linear beyond (Huber 1964).
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
        checks.size("bins", self.bins);
        checks.require(self.bins != 1, "bins", "at least 2", self.bins);
        if let Some([low, high]) = self.range {
            let holds = low < high && low.is_finite() && high.is_finite();
            let rule = "two numbers, the smaller first";
            checks.require(holds, "range", rule, format_args!("[{low}, {high}]"));
        }
        checks.not_negative("expectation_weight", self.expectation_weight);
    }
}
