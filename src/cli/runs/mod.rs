//! `vmbeauty runs`.

mod differences;
mod listing;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use console::Term;
use rayon::prelude::*;

use self::differences::differences;
use self::listing::{Listed, Order, as_json, as_text};
use super::output::{print, print_json};
use crate::run::{FoundRuns, Overview};

/// The time between two refreshes.
const REFRESH: Duration = Duration::from_secs(2);

/// List the runs in a folder and in those below it, also those of sweeps and cross-validations
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder, for example runs
    folder: PathBuf,
    /// What the runs are sorted by, after those that are running
    #[arg(long, value_enum, default_value_t, value_name = "BY")]
    sort: Order,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Refresh the list every two seconds until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let term = Term::stdout();
    if args.watch {
        ensure!(
            term.is_term(),
            "--watch refreshes a terminal, and stdout is none: use --json, or omit --watch"
        );
        return watch(args, &term);
    }
    let list = List::read(args)?;
    if args.json {
        print_json(&as_json(&list))?;
    } else {
        let width = term.size_checked().map(|(_, columns)| columns.into());
        print(&as_text(&list, width, None))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the list in place of the one before, until the process is stopped.
fn watch(args: &Args, term: &Term) -> Result<ExitCode> {
    let mut shown = 0;
    loop {
        let list = List::read(args)?;
        let (rows, columns) = term.size();
        // The last line is that of the cursor.
        let height = usize::from(rows).saturating_sub(1);
        let text = as_text(&list, Some(columns.into()), Some(height));
        // One write: the terminal never shows an empty list.
        let up = if shown > 0 { format!("\x1b[{shown}A\r\x1b[J") } else { String::new() };
        term.write_str(&(up + &text)).context("cannot write to the terminal")?;
        shown = text.lines().count();
        thread::sleep(REFRESH);
    }
}

/// The runs below a folder.
struct List {
    folder: PathBuf,
    runs: Vec<Listed>,
    /// Whether folders were not searched.
    incomplete: bool,
    now: SystemTime,
}

impl List {
    fn read(args: &Args) -> Result<Self> {
        let found = FoundRuns::below(&args.folder)?;
        let read = |folder: &PathBuf| (folder.clone(), Overview::read(folder));
        let read: Vec<_> = found.folders.par_iter().map(read).collect();
        let configs = read.iter().filter_map(|(folder, run)| Some((folder, run.as_ref().ok()?)));
        let mut differing: HashMap<PathBuf, Vec<(String, String)>> = differences(configs);
        let listed = |(folder, run): (PathBuf, Result<Overview>)| Listed {
            name: name_in(&args.folder, &folder),
            differs: differing.remove(&folder).unwrap_or_default(),
            run: run.map_err(|error| format!("{error:#}")),
            folder,
        };
        let mut runs: Vec<Listed> = read.into_iter().map(listed).collect();
        args.sort.sort(&mut runs);
        let (folder, incomplete) = (args.folder.clone(), found.incomplete);
        Ok(Self { folder, runs, incomplete, now: SystemTime::now() })
    }
}

/// Returns the path of a run in the folder, or the folder itself.
fn name_in(root: &Path, folder: &Path) -> String {
    let inside = folder.strip_prefix(root).unwrap_or(folder);
    let named = if inside.as_os_str().is_empty() { root } else { inside };
    named.display().to_string()
}
