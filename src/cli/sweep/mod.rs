//! `vmbeauty sweep`.

mod dry_run;
mod live_table;
mod progress;
mod tables;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use self::dry_run::list;
use self::progress::Progress;
use self::tables::points_table;
use super::console::{Console, ConsoleArgs};
use super::downloads::Downloads;
use super::output::print_result;
use crate::models::weights;
use crate::run::Status;
use crate::sweep::{Launch, Search, Shard, Sweep, SweepFile, SweepRun, collect, left};
use crate::train::{Stop, Stopped};

/// The time between two refreshes of the table.
const REFRESH: Duration = Duration::from_secs(1);

/// Run an experiment at the points of a grid or a search, with every seed, on every fold
///
/// Run the command again to resume a stopped sweep: finished runs are kept, stopped ones resume
/// from their last epoch.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The sweep file, YAML
    sweep: PathBuf,
    /// Folder of the runs and the results [default: runs/NAME-sweep]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Maximum number of runs at once; the machine's threads are divided among them
    #[arg(long, short, default_value_t = 1, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Run only this shard of the runs, for example 2/8 on the second of eight machines
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Run the runs again that have failed
    #[arg(long)]
    retry_failed: bool,
    /// Only list the runs, and estimate how long they take from a few measured steps
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) console: ConsoleArgs,
}

/// Runs the subcommand. The exit code is 1 if a run failed.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let sweep = Sweep::new(&SweepFile::load(&args.sweep)?)?;
    let default_root = || Path::new("runs").join(format!("{}-sweep", sweep.name));
    let root = args.output.clone().unwrap_or_else(default_root);
    let runs = sweep.shard(args.shard.unwrap_or(Shard { number: 1, of: 1 }));
    let console = Console::from(args.console);
    let warnings: BTreeSet<String> = runs.iter().flat_map(|run| run.config.warnings()).collect();
    warnings.iter().for_each(|warning| console.warn(warning));
    let statuses: Vec<Status> = runs.iter().map(|run| run.status(&root)).collect::<Result<_>>()?;
    let left = left(&sweep.search, (&runs, &statuses), &root, args.retry_failed)?;
    if args.dry_run {
        return list(args, &root, &sweep, (&runs, &statuses, &left));
    }
    fs::create_dir_all(&root)
        .with_context(|| format!("cannot create the folder {}", root.display()))?;
    let stop = Stop::on_signals()?;
    let launch = Launch {
        program: std::env::current_exe().context("cannot find the path of this program")?,
        root: root.clone(),
        jobs: args.jobs.into(),
        retry_failed: args.retry_failed,
        stop: stop.clone(),
        command: own_command(std::env::args_os().map(|text| text.to_string_lossy().into_owned())),
    };
    let mut downloads = Downloads::new(&console);
    for (run, _) in runs.iter().zip(left).filter(|(_, left)| *left) {
        weights::download(&run.config.model, &mut |download| {
            downloads.show(download);
            stop.check()
        })?;
    }
    let progress = Progress::new(args, &root, (&runs, &statuses), &sweep.search, stop);
    follow(&launch, &runs, &sweep.search, progress)?;
    let results = collect(&sweep, &root)?;
    print_result(args.json, &results, || points_table(&results))?;
    console.info(&format!("all metrics: {0}/results.csv, {0}/results.json", root.display()));
    let failed = results.runs.iter().filter(|run| run.status == "failed");
    let failed: Vec<_> = failed.filter(|run| runs.iter().any(|own| own.name == run.name)).collect();
    for run in &failed {
        let error = run.error.as_deref().unwrap_or_default();
        console.warn(&format!("failed: {}: {error}", run.name));
    }
    if !failed.is_empty() {
        let (s, them) = if failed.len() == 1 { ("", "it") } else { ("s", "them") };
        let failed = failed.len();
        console.warn(&format!("{failed} run{s} failed; --retry-failed runs {them} again"));
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

/// Runs the runs, and reports their progress.
fn follow(launch: &Launch, runs: &[&SweepRun], search: &Search, progress: Progress) -> Result<()> {
    let progress = Mutex::new(progress);
    let with_progress = |report: &dyn Fn(&mut Progress)| {
        if let Ok(mut progress) = progress.lock() {
            report(&mut progress);
        }
    };
    let (end, ended) = mpsc::channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            // The other end is dropped when the sweep ends.
            let ended = ended;
            while ended.recv_timeout(REFRESH) == Err(mpsc::RecvTimeoutError::Timeout) {
                with_progress(&Progress::refresh);
            }
        });
        let result =
            launch.run(runs, search, &|event| with_progress(&|progress| progress.update(&event)));
        drop(end);
        result
    });
    if result.as_ref().is_err_and(|error| error.is::<Stopped>()) {
        with_progress(&|progress| progress.say_stopped());
    }
    result
}

/// Returns the command of this process as a shell takes it.
fn own_command(arguments: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./,:@%".contains(c);
    let quoted = |argument: String| {
        if !argument.is_empty() && argument.chars().all(plain) {
            return argument;
        }
        format!("'{}'", argument.replace('\'', r"'\''"))
    };
    let arguments = arguments.skip(1).map(quoted);
    ["vmbeauty".to_string()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_continues_a_sweep_is_its_own_quoted_for_a_shell() {
        let arguments = ["/opt/vmbeauty", "sweep", "my sweep's.yaml", "--jobs", "2", "--shard=1/2"];
        let command = own_command(arguments.map(str::to_string).into_iter());
        assert_eq!(command, r"vmbeauty sweep 'my sweep'\''s.yaml' --jobs 2 --shard=1/2");
    }
}
