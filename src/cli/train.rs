//! `vmbeauty train`.

use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::{io, thread};

use anyhow::Result;

use super::output::{figure, print, say, table};
use super::progress::Progress;
use crate::config::Config;
use crate::eval::metrics::Metrics;
use crate::ops::distributed::exit_now;
use crate::report::training_log::TrainingLog;
use crate::train::run_dir::TENSORBOARD;
use crate::train::{Observer, Outcome, Ranks, RunDir, train_with};

/// Train a model as a config says
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The experiment, a YAML file
    config: PathBuf,
    /// Change a key of the config, for example train.epochs=5; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run directory [default: runs/NAME, or the first of runs/NAME-2, … that is free]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Go on with the run in the run directory
    #[arg(long)]
    resume: bool,
    /// End when stdin ends: whoever started this run, and holds the other end, is gone
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.stop_with_stdin {
        thread::spawn(|| {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            // At once, and without libtorch's tidying up, which other threads are in the way of. Files are whole at any moment.
            process::abort();
        });
    }
    // Before anything that can fail: the other ranks hear of it.
    let ranks = Ranks::of_job(Arc::new(|reason: &str| {
        say(&format!("error: {reason}"));
        exit_now(1);
    }))?;
    let config = match Config::load(&args.config, &args.set) {
        Ok(config) => config,
        Err(error) => return ranks.end(Err(error.into())),
    };
    let root = match &args.output {
        Some(root) => root.clone(),
        None => RunDir::default_root(&config.name, args.resume),
    };
    let first = ranks.is_first();
    let mut observers = match first {
        true => observers(&config, &root),
        false => Vec::new(),
    };
    let outcome = train_with(&config, &root, args.resume, &mut observers, ranks)?;
    drop(observers);
    if !first {
        return Ok(ExitCode::SUCCESS);
    }
    print(&report(&outcome))?;
    say(&format!(
        "run directory: {}  (vmbeauty predict {} IMAGE; tensorboard --logdir {})",
        root.display(),
        root.display(),
        root.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Those who watch a run in the folder `root`: a person, and TensorBoard where the config wants it.
pub(super) fn observers(config: &Config, root: &Path) -> Vec<Box<dyn Observer>> {
    let mut observers: Vec<Box<dyn Observer>> = vec![Box::new(Progress::new(root))];
    if config.train.tensorboard {
        observers.push(Box::new(TrainingLog::new(root.join(TENSORBOARD))));
    }
    observers
}

/// The model beside what it has to beat, by split.
fn report(outcome: &Outcome) -> String {
    let row = |split: &str, model: &str, m: &Metrics| {
        vec![
            split.to_string(),
            model.to_string(),
            m.n.to_string(),
            figure(m.pc),
            figure(m.mae),
            figure(m.rmse),
            figure(m.srcc),
        ]
    };
    let mut rows = Vec::new();
    let baselines = &outcome.baselines;
    let mut splits = vec![("val", outcome.val, baselines.val)];
    splits.extend(
        outcome
            .test
            .zip(baselines.test)
            .map(|(test, baselines)| ("test", test, baselines)),
    );
    for (split, model, baselines) in &splits {
        rows.push(row(split, "this model", &model.metrics));
        rows.push(row(
            split,
            "linear model on 16x16 grey pixels",
            &baselines.linear,
        ));
        rows.push(row(
            split,
            "mean of the training scores",
            &baselines.constant,
        ));
    }
    let header = ["split", "model", "n", "PC", "MAE", "RMSE", "SRCC"];
    format!(
        "{}best of {} epochs by validation PC: {}\n",
        table(&header, &rows),
        outcome.epochs,
        outcome.best_epoch
    )
}
