//! Finds the files that label lists name.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::data::listing::composed;

/// Finds the files that a label list names, even if list and file system encode accented letters
/// differently: composed (NFC) in one, decomposed (NFD, as on macOS) in the other.
#[derive(Default)]
pub(crate) struct Locator {
    /// Folder -> composed name -> path, filled on demand.
    folders: HashMap<PathBuf, HashMap<String, PathBuf>>,
}

impl Locator {
    /// Returns the file that `name`, relative to `root` or absolute, refers to, or why there is
    /// none.
    pub(crate) fn find(&mut self, root: &Path, name: &str) -> Result<PathBuf, String> {
        let path = root.join(name);
        let found = if path.exists() { Some(path) } else { self.resolve(root, name) };
        match found {
            Some(path) if path.is_file() => Ok(path),
            Some(_) => Err("not a file".to_string()),
            None => Err("no such file".to_string()),
        }
    }

    /// Resolves `name` component by component, trying another Unicode form where the exact one is
    /// missing.
    fn resolve(&mut self, root: &Path, name: &str) -> Option<PathBuf> {
        if name.is_ascii() {
            return None;
        }
        let mut at = root.to_path_buf();
        for component in Path::new(name).components() {
            let Component::Normal(name) = component else {
                at.push(component);
                continue;
            };
            let exact = at.join(name);
            at = if exact.exists() {
                exact
            } else {
                let folder = self.folders.entry(at).or_insert_with_key(|folder| list(folder));
                folder.get(&composed(name.to_str()?))?.clone()
            };
        }
        Some(at)
    }
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

pub(super) fn is_image_name(name: &str) -> bool {
    const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];
    name.rsplit_once('.').is_some_and(|(_, extension)| {
        EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
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
            let found = Locator::default().find(root.path(), &name).unwrap();
            assert_eq!(fs::read(found).unwrap(), b"x");
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn missing_names_and_folders_have_different_errors() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        let mut locator = Locator::default();
        assert_eq!(locator.find(root.path(), "gone.jpg"), Err("no such file".to_string()));
        assert_eq!(locator.find(root.path(), "caf\u{e9}.jpg"), Err("no such file".to_string()));
        assert_eq!(locator.find(root.path(), "folder"), Err("not a file".to_string()));
    }
}
