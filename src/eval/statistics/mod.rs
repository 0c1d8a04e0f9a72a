//! How far the metrics can be trusted: intervals over images, differences between models on the
//! same images, and the variation over seeds apart from that over images.
//!
//! The images of a test set are a sample of those that could have been there.
//! [`Bootstrap::replicate`] draws images again with replacement, for all models the same ones, and
//! everything here is read off those [`Replicates`].

mod contrasts;
mod holm;
mod interval;
mod mean;
mod measured;
mod metric;
mod normal;
mod replicates;
mod sample;
mod seeds;

pub use contrasts::{Contrast, contrasts};
pub use holm::holm;
pub use interval::Interval;
pub use mean::Mean;
pub use measured::Measured;
pub use metric::Metric;
pub use replicates::{Bootstrap, Replicates};
pub use sample::{Sample, aligned};
pub use seeds::{Difference, OverSeeds, compare};
