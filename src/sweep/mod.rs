//! Many runs: cross-validation over folds.

pub mod cross_validation;
mod folds;

pub use cross_validation::cross_validate;
pub use folds::Folds;
