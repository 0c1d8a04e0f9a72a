//! The losses of a batch's slices, also where the loss is no sum over images.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use super::distributed::World;
use super::loss::SliceLoss;

/// The loss of a global batch whose slices have run forward, and not backward yet.
pub(super) struct JointLoss(Vec<Mutex<Option<SliceLoss>>>);

impl JointLoss {
    /// Computes the loss of the slices' outputs (b, columns), and its gradient. `loss` gets the
    /// outputs of the global batch. Returns an error if a rank is gone.
    pub(super) fn new(
        outputs: Vec<Tensor>,
        [global_len, columns]: [usize; 2],
        (world, device): (&World, Device),
        loss: impl FnOnce(&Tensor) -> Result<SliceLoss>,
    ) -> Result<Self> {
        let mut own = vec![Tensor::f_zeros([0, columns as i64], (Kind::Float, device))?];
        own.extend(outputs.iter().map(Tensor::detach));
        let own = Tensor::f_cat(&own, 0)?.set_requires_grad(true);
        let loss = loss(&world.gather_batch(&own, global_len)?)?;
        loss.total.f_backward()?;
        let gradient = own.grad();
        let mut start = 0;
        let mut terms = Vec::new();
        for output in outputs {
            let len = output.size()[0];
            // Its gradient is that of the loss.
            let total = (output * gradient.narrow(0, start, len)).f_sum(Kind::Float)?;
            let own = |loss: &Tensor| loss.detach() * (len as f64 / global_len as f64);
            let branches = loss.branches.iter().map(own).collect();
            let reported = own(&loss.reported);
            terms.push(Mutex::new(Some(SliceLoss { total, reported, branches })));
            start += len;
        }
        Ok(Self(terms))
    }

    /// Returns the term of a slice, once.
    pub(super) fn term(&self, slice: usize) -> Result<SliceLoss> {
        let term = self.0.get(slice).context("internal: there is no such slice")?;
        let mut term = term.lock().unwrap_or_else(PoisonError::into_inner);
        term.take().context("internal: a slice ran backward twice")
    }
}
