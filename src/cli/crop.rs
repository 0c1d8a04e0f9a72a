//! `vmbeauty data crop`, and the faces that `predict --crop` scores.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use super::WrongUsage;
use super::inputs::image_paths;
use super::output::say;
use super::predict::progress::Progress;
use crate::config::FaceAlignment;
use crate::data::{TableImages, is_image_name, table_images};
use crate::faces::{
    Convention, CropWarning, Cropped, Cropper, Detector, Found, Job, Outcome, Placement,
    crop_files, detector_folder, write_table,
};

/// The file in the folder of the crops that says what became of each image.
const TABLE: &str = "faces.csv";

/// Crop the face of each image, upright and placed as in a dataset's crops
///
/// The largest face is taken. DIR gets the crops under the paths of their images, a copy of the
/// table of ratings if there is one, and faces.csv, which says what became of each image.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A folder of images, which is searched with its subfolders, a table that names them, or an
    /// image
    #[arg(value_name = "FOLDER_OR_CSV")]
    input: PathBuf,
    /// The folder for the crops, which must be empty or not there
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Where the face is in a crop, and the crop's size: mebeauty, scut, tight, or a folder of
    /// crops in which it is measured
    #[arg(long, value_name = "NAME_OR_FOLDER", default_value = "mebeauty")]
    convention: String,
    /// The folder of the images that a table names, if it is not next to it
    #[arg(long, value_name = "DIR")]
    image_dir: Option<PathBuf>,
    /// The folder of the detector's weights, if the set-up has not fetched them
    #[arg(long, value_name = "DIR")]
    detector: Option<PathBuf>,
    /// Show no progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

/// Opens the detector, for crops of the convention that is named or measured in a folder.
pub(super) fn cropper(convention: &str, detector: Option<&Path>) -> Result<Cropper> {
    let known = convention.parse().map(Convention::named).ok();
    let folder = Path::new(convention);
    if known.is_none() && !folder.is_dir() {
        bail!(WrongUsage(format!(
            "the convention {convention:?} is not known: name one of {}, or a folder of cropped \
             faces",
            FaceAlignment::ALL.iter().map(|name| name.name()).collect::<Vec<_>>().join(", ")
        )));
    }
    let detector = Detector::open(&detector_folder(detector)?)?;
    match known {
        Some(known) => Ok(Cropper::new(detector, known)),
        None => {
            let crops = image_paths(&[folder.to_path_buf()])?;
            Cropper::like(detector, &crops)
                .with_context(|| format!("cannot measure a convention in {convention}"))
        }
    }
}

/// Runs the subcommand. It fails if there is no crop at the end.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    ensure_empty(&args.output)?;
    let (jobs, table) = jobs(args)?;
    let cropper = cropper(&args.convention, args.detector.as_deref())?;
    fs::create_dir_all(&args.output)
        .with_context(|| format!("cannot make the folder {}", args.output.display()))?;
    let Convention { size, placement } = cropper.convention();
    if let (Placement::Landmarks(places), false) = (placement, args.quiet) {
        say(&format!("crops of {size}x{size} pixels, with the landmarks at {places:.3?}"));
    }
    let images = jobs.len();
    let mut progress = Progress::new(Some(images), !args.quiet);
    let workers = rayon::current_num_threads();
    let mut rows = Vec::with_capacity(images);
    for cropped in crop_files(cropper, jobs, &args.output, workers)? {
        let cropped = cropped?;
        if let Outcome::Unreadable(reason) = &cropped.outcome {
            progress.unread(&cropped.job.name, &anyhow::Error::msg(reason.clone()));
        }
        progress.advance();
        rows.push(cropped);
    }
    progress.finish();
    if let Some(table) = table {
        let copy = args.output.join(table.file_name().unwrap_or_default());
        fs::copy(&table, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    }
    let path = args.output.join(TABLE);
    write_table(&path, &rows)?;
    say(&format!("{}; {} has a row for each", summary(&rows), path.display()));
    let cropped = rows.iter().any(|row| matches!(row.outcome, Outcome::Cropped(_)));
    ensure!(cropped, "no face was found in any of the {images} images");
    Ok(ExitCode::SUCCESS)
}

fn ensure_empty(folder: &Path) -> Result<()> {
    let shown = folder.display();
    let mut entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("{shown}: is no folder for the crops"))?,
    };
    ensure!(
        entries.next().is_none(),
        WrongUsage(format!("{shown} is not empty: name another folder with --output"))
    );
    Ok(())
}

/// Returns the images to crop, and the table to copy next to the crops, if there is one whose names
/// lead to them.
fn jobs(args: &Args) -> Result<(Vec<Job>, Option<PathBuf>)> {
    let input = &args.input;
    let is_image = is_image_name(&input.file_name().unwrap_or_default().to_string_lossy());
    if input.is_dir() || is_image {
        ensure!(
            args.image_dir.is_none(),
            WrongUsage("--image-dir is for a table: name the folder alone".to_string())
        );
        let folder = if is_image { input.parent() } else { Some(input.as_path()) };
        let folder = folder.unwrap_or(Path::new(""));
        let job = |file: PathBuf| {
            let name = file.strip_prefix(folder).unwrap_or(&file).to_path_buf();
            Job { source: Ok(file), name }
        };
        let images = image_paths(std::slice::from_ref(input))?;
        return Ok((images.into_iter().map(job).collect(), None));
    }
    let TableImages { folder, images } = table_images(input, args.image_dir.as_deref())?;
    let mut copied = input.file_name() != Some(TABLE.as_ref());
    let mut sources: HashMap<PathBuf, String> = HashMap::new();
    let mut jobs = Vec::with_capacity(images.len());
    for (image, source) in images {
        let written = image.replace('\\', "/");
        let plain = inside(Path::new(&written));
        copied &= inside(&folder) == folder && plain == Path::new(&written);
        let name = inside(&folder).join(plain);
        if let Some(other) = sources.insert(name.clone(), image.clone()) {
            // Two ways to write one path name one image.
            let first = jobs.iter().find(|job: &&Job| job.name == name);
            ensure!(
                first.is_some_and(|job| job.source == source),
                "{}: the crops of {other} and {image} would have one name: rename one",
                input.display()
            );
            continue;
        }
        jobs.push(Job { source, name });
    }
    if !copied {
        say(&format!("{} is not copied to the crops: its paths lead elsewhere", input.display()));
    }
    Ok((jobs, copied.then(|| input.clone())))
}

/// Returns a path without what leads out of a folder.
fn inside(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// Counts what became of the images.
fn summary(rows: &[Cropped]) -> String {
    let (mut cropped, mut faceless, mut unreadable) = (0, 0, 0);
    let mut warnings = Warnings::default();
    for row in rows {
        match &row.outcome {
            Outcome::Cropped(found) => {
                cropped += 1;
                warnings.add(found);
            }
            Outcome::NoFace => faceless += 1,
            Outcome::Unreadable(_) => unreadable += 1,
        }
    }
    let mut text = format!("cropped {cropped} of {} images", rows.len());
    for (count, what) in [(faceless, "without a face"), (unreadable, "not readable")] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    if let Some(warnings) = warnings.text() {
        text += &format!("; of the crops {warnings}");
    }
    text
}

/// Counts the warnings of crops.
#[derive(Debug, Default)]
pub(super) struct Warnings([usize; 3]);

impl Warnings {
    pub(super) fn add(&mut self, found: &Found) {
        for warning in &found.warnings {
            self.0[match warning {
                CropWarning::Several => 0,
                CropWarning::Turned => 1,
                CropWarning::Small(_) => 2,
            }] += 1;
        }
    }

    /// Returns how many crops have each warning; `None` if there is none.
    pub(super) fn text(&self) -> Option<String> {
        let kinds = [
            "are the largest of several faces",
            "are turned to the side",
            "are small and were enlarged",
        ];
        let counted = self.0.iter().zip(kinds).filter(|(count, _)| **count > 0);
        let counted: Vec<String> = counted.map(|(count, kind)| format!("{count} {kind}")).collect();
        (!counted.is_empty()).then(|| counted.join(", "))
    }
}
