//! Atomic writes of files, bounded reads of regular ones, and names that are safe to print.
//!
//! A run may be killed at any moment, and a disk may fill up half-way through a checkpoint. A file
//! under its final name is therefore always complete: the bytes are written to a temporary file in
//! the same folder, synced to disk, and only then renamed.
//!
//! A file that a user names may be a pipe, a device or a link to one, whose reader would wait
//! forever or never reach the end. Only regular files are opened.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

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

/// Removes the temporary files that a killed process left in `folder`, and returns their number.
/// Only for a folder that no other process writes to. Returns an error if `folder` cannot be listed
/// or a file in it cannot be removed.
pub fn remove_leftovers(folder: &Path) -> Result<usize> {
    let unreadable = || format!("cannot tidy up {}", folder.display());
    let mut removed = 0;
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(PART_SUFFIX) {
            fs::remove_file(entry.path()).with_context(unreadable)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Opens a regular file for reading, without waiting for a writer where it is a pipe.
///
/// Returns the error of opening it, or one that says what it is if it is a folder, a pipe, a
/// socket or a device, or a link to one. Errors do not name the file. Files of `/proc` count as
/// regular and may never end: read at most the length that the metadata state, as [`read_regular`]
/// does.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Opening alone may rewind a tape or start a watchdog, so devices are not opened at all. The
    // name may have another file by the time it is opened: what was opened counts.
    ensure_regular(&fs::metadata(path)?)?;
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.read(true).open(path)?;
    ensure_regular(&file.metadata()?)?;
    Ok(file)
}

/// Reads a regular file of at most `limit` bytes, as [`open_regular`] opens it. Returns an error as
/// it does, and if the file is longer.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    if length > limit {
        let (size, most) = (length.div_ceil(1 << 20), limit >> 20);
        let reason = format!("the file has {size} MiB, more than the limit of {most} MiB");
        return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // What is appended meanwhile is not read.
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a regular file of text, as [`read_regular`] does, without its byte order mark. Returns an
/// error as it does, and if the file is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let bytes = read_regular(path, limit)?;
    let wrong = |reason: &str| io::Error::new(ErrorKind::InvalidData, reason);
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(wrong("is text in UTF-16: save it as UTF-8"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| wrong("is not text in UTF-8"))?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

fn ensure_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let (kind, found) = if metadata.is_dir() {
        (ErrorKind::IsADirectory, "a folder")
    } else {
        (ErrorKind::InvalidInput, "a pipe, a socket or a device")
    };
    Err(io::Error::new(kind, format!("is {found}, not a regular file")))
}

/// Formats a name for a terminal, on one line: control characters and those that reorder text are
/// escaped (`\u{1b}`), for the name of a file may hold commands for the terminal, or a second line.
pub fn printable(name: impl Display) -> String {
    escaped(name.to_string(), "")
}

/// Formats a message for a terminal as [`printable`] does, but keeps its lines.
pub fn printable_lines(message: &str) -> String {
    escaped(message.to_string(), "\n\t")
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
                Ok(file) => return Ok((Self { path: Some(path) }, file)),
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
        assert_eq!(remove_leftovers(dir.path()).unwrap(), 1);
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_regular_file_is_read_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, vec![7; 3 << 20]).unwrap();
        assert_eq!(read_regular(&path, 3 << 20).unwrap().len(), 3 << 20);
        let error = read_regular(&path, 2 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(error.to_string(), "the file has 3 MiB, more than the limit of 2 MiB");
        let error = read_regular(&dir.path().join("b.txt"), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = read_regular(dir.path(), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IsADirectory);
    }

    #[test]
    fn text_is_read_without_its_byte_order_mark_and_only_in_utf_8() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read_text(&path, 100).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"\xef\xbb\xbfname: a"), Ok("name: a".into()));
        assert_eq!(read("ä\u{feff}".as_bytes()), Ok("ä\u{feff}".into()));
        for bytes in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a"] {
            assert_eq!(read(bytes), Err("is text in UTF-16: save it as UTF-8".into()));
        }
        assert_eq!(read(b"\xe4"), Err("is not text in UTF-8".into()));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_devices_and_links_to_them_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let link = |name: &str, target: &Path| {
            let link = dir.path().join(name);
            std::os::unix::fs::symlink(target, &link).unwrap();
            link
        };
        let links = [link("zero.jpg", Path::new("/dev/zero")), link("pipe.jpg", &pipe), pipe];
        for path in links {
            let error = open_regular(&path).unwrap_err();
            assert_eq!(error.to_string(), "is a pipe, a socket or a device, not a regular file");
        }
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(open_regular(&socket).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_endless_file_of_proc_is_read_as_empty() {
        // It states the length 0 and holds eight bytes per page of the address space.
        assert!(read_regular(Path::new("/proc/self/pagemap"), 1 << 30).unwrap().is_empty());
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
