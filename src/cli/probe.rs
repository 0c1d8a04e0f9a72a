//! `vmbeauty probe`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use super::features::open_model;
use super::output::{interval, metric, print_result, say, table};
use crate::config::{Branch, Config, names_config};
use crate::data::{RunImages, Split};
use crate::eval::baselines::kept_baselines;
use crate::eval::metrics::{Metric, Metrics};
use crate::eval::probe::{Probe, probe};
use crate::eval::statistics::{Interval, MetricsWithCi};
use crate::features::Progress;
use crate::run::{BaselinesBySplit, Probed, Provenance, StartingWeights, content_hash, weights_of};

/// Fit linear models to the features of the frozen backbones
///
/// Ridge regression on the feature vector of each branch, and of both: the baseline of every fusion
/// of them. The splits, the metrics and their intervals are those of any run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A config with pretrained weights, a run directory, or a weights file in one
    #[arg(value_name = "CONFIG_OR_RUN")]
    model: PathBuf,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write a run directory for each linear model into this folder, for `vmbeauty report`
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    args.output.as_deref().map_or(Ok(()), Probed::check_free)?;
    let start = Instant::now();
    let (config, net) = open_model(&args.model, &args.set)?;
    config.check_image_sizes()?;
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(threads as i32);
    }
    let starting_weights = starting_weights(&args.model, &config)?;
    let images = RunImages::load(&config)?;
    if images.skipped > 0 {
        let skipped = images.skipped;
        say(&format!(
            "{skipped} rows of the dataset were skipped: `vmbeauty data check` lists them"
        ));
    }
    images.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let mut report = |progress: Progress| {
        if let Progress::Computed { name, done, total } = progress {
            bar.set_message(format!("features of {name}"));
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
        Ok(())
    };
    let probes = probe(&net, &config, &images, &mut report)?;
    bar.finish_and_clear();
    let others: Vec<_> = images.evaluated().map(|(_, images)| images).collect();
    let baselines = kept_baselines(&images.train, &others, &config)?;
    let baselines = BaselinesBySplit::new(&baselines)?;
    let probed = Probed {
        starting_weights,
        baselines,
        seconds: start.elapsed().as_secs_f64(),
        images: images.counts(),
        skipped_rows: images.skipped,
        provenance: Provenance::collect(if net.device().is_cuda() { "cuda" } else { "cpu" }),
        config,
    };
    let rows = rows(&probes)?;
    print_result(args.json, &as_json(args, &probes, &rows, &probed), || as_table(&rows, &probed))?;
    if let Some(root) = &args.output {
        probes.iter().try_for_each(|probe| probed.write(root, probe))?;
        say(&format!("wrote {}", root.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the weights that the backbones have; warns of random ones.
fn starting_weights(model: &Path, config: &Config) -> Result<BTreeMap<String, StartingWeights>> {
    if !names_config(model) {
        let file = weights_of(model)?;
        let weights = StartingWeights { blake3: content_hash(&file)?, file, hub: None };
        return Ok(BTreeMap::from([("model".to_string(), weights)]));
    }
    let found = StartingWeights::of(config)?;
    for branch in Branch::ALL.iter().filter(|&&of| config.model.fusion.strategy.uses(of)) {
        if !found.contains_key("model") && !found.contains_key(branch.name()) {
            say(&format!(
                "warning: model.{branch}.weights is null: the features are those of random weights"
            ));
        }
    }
    Ok(found)
}

/// The metrics of a probe on a split.
struct Row<'a> {
    split: Split,
    probe: &'a Probe,
    metrics: MetricsWithCi,
}

fn rows(probes: &[Probe]) -> Result<Vec<Row<'_>>> {
    let mut rows = Vec::new();
    for probe in probes {
        for (split, predictions) in &probe.predictions {
            rows.push(Row { split: *split, probe, metrics: MetricsWithCi::new(predictions)? });
        }
    }
    rows.sort_by_key(|row| row.split);
    Ok(rows)
}

fn as_table(rows: &[Row], probed: &Probed) -> String {
    let row = |split: Split, name: &str, m: &Metrics, ci: Option<Interval>, penalty: String| {
        let [pc, mae, rmse, srcc] = Metric::ALL.map(|which| metric(which.of(m)));
        let names = [split.to_string(), name.to_string(), m.n.to_string()];
        names.into_iter().chain([pc, interval(ci), mae, rmse, srcc, penalty]).collect::<Vec<_>>()
    };
    let mut lines = Vec::new();
    for split in [Split::Val, Split::Test] {
        let of_split = rows.iter().filter(|row| row.split == split);
        lines.extend(of_split.map(|Row { probe, metrics, .. }| {
            let name = match probe.name {
                "both" => "ridge on both",
                "vit" => "ridge on the ViT",
                _ => "ridge on the Mamba",
            };
            let penalty = format!("{:.0e}", probe.penalty);
            row(split, name, &metrics.metrics, metrics.interval(Metric::Pc), penalty)
        }));
        let baselines = match split {
            Split::Test => probed.baselines.test,
            _ => Some(probed.baselines.val),
        };
        let named = baselines.iter().flat_map(|baselines| baselines.named());
        lines.extend(named.map(|(name, m)| row(split, name, &m, None, String::new())));
    }
    let header = ["split", "model", "n", "PC", "95 % interval", "MAE", "RMSE", "SRCC", "penalty"];
    table(&header, &lines)
}

fn as_json(args: &Args, probes: &[Probe], rows: &[Row], probed: &Probed) -> Value {
    let of_probe = |probe: &Probe| {
        let mut about = json!({
            "features": probe.width,
            "penalty": probe.penalty,
            "leave_one_out_rmse": probe.leave_one_out_rmse,
        });
        for row in rows.iter().filter(|row| row.probe.name == probe.name) {
            about[row.split.name()] = json!(row.metrics);
        }
        (probe.name.to_string(), about)
    };
    let models: serde_json::Map<_, _> = probes.iter().map(of_probe).collect();
    json!({
        "model": args.model.display().to_string(),
        "models": models,
        "baselines": probed.baselines,
        "images": probed.images,
        "skipped_rows": probed.skipped_rows,
        "seconds": probed.seconds,
        "starting_weights": probed.starting_weights,
    })
}
