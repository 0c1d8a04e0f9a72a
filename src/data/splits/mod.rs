//! Splits from a seed, and leakage between splits.

pub(super) mod folds;
pub(super) mod holdout;
pub(super) mod leakage;
pub(super) mod units;

pub use leakage::LeakedImage;
