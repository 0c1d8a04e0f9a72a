//! Evaluating a model: predictions over a split, their metrics, what has to be beaten, and the
//! comparison of models.

pub mod baselines;
pub mod comparison;
pub mod conformal;
pub mod correlation;
pub mod ensemble;
pub mod evaluate;
pub mod feature_distribution;
pub mod metrics;
pub mod pixel_statistics;
pub mod predictions;
pub mod probe;
pub mod ridge;
pub mod statistics;
