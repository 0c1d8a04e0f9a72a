//! Regular files, opened without waiting and read up to a limit; locks and logs, which are changed
//! in place.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often a locked file is tried again.
const LOCK_ATTEMPTS: usize = 5;

/// Opens a regular file for reading, without waiting for a writer where it is a pipe.
///
/// Returns the error of opening it, or one that says what it is if it is a folder, a pipe, a
/// socket or a device, or a link to one. Errors do not name the file. Files of `/proc` count as
/// regular and may never end: read at most the length that the metadata state, as [`read_regular`]
/// does.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_if(path, ensure_regular)
}

/// Opens a file without waiting, if `check` accepts its metadata.
fn open_if(path: &Path, check: impl Fn(&Metadata) -> io::Result<()>) -> io::Result<File> {
    // Opening alone may rewind a tape or start a watchdog, so devices are not opened at all. The
    // name may have another file by the time it is opened: what was opened counts.
    check(&fs::metadata(path)?)?;
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.read(true).open(path)?;
    check(&file.metadata()?)?;
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
    decode(read_regular(path, limit)?)
}

/// Reads text of at most `limit` bytes from a regular file, or from a pipe that a shell hands over
/// (`/dev/stdin`, and `/dev/fd/63` for `<(command)`), up to its end. Returns an error as
/// [`read_text`] does; other pipes, which may have no writer, are refused.
pub fn read_given_text(path: &Path, limit: u64) -> io::Result<String> {
    let handed_over = is_handed_over(path);
    let file = open_if(path, |metadata| {
        if handed_over && is_pipe(metadata) { Ok(()) } else { ensure_regular(metadata) }
    })?;
    // What the metadata state is not the length of a pipe or a file of /proc.
    let (mut file, mut bytes) = (file.take(limit + 1), Vec::new());
    while let Err(error) = file.read_to_end(&mut bytes) {
        // The pipe is empty, but its writer has not closed it.
        if !handed_over || error.kind() != ErrorKind::WouldBlock {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(10));
    }
    if bytes.len() as u64 > limit {
        let reason = format!("has more than the limit of {} MiB", limit >> 20);
        return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
    }
    decode(bytes)
}

/// Returns whether a path names an open file of this process, which its parent opened.
fn is_handed_over(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(Path::new(""));
    path == Path::new("/dev/stdin")
        || folder == Path::new("/dev/fd")
        || folder == Path::new("/proc/self/fd")
}

fn is_pipe(metadata: &Metadata) -> bool {
    #[cfg(unix)]
    let is_pipe = std::os::unix::fs::FileTypeExt::is_fifo(&metadata.file_type());
    #[cfg(not(unix))]
    let is_pipe = !metadata.is_file() && !metadata.is_dir();
    is_pipe
}

fn decode(bytes: Vec<u8>) -> io::Result<String> {
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

/// Locks a file, unless another process holds it for longer than a moment: one that reads the
/// status of a run only tries the lock. Returns an error as [`File::try_lock`] does.
pub fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    file.try_lock()
}

/// Returns whether a file system without locks (some network file systems) gives this error.
pub fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    let without = [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP, libc::ENOTSUP];
    #[cfg(not(unix))]
    let without: [i32; 0] = [];
    error.kind() == ErrorKind::Unsupported
        || error.raw_os_error().is_some_and(|code| without.contains(&code))
}

/// Opens a file that is changed in place, a lock or a log, and creates it where there is none. What
/// it holds stays, and writes append to it.
///
/// Returns the error of opening it, or one that says what it is if it is not a regular file. A link
/// is none: who fills a folder for others to work in could direct their writes to any file.
pub fn open_in_place(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        libc::O_NONBLOCK | libc::O_NOFOLLOW,
    );
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        let reason = "is a symbolic link, which is not followed: remove it";
        return Err(io::Error::new(ErrorKind::InvalidInput, reason));
    }
    let file = options.append(true).create(true).open(path)?;
    ensure_regular(&file.metadata()?)?;
    Ok(file)
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

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write;

    use super::*;

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

    #[cfg(target_os = "linux")]
    #[test]
    fn text_of_proc_is_read_up_to_the_limit() {
        assert!(read_given_text(Path::new("/proc/version"), 1 << 20).unwrap().contains("Linux"));
        assert!(read_given_text(Path::new("/proc/version"), 1).is_err());
        assert!(read_given_text(Path::new("/proc/self/pagemap"), 1 << 20).is_err());
    }

    #[test]
    fn a_file_that_is_changed_in_place_keeps_its_content_and_is_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let [log, link] = ["log", "link"].map(|name| dir.path().join(name));
        fs::write(&log, "one").unwrap();
        open_in_place(&log).unwrap().write_all(b" two").unwrap();
        assert_eq!(fs::read(&log).unwrap(), b"one two");
        std::os::unix::fs::symlink(&log, &link).unwrap();
        let error = open_in_place(&link).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert!(open_in_place(dir.path()).is_err());
    }

    #[test]
    fn a_file_system_without_locks_is_told_from_one_that_fails() {
        for code in [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP] {
            assert!(has_no_locks(&io::Error::from_raw_os_error(code)));
        }
        assert!(!has_no_locks(&io::Error::from_raw_os_error(libc::EIO)));
    }
}
