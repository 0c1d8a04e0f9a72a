//! The list of a sweep's runs, with the time that they take.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::Args;
use crate::benchmark::estimate_runs::{RunsEstimate, estimate_runs};
use crate::cli::console::Console;
use crate::cli::output::{duration, print, print_json, table};
use crate::run::{Course, Status};
use crate::sweep::{Estimate, Search, Sweep, SweepRun, threads_per_run};

/// A run with its status, and the seconds that it took or will take.
struct Listed<'a> {
    run: &'a SweepRun,
    status: &'a Status,
    is_left: bool,
    seconds: Option<f64>,
}

/// Lists the runs with their status, and estimates the time of those that are left: from finished
/// runs of the same point, else from a few measured steps of each configuration. What cannot be
/// measured, as without the dataset, is listed without a time.
pub(super) fn list(
    args: &Args,
    root: &Path,
    sweep: &Sweep,
    (runs, statuses, left): (&[&SweepRun], &[Status], &[bool]),
) -> Result<ExitCode> {
    let mut finished = Estimate::default();
    for (run, summary) in runs.iter().zip(statuses.iter().map(Status::summary)) {
        summary.into_iter().for_each(|summary| finished.add(run, summary.seconds));
    }
    let each = || runs.iter().copied().zip(statuses).zip(left.iter().copied());
    let unknown = each().filter(|((run, _), left)| *left && finished.of_point(run).is_none());
    let unknown: Vec<&SweepRun> = unknown.map(|((run, _), _)| run).collect();
    let measured = measure(args, &unknown);
    let mut unknown = 0..;
    let mut listed = Vec::new();
    for ((run, status), is_left) in each() {
        let seconds = match (status, finished.of_point(run)) {
            (Status::Finished(summary), _) => Some(summary.seconds),
            (_, Some(seconds)) => Some(seconds * epochs_left(run, root) / epochs(run)),
            _ if is_left => unknown
                .next()
                .and_then(|index| measured.seconds(index, epochs_left(run, root) as usize)),
            _ => None,
        };
        listed.push(Listed { run, status, is_left, seconds });
    }
    let left = listed.iter().filter(|run| run.is_left).count();
    let total = seconds_left(&listed, sweep.fraction_trained(runs) / f64::from(args.jobs));
    if args.json {
        let run = |listed: &Listed| {
            let status = listed.status.name();
            json!({"name": listed.run.name, "status": status, "seconds": listed.seconds})
        };
        print_json(&json!({
            "runs": listed.iter().map(run).collect::<Vec<_>>(),
            "left": left,
            "seconds_left": total,
            "configurations": measured.configurations,
            "measured": measured.measured(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = listed.iter().map(|listed| {
        let about = if listed.status.summary().is_some() { "" } else { "about " };
        let time = listed.seconds.map(|seconds| format!("{about}{}", duration(seconds)));
        [listed.run.name.clone(), listed.status.name().to_string(), time.unwrap_or_default()]
    });
    let count = format!("{left} of {} runs are left", runs.len());
    let time = match total {
        _ if left == 0 => String::new(),
        Some(total) => format!(": about {} with --jobs {}", duration(total), args.jobs),
        None => "; how long they take is not known".to_string(),
    };
    let table = table(&["run", "status", "time"], rows);
    let forecast = sweep.forecast(runs).map_or(String::new(), |forecast| format!("{forecast}\n"));
    let basis = total.map(|_| basis(&listed, &measured, &sweep.search)).unwrap_or_default();
    print(&format!("{table}{count}{time}\n{basis}{forecast}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the seconds of the runs that are left, times a fraction, and at least those of the
/// longest run; `None` if one of them is not known.
fn seconds_left(listed: &[Listed], fraction: f64) -> Option<f64> {
    let left = || listed.iter().filter(|run| run.is_left).map(|run| run.seconds);
    let longest = left().flatten().fold(0.0, f64::max);
    Some((left().sum::<Option<f64>>()? * fraction).max(longest))
}

fn measure(args: &Args, runs: &[&SweepRun]) -> RunsEstimate {
    let console = Console::from(args.console);
    let threads = threads_per_run(args.jobs.into());
    estimate_runs(runs, threads, &mut |name, number, total| {
        console.info(&format!("measuring configuration {number} of {total}: {name}"));
    })
    .unwrap_or_else(|error| {
        console.warn(&format!("the time is not estimated: {error:#}"));
        RunsEstimate::default()
    })
}

fn epochs(run: &SweepRun) -> f64 {
    run.config.train.epochs as f64
}

/// Returns the number of epochs that a run has not done.
fn epochs_left(run: &SweepRun, root: &Path) -> f64 {
    let course = Course::of_unfinished(&run.folder(root), run.config.train.monitor);
    epochs(run) - course.map_or(0.0, |course| course.epoch as f64).min(epochs(run))
}

/// Says what the time is estimated from, and what it assumes.
fn basis(listed: &[Listed], measured: &RunsEstimate, search: &Search) -> String {
    let mut left = listed.iter().filter(|run| run.is_left).peekable();
    if left.peek().is_none() {
        return String::new();
    }
    let (done, all) = (measured.measured(), measured.configurations);
    let from = match (done, all - done) {
        (0, _) => "finished runs of the same points".to_string(),
        (done, 0) => {
            format!("a few training steps of each of {done} configurations, one at a time")
        }
        (done, others) => format!(
            "a few training steps of {done} of {all} configurations, one at a time; the other \
             {others} in proportion to their multiply-adds"
        ),
    };
    let patient = left.any(|run| run.run.config.train.early_stopping.patience.is_some());
    let stops = patient || search.median_stop.is_some();
    let early = if stops { "no run stops early, " } else { "" };
    format!(
        "estimated from {from}; assumes that {early}runs at once do not slow each other \
         down and nothing else runs; start-up and checkpoints are not counted\n"
    )
}
