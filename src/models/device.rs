//! Selects the device that the config names.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use tch::Device;

use crate::config::{self, Config};
use crate::ops::OpError;
use crate::ops::gpu::{self, Gpu};

/// Returns the device that the config names, and sets for the process how GPUs compute float32
/// (`train.tf32` and `train.deterministic`). `auto` is the first GPU, or the CPU if there is none
/// that the kernels run on. Returns an error if the machine has no such GPU.
pub fn select(config: &Config) -> Result<Device> {
    let device = find(config.device)?;
    // The CPU's sums always have a fixed order.
    gpu::set_math(config.train.tf32, config.train.deterministic && device.is_cuda());
    Ok(device)
}

/// Returns the device, on which float32 is float32. Returns an error if the machine has no such
/// GPU.
pub fn find(device: config::Device) -> Result<Device> {
    gpu::set_math(false, false);
    match device {
        config::Device::Cpu => Ok(Device::Cpu),
        _ => Machine::this().choose(device),
    }
}

/// Returns why the CPU computes although the config leaves the choice open, if there is or may be a
/// GPU that CUDA_VISIBLE_DEVICES does not hide.
pub fn warning(device: config::Device) -> Option<String> {
    if device == config::Device::Auto { Machine::this().unused() } else { None }
}

/// What there is to choose from.
struct Machine {
    /// Whether this build has CUDA.
    cuda: bool,
    gpus: Result<Vec<Gpu>, OpError>,
    /// Whether the system has a GPU.
    installed: bool,
    /// Whether CUDA_VISIBLE_DEVICES hides all GPUs from this process.
    hidden: bool,
}

impl Machine {
    fn this() -> Self {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES");
        Self {
            cuda: !gpu::architectures().is_empty(),
            gpus: gpu::gpus(),
            installed: has_gpu(Path::new("/dev")),
            hidden: visible.is_ok_and(|devices| ["", "-1"].contains(&devices.trim())),
        }
    }

    fn gpus(&self) -> &[Gpu] {
        self.gpus.as_deref().unwrap_or_default()
    }

    fn choose(&self, device: config::Device) -> Result<Device> {
        let index = match device {
            config::Device::Cpu => return Ok(Device::Cpu),
            config::Device::Auto => {
                let works = self.gpus().first().is_some_and(|gpu| gpu.kernels.is_some());
                return Ok(if works { Device::Cuda(0) } else { Device::Cpu });
            }
            config::Device::Cuda(index) => index,
        };
        if !self.cuda {
            bail!(
                "device: {device} needs a build with CUDA, and this one is for the CPU: run `make \
                 cuda`, or set device to auto or cpu"
            );
        }
        match (&self.gpus, self.gpus().get(index)) {
            (Err(reason), _) => bail!(
                "device: {device}: no GPU found (CUDA: {reason}): set device to auto or cpu, or \
                 see `vmbeauty doctor`"
            ),
            (Ok(gpus), None) => bail!(
                "device: {device} does not exist, there {}: set device to one of them",
                match gpus.len() {
                    1 => "is cuda:0 alone".to_string(),
                    count => format!("are cuda:0 to cuda:{}", count.saturating_sub(1)),
                }
            ),
            (_, Some(gpu)) if gpu.kernels.is_none() => {
                bail!("device: {device}: {}: set device to cpu", without_kernels(gpu))
            }
            _ => Ok(Device::Cuda(index)),
        }
    }

    fn unused(&self) -> Option<String> {
        match (&self.gpus, self.gpus().first()) {
            _ if self.hidden => None,
            (_, Some(gpu)) if gpu.kernels.is_some() => None,
            (_, Some(gpu)) => Some(format!("{}; training on the CPU", without_kernels(gpu))),
            (Err(reason), _) => {
                Some(format!("no GPU found, training on the CPU (CUDA: {reason})"))
            }
            _ if self.cuda => Some("no GPU found, training on the CPU".to_string()),
            _ if self.installed => Some(
                "this machine has a GPU, which this build for the CPU cannot use: run `make cuda`, \
                 or set device: cpu"
                    .to_string(),
            ),
            _ => None,
        }
    }
}

/// Says that a GPU cannot be used, and why.
pub fn without_kernels(gpu: &Gpu) -> String {
    let (title, capability) = (gpu.title(), gpu.compute_capability);
    if capability < gpu::OLDEST {
        format!("{title} is too old: the CUDA kernels need compute capability 7.5 or later")
    } else {
        format!(
            "{title} cannot run this build's CUDA kernels: build it with \
             VMB_CUDA_ARCHITECTURES={capability}"
        )
    }
}

/// Returns whether the system has an NVIDIA GPU: its driver's device files, or those of WSL.
pub fn has_gpu(dev: &Path) -> bool {
    let names = fs::read_dir(dev).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).any(|name| {
        let number = name.strip_prefix("nvidia").and_then(|rest| rest.parse::<u32>().ok());
        number.is_some() || name == "dxg"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(compute_capability: u32) -> Gpu {
        Gpu {
            name: "Some Card".to_string(),
            uuid: String::new(),
            compute_capability,
            memory_bytes: 8 << 30,
            kernels: (compute_capability >= gpu::OLDEST).then(|| "sm_75".to_string()),
        }
    }

    fn machine(cuda: bool, gpus: &[u32], installed: bool) -> Machine {
        let gpus: Vec<Gpu> = gpus.iter().copied().map(card).collect();
        let none = cuda && gpus.is_empty();
        let reason = OpError("no CUDA-capable device is detected".to_string());
        let gpus = if none { Err(reason) } else { Ok(gpus) };
        Machine { cuda, gpus, installed, hidden: false }
    }

    fn error(machine: &Machine, device: config::Device) -> String {
        machine.choose(device).unwrap_err().to_string()
    }

    #[test]
    fn auto_is_the_first_gpu_with_kernels_and_says_where_one_is_unused() {
        let auto = |machine: &Machine| machine.choose(config::Device::Auto).unwrap();
        let good = machine(true, &[90, 75], true);
        assert_eq!((auto(&good), good.unused()), (Device::Cuda(0), None));
        for (machine, words) in [
            (machine(true, &[], false), "no GPU found, training on the CPU (CUDA: no CUDA-capable"),
            (machine(true, &[70], true), "Some Card, compute capability 7.0 is too old"),
            (machine(false, &[], true), "run `make cuda`, or set device: cpu"),
        ] {
            assert_eq!(auto(&machine), Device::Cpu);
            let warning = machine.unused().unwrap();
            assert!(warning.contains(words), "{warning}");
        }
        let plain = machine(false, &[], false);
        let hidden = Machine { hidden: true, ..machine(true, &[], true) };
        for machine in [plain, hidden] {
            assert_eq!((auto(&machine), machine.unused()), (Device::Cpu, None));
        }
    }

    #[test]
    fn a_gpu_that_cannot_be_used_is_refused_with_the_remedy() {
        let cuda = config::Device::Cuda;
        assert_eq!(machine(true, &[90, 75], true).choose(cuda(1)).unwrap(), Device::Cuda(1));
        for (machine, index, words) in [
            (machine(false, &[], true), 0, "device: cuda:0 needs a build with CUDA"),
            (machine(false, &[], true), 0, "run `make cuda`"),
            (machine(true, &[], true), 0, "no GPU found (CUDA: no CUDA-capable device"),
            (machine(true, &[90, 75], true), 2, "there are cuda:0 to cuda:1"),
            (machine(true, &[90], true), 1, "there is cuda:0 alone"),
            (machine(true, &[70], true), 0, "Some Card, compute capability 7.0 is too old"),
        ] {
            let error = error(&machine, cuda(index));
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(machine(true, &[], true).choose(config::Device::Cpu).unwrap(), Device::Cpu);
    }

    #[test]
    fn a_gpu_is_known_by_its_device_file() {
        let dev = tempfile::tempdir().unwrap();
        fs::write(dev.path().join("nvidiactl"), "").unwrap();
        assert!(!has_gpu(dev.path()));
        fs::write(dev.path().join("nvidia0"), "").unwrap();
        assert!(has_gpu(dev.path()));
    }
}
