//! The commit of the folder that the program was started in. It is read from the files of the git
//! repository: git itself would run programs that the repository's settings name, and the folder
//! may be a download.

use std::path::Path;

use crate::files::read_text;

/// Maximum sizes in bytes of a file with one reference, and of the file of packed ones.
const MAX_REFERENCE: u64 = 1 << 12;
const MAX_PACKED: u64 = 1 << 24;
/// The length of a shortened commit.
const SHORT: usize = 12;

/// Returns the commit of the repository that holds `folder`, shortened; `None` if none does, or it
/// has no commit yet.
pub(super) fn commit(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let git = folder.ancestors().map(|folder| folder.join(".git")).find(|git| git.exists())?;
    // In a linked working tree, `.git` is a file that names its folder, and that names the one with
    // the references.
    let git = match read(&git) {
        Some(text) => git.with_file_name(text.strip_prefix("gitdir:")?.trim()),
        None => git,
    };
    let head = read(&git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref: ") else {
        return shortened(&head);
    };
    let common = read(&git.join("commondir")).map_or(git.clone(), |folder| git.join(folder));
    let loose = || shortened(&read(&common.join(name))?);
    let packed = || {
        let text = read_text(&common.join("packed-refs"), MAX_PACKED).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        shortened(lines.find(|(_, reference)| *reference == name)?.0)
    };
    loose().or_else(packed)
}

fn read(path: &Path) -> Option<String> {
    read_text(path, MAX_REFERENCE).ok().map(|text| text.trim().to_string())
}

/// Shortens a hash; `None` for any other text, which is nobody's business.
fn shortened(hash: &str) -> Option<String> {
    let is_hash = [40, 64].contains(&hash.len()) && hash.bytes().all(|c| c.is_ascii_hexdigit());
    is_hash.then(|| hash[..SHORT].to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_commit_is_that_of_head_loose_packed_detached_or_in_a_linked_working_tree() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("repository");
        let inner = root.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(commit(&inner), None);
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let hash = |digit: &str| digit.repeat(40);
        write(".git/HEAD", "ref: refs/heads/main\n");
        assert_eq!(commit(&inner), None);
        write(".git/packed-refs", &format!("# pack-refs\n{} refs/heads/main\n", hash("b")));
        assert_eq!(commit(&inner), Some("b".repeat(12)));
        write(".git/refs/heads/main", &format!("{}\n", hash("a")));
        assert_eq!(commit(&inner), Some("a".repeat(12)));
        write(".git/worktrees/w/HEAD", "ref: refs/heads/main\n");
        write(".git/worktrees/w/commondir", "../..\n");
        let linked = folder.path().join("linked");
        fs::create_dir_all(&linked).unwrap();
        fs::write(linked.join(".git"), "gitdir: ../repository/.git/worktrees/w\n").unwrap();
        assert_eq!(commit(&linked), Some("a".repeat(12)));
        write(".git/HEAD", &hash("c"));
        assert_eq!(commit(&inner), Some("c".repeat(12)));
        // Whatever else a reference leads to is not repeated.
        write("secret", "hunter2");
        write(".git/HEAD", "ref: ../secret\n");
        assert_eq!(commit(&inner), None);
    }
}
