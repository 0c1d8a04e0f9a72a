//! The images and the runs that a command line names.

use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail, ensure};

use super::WrongUsage;
use super::output::say;
use crate::data::{image_tree, is_image_name};
use crate::run::{names_run, weights_of};

/// The argument for a list on stdin.
const STDIN: &str = "-";
/// Length beyond which a path on stdin is refused: no system has longer ones.
const MAX_PATH: u64 = 1 << 16;

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

/// The files that arguments name.
pub(super) struct ImageFiles {
    pub(super) paths: Box<dyn Iterator<Item = Result<PathBuf>> + Send>,
    /// Their number, if it is known before the end.
    pub(super) count: Option<usize>,
}

/// Returns the files that arguments name: files, the images of folders and of their subfolders, and
/// with `-` the paths on stdin, which is read as they are wanted. Folders that cannot be listed are
/// reported on stderr. Returns an error if there is no file.
pub(super) fn image_files(arguments: &[PathBuf]) -> Result<ImageFiles> {
    let no_paths = Box::new(std::iter::empty());
    let mut files = ImageFiles { paths: no_paths, count: Some(0) };
    for path in arguments {
        let more = if path == Path::new(STDIN) {
            if io::stdin().is_terminal() {
                say("reading paths of images from stdin, one on each line, until Ctrl-D");
            }
            files.paths = Box::new(files.paths.chain(PathList::new(BufReader::new(io::stdin()))));
            files.count = None;
            continue;
        } else if path.is_dir() {
            let tree = image_tree(path)?;
            tree.unlisted.iter().for_each(|error| say(&format!("skipped: {error:#}")));
            tree.images
        } else {
            vec![path.clone()]
        };
        files.count = files.count.map(|count| count + more.len());
        files.paths = Box::new(files.paths.chain(more.into_iter().map(Ok)));
    }
    ensure!(files.count != Some(0), none_readable(0, arguments));
    Ok(files)
}

/// As [`image_files`], with all paths on stdin.
pub(super) fn image_paths(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> = image_files(arguments)?.paths.collect::<Result<_>>()?;
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
            say(&format!("{} of {found} images are skipped", self.count));
        }
        self.count
    }
}

/// The paths of a list, which end with NUL if the list begins with one that does, or else with the
/// line.
struct PathList<R> {
    list: R,
    /// The end of a path, once the list has begun.
    end: Option<u8>,
}

impl<R: BufRead> PathList<R> {
    fn new(list: R) -> Self {
        Self { list, end: None }
    }

    /// Reads the next path, which may be empty; `None` at the end.
    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let end = match self.end {
            Some(end) => end,
            // What has arrived: the name of a file may hold a newline.
            None if self.list.fill_buf()?.contains(&0) => 0,
            None => b'\n',
        };
        self.end = Some(end);
        let mut path = Vec::new();
        self.list.by_ref().take(MAX_PATH).read_until(end, &mut path)?;
        ensure!(
            (path.len() as u64) < MAX_PATH,
            "a path has more than {} KiB: separate paths with newlines or NUL",
            MAX_PATH >> 10
        );
        if path.is_empty() {
            return Ok(None);
        }
        path.pop_if(|last| *last == end);
        if end == b'\n' {
            path.pop_if(|last| *last == b'\r');
        }
        Ok(Some(path))
    }
}

impl<R: BufRead> Iterator for PathList<R> {
    type Item = Result<PathBuf>;

    fn next(&mut self) -> Option<Result<PathBuf>> {
        loop {
            match self.read().context("cannot read the list of images on stdin").transpose()? {
                Ok(path) if path.is_empty() => {}
                path => return Some(path.map(|path| path_of(&path))),
            }
        }
    }
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
            let paths = PathList::new(list).map(|path| path.unwrap());
            paths.map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(paths(b"a.png\nb c.png\r\n\n\"d\".png"), ["a.png", "b c.png", "\"d\".png"]);
        assert_eq!(paths(b"a\nb.png\0c.png\r\0"), ["a\nb.png", "c.png\r"]);
        assert_eq!(paths(b"a\n\nb"), ["a", "b"]);
        assert!(paths(b"\n\n").is_empty() && paths(b"").is_empty());
        let endless = BufReader::new(io::repeat(b'a'));
        let error = PathList::new(endless).next().unwrap().unwrap_err();
        assert!(format!("{error:#}").contains("a path has more than 64 KiB"), "{error:#}");
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
