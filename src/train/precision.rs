//! Mixed precision: which type the forward pass computes in, and the loss scale that keeps float16
//! gradients from vanishing (arXiv 1710.03740).

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::config::{Branch, Config, Precision};
use crate::ops;
use crate::ops::gpu::{self, Gpu};

/// The initial scale, and how it changes; PyTorch's values.
const FIRST_SCALE: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: u32 = 2000;

/// The least width of a backbone whose products in bfloat16 save more time on a CPU than converting
/// their operands takes (docs/performance.md).
const CPU_BF16_WIDTH: i64 = 192;

/// Returns the type that autocast uses for a config's `train.precision` on this device, if any.
///
/// `auto` is bfloat16, which needs no loss scale, on GPUs with tensor cores for it (from Ampere on)
/// and on CPUs that multiply in it (AVX512-BF16) if a backbone is wide enough and computed in each
/// step. Elsewhere it is float32: bfloat16 would have to be emulated.
pub fn autocast_kind(config: &Config, device: Device) -> Option<Kind> {
    match config.train.precision {
        Precision::Float32 => None,
        Precision::Bf16 => Some(Kind::BFloat16),
        Precision::Fp16 => Some(Kind::Half),
        Precision::Auto => {
            let faster = match device {
                Device::Cuda(index) => {
                    gpu::gpus().is_ok_and(|gpus| gpus.get(index).is_some_and(gpu_has_bf16))
                }
                _ => {
                    let wide = width(config) >= CPU_BF16_WIDTH;
                    cpu_has_bf16() && wide && !config.caches_features()
                }
            };
            faster.then_some(Kind::BFloat16)
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_has_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_has_bf16() -> bool {
    false
}

/// The width of the wider branch. A config's shapes have been checked when it was read.
fn width(config: &Config) -> i64 {
    let shapes = Branch::ALL.iter().filter_map(|&branch| config.shape(branch).ok().flatten());
    shapes.map(|shape| shape.embed_dim).max().unwrap_or(0)
}

fn gpu_has_bf16(gpu: &Gpu) -> bool {
    gpu.compute_capability >= gpu::AMPERE
}

/// Runs a forward pass under autocast, if there is a type for it. Returns an error if autocast does
/// not know the type, or `forward` fails.
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

/// The loss scale: the loss is multiplied by it before backward, the gradients are divided by it
/// afterwards. When a gradient is not finite it is halved and the step is skipped; after 2,000
/// steps without, it is doubled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The factor.
    pub scale: f64,
    /// Steps since it changed.
    pub steps: u32,
}

impl LossScale {
    /// Creates the loss scale for a compute type: float16 alone needs one.
    pub fn of(kind: Option<Kind>) -> Option<Self> {
        (kind == Some(Kind::Half)).then_some(Self { scale: FIRST_SCALE, steps: 0 })
    }

    /// Returns the loss to run backward from, scaled up if there is a scale.
    pub fn scaled(scale: Option<Self>, loss: Tensor) -> Tensor {
        match scale {
            Some(Self { scale, .. }) => loss * scale,
            None => loss,
        }
    }

    /// Updates the scale after a step whose gradients were finite, or not.
    pub fn update(&mut self, finite: bool) {
        self.steps += 1;
        if !finite {
            (self.scale, self.steps) = (self.scale * BACKOFF, 0);
        } else if self.steps == GROWTH_INTERVAL {
            (self.scale, self.steps) = (self.scale * GROWTH, 0);
        }
    }

    /// Returns whether gradients overflow even unscaled: then the scale is not the cause.
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
    fn only_float16_is_scaled_and_auto_takes_bfloat16_where_it_is_faster() {
        assert!(LossScale::of(Some(Kind::BFloat16)).is_none() && LossScale::of(None).is_none());
        let kind = |precision, width: i64| {
            let keys = [
                format!("train.precision={precision}"),
                format!("model.vit.embed_dim={width}"),
                "model.mamba.embed_dim=24".to_owned(),
            ];
            autocast_kind(&Config::from_yaml("", "a.yaml", &keys).unwrap(), Device::Cpu)
        };
        let bf16 = cpu_has_bf16().then_some(Kind::BFloat16);
        assert_eq!([kind("auto", 96), kind("auto", 192)], [None, bf16]);
        assert_eq!([kind("float32", 192), kind("bf16", 96)], [None, Some(Kind::BFloat16)]);
        let card = |compute_capability| Gpu {
            name: String::new(),
            uuid: String::new(),
            compute_capability,
            memory_bytes: 0,
            kernels: None,
        };
        assert_eq!(
            [75, 80, 90].map(|capability| gpu_has_bf16(&card(capability))),
            [false, true, true]
        );
        assert_eq!(kind("fp16", 96), Some(Kind::Half));
    }
}
