//! Where the images of a table are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::sheet::Column;
use crate::data::datasets::locate::{Locator, is_image_name};

/// Maximum number of images that are looked for.
const MAX_IMAGES: usize = 50;
/// Maximum number of folders in which images are looked for.
const MAX_FOLDERS: usize = 500;

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
