//! Automatic mixed precision on any device: tch's own switch supports GPUs only.

use std::ffi::c_void;
use std::ptr::null_mut;

use tch::{Device, Kind};

use super::OpError;
use super::ffi;

/// The previous autocast state, restored on drop.
struct Previous(*mut c_void);

impl Drop for Previous {
    fn drop(&mut self) {
        // SAFETY: csrc allocated it for this value alone, on this thread (a raw pointer makes the
        // type `!Send`).
        unsafe { ffi::vmb_autocast_end(self.0) }
    }
}

/// Runs `f` under `torch.autocast`: linear layers, convolutions and the operators of this project
/// cast their inputs to `kind` (`BFloat16` or `Half`), parameters and their gradients keep their
/// type. Run backward outside of it. Returns an error for any other `kind`.
pub fn autocast<R>(device: Device, kind: Kind, f: impl FnOnce() -> R) -> Result<R, OpError> {
    // c10::DeviceType: CPU 0, CUDA 1.
    let device_type = i32::from(device.is_cuda());
    // c10::ScalarType.
    let scalar_type = match kind {
        Kind::Half => 5,
        Kind::BFloat16 => 15,
        other => {
            return Err(OpError(format!(
                "autocast: the type must be BFloat16 or Half, is {other:?}"
            )));
        }
    };
    let mut previous = null_mut();
    // SAFETY: `previous` is written where no message is returned.
    ffi::check(unsafe { ffi::vmb_autocast_begin(device_type, scalar_type, &mut previous) })?;
    let _guard = Previous(previous);
    Ok(f())
}
