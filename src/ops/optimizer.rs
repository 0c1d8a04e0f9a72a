//! Optimizer steps over many parameters in one call, by libtorch's fused and foreach
//! operations.

use std::borrow::Borrow;

use tch::Tensor;

use super::OpError;
use super::ffi;

/// The hyperparameters of one AdamW step (arXiv 1711.05101) of a parameter group.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Decoupled weight decay; the parameter shrinks by `lr * weight_decay`.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// Takes one AdamW step in place. All lists have one entry per parameter, of its shape and type;
/// `steps` are scalar float tensors that count the steps, incremented here.
pub fn adamw_step(
    params: &[Tensor],
    grads: &[Tensor],
    exp_avgs: &[Tensor],
    exp_avg_sqs: &[Tensor],
    steps: &[Tensor],
    step: &AdamWStep,
) -> Result<(), OpError> {
    let count = params.len();
    check_counts("adamw_step", count, &[grads, exp_avgs, exp_avg_sqs, steps])?;
    // SAFETY: the lists hold `count` valid tensors each, borrowed for the call.
    ffi::check(unsafe {
        ffi::vmb_adamw_step(
            ffi::pointers(params).as_ptr(),
            ffi::pointers(grads).as_ptr(),
            ffi::pointers(exp_avgs).as_ptr(),
            ffi::pointers(exp_avg_sqs).as_ptr(),
            ffi::pointers(steps).as_ptr(),
            count as i64,
            step.lr,
            step.betas[0],
            step.betas[1],
            step.weight_decay,
            step.eps,
        )
    })
}

/// The hyperparameters of one SGD step of a parameter group.
#[derive(Debug, Clone, Copy)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f64,
    /// Fraction of the last step's direction that is kept.
    pub momentum: f64,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// L2 penalty: this times the parameter is added to the gradient.
    pub weight_decay: f64,
}

/// Takes one SGD step in place, with the arithmetic of `torch.optim.SGD` without dampening. All
/// lists have one entry per parameter, of its shape and type; `momentum_buffers` start as zeros,
/// and are absent where momentum is 0.
pub fn sgd_step(
    params: &[Tensor],
    grads: &[Tensor],
    momentum_buffers: Option<&[Tensor]>,
    step: &SgdStep,
) -> Result<(), OpError> {
    let count = params.len();
    let buffers = momentum_buffers.map(ffi::pointers);
    check_counts("sgd_step", count, &[grads, momentum_buffers.unwrap_or(grads)])?;
    // SAFETY: the lists hold `count` valid tensors each, borrowed for the call; null stands for an
    // absent one.
    ffi::check(unsafe {
        ffi::vmb_sgd_step(
            ffi::pointers(params).as_ptr(),
            ffi::pointers(grads).as_ptr(),
            buffers.as_ref().map_or(std::ptr::null(), |list| list.as_ptr()),
            count as i64,
            step.lr,
            step.momentum,
            i32::from(step.nesterov),
            step.weight_decay,
        )
    })
}

/// The hyperparameters of one Lion step (arXiv 2302.06675) of a parameter group.
#[derive(Debug, Clone, Copy)]
pub struct LionStep {
    /// Learning rate.
    pub lr: f64,
    /// Weight of the momentum in the update, and in the next momentum.
    pub betas: [f64; 2],
    /// Decoupled weight decay; the parameter shrinks by `lr * weight_decay`.
    pub weight_decay: f64,
}

/// Takes one Lion step in place. All lists have one entry per parameter, of its shape and type;
/// `exp_avgs` start as zeros.
pub fn lion_step(
    params: &[Tensor],
    grads: &[Tensor],
    exp_avgs: &[Tensor],
    step: &LionStep,
) -> Result<(), OpError> {
    let count = params.len();
    check_counts("lion_step", count, &[grads, exp_avgs])?;
    // SAFETY: the lists hold `count` valid tensors each, borrowed for the call.
    ffi::check(unsafe {
        ffi::vmb_lion_step(
            ffi::pointers(params).as_ptr(),
            ffi::pointers(grads).as_ptr(),
            ffi::pointers(exp_avgs).as_ptr(),
            count as i64,
            step.lr,
            step.betas[0],
            step.betas[1],
            step.weight_decay,
        )
    })
}

fn check_counts(name: &str, count: usize, lists: &[&[Tensor]]) -> Result<(), OpError> {
    if lists.iter().all(|list| list.len() == count) {
        Ok(())
    } else {
        Err(OpError(format!("{name}: the lists must have one tensor per parameter")))
    }
}

/// Removes the gradients of parameters: the next backward pass keeps those that it computes, where
/// it would otherwise add them to zeros.
pub fn remove_gradients(parameters: &[impl Borrow<Tensor>]) {
    // SAFETY: the tensors are borrowed for the call, which resets a field of theirs.
    unsafe {
        ffi::vmb_remove_gradients(ffi::pointers(parameters).as_ptr(), parameters.len() as i64)
    }
}

/// Adds `gradient`, unless it is undefined, to that of `parameter`.
pub fn add_gradient(parameter: &Tensor, gradient: &Tensor) -> Result<(), OpError> {
    // SAFETY: both are valid for the call; csrc writes to the gradient of `parameter` alone.
    ffi::check(unsafe { ffi::vmb_add_gradient(ffi::pointer(parameter), ffi::pointer(gradient)) })
}

/// Updates averages in place, one for each of the values: `average ← average + weight (value -
/// average)`.
pub fn ema_update(averages: &[Tensor], values: &[Tensor], weight: f64) -> Result<(), OpError> {
    check_counts("ema_update", averages.len(), &[values])?;
    // SAFETY: the lists hold as many valid tensors each, borrowed for the call.
    ffi::check(unsafe {
        ffi::vmb_ema_update(
            ffi::pointers(averages).as_ptr(),
            ffi::pointers(values).as_ptr(),
            averages.len() as i64,
            weight,
        )
    })
}

/// Returns the 2-norm of all gradients together; scales them in place to `max_norm` if it is
/// larger.
pub fn clip_grad_norm(grads: &[Tensor], max_norm: Option<f64>) -> Result<f64, OpError> {
    let mut norm = 0.0;
    // SAFETY: the list holds valid tensors, borrowed for the call; norm outlives it.
    ffi::check(unsafe {
        ffi::vmb_clip_grad_norm(
            ffi::pointers(grads).as_ptr(),
            grads.len() as i64,
            max_norm.unwrap_or(0.0),
            &mut norm,
        )
    })?;
    Ok(norm)
}
