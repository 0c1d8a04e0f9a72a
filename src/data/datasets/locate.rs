//! Finds the files that label lists name.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::data::listing::{Row, RowImage, composed};

/// The most names that are remembered: a list of a million rows may name few images often.
const MAX_REMEMBERED: usize = 1 << 16;

/// Finds the files that a label list names, relative to a folder or absolute.
///
/// List and file system may encode accented letters differently: composed (NFC) in one, decomposed
/// (NFD, as on macOS) in the other. A name with `\`, as Windows writes it, means `/` where there is
/// no file of the literal name. A name costs one system call, and a repeated one none.
pub(crate) struct Locator {
    root: PathBuf,
    /// Folder -> its canonical path.
    folders: HashMap<PathBuf, io::Result<PathBuf>>,
    /// Folder -> composed name -> path, filled on demand.
    entries: HashMap<PathBuf, HashMap<String, PathBuf>>,
    remembered: HashMap<Arc<str>, Row>,
    no_such_file: Arc<str>,
    not_a_file: Arc<str>,
    of_another_machine: Arc<str>,
}

impl Locator {
    /// Creates a locator of names relative to `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            folders: HashMap::new(),
            entries: HashMap::new(),
            remembered: HashMap::new(),
            no_such_file: "no such file".into(),
            not_a_file: "not a file".into(),
            of_another_machine: "no such file: a path of another machine; write it relative to \
                                 the list's folder"
                .into(),
        }
    }

    /// Creates the row of the image that `name` refers to.
    pub(crate) fn row(&mut self, name: &str, score: f32) -> Row {
        if let Some(row) = self.remembered.get(name) {
            return Row { score, ..row.clone() };
        }
        let row = self.find(name, score);
        if self.remembered.len() < MAX_REMEMBERED {
            self.remembered.insert(Arc::clone(&row.id), row.clone());
        }
        row
    }

    fn find(&mut self, name_in_list: &str, score: f32) -> Row {
        let forward = name_in_list.contains('\\').then(|| name_in_list.replace('\\', "/"));
        let mut missing = Arc::clone(&self.no_such_file);
        for name in std::iter::once(name_in_list).chain(forward.as_deref()) {
            let literal = self.root.join(name);
            let found = match look_up(&mut self.folders, &literal) {
                Found::Nothing => self.resolve(name).map(|path| {
                    let found = look_up(&mut self.folders, &path);
                    (path, found)
                }),
                found => Some((literal, found)),
            };
            match found {
                Some((path, Found::File(key))) => {
                    let image = RowImage::File(path.into());
                    return Row::new(name_in_list, image, key, score);
                }
                Some((_, Found::NotAFile)) => missing = Arc::clone(&self.not_a_file),
                Some((_, Found::Unreadable(reason))) => missing = reason,
                Some((_, Found::Nothing)) | None => {}
            }
        }
        if name_in_list.as_bytes().get(1..3) == Some(b":\\") {
            missing = Arc::clone(&self.of_another_machine);
        }
        let forward = forward.as_deref().unwrap_or(name_in_list);
        let normal: PathBuf =
            Path::new(forward).components().filter(|part| *part != Component::CurDir).collect();
        let normal = normal.strip_prefix(&self.root).unwrap_or(&normal);
        let mut row = Row::missing(name_in_list, &normal.to_string_lossy(), &missing, score);
        if row.key == row.id {
            row.key = Arc::clone(&row.id);
        }
        row
    }

    /// Resolves `name` component by component, trying another Unicode form where the exact one is
    /// missing.
    fn resolve(&mut self, name: &str) -> Option<PathBuf> {
        if name.is_ascii() {
            return None;
        }
        let mut at = self.root.clone();
        for component in Path::new(name).components() {
            let Component::Normal(name) = component else {
                at.push(component);
                continue;
            };
            let exact = at.join(name);
            at = if exact.exists() {
                exact
            } else {
                let folder = self.entries.entry(at).or_insert_with_key(|folder| list(folder));
                folder.get(&composed(name.to_str()?))?.clone()
            };
        }
        Some(at)
    }
}

enum Found {
    /// A regular file, with its canonical path in composed form.
    File(Arc<str>),
    NotAFile,
    Nothing,
    /// The file system cannot tell, for this reason.
    Unreadable(Arc<str>),
}

impl Found {
    fn failed(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::Nothing,
            _ => Self::Unreadable(format!("cannot be read: {error}").into()),
        }
    }
}

/// Looks a path up. `folders` holds the canonical paths of the folders that were seen before.
fn look_up(folders: &mut HashMap<PathBuf, io::Result<PathBuf>>, path: &Path) -> Found {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    if !folders.contains_key(parent) {
        folders.insert(parent.to_path_buf(), fs::canonicalize(parent));
    }
    let parent = match &folders[parent] {
        Ok(parent) => parent,
        Err(error) => return Found::failed(error),
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Found::failed(&error),
    };
    let canonical = match path.file_name() {
        Some(name) if metadata.is_file() => parent.join(name),
        // A link, or not a file.
        _ => match fs::canonicalize(path) {
            Ok(target) if target.is_file() => target,
            Ok(_) => return Found::NotAFile,
            Err(error) => return Found::failed(&error),
        },
    };
    Found::File(composed(&canonical.to_string_lossy()).into())
}

/// Lists the entries of a folder by their composed names; empty if the folder cannot be read.
pub(crate) fn list(folder: &Path) -> HashMap<String, PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((composed(entry.file_name().to_str()?), entry.path())))
        .collect()
}

/// Returns whether a name ends as those of images do, whether they can be read or not.
pub fn is_image_name(name: &str) -> bool {
    const ENDINGS: [&str; 16] = [
        "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "heic", "heif",
        "avif", "jxl", "jp2", "psd",
    ];
    name.rsplit_once('.')
        .is_some_and(|(_, ending)| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_either_unicode_form() {
        let root = tempfile::tempdir().unwrap();
        let (nfc, nfd) = ("nguy\u{1ec5}n.jpg", "nguye\u{302}\u{303}n.jpg");
        for (stored, asked) in [(nfc, nfd), (nfd, nfc), (nfc, nfc)] {
            let folder = root.path().join("gon\u{e7}alves");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(stored), "x").unwrap();
            let name = format!("./gonc\u{327}alves/{asked}");
            let row = Locator::new(root.path()).row(&name, 1.0);
            assert_eq!(fs::read(row.path().unwrap()).unwrap(), b"x");
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn missing_names_and_folders_have_different_errors() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        let mut locator = Locator::new(root.path());
        for (name, reason) in [
            ("gone.jpg", "no such file"),
            ("nowhere/gone.jpg", "no such file"),
            ("file/gone.jpg", "no such file"),
            ("caf\u{e9}.jpg", "no such file"),
            ("folder", "not a file"),
        ] {
            assert_eq!(locator.row(name, 1.0).missing_reason(), Some(reason));
        }
        let elsewhere = locator.row("C:\\Users\\anna\\a.jpg", 1.0);
        assert!(elsewhere.missing_reason().unwrap().contains("another machine"));
    }

    #[test]
    #[cfg(unix)]
    fn a_name_that_the_file_system_refuses_is_not_called_missing() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("loop.jpg", root.path().join("loop.jpg")).unwrap();
        let mut locator = Locator::new(root.path());
        for name in ["loop.jpg", "loop.jpg/a.jpg", &"a".repeat(300)] {
            let row = locator.row(name, 1.0);
            let reason = row.missing_reason().unwrap();
            assert!(reason.starts_with("cannot be read: "), "{name}: {reason}");
        }
    }

    #[test]
    fn a_backslash_is_a_slash_where_no_file_has_the_literal_name() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("p")).unwrap();
        fs::write(root.path().join("p/a.jpg"), "x").unwrap();
        let mut locator = Locator::new(root.path());
        let (windows, unix) = (locator.row("p\\a.jpg", 1.0), locator.row("./p/a.jpg", 1.0));
        assert_eq!(windows.key, unix.key);
        assert_eq!(&*windows.id, "p\\a.jpg");
        if cfg!(unix) {
            fs::write(root.path().join("p\\a.jpg"), "y").unwrap();
            let literal = Locator::new(root.path()).row("p\\a.jpg", 1.0);
            assert_eq!(fs::read(literal.path().unwrap()).unwrap(), b"y");
        }
    }

    #[test]
    fn spellings_of_one_image_have_one_key() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.jpg"), "x").unwrap();
        let mut locator = Locator::new(root.path());
        for name in ["a.jpg", "gone.jpg"] {
            let plain = locator.row(name, 1.0).key;
            let absolute = root.path().join(name).display().to_string();
            for spelling in [format!("./{name}"), format!(".//{name}"), absolute] {
                assert_eq!(locator.row(&spelling, 2.0).key, plain, "{spelling}");
            }
        }
    }
}
