//! Atomic writes of files, bounded reads of regular ones, and names that are safe to print.
//!
//! A run may be killed at any moment, and a disk may fill up half-way through a checkpoint. A file
//! under its final name is therefore always complete: the bytes are written to a temporary file in
//! the same folder, synced to disk, and only then renamed.
//!
//! A file that a user names may be a pipe, a device or a link to one, whose reader would wait
//! forever or never reach the end. Only regular files are opened, and for a config the pipe that a
//! shell hands over.

mod own_folders;
mod regular;
mod user_cache;

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

pub use self::own_folders::without_own_folders;
pub use self::regular::{
    has_no_locks, open_in_place, open_regular, read_given_text, read_regular, read_text, try_lock,
};
pub use self::user_cache::{fetched_folder, user_cache};

/// The suffix of the names of temporary files, which begin with a dot.
const PART_SUFFIX: &str = ".part";

/// Writes `path` atomically: completely, or not at all.
///
/// `write` receives a buffered writer. When it returns, the bytes are flushed and synced, and the
/// temporary file is renamed to `path`, replacing an older file. If anything fails, the temporary
/// file is removed and the older file stays.
///
/// Returns the error of `write` or of the failed file operation, with `path`.
///
/// # Examples
/// ```
/// use vm_beautynet::files::write_atomic;
///
/// let path = std::env::temp_dir().join(format!("write_atomic_{}", std::process::id()));
/// write_atomic(&path, |file| Ok(file.write_all(b"complete")?))?;
/// let failed = write_atomic(&path, |file| {
///     file.write_all(b"incomplete")?;
///     anyhow::bail!("interrupted")
/// });
/// assert!(failed.is_err());
/// assert_eq!(std::fs::read(&path)?, b"complete");
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    try_write(path, write).map_err(|error| {
        let message = format!("cannot write {}{}", path.display(), remedy(path, &error));
        error.context(message)
    })
}

/// Writes a value as indented JSON with a newline at its end, as [`write_atomic`] does. Returns an
/// error if the value cannot be represented in JSON or [`write_atomic`] fails.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_atomic(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        Ok(writeln!(file)?)
    })
}

/// Removes the temporary files that a killed process left in `folder` (`.NAME.PID-N.part`), as far
/// as possible: they harm nothing. Only for a folder that no other process writes to.
pub fn remove_leftovers(folder: &Path) {
    remove_parts(folder, ".");
}

/// Removes the temporary files that killed processes left of `file` alone, for a folder that other
/// processes write to.
pub fn remove_leftovers_of(file: &Path) {
    if let Some(name) = file.file_name() {
        remove_parts(folder_of(file), &format!(".{}.", name.to_string_lossy()));
    }
}

fn remove_parts(folder: &Path, start: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(start) && is_leftover(&name) && !is_being_written(&entry.path()) {
            // Another user's file may have to stay.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Returns whether the process that writes a temporary file still runs: it has locked the file.
fn is_being_written(path: &Path) -> bool {
    let attempt = File::open(path).map(|file| file.try_lock());
    matches!(attempt, Ok(Err(TryLockError::WouldBlock)))
}

/// Returns whether [`TemporaryFile`] gives such names. The folder may be the user's, with other
/// hidden files in it.
fn is_leftover(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix('.')
        .and_then(|name| name.strip_suffix(PART_SUFFIX))
        .and_then(|name| name.rsplit_once('.')?.1.split_once('-'))
        .is_some_and(|(process, count)| number(process) && number(count))
}

/// Formats a name for a terminal, on one line: control characters and those that reorder text are
/// escaped (`\u{1b}`), for the name of a file may hold commands for the terminal, or a second line.
pub fn printable(name: impl Display) -> String {
    escaped(name.to_string(), "")
}

/// Maximum length of a line of a message, in characters: it may quote a value or a path of any
/// length.
const MAX_LINE: usize = 2000;

/// Formats a message for a terminal as [`printable`] does, but keeps its lines. Cuts the middle out
/// of a line that is too long: it ends with the remedy.
pub fn printable_lines(message: &str) -> String {
    let lines: Vec<_> = message.split('\n').map(shortened).collect();
    escaped(lines.join("\n"), "\n\t")
}

fn shortened(line: &str) -> Cow<'_, str> {
    let length = line.chars().count();
    if length <= MAX_LINE {
        return line.into();
    }
    let cut = |from, count| line.chars().skip(from).take(count).collect::<String>();
    format!("{} … {}", cut(0, MAX_LINE / 2), cut(length - MAX_LINE / 4, MAX_LINE / 4)).into()
}

fn escaped(text: String, kept: &str) -> String {
    let hostile = |c: char| {
        let reorders = matches!(
            c,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        (c.is_control() || reorders) && !kept.contains(c)
    };
    if !text.contains(hostile) {
        return text;
    }
    text.chars().fold(String::new(), |mut escaped, c| {
        if hostile(c) {
            escaped.extend(c.escape_default())
        } else {
            escaped.push(c)
        }
        escaped
    })
}

fn try_write(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let name = path.file_name().context("the path names no file")?;
    let folder = folder_of(path);

    let (temporary, file) = TemporaryFile::create(folder, name)?;
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    let file = writer.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    drop(file);
    temporary.rename_to(path)?;
    sync_folder(folder)?;
    Ok(())
}

/// A temporary file, removed when dropped (after an error, or a panic in the caller's closure)
/// unless it was renamed.
struct TemporaryFile {
    path: Option<PathBuf>,
}

impl TemporaryFile {
    /// Creates a file that no other writer uses: its name holds the process id and the first free
    /// number.
    fn create(folder: &Path, name: &std::ffi::OsStr) -> io::Result<(Self, File)> {
        let mut number = 0u64;
        loop {
            let mut name_with_suffix = OsString::from(".");
            name_with_suffix.push(name);
            name_with_suffix.push(format!(".{}-{number}{PART_SUFFIX}", std::process::id()));
            let path = folder.join(name_with_suffix);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    // Where there are no locks, nothing else writes to the folder.
                    let _ = file.try_lock();
                    return Ok((Self { path: Some(path) }, file));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn rename_to(mut self, path: &Path) -> io::Result<()> {
        if let Some(temporary) = &self.path {
            fs::rename(temporary, path)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // An error is being reported already; a second one would hide it.
            let _ = fs::remove_file(path);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes the rename survive a power failure. Some network file systems cannot sync a folder; the
/// file is in place there nevertheless.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Returns a remedy for `error`, as the end of a sentence; empty if there is none.
fn remedy(path: &Path, error: &anyhow::Error) -> String {
    let Some(error) = error.downcast_ref::<io::Error>() else {
        return String::new();
    };
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            " (the disk is full: free some space or write to another folder)".into()
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            " (no permission: write to another folder)".into()
        }
        ErrorKind::NotFound => format!(" (is there a folder {}?)", folder_of(path).display()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn report(result: Result<()>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn a_written_file_holds_the_bytes_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_atomic(&path, |out| Ok(out.write_all(b"first")?)).unwrap();
        write_atomic(&path, |out| Ok(out.write_all(b"second")?)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_writer_that_fails_midway_leaves_the_old_file_and_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, "old").unwrap();
        let result = write_atomic(&path, |out| {
            out.write_all(&[0; 100_000])?;
            anyhow::bail!("weights are not finite")
        });
        let report = report(result);
        assert!(report.contains(&path.display().to_string()), "{report}");
        assert!(report.contains("weights are not finite"), "{report}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_writer_that_panics_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let caught = std::panic::catch_unwind(|| {
            write_atomic(&path, |_| std::panic::resume_unwind(Box::new(())))
        });
        assert!(caught.is_err());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_full_disk_is_reported_with_the_path_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("best.safetensors");
        let result = write_atomic(&path, |_| Err(io::Error::from(ErrorKind::StorageFull).into()));
        let report = report(result);
        assert!(report.contains("best.safetensors"), "{report}");
        assert!(report.contains("free some space"), "{report}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let report = report(write_atomic(&dir.path().join("gone/a.txt"), |_| Ok(())));
        assert!(report.contains("is there a folder"), "{report}");
        assert!(report.contains("gone"), "{report}");
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[2J\r\nb\u{9b}\u{202e}.png"),
            "a\\u{1b}[2J\\r\\nb\\u{9b}\\u{202e}.png"
        );
        assert_eq!(printable_lines("one\n\ttwo\u{7}"), "one\n\ttwo\\u{7}");
        assert_eq!(printable(Path::new("Nguyễn/好.jpg").display()), "Nguyễn/好.jpg");
    }

    #[test]
    fn a_long_line_of_a_message_keeps_its_start_and_its_end() {
        let message =
            printable_lines(&format!("first\ncannot read {}: rename it", "x".repeat(9000)));
        let (first, second) = message.split_once('\n').unwrap();
        assert!(first == "first" && second.chars().count() < 2000, "{second}");
        assert!(second.starts_with("cannot read x") && second.ends_with(": rename it"), "{second}");
    }

    #[test]
    fn a_path_without_a_file_name_is_an_error() {
        assert!(write_atomic(Path::new("/"), |_| Ok(())).is_err());
        assert!(write_atomic(Path::new(""), |_| Ok(())).is_err());
    }

    #[test]
    fn a_leftover_of_a_killed_process_does_not_stop_the_next_write() {
        let dir = tempfile::tempdir().unwrap();
        let leftover = format!(".a.txt.{}-0{PART_SUFFIX}", std::process::id());
        fs::write(dir.path().join(&leftover), "half").unwrap();
        write_atomic(&dir.path().join("a.txt"), |out| Ok(out.write_all(b"complete")?)).unwrap();
        assert_eq!(names(dir.path()), [leftover.as_str(), "a.txt"]);
        remove_leftovers(dir.path());
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_temporary_file_that_is_being_written_is_no_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(dir.path().join(".a.txt.1-0.part"), "of a killed process").unwrap();
        fs::write(dir.path().join(".b.txt.1-0.part"), "of another file").unwrap();
        write_atomic(&path, |out| {
            remove_leftovers_of(&path);
            Ok(out.write_all(b"complete")?)
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"complete");
        assert_eq!(names(dir.path()), [".b.txt.1-0.part", "a.txt"]);
    }

    #[test]
    fn only_temporary_files_of_this_program_are_leftovers() {
        for name in [".best.safetensors.123-0.part", ".a.9-17.part"] {
            assert!(is_leftover(name), "{name}");
        }
        for name in
            [".video.part", ".a.1-.part", ".a.x-1.part", "a.1-0.part", ".a.1-0.par", ".part"]
        {
            assert!(!is_leftover(name), "{name}");
        }
    }

    #[test]
    fn concurrent_writers_of_one_path_leave_one_complete_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::thread::scope(|scope| {
            for byte in b'a'..=b'h' {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..5 {
                        write_atomic(path, |out| Ok(out.write_all(&[byte; 5000])?)).unwrap();
                    }
                });
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 5000);
        assert!(bytes.iter().all(|&byte| byte == bytes[0]));
        assert_eq!(names(dir.path()), ["a.txt"]);
    }
}
