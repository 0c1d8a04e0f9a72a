//! Drawing splits from a seed, and keeping them apart.

pub(super) mod folds;
pub(super) mod holdout;
pub(super) mod leakage;
pub(super) mod units;

pub use leakage::LeakedImage;
