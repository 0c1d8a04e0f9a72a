//! `train.loss`: what training makes small.

use super::names::names;

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
    }
}
