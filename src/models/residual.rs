//! The residual stream of a backbone.

use tch::Tensor;

use super::forward_context::ForwardContext;
use super::layers::DropPath;
use crate::ops::{Norm, Update, add_and_norm};

/// Tokens (b, l, d), and what the last layer adds to them. The addition waits for the next norm,
/// which makes it in the same pass over the tokens.
#[derive(Debug)]
pub(super) struct Residual {
    tokens: Tensor,
    update: Option<Update>,
}

impl Residual {
    pub(super) fn new(tokens: Tensor) -> Self {
        Self { tokens, update: None }
    }

    /// Returns the norm of the tokens.
    pub(super) fn norm(&mut self, norm: &Norm) -> Tensor {
        let (sum, normed) = add_and_norm(&self.tokens, self.update.take().as_ref(), Some(norm));
        let normed = normed.unwrap_or_else(|| norm.of(&sum));
        self.tokens = sum;
        normed
    }

    /// Adds the output of a layer, without the samples that stochastic depth drops.
    pub(super) fn add(self, value: Tensor, drop_path: DropPath, ctx: ForwardContext) -> Self {
        let factors = drop_path.factors(&value, ctx);
        Self { tokens: self.into_tokens(), update: Some(Update { value, factors }) }
    }

    /// Returns the tokens.
    pub(super) fn into_tokens(self) -> Tensor {
        match self.update {
            Some(update) => add_and_norm(&self.tokens, Some(&update), None).0,
            None => self.tokens,
        }
    }
}
