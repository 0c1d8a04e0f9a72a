//! The sum of the gradients of a step's slices.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use tch::Tensor;

use crate::models::Slicer;
use crate::ops::{self, SharedTensor};

/// Sums the gradients of the slices of an optimizer step in the order of the slices, whatever the
/// order in which threads compute them: the sum is the same to the bit for any number of threads.
/// What comes early waits, one gradient of each parameter for each slice that did.
pub struct GradientSum<'a> {
    parameters: &'a [SharedTensor],
    /// One for each parameter; `None` if batches are whole, as on a GPU.
    sums: Option<Vec<Mutex<Sum>>>,
}

/// What has been added to the gradient of one parameter.
#[derive(Debug, Default)]
struct Sum {
    /// The slice to add next.
    next: usize,
    /// The gradients of later slices.
    waiting: BTreeMap<usize, Tensor>,
}

impl<'a> GradientSum<'a> {
    /// Starts the sum for the parameters, which must be leaves that require gradients.
    pub fn new(parameters: &'a [SharedTensor], slicer: &Slicer) -> Self {
        let sums = (!slicer.is_whole()).then(|| parameters.iter().map(|_| Mutex::default()));
        ops::remove_gradients(parameters);
        Self { sums: sums.map(Iterator::collect), parameters }
    }

    /// Runs backward from the loss of a slice, and adds the gradients to those of the slices before
    /// it, in the parameters. Slices have numbers from 0 on, over all microbatches of the step.
    /// Returns libtorch's error.
    pub fn add(&self, slice: usize, loss: &Tensor) -> Result<()> {
        let Some(sums) = &self.sums else {
            return Ok(loss.f_backward()?);
        };
        let gradients = Tensor::f_run_backward(&[loss], self.parameters, false, false)?;
        for ((parameter, sum), gradient) in self.parameters.iter().zip(sums).zip(gradients) {
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            sum.waiting.insert(slice, gradient);
            let Sum { next, waiting } = &mut *sum;
            while let Some(gradient) = waiting.remove(next) {
                ops::add_gradient(parameter, &gradient)?;
                *next += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn leaf() -> Tensor {
        Tensor::from_slice(&[1.0f32, 2.0]).set_requires_grad(true)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
    }

    #[test]
    fn gradients_are_added_in_the_order_of_the_slices() {
        // In float32, 1e8 + 1 - 1e8 is 0, and 1e8 - 1e8 + 1 is 1.
        let slicer = Slicer::new(None, Device::Cpu).unwrap();
        let factors = [1e8, -1e8, 1.0];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
            let parameter = leaf();
            (&parameter * 7.0).sum(Kind::Float).backward(); // of the step before
            let parameters = [parameter.shallow_clone().into()];
            let sum = GradientSum::new(&parameters, &slicer);
            for slice in order {
                let loss = (&parameter * factors[slice]).sum(Kind::Float);
                sum.add(slice, &loss).unwrap();
            }
            assert_eq!(values(&parameter.grad()), [1.0, 1.0], "{order:?}");
        }
    }

    #[test]
    fn what_the_loss_does_not_depend_on_has_no_gradient() {
        let (used, unused) = (leaf(), leaf());
        (&used * 7.0 + &unused).sum(Kind::Float).backward(); // of the step before
        let slicer = Slicer::new(None, Device::Cpu).unwrap();
        let parameters = [&used, &unused].map(|leaf| leaf.shallow_clone().into());
        GradientSum::new(&parameters, &slicer).add(0, &used.sum(Kind::Float)).unwrap();
        assert_eq!(values(&used.grad()), [1.0; 2]);
        assert!(!unused.grad().defined());
    }
}
