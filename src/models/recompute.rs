//! Blocks that keep none of their activations for backward: it makes them again (activation
//! checkpointing, arXiv 1604.06174).

use anyhow::Result;
use tch::Tensor;

use super::batch_part::{part, with_same_part};
use crate::ops::{OpError, recomputed};

/// How the blocks of a backbone run in training.
#[derive(Debug, Default)]
pub(super) struct Recompute {
    /// Of each block the parameters, where its activations are made again; empty where they are
    /// kept.
    parameters: Vec<Vec<Tensor>>,
}

impl Recompute {
    /// Of blocks that are named `{prefix}{index}.` in `named`.
    pub fn blocks(named: &[(String, Tensor)], prefix: &str, count: usize) -> Self {
        let of_block = |index: usize| {
            let prefix = format!("{prefix}{index}.");
            let own = named.iter().filter(|(name, _)| name.starts_with(&prefix));
            own.map(|(_, tensor)| tensor.shallow_clone()).collect()
        };
        Self { parameters: (0..count).map(of_block).collect() }
    }

    /// `forward(block, x)`, for the block with this index.
    pub fn run<B: Clone + Send + 'static>(
        &self,
        index: usize,
        block: &B,
        x: &Tensor,
        train: bool,
        forward: impl Fn(&B, &Tensor) -> Result<Tensor> + Send + 'static,
    ) -> Result<Tensor> {
        let Some(parameters) = self.parameters.get(index).filter(|_| train) else {
            return forward(block, x);
        };
        let (block, part) = (block.clone(), part());
        // Backward may run on another thread.
        let again = move |x: &Tensor| {
            let out = with_same_part(part, || forward(&block, x));
            out.map_err(|error| OpError(format!("{error:#}")))
        };
        Ok(recomputed(again, x, parameters)?)
    }
}
