//! Asks git for the commit of the source tree, and runs again when it may have changed.

use std::path::Path;
use std::process::Command;

/// What the program is made of.
const SOURCES: [&str; 6] =
    ["build.rs", "Cargo.lock", "Cargo.toml", "csrc", "source-commit", "src"];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo:rerun-if-env-changed=VMB_SOURCE_COMMIT");
    // The archive of a release may be unpacked in another project's repository.
    if !root.join(".git").exists() {
        return;
    }
    // HEAD's log grows with each commit, checkout, merge and reset.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&root, &["rev-parse", "--git-path", file]).map(|path| root.join(path));
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    let Some(commit) = git(&root, &["rev-parse", "--short=12", "HEAD"]) else { return };
    let status = git(&root, &[&["status", "--porcelain", "--"], &SOURCES[..]].concat());
    let dirty = if status.is_none_or(|changed| changed.is_empty()) { "" } else { "-dirty" };
    println!("cargo:rustc-env=VMB_SOURCE_COMMIT={commit}{dirty}");
}

/// Returns what git prints about the source tree; `None` if it fails or is not installed. It runs no
/// program that the repository's settings name, and accepts a tree of another user, which is built
/// anyway.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["-c", "core.fsmonitor=false", "-c", "safe.directory=*", "--no-optional-locks"])
        .args(arguments)
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_WORK_TREE")
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}
