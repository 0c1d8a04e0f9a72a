//! Runs a grid and a search over the same points, and prints what each cost and found; and what
//! successive halving would have cost and found on the grid's recorded curves.
//!
//! ```sh
//! cargo build --release
//! cargo run --release --example compare_searches -- [GRID.yaml SEARCH.yaml]
//! ```
//!
//! Sweeps that are done are read, not run again; their runs are in `runs/NAME-sweep`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vm_beautynet::run::{EpochRecord, RunDir};
use vm_beautynet::sweep::simulation::simulate;
use vm_beautynet::sweep::{Event, Launch, Sweep, SweepFile, collect};
use vm_beautynet::train::Stop;

/// A row of the table: what a search cost, and the best run that it trained to the end.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub search: String,
    /// Epochs of all runs.
    pub epochs: usize,
    /// Seconds of these epochs, with their validation.
    pub seconds: f64,
    /// Seconds of the sweep, if it was run from its beginning now.
    pub wall: Option<f64>,
    /// The best validation PC of a run that was trained to the end.
    pub pc: f64,
    pub run: String,
}

/// A run's name and its epochs.
type Recorded = (String, Vec<EpochRecord>);

/// Runs a sweep below the folder of `launch`, and returns its row and its runs.
fn measure(file: &Path, launch: &Launch) -> Result<(Row, Vec<Recorded>)> {
    let sweep = Sweep::new(&SweepFile::load(file)?)?;
    let root = launch.root.join(format!("{}-sweep", sweep.name));
    let is_new = !root.exists();
    std::fs::create_dir_all(&root)?;
    let launch = Launch { root: root.clone(), ..launch.clone() };
    let begun = Instant::now();
    let runs: Vec<_> = sweep.runs.iter().collect();
    launch.run(&runs, &sweep.search, &|event| match event {
        Event::Finished(run, _) => eprintln!("{}: {} finished", sweep.name, run.name),
        Event::Paused(run, pause) => eprintln!("{}: {} {}", sweep.name, run.name, pause.reason),
        Event::Failed(run, failure) => eprintln!("{}: {} {}", sweep.name, run.name, failure.error),
        _ => {}
    })?;
    let wall = is_new.then(|| begun.elapsed().as_secs_f64());
    let results = collect(&sweep, &root)?;
    let mut runs = Vec::new();
    for run in &sweep.runs {
        runs.push((run.name.clone(), RunDir::metrics_in(&run.folder(&root))?));
    }
    let finished = results.runs.iter().filter_map(|run| Some((run, run.val?.metrics.pc)));
    let best = finished.max_by(|(_, a), (_, b)| a.total_cmp(b));
    let (best, pc) = best.with_context(|| format!("no run of {} has finished", sweep.name))?;
    let row = Row {
        search: sweep.name.clone(),
        epochs: results.search.epochs,
        seconds: runs.iter().flat_map(|(_, records)| records).map(|record| record.seconds).sum(),
        wall,
        pc,
        run: best.name.clone(),
    };
    Ok((row, runs))
}

/// Returns the row of successive halving on recorded runs, all of which are trained to the end.
fn simulated(runs: &[Recorded], eta: usize) -> Result<Row> {
    let epochs = runs.iter().map(|(_, records)| records.len()).max().unwrap_or(0);
    ensure!(
        runs.iter().all(|(_, records)| records.len() == epochs) && epochs > 0,
        "the runs of the grid have different numbers of epochs"
    );
    let best_so_far = |records: &Vec<EpochRecord>| -> Vec<f64> {
        let mut best = f64::NEG_INFINITY;
        let scores = records.iter().map(|record| {
            best = best.max(record.val.pc);
            best
        });
        scores.collect()
    };
    let curves: Vec<Vec<f64>> = runs.iter().map(|(_, records)| best_so_far(records)).collect();
    let rungs = std::iter::successors(Some(1), |rung| Some(rung * eta));
    let rungs: Vec<usize> = rungs.take_while(|rung| *rung < epochs).chain([epochs]).collect();
    let found = simulate(&curves, &rungs, eta);
    let trained = found.trained.iter().zip(runs);
    let seconds = trained.flat_map(|(count, (_, records))| &records[..*count]);
    let score = |run: &usize| curves[*run][epochs - 1];
    let best = found.complete.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
    let best = *best.context("the simulation trained no run to the end")?;
    Ok(Row {
        search: format!("asha, eta {eta}, on the grid's curves"),
        epochs: found.epochs,
        seconds: seconds.map(|record| record.seconds).sum(),
        wall: None,
        pc: score(&best),
        run: runs[best].0.clone(),
    })
}

/// Runs both sweeps below the folder `root` with `program`, the `vmbeauty` binary, and returns the
/// rows of the table.
pub(crate) fn run(files: [&Path; 2], root: &Path, program: PathBuf) -> Result<Vec<Row>> {
    let launch = Launch {
        program,
        root: root.to_path_buf(),
        jobs: 1,
        retry_failed: false,
        stop: Stop::on_signals()?,
        command: "the same command again".to_string(),
    };
    let (grid, curves) = measure(files[0], &launch)?;
    let (search, _) = measure(files[1], &launch)?;
    let mut rows = vec![grid, search];
    for eta in [2, 3, 4] {
        rows.push(simulated(&curves, eta)?);
    }
    Ok(rows)
}

fn main() -> Result<()> {
    let given: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let shipped = ["grid", "asha"].map(|name| format!("experiments/asha/{name}_sweep.yaml"));
    let files = match &given[..] {
        [] => shipped.each_ref().map(Path::new),
        [grid, search] => [grid.as_path(), search.as_path()],
        _ => anyhow::bail!("usage: compare_searches [GRID.yaml SEARCH.yaml]"),
    };
    let program = std::env::current_exe()?.with_file_name("../vmbeauty");
    ensure!(program.exists(), "{} is missing: run cargo build --release", program.display());
    println!("| search | epochs | training, s | in all, s | best validation PC | run |");
    println!("| --- | ---: | ---: | ---: | ---: | --- |");
    for Row { search, epochs, seconds, wall, pc, run } in
        self::run(files, Path::new("runs"), program)?
    {
        let wall = wall.map(|wall| format!("{wall:.0}")).unwrap_or_default();
        println!("| {search} | {epochs} | {seconds:.0} | {wall} | {pc:.4} | {run} |");
    }
    Ok(())
}
