//! Judging a model: predictions over a split, the metrics they are judged by, and what has to be
//! beaten.

pub mod baselines;
pub mod evaluate;
pub mod metrics;
pub mod predictions;
pub mod run;
pub mod statistics;
