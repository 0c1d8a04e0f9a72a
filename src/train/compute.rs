//! What computes a run.

use std::fmt;

use tch::{Device, Kind};

use crate::config::{Branch, Config};
use crate::ops::Path;
use crate::ops::gpu::{self, Gpu};

/// The device, precision and kernels of a run. Displayed, the first line of its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compute {
    /// The device's name in the config.
    pub device: String,
    /// The GPU's name and compute capability.
    pub gpu: Option<String>,
    /// CPU threads that libtorch uses.
    pub threads: i32,
    /// The type of the forward pass's products, and whether GPUs round float32 to TF32.
    pub precision: String,
    /// The kernels of the selective scan; `None` in a model without a Vision Mamba.
    pub selective_scan: Option<String>,
}

impl Compute {
    /// Describes a run on `device`, whose forward pass autocasts to a type if one is given.
    pub(super) fn new(config: &Config, device: Device, autocast: Option<Kind>) -> Self {
        let index = match device {
            Device::Cuda(index) => Some(index),
            _ => None,
        };
        let gpu: Option<Gpu> = index.and_then(|index| gpu::gpus().ok()?.into_iter().nth(index));
        let kernels = || match &gpu {
            Some(gpu) => gpu.kernels.clone().unwrap_or_default(),
            None => Path::best(),
        };
        let precision = match autocast {
            Some(Kind::BFloat16) => "bf16",
            Some(_) => "fp16",
            None if gpu.is_some() && config.train.tf32 => "float32 (TF32)",
            None => "float32",
        };
        let has_scan = config.model.fusion.strategy.uses(Branch::Mamba);
        Self {
            device: index.map_or("cpu".to_string(), |index| format!("cuda:{index}")),
            gpu: gpu.as_ref().map(Gpu::title),
            threads: tch::get_num_threads(),
            precision: precision.to_string(),
            selective_scan: has_scan.then(kernels),
        }
    }

    /// Returns the device, with the GPU's name.
    pub(super) fn place(&self) -> String {
        match &self.gpu {
            Some(gpu) => format!("{} ({gpu})", self.device),
            None => self.device.clone(),
        }
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpu, threads, precision, selective_scan, .. } = self;
        let place = self.place();
        match gpu {
            Some(_) => write!(f, "device {place}, {precision}")?,
            None => {
                let s = if *threads == 1 { "" } else { "s" };
                write!(f, "device {place} ({threads} thread{s}), {precision}")?;
            }
        }
        match (selective_scan, gpu) {
            (Some(kernels), Some(_)) => write!(f, ", selective scan: CUDA {kernels}"),
            (Some(kernels), None) => write!(f, ", selective scan: {kernels}"),
            (None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_device_precision_and_kernels() {
        let config = Config::from_yaml("", "test", &[]).unwrap();
        let compute = Compute::new(&config, Device::Cpu, Some(Kind::BFloat16));
        let cpu = Compute { threads: 2, ..compute.clone() };
        let line = format!("device cpu (2 threads), bf16, selective scan: {}", Path::best());
        assert_eq!(cpu.to_string(), line);
        let on_gpu = Compute {
            device: "cuda:1".to_string(),
            gpu: Some("Some Card, compute capability 9.0".to_string()),
            precision: "float32".to_string(),
            selective_scan: Some("sm_90".to_string()),
            ..compute
        };
        let line = "device cuda:1 (Some Card, compute capability 9.0), float32, selective scan: \
                    CUDA sm_90";
        assert_eq!(on_gpu.to_string(), line);
        let set = ["model.fusion.strategy=vit_only".to_string()];
        let config = Config::from_yaml("", "test", &set).unwrap();
        assert_eq!(Compute::new(&config, Device::Cpu, None).selective_scan, None);
    }
}
