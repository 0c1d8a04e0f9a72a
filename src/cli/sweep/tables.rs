//! A sweep in tables: what is to be run, and what came out.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::Args;
use crate::cli::output::{duration, interval, metric, print, print_json, table, thousands};
use crate::eval::metrics::Metric;
use crate::run::Status;
use crate::sweep::{Estimate, PlannedRun, Point, Results};

/// The runs, how far they are, and what is left to do.
pub(super) fn list(args: &Args, runs: &[&PlannedRun], states: &[Status]) -> Result<ExitCode> {
    let mut estimate = Estimate::default();
    for (run, state) in runs.iter().zip(states) {
        if let Status::Finished(outcome) = state {
            estimate.add(run, outcome.seconds);
        }
    }
    let is_left = |state: &Status| match state {
        Status::Finished(_) => false,
        Status::Failed(_) => args.retry_failed,
        Status::Pending | Status::Stopped | Status::Running => true,
    };
    let seconds = |run: &PlannedRun, state: &Status| match state {
        Status::Finished(outcome) => Some(outcome.seconds),
        _ => estimate.of(run),
    };
    let both = || runs.iter().zip(states);
    let left: Vec<_> = both().filter(|(_, state)| is_left(state)).collect();
    let total: Option<f64> = left.iter().map(|(run, _)| estimate.of(run)).sum();
    let total = total.map(|seconds| seconds / f64::from(args.jobs));
    if args.json {
        let runs: Vec<_> = both()
            .map(|(run, state)| json!({"name": run.name, "status": state.name(), "seconds": seconds(run, state)}))
            .collect();
        print_json(&json!({"runs": runs, "left": left.len(), "seconds_left": total}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = both()
        .map(|(run, state)| {
            let about = if matches!(state, Status::Finished(_)) { "" } else { "about " };
            let seconds =
                seconds(run, state).map(|seconds| format!("{about}{}", duration(seconds)));
            vec![run.name.clone(), state.name().to_string(), seconds.unwrap_or_default()]
        })
        .collect();
    let time = match total {
        _ if left.is_empty() => String::new(),
        Some(total) => format!(
            ": about {} with --jobs {}, by the runs that are done",
            duration(total),
            args.jobs
        ),
        None => "; no run is done yet that the time could be told from".to_string(),
    };
    print(&format!(
        "{}{} of {} runs are left{time}\n",
        table(&["run", "status", "time"], &rows),
        left.len(),
        runs.len()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The points, best first, and whether the best differs from each.
pub(super) fn report(results: &Results) -> String {
    let Some(Point { model: best, .. }) = results.points.first() else {
        return "no point of the sweep has all its runs done\n".to_string();
    };
    let against_best = |name: &str| {
        let mut all = results.comparisons.iter();
        all.find(|c| c.metric == Metric::Pc && c.first == best.name && c.second == name)
    };
    let rows: Vec<Vec<String>> = results
        .points
        .iter()
        .map(|Point { model: point, .. }| {
            let value = |of: Metric| metric(point.metric(of).mean.unwrap_or(f64::NAN));
            let pc = point.metric(Metric::Pc);
            let p = against_best(&point.name).and_then(|comparison| comparison.p_holm);
            vec![
                point.name.clone(),
                point.seeds.len().to_string(),
                value(Metric::Pc),
                interval(pc.ci_over_images),
                metric(pc.sd_over_seeds.unwrap_or(f64::NAN)),
                p.map(|p| format!("{p:.4}")).unwrap_or_default(),
                value(Metric::Mae),
                value(Metric::Rmse),
                value(Metric::Srcc),
                thousands(point.parameters),
                format!("{:.1}", point.flops as f64 / 1e6),
                point.images_per_second.map(|speed| format!("{speed:.0}")).unwrap_or_default(),
            ]
        })
        .collect();
    let header = [
        "point",
        "seeds",
        "PC",
        "95 % over images",
        "sd over seeds",
        "p",
        "MAE",
        "RMSE",
        "SRCC",
        "parameters",
        "MFLOPs",
        "images/s",
    ];
    let mut text = table(&header, &rows);
    text += &format!("on {} {} images", best.images, results.split);
    if let Some(note) = &results.note {
        text += &format!("; {note}");
    } else if results.points.len() > 1 {
        text += &format!(
            "; p: PC differs from that of {}, paired bootstrap, corrected (Holm) for all comparisons",
            best.name
        );
    }
    text + "\n"
}
