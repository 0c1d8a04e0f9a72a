//! Tables of a sweep: its runs, and the ranked points.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::Args;
use crate::cli::output::{duration, interval, metric, print, print_json, table, thousands};
use crate::eval::metrics::Metric;
use crate::run::Status;
use crate::sweep::{Estimate, Point, Results, Sweep, SweepRun};

/// Lists the runs with their status, and estimates the time of those that are left.
pub(super) fn list(
    args: &Args,
    sweep: &Sweep,
    runs: &[&SweepRun],
    statuses: &[Status],
) -> Result<ExitCode> {
    let mut estimate = Estimate::default();
    for (run, summary) in runs.iter().zip(statuses.iter().map(Status::summary)) {
        summary.into_iter().for_each(|summary| estimate.add(run, summary.seconds));
    }
    let is_left = |status: &Status| match status {
        Status::Finished(_) | Status::Paused(_) => false,
        Status::Failed(_) => args.retry_failed,
        Status::Pending | Status::Stopped | Status::Running => true,
    };
    let seconds = |run: &SweepRun, status: &Status| match status {
        Status::Finished(summary) => Some(summary.seconds),
        _ => estimate.of(run),
    };
    let both = || runs.iter().zip(statuses);
    let left: Vec<_> = both().filter(|(_, status)| is_left(status)).collect();
    let total: Option<f64> = left.iter().map(|(run, _)| estimate.of(run)).sum();
    let total = total.map(|seconds| seconds / f64::from(args.jobs));
    if args.json {
        let run = |(run, status): (&&SweepRun, &Status)| {
            let seconds = seconds(run, status);
            json!({"name": run.name, "status": status.name(), "seconds": seconds})
        };
        let runs: Vec<_> = both().map(run).collect();
        print_json(&json!({"runs": runs, "left": left.len(), "seconds_left": total}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = both().map(|(run, status)| {
        let about = if status.summary().is_some() { "" } else { "about " };
        let seconds = seconds(run, status).map(|seconds| format!("{about}{}", duration(seconds)));
        [run.name.clone(), status.name().to_string(), seconds.unwrap_or_default()]
    });
    let time = match total {
        _ if left.is_empty() => String::new(),
        Some(total) => format!(
            ": about {} with --jobs {}, estimated from the finished runs",
            duration(total),
            args.jobs
        ),
        None => "; no run has finished yet to estimate the time from".to_string(),
    };
    print(&format!(
        "{}{} of {} runs are left{time}\n{}",
        table(&["run", "status", "time"], rows),
        left.len(),
        runs.len(),
        sweep.forecast(runs).map_or(String::new(), |forecast| format!("{forecast}\n"))
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Formats the points, the best first, with p of the differences from the best.
pub(super) fn points_table(results: &Results) -> String {
    let Some(Point { model: best, .. }) = results.points.first() else {
        let text = "no point of the sweep has all runs of a seed finished\n".to_string();
        return text + &search_line(results);
    };
    let with_best = |name: &str| {
        let mut all = results.comparisons.iter();
        all.find(|c| c.metric == Metric::Pc && c.first == best.name && c.second == name)
    };
    let rows = results.points.iter().map(|Point { model: point, .. }| {
        let [pc, mae, rmse, srcc] =
            Metric::ALL.map(|of| metric(point.metric(of).mean.unwrap_or(f64::NAN)));
        let over = point.metric(Metric::Pc);
        let p = with_best(&point.name).and_then(|comparison| comparison.p_holm);
        [
            point.name.clone(),
            point.seeds.len().to_string(),
            pc,
            interval(over.ci_over_images),
            metric(over.sd_over_seeds.unwrap_or(f64::NAN)),
            p.map(|p| format!("{p:.4}")).unwrap_or_default(),
            mae,
            rmse,
            srcc,
            thousands(point.parameters),
            format!("{:.1}", point.flops as f64 / 1e6),
            point.images_per_second.map(|speed| format!("{speed:.0}")).unwrap_or_default(),
        ]
    });
    let metrics = ["point", "seeds", "PC", "95 % over images", "sd over seeds", "p"];
    let others = ["MAE", "RMSE", "SRCC", "parameters", "MFLOPs", "images/s"];
    let mut text = table(&[metrics, others].concat(), rows);
    text += &format!("ranked by validation PC; on {} {} images", best.images, results.split);
    if let Some(note) = &results.note {
        text += &format!("; {note}");
    } else if results.points.len() > 1 {
        text += &format!(
            "; p: no difference in PC from {}, paired bootstrap, corrected for all comparisons \
             (Holm)",
            best.name
        );
    }
    text + "\n" + &search_line(results)
}

fn search_line(results: &Results) -> String {
    let statement = results.search.statement();
    if statement.is_empty() { statement } else { format!("search: {statement}\n") }
}
