//! The command line: one file per subcommand, each of which parses, calls the library and prints.

mod benchmark;
mod complete;
mod config;
mod console;
mod crop;
mod cross_validate;
mod data;
mod data_root;
mod doctor;
mod downloads;
mod evaluate;
mod event_log;
mod explain;
mod export;
mod features;
mod init;
mod inputs;
mod man_pages;
mod output;
mod pace;
mod parse;
mod predict;
mod pretrain;
mod probe;
mod progress;
mod report;
mod runs;
mod summary;
mod sweep;
mod train;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tch::TchError;

use self::console::{Console, ConsoleArgs};
use crate::config::ConfigError;
use crate::data::Split;
use crate::ops::OpError;
use crate::train::{Stopped, World};

/// Train VM-BeautyNet: a Vision Transformer and a Vision Mamba that predict how people rate the
/// attractiveness of a face.
///
/// Ratings are opinions of raters. This program must not be used to evaluate or identify anyone.
#[derive(Debug, Parser)]
#[command(name = "vmbeauty", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Train(train::Args),
    Pretrain(pretrain::Args),
    Probe(probe::Args),
    Evaluate(evaluate::Args),
    Predict(predict::Args),
    Explain(explain::Args),
    Features(features::Args),
    Export(export::Args),
    CrossValidate(cross_validate::Args),
    Sweep(sweep::Args),
    Runs(runs::Args),
    Report(report::Args),
    Summary(summary::Args),
    /// Show, describe and compare configs
    #[command(subcommand)]
    Config(config::Command),
    /// Inspect a dataset, or crop its faces
    #[command(subcommand)]
    Data(data::Command),
    /// Measure this machine
    #[command(subcommand)]
    Benchmark(benchmark::Command),
    Doctor(doctor::Args),
    Completions(complete::Args),
    #[command(hide = true)]
    ManPages(man_pages::Args),
}

impl Command {
    /// Returns whether the command reads a config, whose sizes its user can lower.
    fn reads_config(&self) -> bool {
        matches!(
            self,
            Command::Train(_)
                | Command::Pretrain(_)
                | Command::Probe(_)
                | Command::CrossValidate(_)
                | Command::Sweep(_)
                | Command::Summary(_)
                | Command::Benchmark(_)
        )
    }

    /// Returns the console for the command's errors.
    fn console(&self) -> Console {
        let args = match self {
            Command::Train(args) => args.console,
            Command::Pretrain(args) => args.console,
            Command::CrossValidate(args) => args.console,
            Command::Sweep(args) => args.console,
            _ => ConsoleArgs::default(),
        };
        args.into()
    }
}

/// Arguments that do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

/// Runs the program on the process's arguments. Exit codes: 0 done, 1 failed, 2 wrong usage or
/// config, 128 + N stopped by signal N.
pub fn main() -> ExitCode {
    let cli = parse::parse();
    crate::ops::keep_freed_memory();
    // A failure of libtorch in an infallible call (above all, out of memory) panics: it becomes an
    // error like any other.
    std::panic::set_hook(Box::new(|_| {}));
    let (console, reads_config) = (cli.command.console(), cli.command.reads_config());
    match catch_unwind(AssertUnwindSafe(|| run(cli))) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => report_error(&error, &console, reads_config),
        Err(panic) => console.end_with("failed", &panic_message(&*panic, reads_config), 1),
    }
}

/// Maximum number of threads that decode images.
const MAX_THREADS: usize = 1024;

fn run(cli: Cli) -> Result<ExitCode> {
    start_threads()?;
    match cli.command {
        Command::Init(args) => init::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Pretrain(args) => {
            World::refuse_job("pretrain")?;
            pretrain::run(&args)
        }
        Command::Probe(args) => probe::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Features(args) => features::run(&args),
        Command::Export(args) => export::run(&args),
        Command::CrossValidate(args) => {
            World::refuse_job("cross-validate")?;
            cross_validate::run(&args)
        }
        Command::Sweep(args) => {
            World::refuse_job("sweep")?;
            sweep::run(&args)
        }
        Command::Runs(args) => runs::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Summary(args) => summary::run(&args),
        Command::Config(command) => config::run(&command),
        Command::Data(command) => data::run(&command),
        Command::Benchmark(command) => benchmark::run(&command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => complete::run(&args),
        Command::ManPages(args) => man_pages::run(&args),
    }
}

/// Starts the threads that decode images. Started at its first use, a pool without its threads
/// would panic; where the limit of processes (`ulimit -u`) allows fewer, there are fewer.
fn start_threads() -> Result<()> {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|number| number.parse().ok());
    let threads = match asked {
        None | Some(0) => std::thread::available_parallelism().map_or(1, usize::from),
        Some(threads) => threads,
    };
    let threads = threads.min(MAX_THREADS);
    // The pool itself starts all of its threads or none, and only once: each waits for its work.
    let mut waiting = Vec::with_capacity(threads);
    for _ in 0..threads {
        let (sender, receiver) = mpsc::channel::<rayon::ThreadBuilder>();
        let work = move || receiver.recv().into_iter().for_each(|thread| thread.run());
        if std::thread::Builder::new().spawn(work).is_err() {
            // Half of them end, for the loader and libtorch start threads as well.
            waiting.truncate(waiting.len() / 2);
            break;
        }
        waiting.push(sender);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(waiting.len().max(1));
    if waiting.is_empty() {
        return pool.use_current_thread().build_global().context("cannot decode images");
    }
    let start = |thread: rayon::ThreadBuilder| {
        let sender = waiting.pop().ok_or(io::ErrorKind::WouldBlock)?;
        sender.send(thread).map_err(|_| io::ErrorKind::BrokenPipe.into())
    };
    pool.spawn_handler(start).build_global().context("cannot start the threads that decode images")
}

fn parse_split(text: &str) -> Result<Split, String> {
    text.parse().map_err(|error| format!("{error:#}"))
}

/// Writes the error, and returns the exit code.
fn report_error(error: &anyhow::Error, console: &Console, reads_config: bool) -> ExitCode {
    let stopped = error.chain().find_map(|cause| cause.downcast_ref::<Stopped>());
    let text = format!("{error:#}");
    if let Some(stopped) = stopped {
        return console.end_with("stopped", &text, stopped.exit_code());
    }
    let text = libtorch_out_of_memory(error, reads_config)
        .unwrap_or_else(|| without_frames(&text).to_string());
    let wrong = error.chain().any(|cause| cause.is::<ConfigError>() || cause.is::<WrongUsage>());
    console.end_with("failed", &text, if wrong { 2 } else { 1 })
}

/// Returns the message if an error of libtorch or csrc is about memory, after its context.
fn libtorch_out_of_memory(error: &anyhow::Error, reads_config: bool) -> Option<String> {
    let causes: Vec<_> = error.chain().collect();
    let libtorch = causes.iter().position(|cause| cause.is::<TchError>() || cause.is::<OpError>());
    let (context, cause) = causes.split_at(libtorch?);
    let message = out_of_memory(&cause[0].to_string(), reads_config)?;
    let context = context.iter().map(|cause| format!("{cause}: "));
    Some(context.collect::<String>() + &message)
}

/// Returns a panic's message. libtorch's errors in infallible calls are panics with the debug
/// format of the error.
fn panic_message(panic: &(dyn std::any::Any + Send), reads_config: bool) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    let text = text.replace("\\n", "\n").replace("\\\"", "\"");
    let line = text.lines().next().unwrap_or("unknown");
    match line.split_once("` on an `Err` value: Torch(\"") {
        Some((_, error)) => out_of_memory(&text, reads_config)
            .unwrap_or_else(|| format!("libtorch: {}", error.trim_end_matches("\")"))),
        None => format!("internal: {line}"),
    }
}

/// Cuts the stack frames off a message of libtorch.
fn without_frames(text: &str) -> &str {
    let ends = ["\nException raised from", "\nframe #"].map(|end| text.find(end));
    &text[..ends.into_iter().flatten().min().unwrap_or(text.len())]
}

/// Returns the message if libtorch's is about memory: what it tried to allocate, and the remedy.
fn out_of_memory(text: &str, reads_config: bool) -> Option<String> {
    const SIGNS: [&str; 4] =
        ["can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc"];
    let text = without_frames(text);
    let lower = text.to_lowercase();
    SIGNS.iter().find(|sign| lower.contains(**sign))?;
    let size = lower.split_once("tried to allocate ").map(|(_, rest)| {
        let mut words = rest.split([' ', '\n']);
        let (number, unit) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (number.parse::<f64>(), unit.starts_with("bytes")) {
            (Ok(bytes), true) => format!(" for {:.0} MiB more", bytes / f64::from(1 << 20)),
            _ => format!(" for {number} {} more", unit.trim_end_matches('.').replace("gib", "GiB")),
        }
    });
    let remedy = if reads_config {
        "lower train.batch_size, data.image_size or the model's sizes, set \
         train.checkpoint_activations: true, or end other programs"
    } else {
        "end other programs, or use a machine with more"
    };
    Some(format!("there is not enough memory{}: {remedy}", size.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_libtorch_have_one_line_and_want_of_memory_a_remedy() {
        let panicked = |text: &str| panic_message(&text.to_string(), true);
        let cpu = "called `Result::unwrap()` on an `Err` value: Torch(\"[enforce fail at \
                   alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you \
                   tried to allocate 5368709120 bytes. Error code 12 (Cannot allocate \
                   memory)\\nframe #0: c10::ThrowEnforceNotMet\")";
        let text = panicked(cpu);
        assert!(text.starts_with("there is not enough memory for 5120 MiB more: lower"), "{text}");
        let cuda = "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of \
                    4 GiB\nException raised from malloc at Cache.cpp:1";
        assert!(out_of_memory(cuda, true).unwrap().contains("for 20.50 GiB more"));
        let other = "called `Result::unwrap()` on an `Err` value: Torch(\"The size of tensor a (3) \
                     must match\\nException raised from infer_size\")";
        assert_eq!(panicked(other), "libtorch: The size of tensor a (3) must match");
        assert_eq!(panicked("index out of bounds"), "internal: index out of bounds");
        assert_eq!(without_frames("a: b\nException raised from c"), "a: b");
    }

    #[test]
    fn only_want_of_memory_in_libtorch_gets_its_remedy_and_keeps_the_context() {
        let cause = || TchError::Torch("CUDA out of memory. Tried to allocate 2.00 GiB".into());
        let error = anyhow::Error::from(cause()).context("the batch of 3 images");
        assert_eq!(
            libtorch_out_of_memory(&error, false).unwrap(),
            "the batch of 3 images: there is not enough memory for 2.00 GiB more: end other \
             programs, or use a machine with more"
        );
        let text = libtorch_out_of_memory(&error, true).unwrap();
        assert!(text.contains("lower train.batch_size"), "{text}");
        let other = anyhow::anyhow!("cannot read out of memory.png");
        assert_eq!(libtorch_out_of_memory(&other, true), None);
        assert!(panic_message(&"out of memory".to_string(), true).starts_with("internal: "));
    }
}
