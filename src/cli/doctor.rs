//! `vmbeauty doctor`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use tch::{Cuda, Device};

use super::output::{print_result, table};
use crate::ops::self_test::self_test;
use crate::ops::{self, Path};

/// Show versions and devices, and test the kernels on this machine
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand. The exit code is 1 if a kernel is wrong.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let gpus = if Cuda::is_available() { Cuda::device_count() } else { 0 };
    tch::manual_seed(0);
    let mut checks = self_test(Device::Cpu)?;
    for index in 0..gpus {
        checks.extend(self_test(Device::Cuda(index as usize))?);
    }
    let passed = checks.iter().all(|check| check.passed);
    let libtorch = ops::libtorch_version();
    let threads = tch::get_num_threads();
    let (version, path) = (env!("CARGO_PKG_VERSION"), Path::best());
    let json = json!({
        "version": version, "libtorch": libtorch, "threads": threads, "gpus": gpus, "path": path,
        "checks": checks, "passed": passed,
    });
    print_result(args.json, &json, || {
        let rows = checks.iter().map(|check| {
            let passed = if check.passed { "ok" } else { "WRONG" }.to_string();
            [check.op.clone(), check.path.clone(), format!("{:.1e}", check.error), passed]
        });
        let checks = table(&["operator, forward and backward", "path", "error", ""], rows);
        let result = if passed {
            "all kernels passed"
        } else {
            "A KERNEL IS WRONG on this machine: do not trust its results"
        };
        format!(
            "vmbeauty  {version}\nlibtorch  {libtorch}\nthreads   {threads}\nGPUs      {gpus}\n\
             kernels   {path}\n\n{checks}\n{result}\n"
        )
    })?;
    Ok(ExitCode::from(u8::from(!passed)))
}
