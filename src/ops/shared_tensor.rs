//! Tensors that several threads read.

use std::borrow::Borrow;
use std::ops::Deref;

use tch::Tensor;

/// A tensor that several threads may read at a time: a model of these may be used by several
/// threads. Clones share its values and its gradient.
#[derive(Debug)]
pub struct SharedTensor(Tensor);

// SAFETY: a shared reference gives no more than a shallow clone does, which is the same
// `at::Tensor` for libtorch and which tch lets any thread own: references are counted atomically,
// and a graph that autograd builds on a leaf locks what it changes in that leaf.
unsafe impl Sync for SharedTensor {}

impl Clone for SharedTensor {
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

impl Deref for SharedTensor {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.0
    }
}

impl Borrow<Tensor> for SharedTensor {
    fn borrow(&self) -> &Tensor {
        &self.0
    }
}

impl From<Tensor> for SharedTensor {
    fn from(tensor: Tensor) -> Self {
        Self(tensor)
    }
}
