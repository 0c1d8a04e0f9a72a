//! Mixed precision: which type the forward pass computes in, and the loss scale that keeps float16
//! gradients from vanishing (arXiv 1710.03740).

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::config::Precision;
use crate::ops;

/// The scale at the start, and how it changes; PyTorch's values.
const FIRST_SCALE: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: u32 = 2000;

/// The type that autocast uses for this precision on this device, if any.
///
/// `auto` is bfloat16 on GPUs (from Ampere on they have tensor cores for it, and it needs no loss
/// scale) and on CPUs that multiply in it (AVX512-BF16: half as fast again, see the README's
/// metrics); float32 on other CPUs, which would have to emulate it.
pub fn autocast_kind(precision: Precision, device: Device) -> Option<Kind> {
    match precision {
        Precision::Float32 => None,
        Precision::Bf16 => Some(Kind::BFloat16),
        Precision::Fp16 => Some(Kind::Half),
        Precision::Auto => (device.is_cuda() || cpu_has_bf16()).then_some(Kind::BFloat16),
    }
}

/// Whether this processor has products in bfloat16.
pub fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Runs a forward pass under autocast, where there is a type for it.
///
/// # Errors
/// A type that autocast does not know, or those of `forward`.
pub fn in_precision<R>(
    kind: Option<Kind>,
    device: Device,
    forward: impl FnOnce() -> Result<R>,
) -> Result<R> {
    match kind {
        Some(kind) => ops::autocast(device, kind, forward)?,
        None => forward(),
    }
}

/// What the loss is multiplied by before backward, and the gradients divided by after it. Halved,
/// and the step left out, when a gradient is not finite; doubled after 2,000 steps without.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The factor.
    pub scale: f64,
    /// Steps since it changed.
    pub steps: u32,
}

impl LossScale {
    /// For the type that is computed in: float16 alone needs one.
    pub fn of(kind: Option<Kind>) -> Option<Self> {
        (kind == Some(Kind::Half)).then_some(Self { scale: FIRST_SCALE, steps: 0 })
    }

    /// Backward of a loss, scaled up where there is a scale.
    ///
    /// # Errors
    /// libtorch's message.
    pub fn backward(scale: Option<Self>, loss: &Tensor) -> Result<()> {
        match scale {
            Some(Self { scale, .. }) => (loss * scale).f_backward()?,
            None => loss.f_backward()?,
        }
        Ok(())
    }

    /// After a step whose gradients were finite, or not.
    pub fn update(&mut self, finite: bool) {
        self.steps += 1;
        if !finite {
            (self.scale, self.steps) = (self.scale * BACKOFF, 0);
        } else if self.steps == GROWTH_INTERVAL {
            (self.scale, self.steps) = (self.scale * GROWTH, 0);
        }
    }

    /// Whether the gradients overflow without being scaled up at all: then the scale is not to
    /// blame.
    pub fn is_exhausted(&self) -> bool {
        self.scale < 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_at_an_overflow_and_doubles_after_a_quiet_time() {
        let mut scale = LossScale::of(Some(Kind::Half)).unwrap();
        scale.update(false);
        assert_eq!(scale.scale, 32768.0);
        for _ in 0..GROWTH_INTERVAL - 1 {
            scale.update(true);
        }
        assert_eq!(scale.scale, 32768.0);
        scale.update(true);
        assert_eq!((scale.scale, scale.steps), (65536.0, 0));
        for _ in 0..17 {
            assert!(!scale.is_exhausted());
            scale.update(false);
        }
        assert!(scale.is_exhausted());
    }

    #[test]
    fn only_float16_is_scaled_and_auto_takes_bfloat16_where_it_is_native() {
        assert!(LossScale::of(Some(Kind::BFloat16)).is_none() && LossScale::of(None).is_none());
        let auto = autocast_kind(Precision::Auto, Device::Cpu);
        assert_eq!(auto, cpu_has_bf16().then_some(Kind::BFloat16));
        assert_eq!(autocast_kind(Precision::Auto, Device::Cuda(0)), Some(Kind::BFloat16));
        assert_eq!(autocast_kind(Precision::Fp16, Device::Cpu), Some(Kind::Half));
    }
}
