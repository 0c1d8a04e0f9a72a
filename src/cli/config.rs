//! `vmbeauty config`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::{Map, json};

use super::output::{print, print_json, print_result, say, table};
use crate::config::{self, Config, KeyReference, json_schema, plain_text, reference};
use crate::run::{CONFIG_FILE, RunKind};
use crate::sweep;

/// The subcommands of `vmbeauty config`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Show(ShowArgs),
    Keys(KeysArgs),
    Schema(SchemaArgs),
    Diff(DiffArgs),
}

/// Print a config as a run would use it, and where each value comes from
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The experiment, a YAML file
    config: PathBuf,
    /// Change a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// List the keys of a config with their types, defaults and documentation
#[derive(Debug, clap::Args)]
pub(super) struct KeysArgs {
    /// Only keys that begin with this, as train.optimizer; or else that contain it, as lr; or else
    /// whose documentation does, as learning
    prefix: Option<String>,
    /// The keys of a sweep file instead
    #[arg(long)]
    sweep: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Print the JSON Schema of a config, with which editors complete and check it
#[derive(Debug, clap::Args)]
pub(super) struct SchemaArgs {
    /// The schema of a sweep file instead
    #[arg(long)]
    sweep: bool,
}

/// List the keys in which two runs or two configs differ
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// A run directory, or a config
    #[arg(value_name = "RUN")]
    a: PathBuf,
    /// Another one
    #[arg(value_name = "RUN")]
    b: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(super) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Show(args) => show(args)?,
        Command::Keys(args) => keys(args)?,
        Command::Schema(args) => {
            print_json(&if args.sweep { sweep::json_schema() } else { json_schema() })?;
        }
        Command::Diff(args) => diff(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ShowArgs) -> Result<()> {
    let (config, sources) = Config::load_with_sources(&args.config, &args.set)?;
    config.warnings().iter().for_each(|warning| say(&format!("warning: {warning}")));
    let config = config.with_absolute_paths()?;
    if !args.json {
        return print(&config.to_yaml_with(&sources)?);
    }
    let values = config.flat_keys()?.into_iter().map(|(key, value)| {
        let source = sources.of(&key);
        (key, json!({"value": value, "source": source}))
    });
    print_json(&values.collect::<Map<_, _>>())
}

fn keys(args: &KeysArgs) -> Result<()> {
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let mut rows = if args.sweep { sweep::reference() } else { reference() };
    let begins = |row: &KeyReference| row.key.starts_with(prefix);
    if rows.iter().any(begins) {
        rows.retain(begins);
    } else if rows.iter().any(|row| row.key.contains(prefix)) {
        rows.retain(|row| row.key.contains(prefix));
    } else {
        let word = prefix.to_lowercase();
        rows.retain(|row| row.doc.to_lowercase().contains(&word));
    }
    if rows.is_empty() {
        let hint = config::nearest_key(prefix).filter(|_| !args.sweep);
        let hint = hint.map_or(String::new(), |key| format!("; did you mean {key}?"));
        bail!("no key has {prefix} in its name or documentation{hint}");
    }
    let text = || {
        let row = |row: &KeyReference| {
            let doc = row.doc.replace('`', "");
            format!("{}: {} (default {})\n    {doc}\n", row.key, row.kind, row.default)
        };
        rows.iter().map(row).collect()
    };
    print_result(args.json, &json!({"keys": rows}), text)
}

fn diff(args: &DiffArgs) -> Result<()> {
    let differing = load(&args.a)?.differences(&load(&args.b)?)?;
    let text = || {
        if differing.is_empty() {
            return "no key differs\n".to_owned();
        }
        let (a, b) = (args.a.display().to_string(), args.b.display().to_string());
        let rows =
            differing.iter().map(|(key, [a, b])| [key.clone(), plain_text(a), plain_text(b)]);
        table(&["key", &a, &b], rows)
    };
    let keys = differing.iter().map(|(key, [a, b])| (key.clone(), json!({"a": a, "b": b})));
    let result = json!({"a": args.a, "b": args.b, "keys": keys.collect::<Map<_, _>>()});
    print_result(args.json, &result, text)
}

/// Loads a config, or that of a run or a pretraining.
fn load(path: &Path) -> Result<Config> {
    let of_run = [RunKind::Train, RunKind::Pretrain].map(|kind| kind.config_in(path));
    let file = match of_run.iter().find(|file| file.exists()) {
        Some(file) => file,
        None if path.is_dir() => {
            bail!("{} is no run directory: it has no {CONFIG_FILE}", path.display())
        }
        None => path,
    };
    Ok(Config::load(file, &[])?.with_absolute_paths()?)
}
