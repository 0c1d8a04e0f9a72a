//! `vmbeauty doctor`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tch::Device;

use super::output::{print_result, table};
use crate::config;
use crate::models::device;
use crate::ops::distributed::has_nccl;
use crate::ops::gpu::{self, Gpu};
use crate::ops::self_test::{Check, self_test};
use crate::ops::{self, Path};

/// Show versions, devices and compiled-in kernels, and test the kernels on this machine
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was found.
struct Findings {
    gpus: Vec<Gpu>,
    checks: Vec<Check>,
    /// What keeps a GPU from being used.
    warnings: Vec<String>,
    /// GPUs that cannot run the kernels.
    errors: Vec<String>,
}

/// Runs the subcommand. The exit code is 1 if a kernel is wrong, or a GPU has none.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let found = Findings::collect()?;
    print_result(args.json, &found.json(), || found.text())?;
    Ok(ExitCode::from(u8::from(!found.passed())))
}

impl Findings {
    fn collect() -> Result<Self> {
        device::find(config::Device::Cpu)?;
        tch::manual_seed(0);
        let gpus = gpu::gpus().unwrap_or_default();
        let mut checks = self_test(Device::Cpu)?;
        let mut errors = Vec::new();
        for (index, gpu) in gpus.iter().enumerate() {
            if gpu.kernels.is_some() {
                let tested = self_test(Device::Cuda(index));
                checks.extend(tested.with_context(|| format!("cuda:{index} ({})", gpu.title()))?);
            } else {
                errors.push(format!("cuda:{index}: {}", device::without_kernels(gpu)));
            }
        }
        let unused = if gpus.is_empty() { device::warning(config::Device::Auto) } else { None };
        Ok(Self { gpus, checks, warnings: unused.into_iter().collect(), errors })
    }

    fn passed(&self) -> bool {
        self.errors.is_empty() && self.checks.iter().all(|check| check.passed)
    }

    fn json(&self) -> Value {
        let cuda = gpu::cuda_versions().map(|(driver, runtime)| {
            json!({"architectures": gpu::architectures(), "driver": driver, "runtime": runtime})
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "libtorch": ops::libtorch_version(),
            "threads": tch::get_num_threads(),
            "path": Path::best(),
            "cuda": cuda,
            "gpus": self.gpus,
            "tf32": gpu::uses_tf32(),
            "backends": backends(),
            "warnings": self.warnings,
            "errors": self.errors,
            "checks": self.checks,
            "passed": self.passed(),
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| text += &format!("{name:<10}{value}\n");
        line("vmbeauty", env!("CARGO_PKG_VERSION"));
        line("libtorch", &ops::libtorch_version());
        line("threads", &tch::get_num_threads().to_string());
        line("kernels", &kernels());
        if let Some((driver, runtime)) = gpu::cuda_versions() {
            let driver = match driver {
                Some(driver) => format!("driver for CUDA {driver}"),
                None => "no driver".to_string(),
            };
            line("CUDA", &format!("runtime {runtime}, {driver}"));
        }
        for (index, gpu) in self.gpus.iter().enumerate() {
            let memory = gpu.memory_bytes as f64 / (1u64 << 30) as f64;
            let tf32 = match (gpu.compute_capability < gpu::AMPERE, gpu::uses_tf32()) {
                (true, _) => "no TF32",
                (_, true) => "TF32 on",
                (_, false) => "TF32 off (train.tf32)",
            };
            let kernels = gpu.kernels.as_deref().unwrap_or("none");
            let title = gpu.title();
            let value = format!("{title}, {memory:.1} GiB, {tf32}, kernels: {kernels}");
            line(&format!("cuda:{index}"), &value);
        }
        if self.gpus.is_empty() {
            line("GPUs", "no GPU found");
        }
        line(
            "processes",
            &match backends()[..] {
                [] => "one (`make distributed` builds with Gloo)".to_string(),
                ref names => names.join(", "),
            },
        );
        let rows = self.checks.iter().map(|check| {
            let passed = if check.passed { "ok" } else { "WRONG" }.to_string();
            let error = format!("{:.1e}", check.error);
            [check.op.clone(), check.dtype.to_string(), check.path.clone(), error, passed]
        });
        let header = ["operator, forward and backward", "type", "path", "error", ""];
        text += &format!("\n{}\n", table(&header, rows));
        self.warnings.iter().for_each(|warning| text += &format!("warning: {warning}\n"));
        self.errors.iter().for_each(|error| text += &format!("error: {error}\n"));
        text += match (self.passed(), self.errors.is_empty()) {
            (true, _) => "all kernels passed\n",
            (false, false) => "a GPU cannot be used\n",
            (false, true) => "A KERNEL IS WRONG on this machine: do not trust its results\n",
        };
        text
    }
}

/// Names the kernels of this build: those of the CPU that this machine uses, and the CUDA kernels.
fn kernels() -> String {
    let cuda: Vec<String> = gpu::architectures().iter().map(|arch| format!("sm_{arch}")).collect();
    let cuda = if cuda.is_empty() { "none".to_string() } else { cuda.join(", ") };
    format!("CPU: {}; CUDA kernels: {cuda}", Path::best())
}

/// Returns the backends of training with several processes in this build.
fn backends() -> Vec<&'static str> {
    let gloo = cfg!(feature = "distributed").then_some("Gloo");
    gloo.into_iter().chain(has_nccl().then_some("NCCL")).collect()
}
