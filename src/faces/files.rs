//! Crops of many image files, by several threads.

use std::io::Cursor;
use std::iter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};

use super::crop::{Cropper, Found};
use crate::data::{Prefetch, csv_cell, read_image};
use crate::files::write_atomic;

/// The quality of crops that are JPEG files: hardly any loss.
const QUALITY: u8 = 95;

/// An image file to crop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The file, or why there is none.
    pub source: Result<PathBuf, String>,
    /// Its name in the folder of the crops.
    pub name: PathBuf,
}

/// What became of an image file.
#[derive(Debug, Clone, PartialEq)]
pub struct Cropped {
    /// The file.
    pub job: Job,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// There is a crop.
    Cropped(Found),
    /// There is no face.
    NoFace,
    /// The file cannot be read, for this reason.
    Unreadable(String),
}

/// Crops image files into a folder, and iterates over what became of each, in order. Dropped early,
/// it stops. Returns an error if threads cannot be started.
pub fn crop_files(
    cropper: Cropper,
    jobs: Vec<Job>,
    output: &Path,
    workers: usize,
) -> Result<impl Iterator<Item = Result<Cropped>> + use<>> {
    let (count, output) = (jobs.len(), output.to_path_buf());
    let files = Prefetch::new(0..count, workers, 2 * workers, move |index, _| {
        let job = jobs[index].clone();
        let outcome = crop(&cropper, &job, &output)?;
        Ok(Cropped { job, outcome })
    });
    let mut files = files
        .context("cannot start the threads that crop images; set RAYON_NUM_THREADS to fewer")?;
    Ok(iter::from_fn(move || files.next()))
}

/// Crops a file. Returns an error if the crop cannot be written, or a network fails.
fn crop(cropper: &Cropper, job: &Job, output: &Path) -> Result<Outcome> {
    let read =
        |file: &PathBuf| read_image(file).map_err(|error| format!("{:#}", error.root_cause()));
    let image = match job.source.as_ref().map_err(Clone::clone).and_then(read) {
        Ok(image) => image,
        Err(reason) => return Ok(Outcome::Unreadable(reason)),
    };
    let Some(crop) = cropper.crop(&image)? else {
        return Ok(Outcome::NoFace);
    };
    write(&crop.image, &output.join(&job.name))?;
    Ok(Outcome::Cropped(crop.found))
}

/// Writes an image in the format that its name has; as PNG where that is none, or would lose
/// colors, for the content decides how a file is read.
fn write(image: &RgbImage, path: &Path) -> Result<()> {
    let format = match ImageFormat::from_path(path) {
        Ok(format) if format.writing_enabled() && format != ImageFormat::Gif => format,
        _ => ImageFormat::Png,
    };
    let mut bytes = Cursor::new(Vec::new());
    match format {
        ImageFormat::Jpeg => {
            image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY))
        }
        _ => image.write_to(&mut bytes, format),
    }
    .with_context(|| format!("cannot write {}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    write_atomic(path, |file| Ok(file.write_all(bytes.get_ref())?))
}

/// Writes a CSV file with a row for each image: its crop, its source, what became of it, and of the
/// face that was cropped the box, the probability and the landmarks in the source's pixels.
pub fn write_table(path: &Path, rows: &[Cropped]) -> Result<()> {
    const POINTS: [&str; 5] = ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"];
    write_atomic(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        let mut header: Vec<String> =
            ["image", "source", "status", "faces", "probability", "left", "top", "right", "bottom"]
                .map(str::to_string)
                .to_vec();
        header.extend(
            POINTS.iter().flat_map(|point| ["x", "y"].map(|axis| format!("{point}_{axis}"))),
        );
        header.extend(["warning", "error"].map(str::to_string));
        table.write_record(&header)?;
        for Cropped { job, outcome } in rows {
            let source = job.source.as_ref().map(|file| file.display().to_string());
            let names = [job.name.display().to_string(), source.unwrap_or_default()];
            let mut row = names.map(|name| csv_cell(&name).into_owned()).to_vec();
            match outcome {
                Outcome::Cropped(Found { faces, face, warnings }) => {
                    row.extend(["cropped".to_string(), faces.to_string()]);
                    row.push(format!("{:.4}", face.probability));
                    let numbers =
                        face.bounds.edges().into_iter().chain(face.landmarks.into_iter().flatten());
                    row.extend(numbers.map(|number| format!("{number:.2}")));
                    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
                    row.push(warnings.join("; "));
                }
                Outcome::NoFace => row.extend(["no_face".to_string(), "0".to_string()]),
                Outcome::Unreadable(_) => row.push("unreadable".to_string()),
            }
            row.resize(header.len() - 1, String::new());
            row.push(match outcome {
                Outcome::Unreadable(reason) => csv_cell(reason).into_owned(),
                _ => String::new(),
            });
            table.write_record(&row)?;
        }
        table.flush().context("writing the table")
    })
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::data::ImageFormat as Content;
    use crate::faces::{CropWarning, Face, FaceBox};

    #[test]
    fn a_crop_has_the_format_of_its_name_and_is_png_where_that_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let image = RgbImage::from_fn(24, 24, |x, y| Rgb([x as u8 * 9, y as u8 * 9, 80]));
        for (name, content, most) in [
            ("deep/er/a.jpg", Content::Jpeg, 12),
            ("a.png", Content::Png, 0),
            ("a.webp", Content::WebP, 0),
            ("a.gif", Content::Png, 0),
            ("a", Content::Png, 0),
        ] {
            let path = folder.path().join(name);
            write(&image, &path).unwrap();
            assert_eq!(Content::of_file(&path).unwrap(), Some(content), "{name}");
            let read = read_image(&path).unwrap();
            let worst = read.iter().zip(image.iter()).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(worst <= Some(most), "{name}: {worst:?}");
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_image_whatever_became_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = FaceBox { left: 1.0, top: 2.0, right: 3.5, bottom: 4.0 };
        let face = Face { bounds, probability: 0.9876, landmarks: [[1.0, 2.0]; 5] };
        let warnings = vec![CropWarning::Several, CropWarning::Small(3.0)];
        let row = |name: &str, source: Result<&str, &str>, outcome| Cropped {
            job: Job {
                source: source.map(PathBuf::from).map_err(str::to_string),
                name: name.into(),
            },
            outcome,
        };
        let rows = [
            row("a.png", Ok("in/a.png"), Outcome::Cropped(Found { faces: 2, face, warnings })),
            row("=b.png", Ok("in/=b.png"), Outcome::NoFace),
            row("c.png", Err("no such file"), Outcome::Unreadable("no such file".into())),
        ];
        let path = folder.path().join("faces.csv");
        write_table(&path, &rows).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        let points = "1.00,2.00,".repeat(5);
        assert_eq!(
            lines[1],
            format!(
                "a.png,in/a.png,cropped,2,0.9876,1.00,2.00,3.50,4.00,{points}several faces; small: \
                 enlarged 3.0 times,"
            )
        );
        assert!(lines[2].starts_with("'=b.png,in/=b.png,no_face,0,,"), "{}", lines[2]);
        assert!(lines[3].starts_with("c.png,,unreadable,,") && lines[3].ends_with(",no such file"));
        assert!(
            lines.iter().all(|line| line.contains("several") || line.matches(',').count() == 20)
        );
    }
}
