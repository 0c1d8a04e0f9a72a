//! `vmbeauty pretrain`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::console::{Console, ConsoleArgs};
use super::output::{metric, print, table};
use super::progress::console_observer;
use crate::config::Config;
use crate::run::RunKind;
use crate::train::pretrain::{Outcome, pretrain};
use crate::train::{Options, Stop};

/// Pretrain the backbones on the training images alone, without scores, by masked image modeling
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The experiment, a YAML file; its section `pretrain` has the settings
    config: PathBuf,
    /// Change a key of the config, for example pretrain.epochs=100; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The folder for the weights [default: runs/NAME-pretrain]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Resume the pretraining in the folder
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    pub(super) console: ConsoleArgs,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let console = Console::from(args.console);
    let config = Config::load(&args.config, &args.set)?;
    let root = match &args.output {
        Some(root) => root.clone(),
        None => Path::new("runs").join(format!("{}-pretrain", config.name)),
    };
    let options = Options { resume: args.resume, stop, ..Options::default() };
    let mut observers = [console_observer(&root, &console)];
    let outcome = pretrain(&config, &root, &options, &mut observers)?;
    drop(observers);
    print(&report(&outcome))?;
    let reconstructions = outcome.reconstructions.display();
    console.info(&format!("reconstructed validation images: {reconstructions}"));
    let weights = outcome.backbones.iter();
    let sets =
        weights.map(|of| format!(" --set model.{}.weights={}", of.branch, of.weights.display()));
    let config = RunKind::Pretrain.config_in(&root);
    let sets: String = sets.collect();
    console.info(&format!("continue with: vmbeauty train {}{sets}", config.display()));
    let backbones = outcome.backbones.iter().map(|of| {
        json!({"branch": of.branch, "weights": of.weights, "epochs": of.last.epoch,
               "train_loss": of.last.train_loss, "val_loss": of.last.val_loss})
    });
    let end = json!({
        "status": "finished",
        "run": root.display().to_string(),
        "backbones": backbones.collect::<Vec<_>>(),
        "reconstructions": outcome.reconstructions,
        "exit_code": 0,
    });
    console.event("end", &end);
    Ok(ExitCode::SUCCESS)
}

/// Formats the last losses of each backbone.
fn report(outcome: &Outcome) -> String {
    let rows = outcome.backbones.iter().map(|of| {
        vec![
            of.weights.display().to_string(),
            of.last.epoch.to_string(),
            metric(of.last.train_loss),
            metric(of.last.val_loss),
        ]
    });
    table(&["weights", "epochs", "train loss", "val loss"], rows)
}
