//! `vmbeauty pretrain`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{metric, print, say, table, thousands};
use crate::config::{Branch, Config};
use crate::run::PretrainEpochRecord as EpochRecord;
use crate::train::Stop;
use crate::train::pretrain::{Observer, Options, Outcome, Start, pretrain};

const BAR: &str = "{prefix} {bar:30} {pos}/{len} images  {per_sec}  {msg}";

/// Learn the backbones from the training images alone, without scores, by masked image modeling
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The experiment, a YAML file; its section `pretrain` says how
    config: PathBuf,
    /// Change a key of the config, for example pretrain.epochs=100; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The folder for the weights [default: runs/NAME-pretrain]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Go on with the pretraining in the folder
    #[arg(long)]
    resume: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let config = Config::load(&args.config, &args.set)?;
    let root = match &args.output {
        Some(root) => root.clone(),
        None => Path::new("runs").join(format!("{}-pretrain", config.name)),
    };
    let options = Options { resume: args.resume, stop };
    let mut progress = Progress::new(&root);
    let outcome = pretrain(&config, &root, &options, &mut progress)?;
    drop(progress);
    print(&report(&outcome))?;
    say(&format!("reconstructed validation images: {}", outcome.reconstructions.display()));
    let sets: Vec<String> = outcome
        .backbones
        .iter()
        .map(|done| format!(" --set model.{}.weights={}", done.branch, done.weights.display()))
        .collect();
    say(&format!(
        "go on with: vmbeauty train {}{}",
        root.join("pretrain.yaml").display(),
        sets.concat()
    ));
    Ok(ExitCode::SUCCESS)
}

fn report(outcome: &Outcome) -> String {
    let rows: Vec<Vec<String>> = outcome
        .backbones
        .iter()
        .map(|done| {
            vec![
                done.weights.display().to_string(),
                done.last.epoch.to_string(),
                metric(done.last.train_loss),
                metric(done.last.val_loss),
            ]
        })
        .collect();
    table(&["weights", "epochs", "train loss", "val loss"], &rows)
}

/// What a person sees of it: a bar on a terminal, plain lines elsewhere, all on stderr.
struct Progress {
    root: PathBuf,
    bar: ProgressBar,
    branch: Option<Branch>,
    epochs: usize,
}

impl Progress {
    fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), bar: ProgressBar::hidden(), branch: None, epochs: 0 }
    }

    fn line(&self, text: &str) {
        if self.bar.is_hidden() { say(text) } else { self.bar.println(text) }
    }

    fn begin_epoch(&self, epoch: usize) {
        self.bar.reset();
        self.bar.set_message("");
        let branch = self.branch.map_or("", Branch::name);
        self.bar.set_prefix(format!("{branch} epoch {epoch}/{}", self.epochs));
    }
}

impl Observer for Progress {
    fn start(&mut self, start: &Start) {
        let [train, val] = start.images;
        self.bar.finish_and_clear();
        // Hides itself where stderr is not a terminal.
        self.bar = ProgressBar::with_draw_target(Some(train as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            self.bar.set_style(style);
        }
        self.bar.enable_steady_tick(Duration::from_millis(500));
        let (train, val) = (thousands(train as i64), thousands(val as i64));
        self.line(&format!(
            "{}: {train} images to learn from, {val} to validate; {} parameters; writing {}",
            start.branch,
            thousands(start.parameters),
            self.root.display()
        ));
        for note in start.notes {
            self.line(note);
        }
        if start.skipped > 0 && self.branch.is_none() {
            self.line(&format!(
                "{} rows of the data set were left out: `vmbeauty data check` lists them",
                start.skipped
            ));
        }
        if start.epochs_done > 0 {
            self.line(&format!("resuming after epoch {}", start.epochs_done));
        }
        (self.branch, self.epochs) = (Some(start.branch), start.epochs);
        self.begin_epoch((start.epochs_done + 1).min(start.epochs));
    }

    fn step(&mut self, images: usize, loss: f64) {
        self.bar.inc(images as u64);
        self.bar.set_message(format!("loss {loss:.4}"));
    }

    fn note(&mut self, text: &str) {
        self.line(text);
    }

    fn epoch(&mut self, record: &EpochRecord) {
        let colors = match record.val_color_loss {
            Some(loss) => format!("  colors {loss:.4}"),
            None => String::new(),
        };
        self.line(&format!(
            "{} epoch {:>3}/{}  loss {:.4}  val {:.4}{colors}  lr {:.1e}  {:.0} images/s",
            record.branch,
            record.epoch,
            self.epochs,
            record.train_loss,
            record.val_loss,
            record.lr,
            record.images_per_second
        ));
        if record.epoch < self.epochs {
            self.begin_epoch(record.epoch + 1);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
