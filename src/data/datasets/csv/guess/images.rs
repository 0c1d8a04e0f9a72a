//! Where the images of a table are.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use csv::StringRecord;

use super::sheet::{Column, Sheet};
use crate::config::Delimiter;
use crate::data::csv_cell::csv_text;
use crate::data::datasets::csv::text::{Header, Table};
use crate::data::datasets::locate::{Locator, is_image_name};

/// Maximum number of images that are looked for.
const MAX_IMAGES: usize = 50;
/// Maximum number of folders in which images are looked for.
const MAX_FOLDERS: usize = 500;

/// The images that a table names.
#[derive(Debug)]
pub struct TableImages {
    /// Their folder, relative to the table's unless that is not possible; empty for the table's
    /// own.
    pub folder: PathBuf,
    /// Each image once: its name in the table, and its file or why there is none.
    pub images: Vec<(String, Result<PathBuf, String>)>,
}

/// Finds the images of a table, whose column and folder are guessed as [`guess`](super::guess)
/// does. Returns an error if it is no table, or none of its images is found.
pub fn table_images(file: &Path, image_dir: Option<&Path>) -> Result<TableImages> {
    let sheet = Sheet::read(file)?;
    let column = sheet.image(file)?;
    let (folder, _) = find_images(column, file, image_dir)?;
    let folder = folder.unwrap_or_default();
    let mut locator = Locator::new(&file.parent().unwrap_or(Path::new("")).join(&folder));
    let position = |header: &Header| header.names.iter().position(|name| name == column.name);
    let mut table = Table::open(file, Delimiter::Auto, |header| position(header).is_some())?;
    let position = position(&table.header).context("internal: the column is not there")?;
    let (mut images, mut names) = (Vec::new(), HashSet::new());
    let mut record = StringRecord::new();
    while table.next(&mut record)?.is_some() {
        let name = csv_text(record.get(position).unwrap_or_default());
        if !name.is_empty() && names.insert(name.to_string()) {
            let row = locator.row(name, 0.0);
            let missing = row.missing_reason().unwrap_or("no such file").to_string();
            images.push((name.to_string(), row.path().map(Path::to_path_buf).ok_or(missing)));
        }
    }
    Ok(TableImages { folder, images })
}

/// Finds the folder that the images are in, relative to the table's unless that is not possible;
/// `None` for the table's own. Also returns what is not certain.
pub(super) fn find_images(
    column: &Column,
    file: &Path,
    image_dir: Option<&Path>,
) -> Result<(Option<PathBuf>, String)> {
    let root = file.parent().unwrap_or(Path::new(""));
    let root = if root == Path::new("") { Path::new(".") } else { root };
    let names: Vec<&str> = column.distinct().into_iter().collect();
    let step = names.len().div_ceil(MAX_IMAGES).max(1);
    let names: Vec<&str> = names.into_iter().step_by(step).collect();
    let found = |folder: &Path| {
        let mut locator = Locator::new(folder);
        names.iter().filter(|name| locator.row(name, 0.0).path().is_some()).count()
    };
    let start = image_dir.unwrap_or(root);
    let folders = [vec![start.to_path_buf()], folders_below(start)].concat();
    // The first of equals, the outer folder before those in it.
    let best = folders.iter().map(|folder| (found(folder), folder));
    let (count, folder) = best.rev().max_by_key(|(count, _)| *count).unwrap_or((0, &folders[0]));
    let remedy = if names.iter().any(|name| is_image_name(name)) {
        "name their folder with --image-dir"
    } else {
        "write the ending of the files in each row, as anna.jpg"
    };
    ensure!(
        count > 0,
        "{}: none of the images in the column {:?} is in {} or a folder in it, for example {}: \
         {remedy}",
        file.display(),
        column.name,
        folders[0].display(),
        column.example()
    );
    let missing = names.len() - count;
    let unsure = match missing {
        0 => String::new(),
        _ => format!("{missing} of {} images were not found there", names.len()),
    };
    let folder = fs::canonicalize(folder)?;
    let relative = folder.strip_prefix(fs::canonicalize(root)?).unwrap_or(&folder).to_path_buf();
    Ok(((relative != Path::new("")).then_some(relative), unsure))
}

/// Returns the folders in a folder, and those in them.
fn folders_below(root: &Path) -> Vec<PathBuf> {
    let folders = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !name.starts_with('.') && path.is_dir()
        });
        let mut paths: Vec<PathBuf> = paths.take(MAX_FOLDERS).collect();
        paths.sort();
        paths
    };
    let mut found = folders(root);
    let inner: Vec<PathBuf> = found.iter().flat_map(|folder| folders(folder)).collect();
    found.extend(inner);
    found.truncate(MAX_FOLDERS);
    found
}
