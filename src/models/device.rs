//! Selects the device that the config names.

use anyhow::{Result, ensure};
use tch::{Cuda, Device};

use crate::config;

/// Returns the device that the config names; `auto` is the first GPU, or the CPU if libtorch finds
/// no GPU. Returns an error if the machine has no such GPU.
pub fn select(device: config::Device) -> Result<Device> {
    Ok(match device {
        config::Device::Cpu => Device::Cpu,
        config::Device::Auto if Cuda::is_available() => Device::Cuda(0),
        config::Device::Auto => Device::Cpu,
        config::Device::Cuda(index) => {
            let count = if Cuda::is_available() { Cuda::device_count() } else { 0 };
            ensure!(
                (index as i64) < count,
                "device: cuda:{index} does not exist, libtorch finds {count} GPUs: set device to \
                 auto or cpu, or build with `make cuda`"
            );
            Device::Cuda(index)
        }
    })
}
