//! `vmbeauty predict`.

pub(super) mod progress;
mod rows;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use self::progress::Progress;
use self::rows::{Format, Row, RowWriter};
use super::crop::{Warnings, cropper};
use super::data_root;
use super::inputs::{ImageFiles, image_files, none_readable, sort};
use super::output::say;
use crate::config::FaceAlignment;
use crate::eval::conformal::Conformal;
use crate::files::{remove_leftovers_of, write_atomic};
use crate::run::{Ensemble, Run, Score, calibrate, data_differences};

/// Predict the rating of images
///
/// Several runs are averaged, such as seeds or the folds of a cross-validation; a column `sd` and
/// the scores of each run in JSON show how far they agree.
///
/// The whole image is resized to the model's input, and a face that fills less of it than those of
/// the training images is rated wrongly: --crop crops it as they are.
#[derive(Debug, clap::Args)]
#[command(override_usage = "vmbeauty predict [OPTIONS] <RUN>... <IMAGE_OR_DIR_OR_->...")]
pub(super) struct Args {
    /// Run directories, or weights files in them; and images, folders, which are searched with
    /// their subfolders, or - for a list of paths on stdin, separated by newlines or NUL
    #[arg(required = true, value_name = "RUN_OR_IMAGE")]
    arguments: Vec<PathBuf>,
    /// Add an interval to each prediction that covers this fraction of ratings, for example 0.9
    ///
    /// The interval follows from the runs' errors on their validation images, or of the folds of a
    /// cross-validation on their test images (conformal prediction). It holds for images like
    /// those.
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    interval: Option<f64>,
    /// Score the largest face of each image, cropped as the training images are: by the convention
    /// mebeauty, scut or tight [default: data.face_alignment of the run's config, or mebeauty], or
    /// as in a folder of crops. An image without a face has a row that says so
    #[arg(
        long, value_name = "NAME_OR_FOLDER", num_args = 0..=1, require_equals = true,
        default_missing_value = ""
    )]
    crop: Option<String>,
    /// The folder of the face detector's weights, if the set-up has not fetched them
    #[arg(long, value_name = "DIR", requires = "crop")]
    detector: Option<PathBuf>,
    /// Output format [default: that of --output's ending, or table]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write to a file, which is complete or not there, instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show no progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

/// Parses the level of an interval.
pub(super) fn parse_level(text: &str) -> Result<f64, String> {
    let level = text.parse().ok().filter(|level| (0.0..1.0).contains(level) && *level > 0.0);
    level.ok_or_else(|| "must be a fraction between 0 and 1, for example 0.9".to_string())
}

/// Runs the subcommand. Images that cannot be read have a row that says why; the command fails if
/// there is no other.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (runs, images) = sort(&args.arguments)?;
    let mut ensemble = Ensemble::new(open_runs(&runs, None)?)?;
    if let Some(convention) = &args.crop {
        let convention = match &convention[..] {
            "" => {
                let stated = ensemble.runs()[0].config.data.face_alignment();
                stated.unwrap_or(FaceAlignment::Mebeauty).name()
            }
            named => named,
        };
        ensemble = ensemble.with_cropper(cropper(convention, args.detector.as_deref())?);
    }
    warn_of_other_scales(ensemble.runs(), &runs)?;
    let interval = args.interval.map(|level| calibrate(ensemble.runs(), level)).transpose()?;
    let files = image_files(&images)?;
    let prediction = Prediction { args, runs, ensemble, interval };
    let (found, scored) = match &args.output {
        None => match prediction.write(files, &mut io::stdout().lock()) {
            // A reader that stopped reading (`| head`) is no error.
            Err(error) if is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
            scored => scored?,
        },
        Some(file) => {
            let mut counts = (0, 0);
            remove_leftovers_of(file);
            write_atomic(file, |out| {
                counts = prediction.write(files, out)?;
                Ok(())
            })?;
            if !args.quiet {
                say(&format!("wrote {}", file.display()));
            }
            counts
        }
    };
    let with_a_face = if found > 0 && args.crop.is_some() { ", or none has a face" } else { "" };
    ensure!(scored > 0, "{}{with_a_face}", none_readable(found, &images));
    Ok(ExitCode::SUCCESS)
}

/// Opens runs in their order, with their dataset in another folder if one is given. Returns an
/// error if one cannot be opened or is named twice, so that it would count twice.
pub(super) fn open_runs(paths: &[PathBuf], data_root: Option<&Path>) -> Result<Vec<Run>> {
    let mut opened = HashSet::new();
    let open = |path: &PathBuf| {
        let run = data_root::open(path, data_root)?;
        let file = fs::canonicalize(&run.weights).unwrap_or_else(|_| run.weights.clone());
        let shown = run.weights.display();
        ensure!(opened.insert(file), "{shown} is named twice: name each run once");
        Ok(run)
    };
    paths.iter().map(open).collect()
}

/// Warns of runs whose scores may have another scale than those of the first, so that their mean
/// means nothing.
fn warn_of_other_scales(runs: &[Run], paths: &[PathBuf]) -> Result<()> {
    let keys = ["data.dataset", "data.root", "data.csv.score_column"];
    for (run, path) in runs.iter().zip(paths).skip(1) {
        let changes = data_differences(&runs[0].config, &run.config)?;
        if let Some(change) = changes.iter().find(|change| keys.contains(&change.key())) {
            say(&format!(
                "warning: {} was trained on other data than {} ({change}): their mean is right \
                 only if both have the same scale",
                path.display(),
                paths[0].display()
            ));
        }
    }
    Ok(())
}

/// Rounds a coordinate to tenths of a pixel.
fn tenths(edge: f32) -> f64 {
    (f64::from(edge) * 10.0).round() / 10.0
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_one = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_one))
}

struct Prediction<'a> {
    args: &'a Args,
    runs: Vec<PathBuf>,
    ensemble: Ensemble,
    interval: Option<Conformal>,
}

impl Prediction<'_> {
    /// Writes a row for each file, and returns the number of files and of those that were scored.
    fn write(&self, files: ImageFiles, out: &mut dyn Write) -> Result<(usize, usize)> {
        let format = self.format();
        let mut rows = RowWriter::new(out, format, &self.runs, self.interval.as_ref())?;
        // A bar on the terminal that rows are written to would be among them.
        let rows_shown = self.args.output.is_none() && format != Format::Table;
        let shown = !(self.args.quiet || rows_shown && io::stdout().is_terminal());
        let mut progress = Progress::new(files.count, shown);
        let mut warnings = Warnings::default();
        self.ensemble.predict(files.paths, &mut |file, score| {
            match &score {
                Err(error) => progress.unread(file, error),
                Ok(score) => {
                    score.found.iter().for_each(|found| warnings.add(found));
                    if score.in_distribution == Some(false) {
                        progress.unlike(file);
                    }
                }
            }
            rows.add(self.row(file, score))?;
            progress.advance();
            Ok(())
        })?;
        let counts = progress.finish();
        rows.finish()?;
        if let Some(warnings) = warnings.text() {
            say(&format!("warning: of the faces {warnings}"));
        }
        Ok(counts)
    }

    fn row(&self, file: &Path, score: Result<Score>) -> Row {
        let image = file.display().to_string();
        let score = match score {
            Ok(score) => score,
            Err(error) => {
                return Row { image, error: Some(format!("{error:#}")), ..Row::default() };
            }
        };
        let interval = self.interval.as_ref().map(|of| of.interval(&score.runs));
        let edges = score.found.as_ref().map(|found| found.face.bounds.edges());
        Row {
            image,
            score: Some(score.mean),
            sd: score.sd,
            lower: interval.map(|interval| interval.lo),
            upper: interval.map(|interval| interval.hi),
            weight_vit: score.weights.map(|[vit, _]| vit),
            weight_mamba: score.weights.map(|[_, mamba]| mamba),
            scores: (score.runs.len() > 1).then_some(score.runs),
            faces: score.found.map(|found| found.faces),
            bounds: edges.map(|edges| edges.map(tenths)),
            in_distribution: score.in_distribution,
            error: None,
        }
    }

    /// Returns the format that is asked for, or that the output's name has.
    fn format(&self) -> Format {
        let ending = self.args.output.as_deref().and_then(Path::extension).and_then(OsStr::to_str);
        let named = ending.and_then(|ending| Format::from_str(ending, false).ok());
        self.args.format.or(named).unwrap_or(Format::Table)
    }
}
