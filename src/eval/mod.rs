//! How good predictions are, and the file they are kept in.

pub mod metrics;
pub mod predictions;
