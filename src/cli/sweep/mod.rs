//! `vmbeauty sweep`.

mod tables;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde_json::json;

use self::tables::{list, report};
use self::watch::Watch;
use super::console::{Console, ConsoleArgs};
use super::output::{print, print_json};
use crate::run::Status;
use crate::sweep::{Definition, Launch, Plan, Shard, collect};

/// Run an experiment at every point of a grid, with every seed, on every fold
///
/// Started again, it goes on where it stopped: a finished run is not run again, one that was
/// stopped goes on from its last epoch.
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
    #[command(flatten)]
    pub(super) console: ConsoleArgs,
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
    let states: Vec<Status> = runs.iter().map(|run| run.status(&root)).collect::<Result<_>>()?;
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
    if args.json {
        print_json(&results)?
    } else {
        print(&report(&results))?
    }
    let console = Console::from(args.console);
    console.tell(&format!("all metrics: {0}/results.csv, {0}/results.json", root.display()));
    let failed = results.runs.iter().filter(|run| run.status == "failed");
    let failed: Vec<_> =
        failed.filter(|run| runs.iter().any(|mine| mine.name == run.name)).collect();
    for run in &failed {
        let error = run.error.as_deref().unwrap_or_default();
        console.warn(&format!("failed: {}: {error}", run.name));
    }
    if !failed.is_empty() {
        console.warn(&format!("{} runs failed; --retry-failed runs them again", failed.len()));
    }
    let code = u8::from(!failed.is_empty());
    let end = json!({
        "status": if failed.is_empty() { "finished" } else { "failed" },
        "folder": root.display().to_string(),
        "runs": runs.len(),
        "failed": failed.len(),
        "exit_code": code,
    });
    console.event("end", &end);
    Ok(ExitCode::from(code))
}
