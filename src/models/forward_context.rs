//! How a forward pass runs: in training or in evaluation, on a global batch or a shard of it.

use std::ops::Range;

use tch::Tensor;

/// The mode of a forward pass, and the place of its images in the global batch.
#[derive(Debug, Clone, Copy)]
pub struct ForwardContext {
    train: bool,
    shard: Option<BatchShard>,
}

#[derive(Debug, Clone, Copy)]
struct BatchShard {
    start: i64,
    global_batch: i64,
}

impl ForwardContext {
    /// Evaluation: dropout and stochastic depth are off.
    pub const fn eval() -> Self {
        Self { train: false, shard: None }
    }

    /// Training: dropout and stochastic depth are on.
    pub const fn train() -> Self {
        Self { train: true, shard: None }
    }

    /// Marks the images as those at `rows` of a global batch: dropout and stochastic depth sample
    /// for the global batch and use the shard's rows. Processes with one seed and a shard each
    /// therefore drop what a single process would.
    pub fn with_batch_shard(self, rows: &Range<usize>, global_batch: usize) -> Self {
        let shard = BatchShard { start: rows.start as i64, global_batch: global_batch as i64 };
        Self { shard: (rows.len() < global_batch).then_some(shard), ..self }
    }

    /// Whether this is training.
    pub fn is_train(self) -> bool {
        self.train
    }

    /// Returns a random tensor for `b` images (b, …); `sample` gets the number of images to sample
    /// for.
    pub(super) fn sample(self, b: i64, sample: impl FnOnce(i64) -> Tensor) -> Tensor {
        match self.shard {
            Some(BatchShard { start, global_batch }) => sample(global_batch).narrow(0, start, b),
            None => sample(b),
        }
    }

    /// Applies dropout (arXiv 1207.0580) to x (b, …) in training.
    pub(super) fn dropout(self, x: &Tensor, p: f64) -> Tensor {
        let mut shape = x.size();
        if self.shard.is_none() || !self.train || p <= 0.0 || shape.is_empty() {
            return x.dropout(p, self.train);
        }
        // Dropout of ones is the mask that dropout multiplies by.
        let mask = self.sample(shape[0], |images| {
            shape[0] = images;
            Tensor::ones(&shape, (x.kind(), x.device())).dropout(p, true)
        });
        x * mask
    }
}
