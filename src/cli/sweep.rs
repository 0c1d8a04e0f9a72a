//! `vmbeauty sweep`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use super::output::{figure, interval, print, print_json, say, table, thousands};
use crate::eval::statistics::Figure;
use crate::sweep::{
    Definition, Estimate, Event, Launch, Plan, PlannedRun, Results, Shard, State, collect,
};

/// Run an experiment at every point of a grid, with every seed, on every fold
///
/// Started again, it goes on where it stopped: a finished run is not run again, one that was stopped goes on from its last epoch.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sweep, a YAML file
    sweep: PathBuf,
    /// Where runs and results go [default: runs/NAME-sweep]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Runs at once; the machine's threads are divided among them
    #[arg(long, short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Only this part of the runs, for example 2/8 on the second of eight machines
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Run those again that failed before
    #[arg(long)]
    retry_failed: bool,
    /// Only list the runs, and estimate the time they take
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand: 1 where a run failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let definition = Definition::load(&args.sweep)?;
    let plan = Plan::new(&definition)?;
    let root = match &args.output {
        Some(root) => root.clone(),
        None => Path::new("runs").join(format!("{}-sweep", definition.name)),
    };
    let runs = match args.shard {
        Some(shard) => plan.shard(shard),
        None => plan.runs.iter().collect(),
    };
    let states: Vec<State> = runs
        .iter()
        .map(|run| State::of(run, &root))
        .collect::<Result<_>>()?;
    if args.dry_run {
        return list(args, &runs, &states);
    }
    fs::create_dir_all(&root)
        .with_context(|| format!("cannot make the folder {}", root.display()))?;
    let launch = Launch {
        program: std::env::current_exe().context("this program cannot find itself")?,
        root: root.clone(),
        jobs: args.jobs.into(),
        retry_failed: args.retry_failed,
    };
    let watch = Mutex::new(Watch::new(args, &runs, &states));
    launch.run(&runs, &|event| {
        if let Ok(mut watch) = watch.lock() {
            watch.hear(&event);
        }
    })?;
    let results = collect(&plan, &root)?;
    match args.json {
        true => print_json(&results)?,
        false => print(&report(&results))?,
    }
    say(&format!(
        "all figures: {0}/results.csv, {0}/results.json",
        root.display()
    ));
    let failed = results.runs.iter().filter(|run| run.state == "failed");
    let failed: Vec<_> = failed
        .filter(|run| runs.iter().any(|mine| mine.name == run.name))
        .collect();
    for run in &failed {
        let error = run.error.as_deref().unwrap_or_default();
        say(&format!("failed: {}: {error}", run.name));
    }
    if !failed.is_empty() {
        say(&format!(
            "{} runs failed; --retry-failed runs them again",
            failed.len()
        ));
    }
    Ok(ExitCode::from(u8::from(!failed.is_empty())))
}

/// Tells a person how the sweep gets on.
struct Watch {
    total: usize,
    settled: usize,
    estimate: Estimate,
    open: Vec<String>,
    jobs: f64,
    begun: Vec<(String, Instant)>,
    runs: Vec<PlannedRun>,
}

impl Watch {
    fn new(args: &Args, runs: &[&PlannedRun], states: &[State]) -> Self {
        let mut watch = Self {
            total: runs.len(),
            settled: 0,
            estimate: Estimate::default(),
            open: Vec::new(),
            jobs: f64::from(args.jobs),
            begun: Vec::new(),
            runs: runs.iter().map(|run| (*run).clone()).collect(),
        };
        let mut failed = 0;
        for (run, state) in runs.iter().zip(states) {
            match state {
                State::Done(outcome) => watch.estimate.add(run, outcome.seconds),
                State::Failed(_) if !args.retry_failed => failed += 1,
                _ => {
                    watch.open.push(run.name.clone());
                    continue;
                }
            }
            watch.settled += 1;
        }
        if watch.settled > 0 {
            say(&format!(
                "{} of {} runs are there already{}",
                watch.settled,
                watch.total,
                match failed {
                    0 => String::new(),
                    failed => format!(", {failed} of them failed (--retry-failed runs them again)"),
                }
            ));
        }
        watch
    }

    fn hear(&mut self, event: &Event) {
        let (run, text) = match event {
            Event::Started(run) => {
                self.begun.push((run.name.clone(), Instant::now()));
                return;
            }
            Event::Done(run, outcome) => {
                self.estimate.add(run, outcome.seconds);
                let measured = outcome.test.unwrap_or(outcome.val);
                (run, measured.metrics.to_string())
            }
            Event::Failed(run, failure) => (run, format!("FAILED: {}", failure.error)),
            Event::Stopped(run) => (run, "stopped; start the sweep again to go on".to_string()),
            Event::Busy(run) => (
                run,
                "left alone: another process is training it".to_string(),
            ),
        };
        self.settled += 1;
        self.open.retain(|name| *name != run.name);
        let took = match self.begun.iter().position(|(name, _)| *name == run.name) {
            Some(at) => format!(
                "  {}",
                duration(self.begun.swap_remove(at).1.elapsed().as_secs_f64())
            ),
            None => String::new(),
        };
        let left = match self.left() {
            Some(left) if !self.open.is_empty() => format!("  (about {} left)", duration(left)),
            _ => String::new(),
        };
        say(&format!(
            "[{}/{}] {}  {text}{took}{left}",
            self.settled, self.total, run.name
        ));
    }

    /// Seconds until the open runs are done.
    fn left(&self) -> Option<f64> {
        let open = self.runs.iter().filter(|run| self.open.contains(&run.name));
        let seconds: Option<f64> = open.map(|run| self.estimate.of(run)).sum();
        Some(seconds? / self.jobs)
    }
}

/// The runs, how far they are, and what is left to do.
fn list(args: &Args, runs: &[&PlannedRun], states: &[State]) -> Result<ExitCode> {
    let mut estimate = Estimate::default();
    for (run, state) in runs.iter().zip(states) {
        if let State::Done(outcome) = state {
            estimate.add(run, outcome.seconds);
        }
    }
    let is_left = |state: &State| match state {
        State::Done(_) => false,
        State::Failed(_) => args.retry_failed,
        State::Open | State::Stopped | State::Busy => true,
    };
    let seconds = |run: &PlannedRun, state: &State| match state {
        State::Done(outcome) => Some(outcome.seconds),
        _ => estimate.of(run),
    };
    let both = || runs.iter().zip(states);
    let left: Vec<_> = both().filter(|(_, state)| is_left(state)).collect();
    let total: Option<f64> = left.iter().map(|(run, _)| estimate.of(run)).sum();
    let total = total.map(|seconds| seconds / f64::from(args.jobs));
    if args.json {
        let runs: Vec<_> = both()
            .map(|(run, state)| json!({"name": run.name, "state": state.name(), "seconds": seconds(run, state)}))
            .collect();
        print_json(&json!({"runs": runs, "left": left.len(), "seconds_left": total}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = both()
        .map(|(run, state)| {
            let about = if matches!(state, State::Done(_)) {
                ""
            } else {
                "about "
            };
            let seconds =
                seconds(run, state).map(|seconds| format!("{about}{}", duration(seconds)));
            vec![
                run.name.clone(),
                state.name().to_string(),
                seconds.unwrap_or_default(),
            ]
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
        table(&["run", "state", "time"], &rows),
        left.len(),
        runs.len()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The points, best first, and whether the best differs from each.
fn report(results: &Results) -> String {
    let Some(best) = results.points.first() else {
        return "no point of the sweep has all its runs done\n".to_string();
    };
    let against_best = |name: &str| {
        let mut all = results.comparisons.iter();
        all.find(|c| c.figure == Figure::Pc && c.first == best.name && c.second == name)
    };
    let rows: Vec<Vec<String>> = results
        .points
        .iter()
        .map(|point| {
            let value = |of: Figure| figure(point.figures[&of].mean.unwrap_or(f64::NAN));
            let pc = &point.figures[&Figure::Pc];
            let p = against_best(&point.name).and_then(|comparison| comparison.p_holm);
            vec![
                point.name.clone(),
                point.seeds.len().to_string(),
                value(Figure::Pc),
                interval(pc.ci_over_images),
                figure(pc.sd_over_seeds.unwrap_or(f64::NAN)),
                p.map(|p| format!("{p:.4}")).unwrap_or_default(),
                value(Figure::Mae),
                value(Figure::Rmse),
                value(Figure::Srcc),
                thousands(point.parameters),
                format!("{:.1}", point.flops as f64 / 1e6),
                point
                    .images_per_second
                    .map(|speed| format!("{speed:.0}"))
                    .unwrap_or_default(),
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
    text += &format!("on {} {} images", best.n, results.split);
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

/// `3.2 s`, `4 min 5 s` or `2 h 10 min`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
