//! Activation checkpointing (arXiv 1604.06174): blocks keep no activations for backward, which
//! recomputes them.

use anyhow::Result;
use tch::Tensor;

use super::forward_context::ForwardContext;
use super::layers::Parameter;
use super::residual::Residual;
use crate::ops::{OpError, recomputed};

/// Runs the blocks of a backbone, with activation checkpointing if it is on.
#[derive(Debug, Default)]
pub(super) struct Recompute {
    /// The parameters of each block; empty if activation checkpointing is off.
    parameters: Vec<Vec<Parameter>>,
}

impl Recompute {
    /// Turns activation checkpointing on for `count` blocks, whose parameters are named
    /// `{prefix}{index}.` in `named`.
    pub(super) fn blocks(named: &[(String, Tensor)], prefix: &str, count: usize) -> Self {
        let of_block = |index: usize| {
            let prefix = format!("{prefix}{index}.");
            let own = named.iter().filter(|(name, _)| name.starts_with(&prefix));
            own.map(|(_, tensor)| tensor.shallow_clone().into()).collect()
        };
        Self { parameters: (0..count).map(of_block).collect() }
    }

    pub(super) fn run<B: Clone + Send + 'static>(
        &self,
        index: usize,
        block: &B,
        x: Residual,
        ctx: ForwardContext,
        forward: impl Fn(&B, Residual, ForwardContext) -> Result<Residual> + Send + 'static,
    ) -> Result<Residual> {
        let Some(parameters) = self.parameters.get(index).filter(|_| ctx.is_train()) else {
            return forward(block, x, ctx);
        };
        let block = block.clone();
        let again = move |x: &Tensor| {
            let x = forward(&block, Residual::new(x.shallow_clone()), ctx);
            x.map(Residual::into_tokens).map_err(|error| OpError(format!("{error:#}")))
        };
        Ok(Residual::new(recomputed(again, &x.into_tokens(), parameters)?))
    }
}
