//! The image files of folders.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};

use super::datasets::locate::is_image_name;
use super::image::ImageFormat;

pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Lists a folder in the order of the names, without what is hidden.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("{}: cannot be listed", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if !name(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Returns the images of a folder sorted by name, without those in its subfolders. These are the
/// files whose name or content is that of an image, also of one that cannot be read.
pub(super) fn image_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = entries(folder)?;
    paths.retain(|path| !path.is_dir() && is_image(path));
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    is_image_name(&name(path)) || matches!(ImageFormat::of_file(path), Ok(Some(_)))
}

/// The images below a folder.
#[derive(Debug, Default)]
pub struct ImageTree {
    /// The images of the folder and of its subfolders, each in the order of the names.
    pub images: Vec<PathBuf>,
    /// Subfolders that cannot be listed, and why.
    pub unlisted: Vec<Error>,
}

/// Finds the images in a folder and its subfolders, hidden ones excepted. A folder that several
/// symbolic links lead to, such as one that contains itself, is listed once. Returns an error if
/// the folder itself cannot be listed.
pub fn image_tree(folder: &Path) -> Result<ImageTree> {
    let mut tree = ImageTree::default();
    let mut listed = HashSet::new();
    // The last one is visited next.
    let mut left = entries_from_last(folder, &mut listed)?;
    while let Some(path) = left.pop() {
        if !path.is_dir() {
            tree.images.extend(Some(path).filter(|path| is_image(path)));
            continue;
        }
        match entries_from_last(&path, &mut listed) {
            Ok(inside) => left.extend(inside),
            Err(error) => tree.unlisted.push(error),
        }
    }
    Ok(tree)
}

/// Lists a folder from the last name to the first; nothing if it is listed already.
fn entries_from_last(folder: &Path, listed: &mut HashSet<PathBuf>) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("{}: cannot be listed", folder.display());
    if !listed.insert(fs::canonicalize(folder).with_context(unreadable)?) {
        return Ok(Vec::new());
    }
    let mut paths = entries(folder)?;
    paths.reverse();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    fn found(root: &Path) -> Vec<String> {
        let tree = image_tree(root).unwrap();
        assert!(tree.unlisted.is_empty(), "{:?}", tree.unlisted);
        let inside = tree.images.iter().map(|path| path.strip_prefix(root).unwrap());
        inside.map(|path| path.to_str().unwrap().to_string()).collect()
    }

    #[test]
    fn subfolders_are_searched_in_the_order_of_the_names_and_hidden_ones_are_not() {
        let root =
            tree(&["b/2.png", "b/1/x.jpg", "a.png", "c.jpg", "b.jpg", ".git/y.jpg", "b/n.txt"]);
        fs::write(root.path().join("b/content"), b"\x89PNG\r\n\x1a\n").unwrap();
        let expected = ["a.png", "b/1/x.jpg", "b/2.png", "b/content", "b.jpg", "c.jpg"];
        assert_eq!(found(root.path()), expected);
    }

    #[test]
    #[cfg(unix)]
    fn links_that_lead_in_a_circle_end_and_no_folder_is_listed_twice() {
        use std::os::unix::fs::symlink;
        let root = tree(&["a/1.png", "b/2.png"]);
        let path = |name: &str| root.path().join(name);
        symlink(root.path(), path("a/above")).unwrap();
        symlink(path("a"), path("b/other")).unwrap();
        symlink(path("self"), path("self")).unwrap();
        symlink(path("gone"), path("c")).unwrap();
        assert_eq!(found(root.path()), ["a/1.png", "b/2.png"]);
        assert!(image_tree(&path("gone")).is_err());
    }
}
