//! `vmbeauty train`.

use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context, Result};
use serde_json::json;

use super::console::{Console, ConsoleArgs};
use super::output::{duration, metric, print, table, thousands};
use super::progress::console_observer;
use crate::benchmark::estimate::{TrainEstimate, estimate_train};
use crate::config::{Config, yaml_value};
use crate::data::Split;
use crate::eval::metrics::{Metric, Metrics};
use crate::ops::distributed::exit_now;
use crate::run::{RunDir, RunKind, Summary, weights_of};
use crate::tensorboard::training_log::TrainingLog;
use crate::train::{Observer, Options, Stop, World, train};

/// The time that a run whose sweep is gone has to end with a checkpoint.
const GRACE: Duration = Duration::from_secs(5);

/// Train a model as a config says
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The experiment, a YAML file
    config: PathBuf,
    /// Change a key of the config, for example train.epochs=5; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run directory [default: runs/NAME, or the first of runs/NAME-2, … that is free]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Resume the run in the run directory
    #[arg(long)]
    resume: bool,
    /// Start a new run from the weights of another one, a run directory or a weights file in one;
    /// the section model must be that of the run
    #[arg(long, value_name = "RUN", conflicts_with = "resume")]
    from: Option<PathBuf>,
    /// Stop after this many epochs in all, with the learning rates of train.epochs; --resume
    /// continues the run
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..))]
    stop_after: Option<u32>,
    /// Only check config and data, and estimate the time from a few measured steps; nothing is
    /// written
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Obey the sweep that started this run through stdin, and stop when it is closed
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    pub(super) console: ConsoleArgs,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if args.dry_run {
        return dry_run(args);
    }
    let stop = Stop::on_signals()?;
    if args.stop_with_stdin {
        let stop = stop.clone();
        let watch = move || {
            stop.obey(io::stdin().lock());
            stop.request();
            thread::sleep(GRACE);
            // Other threads could block libtorch's cleanup, so there is none. Files are always
            // complete.
            process::abort();
        };
        let watcher = thread::Builder::new().name("stdin".to_string()).spawn(watch);
        watcher.context("cannot start a thread: raise the limit of processes (ulimit -u)")?;
    }
    // The world comes before anything that can fail, so that the other ranks get the error.
    let console = Console::from(args.console);
    let alarm = console.clone();
    let world = World::of_job(Arc::new(move |reason: &str| {
        alarm.end_with("failed", reason, 1);
        exit_now(1);
    }))?;
    let config = match load(args) {
        Ok(config) => config,
        Err(error) => return world.end(Err(error)),
    };
    let first = world.is_first();
    if first {
        config.warnings().iter().for_each(|warning| console.warn(warning));
    }
    let root = match &args.output {
        Some(root) => root.clone(),
        None => RunDir::default_root(&config.name, args.resume),
    };
    // The folder of runs is this program's own where no other was named.
    let above = root.parent().filter(|_| args.output.is_none());
    let mut observers = if first { observers(&config, &root, above, &console) } else { Vec::new() };
    let stop_after = args.stop_after.map(|epochs| epochs as usize);
    let options = Options { resume: args.resume, world, stop, stop_after };
    let outcome = train(&config, &root, options, &mut observers)?;
    drop(observers);
    if !first {
        return Ok(ExitCode::SUCCESS);
    }
    print(&report(&outcome))?;
    let logdir = RunDir::tensorboard_in(above.unwrap_or(&root));
    let root = root.display();
    let board = format!("; tensorboard --logdir {}", logdir.display());
    let board = if config.train.tensorboard { &board } else { "" };
    console.info(&format!("run directory: {root}  (vmbeauty predict {root} IMAGE{board})"));
    let end = json!({
        "status": "finished",
        "run": root.to_string(),
        "epochs": outcome.epochs,
        "best_epoch": outcome.best_epoch,
        "stopped_early": outcome.stopped_early,
        "skipped_steps": outcome.skipped_steps,
        "seconds": outcome.seconds,
        "val": outcome.val,
        "test": outcome.test,
        "exit_code": 0,
    });
    console.event("end", &end);
    Ok(ExitCode::SUCCESS)
}

/// Checks the config, the data and that the run directory is free, and estimates the time.
fn dry_run(args: &Args) -> Result<ExitCode> {
    World::refuse_job("train --dry-run")?;
    let console = Console::from(args.console);
    let config = load(args)?;
    config.warnings().iter().for_each(|warning| console.warn(warning));
    if let Some(root) = &args.output {
        RunDir::check_free(root, RunKind::Train)?;
    }
    config.model.check_weights()?;
    console.info("measuring a few steps");
    let estimate = estimate_train(&config)?;
    let seconds = estimate.seconds(config.train.epochs);
    console.event("estimate", &json!({"estimate": estimate, "seconds": seconds}));
    print(&estimate_text(&config, &estimate))?;
    Ok(ExitCode::SUCCESS)
}

/// Says how long a training takes, what was measured, and what is assumed.
fn estimate_text(config: &Config, estimate: &TrainEstimate) -> String {
    let [train, val, test] = estimate.images.map(|images| thousands(images as i64));
    let epochs = config.train.epochs;
    let most = if config.train.early_stopping.patience.is_some() { "at most " } else { "" };
    let mut text = format!(
        "{}: {train} images to train, {val} to validate, {test} to test; {epochs} epochs\n\
         {most}about {} in all",
        config.name,
        duration(estimate.seconds(epochs))
    );
    let evaluated = format!("{:.0} images/s evaluated", estimate.evaluated_images_per_second);
    let once = duration(estimate.once_seconds);
    match estimate.train_images_per_second {
        Some(rate) => {
            text += &format!(
                ": {} an epoch ({} of training, {} of validation), and {once} once (loading for \
                 the first time, evaluation at the end)\nmeasured: {rate:.0} images/s in {} steps \
                 of {} images, {evaluated}",
                duration(estimate.train_seconds + estimate.val_seconds),
                duration(estimate.train_seconds),
                duration(estimate.val_seconds),
                estimate.steps,
                estimate.batch_size,
            );
            if let Some(rate) = estimate.first_loaded_images_per_second {
                text += &format!(", {rate:.0} images/s loaded for the first time");
            }
        }
        None => {
            text += &format!(
                ": the features of frozen backbones, once, if none are cached; steps on features \
                 take little and were not measured\nmeasured: {evaluated}"
            );
        }
    }
    text + "\nassumes that nothing else runs; start-up, checkpoints and logs are not counted\n"
}

/// Loads the config; `--from` sets the weights that training starts from.
fn load(args: &Args) -> Result<Config> {
    let mut set = args.set.clone();
    if let Some(run) = &args.from {
        let weights = weights_of(run)?;
        let file = weights.to_str().context("--from is not Unicode")?;
        set.push(format!("model.weights={}", yaml_value(&file.into())));
    }
    Ok(Config::load(&args.config, &set)?)
}

/// Returns the observers of a run in the folder `root`: the console or the event log, and
/// TensorBoard if the config enables it, with a link in a folder `above` the run's.
pub(super) fn observers(
    config: &Config,
    root: &Path,
    above: Option<&Path>,
    console: &Console,
) -> Vec<Box<dyn Observer>> {
    let mut observers = vec![console_observer(root, console)];
    if config.train.tensorboard {
        let console = console.clone();
        let warn = Rc::new(move |text: &str| console.warn(text));
        observers.push(Box::new(TrainingLog::new(root, above, warn)));
    }
    observers
}

/// Formats the model's metrics, with 95 % intervals, next to the baselines', by split.
fn report(outcome: &Summary) -> String {
    let row = |split: &str, model: &str, n: &str, value: &dyn Fn(Metric) -> Option<f64>| {
        let values = Metric::ALL.map(|of| value(of).map(metric).unwrap_or_default());
        [split, model, n].map(str::to_string).into_iter().chain(values).collect::<Vec<_>>()
    };
    let measured = |split: &str, model: &str, metrics: &Metrics| {
        row(split, model, &metrics.n.to_string(), &|of| Some(of.of(metrics)))
    };
    let mut rows = Vec::new();
    let baselines = &outcome.baselines;
    let mut splits = vec![(Split::Val, outcome.val, baselines.val)];
    splits.extend(
        outcome.test.zip(baselines.test).map(|(test, baselines)| (Split::Test, test, baselines)),
    );
    for (split, model, baselines) in &splits {
        let (split, branches) = (split.name(), outcome.branches.get(split));
        rows.push(measured(split, "this model", &model.metrics));
        rows.push(row(split, "95 % interval from", "", &|of| Some(model.interval(of)?.lo)));
        rows.push(row(split, "to", "", &|of| Some(model.interval(of)?.hi)));
        if let Some(of) = branches {
            rows.push(measured(split, "the ViT's own head", &of.vit));
            rows.push(measured(split, "the Mamba's own head", &of.mamba));
        }
        rows.extend(baselines.named().map(|(name, metrics)| measured(split, name, &metrics)));
    }
    let header = ["split", "model", "n", "PC", "MAE", "RMSE", "SRCC"];
    let early =
        if outcome.stopped_early { "; stopped early: none of the last was better" } else { "" };
    format!(
        "{}best of {} epochs by {}: {}{early}\n",
        table(&header, &rows),
        outcome.epochs,
        outcome.monitor.title(),
        outcome.best_epoch
    )
}
