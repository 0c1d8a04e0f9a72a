//! The C interface of csrc/ops/abi.h. Tensors are `at::Tensor*`, which is what tch holds.

use std::borrow::Borrow;
use std::ffi::{CStr, c_char, c_double, c_int, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use super::OpError;

/// `vmb_segment_fn`: takes data, the input tensor and where to write the output; returns null or a
/// message of [`vmb_copy_message`].
pub(super) type SegmentFn =
    extern "C" fn(*mut c_void, *const c_void, *mut *mut c_void) -> *mut c_char;
/// `vmb_drop_fn`: ends the data of a [`SegmentFn`].
pub(super) type DropFn = extern "C" fn(*mut c_void);

/// `vmb_scan_inputs`: tensors, of which D, z and delta_bias may be null, and flags.
#[repr(C)]
pub(super) struct RawScanInputs {
    pub u: *const c_void,
    pub delta: *const c_void,
    pub a: *const c_void,
    pub b: *const c_void,
    pub c: *const c_void,
    pub d: *const c_void,
    pub z: *const c_void,
    pub delta_bias: *const c_void,
    pub delta_softplus: c_int,
    pub reverse: c_int,
}

/// `vmb_gpu`.
#[repr(C)]
pub(super) struct RawGpu {
    pub name: [c_char; 256],
    pub uuid: [u8; 16],
    pub compute_capability: c_int,
    pub memory_bytes: i64,
}

unsafe extern "C" {
    pub(super) fn vmb_selective_scan(
        x: *const RawScanInputs,
        path: *const c_char,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_selective_scan_eager(
        x: *const RawScanInputs,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_causal_conv1d_silu(
        x: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        reverse: c_int,
        path: *const c_char,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_bimamba_inner(
        xz: *const c_void,
        forward: *const *mut c_void,
        backward: *const *mut c_void,
        path: *const c_char,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_linear(
        x: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_attention(
        qkv: *const c_void,
        heads: i64,
        path: *const c_char,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_mlp(
        x: *const c_void,
        weight1: *const c_void,
        bias1: *const c_void,
        weight2: *const c_void,
        bias2: *const c_void,
        quick_gelu: c_int,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_norm(
        x: *const c_void,
        update: *const c_void,
        factors: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        eps: c_double,
        sum: *mut *mut c_void,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_adamw_step(
        params: *const *mut c_void,
        grads: *const *mut c_void,
        exp_avgs: *const *mut c_void,
        exp_avg_sqs: *const *mut c_void,
        steps: *const *mut c_void,
        count: i64,
        lr: c_double,
        beta1: c_double,
        beta2: c_double,
        weight_decay: c_double,
        eps: c_double,
    ) -> *mut c_char;
    pub(super) fn vmb_sgd_step(
        params: *const *mut c_void,
        grads: *const *mut c_void,
        momentum_buffers: *const *mut c_void,
        count: i64,
        lr: c_double,
        momentum: c_double,
        nesterov: c_int,
        weight_decay: c_double,
    ) -> *mut c_char;
    pub(super) fn vmb_lion_step(
        params: *const *mut c_void,
        grads: *const *mut c_void,
        exp_avgs: *const *mut c_void,
        count: i64,
        lr: c_double,
        beta1: c_double,
        beta2: c_double,
        weight_decay: c_double,
    ) -> *mut c_char;
    pub(super) fn vmb_remove_gradients(params: *const *mut c_void, count: i64);
    pub(super) fn vmb_add_gradient(
        parameter: *const c_void,
        gradient: *const c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_ema_update(
        averages: *const *mut c_void,
        values: *const *mut c_void,
        count: i64,
        weight: c_double,
    ) -> *mut c_char;
    pub(super) fn vmb_clip_grad_norm(
        grads: *const *mut c_void,
        count: i64,
        max_norm: c_double,
        norm: *mut c_double,
    ) -> *mut c_char;
    pub(super) fn vmb_gradients(
        out: *const c_void,
        dout: *const c_void,
        leaves: *const *mut c_void,
        count: i64,
        gradients: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_memory_watch_begin(watch: *mut *mut c_void) -> *mut c_char;
    pub(super) fn vmb_memory_watch_peak(watch: *mut c_void) -> i64;
    pub(super) fn vmb_memory_watch_end(watch: *mut c_void);
    pub(super) fn vmb_scan_limit(
        batch: i64,
        dim: i64,
        length: i64,
        state: i64,
        backward: c_int,
        path: *const c_char,
    ) -> *mut c_char;
    pub(super) fn vmb_count_launches_begin(counter: *mut *mut c_void) -> *mut c_char;
    pub(super) fn vmb_count_launches_end(counter: *mut c_void) -> *mut c_char;
    pub(super) fn vmb_autocast_begin(
        device_type: c_int,
        scalar_type: c_int,
        previous: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_autocast_end(previous: *mut c_void);
    pub(super) fn vmb_recomputed(
        run: SegmentFn,
        data: *mut c_void,
        destroy: DropFn,
        x: *const c_void,
        parameters: *const *mut c_void,
        count: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn vmb_copy_message(text: *const c_char) -> *mut c_char;
    pub(super) fn vmb_use_one_thread() -> *mut c_char;
    pub(super) fn vmb_keep_freed_memory();
    pub(super) fn vmb_libtorch_version() -> *const c_char;
    pub(super) fn vmb_cuda_loaded() -> c_int;
    pub(super) fn vmb_gpu_count(count: *mut c_int) -> *mut c_char;
    pub(super) fn vmb_gpu_properties(index: c_int, gpu: *mut RawGpu) -> *mut c_char;
    pub(super) fn vmb_cuda_versions(driver: *mut c_int, runtime: *mut c_int);
    pub(super) fn vmb_set_gpu_math(tf32: c_int, deterministic: c_int);
    pub(super) fn vmb_gpu_math_uses_tf32() -> c_int;
    pub(super) fn vmb_best_path() -> *const c_char;
    pub(super) fn vmb_path_available(path: *const c_char) -> c_int;
    fn vmb_free_message(message: *mut c_char);
}

/// Frees a message or value that csrc allocated for the caller.
///
/// # Safety
/// The pointer must come from a function of csrc whose result is freed this way, and must not be
/// used again.
pub(super) unsafe fn free_message(message: *mut c_char) {
    // SAFETY: the caller guarantees it.
    unsafe { vmb_free_message(message) }
}

/// Returns the address of the `at::Tensor` that a tch tensor owns.
pub(super) fn pointer(tensor: &Tensor) -> *const c_void {
    tensor.as_ptr() as *const c_void
}

/// Returns [`pointer`] of the tensor, null for an absent one.
pub(super) fn optional_pointer(tensor: Option<&Tensor>) -> *const c_void {
    tensor.map_or(std::ptr::null(), pointer)
}

/// Returns the addresses of the tensors, valid as long as the tensors are.
pub(super) fn pointers<T: Borrow<Tensor>>(tensors: &[T]) -> Vec<*mut c_void> {
    tensors.iter().map(|tensor| pointer(tensor.borrow()) as *mut c_void).collect()
}

/// Converts a returned message to an error, and frees it.
pub(super) fn check(message: *mut c_char) -> Result<(), OpError> {
    taken_text(message).map_or(Ok(()), |text| Err(OpError(text.trim().to_string())))
}

/// Returns the text that csrc returned, and frees it; `None` for null.
pub(super) fn taken_text(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: csrc returns null or a NUL-terminated string that the caller owns and frees once,
    // here.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        vmb_free_message(text);
        Some(copy)
    }
}

/// Calls a function that writes one new tensor, and takes ownership of that tensor.
pub(super) fn returned_tensor(
    call: impl FnOnce(*mut *mut c_void) -> *mut c_char,
) -> Result<Tensor, OpError> {
    optional_tensor(call)?.ok_or_else(|| OpError("internal: csrc returned no tensor".to_string()))
}

/// Calls a function that writes one new tensor or null, and takes ownership of the tensor.
pub(super) fn optional_tensor(
    call: impl FnOnce(*mut *mut c_void) -> *mut c_char,
) -> Result<Option<Tensor>, OpError> {
    let mut out: *mut c_void = std::ptr::null_mut();
    check(call(&mut out))?;
    Ok(taken_tensor(out))
}

/// Takes ownership of a tensor that csrc wrote, or of null.
pub(super) fn taken_tensor(out: *mut c_void) -> Option<Tensor> {
    // SAFETY: without a message, csrc has stored null, or a tensor allocated with `new` that
    // nothing else owns.
    (!out.is_null()).then(|| unsafe { Tensor::from_ptr(out as *mut C_tensor) })
}
