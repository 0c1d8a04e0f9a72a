//! `vmbeauty doctor`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use tch::{Cuda, Device};

use super::output::{print, print_json, table};
use crate::ops::self_test::{Check, self_test};
use crate::ops::{self, Path};

/// Show versions and devices, and test the kernels on this machine
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand. The exit code is 1 if a kernel is wrong.
pub fn run(args: &Args) -> Result<ExitCode> {
    let gpus = if Cuda::is_available() { Cuda::device_count() } else { 0 };
    tch::manual_seed(0);
    let mut checks = self_test(Device::Cpu)?;
    for index in 0..gpus {
        checks.extend(self_test(Device::Cuda(index as usize))?);
    }
    let passed = checks.iter().all(|check| check.passed);
    let libtorch = ops::libtorch_version();
    let threads = tch::get_num_threads();
    if args.json {
        print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"), "libtorch": libtorch, "threads": threads,
            "gpus": gpus, "path": Path::best(), "checks": checks, "passed": passed,
        }))?;
    } else {
        let facts = [
            ("vmbeauty", env!("CARGO_PKG_VERSION").to_string()),
            ("libtorch", libtorch),
            ("threads", threads.to_string()),
            ("GPUs", gpus.to_string()),
            ("kernels", Path::best()),
        ];
        let lines: Vec<String> =
            facts.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect();
        print(&format!("{}\n{}", lines.concat(), checks_table(&checks)))?;
        print(if passed {
            "\nall kernels passed\n"
        } else {
            "\nA KERNEL IS WRONG on this machine: do not trust its results\n"
        })?;
    }
    Ok(ExitCode::from(u8::from(!passed)))
}

fn checks_table(checks: &[Check]) -> String {
    let rows: Vec<Vec<String>> = checks
        .iter()
        .map(|check| {
            vec![
                check.op.to_string(),
                check.path.clone(),
                format!("{:.1e}", check.error),
                if check.passed { "ok" } else { "WRONG" }.to_string(),
            ]
        })
        .collect();
    table(&["operator, forward and backward", "path", "error", ""], &rows)
}
