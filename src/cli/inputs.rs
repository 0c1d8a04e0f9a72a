//! The images and the runs that a command line names.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail, ensure};

use super::WrongUsage;
use super::output::say;
use crate::data::{image_tree, is_image_name};
use crate::run::{names_run, weights_of};

/// The argument for a list on stdin.
const STDIN: &str = "-";
/// Size beyond which a list on stdin is refused: two million paths have less.
const MAX_LIST: u64 = 1 << 28;

/// Sorts arguments into runs, which come first or not, and images. Returns an error if there is
/// none of the one or the other, or a path that is neither.
pub(super) fn sort(arguments: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (runs, images): (Vec<PathBuf>, Vec<PathBuf>) =
        arguments.iter().cloned().partition(|path| names_run(path));
    for path in images.iter().filter(|path| path.as_path() != Path::new(STDIN)) {
        let named = path.file_name().unwrap_or_default().to_string_lossy();
        if fs::symlink_metadata(path).is_err() && !is_image_name(&named) {
            let path = path.display();
            bail!(WrongUsage(format!(
                "{path} does not exist: name a run directory, a weights file in one, an image or a \
                 folder of images"
            )));
        }
    }
    let Some(first) = arguments.first().filter(|_| runs.is_empty()) else {
        let wrong = "images are missing: name images or folders, or - for a list of paths on stdin";
        ensure!(!images.is_empty(), WrongUsage(wrong.to_string()));
        return Ok((runs, images));
    };
    let reason = match weights_of(first) {
        Err(error) if first.is_dir() => format!("{error:#}"),
        _ => "name a run directory, or a weights file in one".to_string(),
    };
    bail!(WrongUsage(format!("a run is missing: {reason}")))
}

/// Returns the files that arguments name: files, the images of folders and of their subfolders, and
/// with `-` the paths on stdin. Folders that cannot be listed are reported on stderr. Returns an
/// error if there is no file.
pub(super) fn image_paths(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in arguments {
        if path == Path::new(STDIN) {
            files.extend(stdin_list()?);
        } else if path.is_dir() {
            let tree = image_tree(path)?;
            tree.unlisted.iter().for_each(|error| say(&format!("skipped: {error:#}")));
            files.extend(tree.images);
        } else {
            files.push(path.clone());
        }
    }
    ensure!(!files.is_empty(), none_readable(0, arguments));
    Ok(files)
}

/// Says that no image is left after each was reported.
pub(super) fn none_readable(found: usize, arguments: &[PathBuf]) -> String {
    let first = arguments.first().map_or("no file".into(), |path| match path.to_str() {
        Some(STDIN) => "the list on stdin".to_string(),
        _ => path.display().to_string(),
    });
    match found {
        0 => format!("there is no image in {first}"),
        1 => "the image cannot be read".to_string(),
        _ => format!("none of the {found} images can be read"),
    }
}

/// Reports images that cannot be read on stderr: the first ones by name.
#[derive(Debug, Default)]
pub(super) struct Unread {
    count: usize,
}

impl Unread {
    /// Most images that are named.
    const NAMED: usize = 10;

    /// Reports an image, in a line that begins above a progress bar.
    pub(super) fn add(&mut self, image: &Path, error: &Error) {
        self.count += 1;
        if self.count <= Self::NAMED {
            say(&format!("skipped: {}: {error:#}", image.display()));
        }
    }

    /// Returns the number of images, after a report of it where there are several.
    pub(super) fn finish(&self, found: usize) -> usize {
        if self.count > 1 {
            say(&format!("{} of {found} images cannot be read", self.count));
        }
        self.count
    }
}

/// Reads the paths on stdin.
fn stdin_list() -> Result<Vec<PathBuf>> {
    let stdin = io::stdin().lock();
    if stdin.is_terminal() {
        say("reading paths of images from stdin, one on each line, until Ctrl-D");
    }
    let mut list = Vec::new();
    let read = stdin.take(MAX_LIST + 1).read_to_end(&mut list);
    read.context("cannot read the list of images on stdin")?;
    let limit = MAX_LIST >> 20;
    ensure!(
        list.len() as u64 <= MAX_LIST,
        "the list of images on stdin has more than {limit} MiB: divide it"
    );
    Ok(listed_paths(&list))
}

/// Returns the paths of a list, which end with NUL if one does, or else with the line.
fn listed_paths(list: &[u8]) -> Vec<PathBuf> {
    let end = if list.contains(&0) { 0 } else { b'\n' };
    let paths = list.split(|&byte| byte == end).map(|path| match path.strip_suffix(b"\r") {
        Some(line) if end == b'\n' => line,
        _ => path,
    });
    paths.filter(|path| !path.is_empty()).map(path_of).collect()
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> PathBuf {
    <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes).into()
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> PathBuf {
    String::from_utf8_lossy(bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_path_on_each_line_or_before_each_nul() {
        let paths = |list: &[u8]| {
            let paths = listed_paths(list).into_iter();
            paths.map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(paths(b"a.png\nb c.png\r\n\n\"d\".png"), ["a.png", "b c.png", "\"d\".png"]);
        assert_eq!(paths(b"a\nb.png\0c.png\r\0"), ["a\nb.png", "c.png\r"]);
        assert!(paths(b"\n\n").is_empty());
    }

    #[test]
    fn arguments_are_runs_or_images_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["run", "faces", "sweep/runs/a"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for file in ["run/config.yaml", "run/last.safetensors", "sweep/runs/a/config.yaml", "face"]
        {
            fs::write(path(file), "").unwrap();
        }
        let sorted =
            |names: &[&str]| sort(&names.iter().map(|name| path(name)).collect::<Vec<_>>());
        let (runs, images) = sorted(&["face", "run", "gone.png", "faces", "sweep"]).unwrap();
        assert_eq!(runs, [path("run"), path("sweep")]);
        assert_eq!(images, [path("face"), path("gone.png"), path("faces")]);
        let (runs, images) = sort(&[path("run/last.safetensors"), STDIN.into()]).unwrap();
        assert_eq!((runs, images), (vec![path("run/last.safetensors")], vec![STDIN.into()]));
        for (names, words) in [
            (&["run"][..], "images are missing"),
            (&["faces", "face"], "a run is missing: "),
            (&["faces", "face"], "faces is no run directory"),
            (&["run", "rum", "face"], "rum does not exist: name a run directory"),
        ] {
            let error = sorted(names).unwrap_err();
            assert!(error.is::<WrongUsage>() && format!("{error:#}").contains(words), "{error:#}");
        }
    }
}
