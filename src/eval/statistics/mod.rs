//! How far the metrics can be trusted: intervals over images, differences between models on the
//! same images, and the variation over seeds apart from that over images.
//!
//! The images of a test set are a sample of those that could have been there.
//! [`Bootstrap::resample`] samples images with replacement, the same ones for all models, and every
//! interval and p-value is read off the resulting [`BootstrapDistribution`].

mod bootstrap;
mod contrasts;
mod interval;

pub use bootstrap::{Bootstrap, BootstrapDistribution, MIN_SEEDS, Mean, MetricsWithCi};
pub use contrasts::{Difference, MetricOverSeeds, holm, mean_and_sd};
pub use interval::Interval;
