//! `vmbeauty benchmark`.

mod data;
mod train;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde_json::json;
use tch::Device;

use super::output::{print_result, say, table};
use crate::benchmark::mixer::{MixerProfile, profile_mixer};
use crate::benchmark::scan::{Layout, ScanBenchmarkSettings, ScanMeasurement, benchmark_scan};
use crate::config::{self, BackboneConfig};
use crate::models::device;
use crate::ops::gpu;
use crate::ops::profiler::Pass;
use crate::ops::{self, Path};

/// The benchmarks.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Scan(ScanArgs),
    Train(train::Args),
    Data(data::Args),
}

/// Time the selective scan compared with libtorch's own operations
#[derive(Debug, clap::Args)]
pub(super) struct ScanArgs {
    /// Batch, channels, length and state size; may be repeated. Default: 8,384,197,16 and
    /// 2,384,4096,16
    #[arg(long = "shape", value_name = "B,D,L,N", value_parser = parse_shape)]
    shapes: Vec<[i64; 4]>,
    /// Runs of each implementation, in turn; medians are printed
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// The device: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: config::Device,
    /// Our kernels on the CPU: auto (the widest), portable, avx2 or avx512
    #[arg(long, value_name = "PATH", default_value = "auto", value_parser = parse_path)]
    path: Path,
    /// Time the components of a Vim-Ti mixer (8 images of 224 pixels) instead
    #[arg(long, conflicts_with_all = ["shapes", "path", "device"])]
    mixer: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_shape(text: &str) -> Result<[i64; 4], String> {
    let sizes: Option<Vec<i64>> =
        text.split(',').map(|size| size.trim().parse().ok().filter(|&size| size > 0)).collect();
    sizes
        .and_then(|sizes| sizes.try_into().ok())
        .ok_or_else(|| "four positive sizes are needed, as in 8,384,197,16".to_string())
}

fn parse_path(text: &str) -> Result<Path, String> {
    std::iter::once(Path::Auto)
        .chain(Path::ALL)
        .find(|path| path.name() == text)
        .ok_or_else(|| "auto, portable, avx2 or avx512".to_string())
}

pub(super) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Scan(args) if args.mixer => mixer(args),
        Command::Scan(args) => scan(args),
        Command::Train(args) => train::run(args),
        Command::Data(args) => data::run(args),
    }
}

fn scan(args: &ScanArgs) -> Result<ExitCode> {
    let device = device::find(args.device)?;
    ensure!(
        device == Device::Cpu || args.path == Path::Auto,
        "--path names kernels of the CPU: leave it out on a GPU"
    );
    tch::manual_seed(0);
    let shapes = match &args.shapes[..] {
        [] => &ScanBenchmarkSettings::SHAPES[..],
        given => given,
    };
    let settings =
        ScanBenchmarkSettings::in_both_layouts(shapes, args.runs.into(), device, args.path);
    let cases = benchmark_scan(&settings, |shape, layout| {
        let order = match layout {
            Layout::ChannelsFirst => "channels first",
            Layout::ChannelsLast => "channels last",
        };
        say(&format!("measuring {shape:?}, {order}"));
    })?;
    let threads = tch::get_num_threads();
    let (name, place, path) = match device {
        Device::Cuda(index) => {
            let gpu = gpu::gpus()?.into_iter().nth(index);
            let (title, kernels) = gpu.map(|gpu| (gpu.title(), gpu.kernels)).unwrap_or_default();
            (format!("cuda:{index}"), title, kernels.unwrap_or_default())
        }
        _ => ("cpu".to_string(), format!("{threads} threads"), resolved(args.path)),
    };
    let runs = args.runs;
    let json = json!({
        "cases": cases, "device": name, "threads": threads, "path": path, "runs": runs,
        "version": env!("CARGO_PKG_VERSION"), "libtorch": ops::libtorch_version(),
    });
    print_result(args.json, &json, || {
        format!(
            "{}\n{path} kernels, {place}, medians of {runs} runs; peak: MiB beyond those allocated \
             before the pass\n",
            cases_table(&cases)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The preset whose mixer is profiled, and on how many images.
const MIXER: (&str, i64, i64) = ("vim_tiny_patch16_224", 224, 8);

fn mixer(args: &ScanArgs) -> Result<ExitCode> {
    tch::manual_seed(0);
    let (name, image_size, batch) = MIXER;
    let config = BackboneConfig { name: name.to_string(), ..BackboneConfig::default() };
    let shape = config.resolve(image_size)?;
    say(&format!("measuring a mixer of {name}"));
    let profile = profile_mixer(&shape, batch, args.runs.into())?;
    let (threads, path) = (tch::get_num_threads(), resolved(Path::Auto));
    let json = json!({
        "mixer": profile, "model": name, "threads": threads, "path": path, "runs": args.runs,
        "version": env!("CARGO_PKG_VERSION"), "libtorch": ops::libtorch_version(),
    });
    print_result(args.json, &json, || {
        format!(
            "{}\n{name}, {:?}, {path} kernels, {threads} threads, medians of {} runs; outside \
             GEMMs: {:.0} %\n",
            mixer_table(&profile),
            profile.shape,
            args.runs,
            100.0 * profile.non_gemm_fraction
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn mixer_table(profile: &MixerProfile) -> String {
    let total = profile.total.forward_ms + profile.total.backward_ms;
    let rows = profile.operations.iter().chain([&profile.total]).map(|operation| {
        [
            operation.name.to_string(),
            if operation.gemm { "GEMM" } else { "" }.to_string(),
            format!("{:.2}", operation.forward_ms),
            format!("{:.2}", operation.backward_ms),
            format!("{:.0} %", 100.0 * (operation.forward_ms + operation.backward_ms) / total),
        ]
    });
    table(&["operation", "", "forward ms", "backward ms", "of both"], rows)
}

/// Returns the instruction set of a path.
fn resolved(path: Path) -> String {
    match path {
        Path::Auto => Path::best(),
        named => named.name().to_string(),
    }
}

fn cases_table(cases: &[ScanMeasurement]) -> String {
    let mebibytes = |bytes: i64| format!("{:.1}", bytes as f64 / (1 << 20) as f64);
    let rows = cases.iter().map(|case| {
        let layout = match case.layout {
            Layout::ChannelsFirst => "b,d,l",
            Layout::ChannelsLast => "b,l,d",
        };
        let pass = match case.pass {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
        };
        [
            format!("{:?}", case.shape),
            layout.to_string(),
            pass.to_string(),
            format!("{:.2}", case.ours_ms),
            format!("{:.2}", case.eager_ms),
            format!("{:.1}", case.ratio),
            case.limit_fraction.map_or("-".to_string(), |limit| format!("{limit:.2}")),
            mebibytes(case.ours_peak_bytes),
            mebibytes(case.eager_peak_bytes),
            mebibytes(case.inputs_outputs_bytes),
        ]
    });
    let times = ["shape", "layout", "pass", "ours ms", "eager ms", "ratio", "limit fraction"];
    let memory = ["ours peak", "eager peak", "in+out"];
    table(&[&times[..], &memory].concat(), rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_four_positive_sizes() {
        assert_eq!(parse_shape("8, 384,197,16"), Ok([8, 384, 197, 16]));
        for wrong in ["", "1,2,3", "1,2,3,4,5", "1,2,0,4", "1,2,x,4"] {
            assert!(parse_shape(wrong).is_err(), "{wrong}");
        }
    }
}
