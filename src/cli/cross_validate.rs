//! `vmbeauty cross-validate`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::console::{Console, ConsoleArgs};
use super::output::{interval, metric, print_result, table};
use super::train::observers;
use crate::config::Config;
use crate::eval::metrics::Metric;
use crate::eval::statistics::MetricsWithCi;
use crate::sweep::cross_validation::CrossValidation;
use crate::sweep::{Folds, cross_validate};
use crate::train::Stop;

/// Train and test a model on every fold of a dataset
///
/// Run the command again to resume a stopped cross-validation; finished folds are kept.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Config of the experiment, a YAML file
    config: PathBuf,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// `published`, `column` (data.csv.fold_column), or the number of random folds [default:
    /// SCUT-FBP5500's five published folds, 5 random folds of other datasets]
    #[arg(long, value_name = "FOLDS")]
    folds: Option<Folds>,
    /// Folder of the folds' run directories [default: runs/NAME-cross-validation]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) console: ConsoleArgs,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = Config::load(&args.config, &args.set)?;
    let folds = args.folds.unwrap_or(Folds::default_for(config.data.dataset));
    let default_root = || Path::new("runs").join(format!("{}-cross-validation", config.name));
    let root = args.output.clone().unwrap_or_else(default_root);
    let console = Console::from(args.console);
    config.warnings().iter().for_each(|warning| console.warn(warning));
    let mut observers = |config: &Config, run: &Path| observers(config, run, Some(&root), &console);
    let result = cross_validate(&config, folds, &root, &Stop::on_signals()?, &mut observers)?;
    print_result(args.json, &result, || as_table(&result))?;
    console.info(&format!("predictions and metrics of all folds: {}", root.display()));
    let end = json!({
        "status": "finished",
        "folder": root.display().to_string(),
        "folds": result.folds.len(),
        "seconds": result.seconds,
        "pooled": result.pooled,
        "exit_code": 0,
    });
    console.event("end", &end);
    Ok(ExitCode::SUCCESS)
}

/// Formats a row for each fold, then their mean, their standard deviation, and the metrics of the
/// pooled predictions.
fn as_table(result: &CrossValidation) -> String {
    let row = |name: &str, n: String, value: &dyn Fn(Metric) -> f64| {
        [name.to_string(), n].into_iter().chain(Metric::ALL.map(|of| metric(value(of)))).collect()
    };
    let measured = |name: &str, of: &MetricsWithCi| {
        row(name, of.metrics.n.to_string(), &|metric| metric.of(&of.metrics))
    };
    let folds = result.folds.iter().map(|fold| measured(&fold.fold, &fold.test));
    let mut rows: Vec<Vec<String>> = folds.collect();
    for (name, values) in [("mean", &result.mean), ("sd", &result.sd)] {
        let value = |of: Metric| values.get(&of).copied().flatten().unwrap_or(f64::NAN);
        rows.push(row(name, String::new(), &value));
    }
    let pooled = &result.pooled;
    rows.push(measured("pooled", pooled));
    let mut text = table(&["fold", "n", "PC", "MAE", "RMSE", "SRCC"], rows);
    text += "95 % intervals of the pooled metrics:";
    for of in Metric::ALL {
        text += &format!("  {} {}", of.name().to_uppercase(), interval(pooled.interval(of)));
    }
    text + "\n"
}
