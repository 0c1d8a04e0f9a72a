//! Weights on the Hugging Face hub: found in its cache on this machine, or downloaded into it.
//!
//! hf-hub's blocking client downloads, and names folders as Python's huggingface_hub does. It knows
//! neither `HF_HUB_CACHE`, `HF_HUB_OFFLINE` nor `HF_TOKEN`, waits forever for a server that is
//! silent, gives up after five seconds where another process downloads the same file, and does not
//! check what arrived: that is here.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use anyhow::{Context, Result, bail, ensure};
use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};

use crate::config::HubFile;
use crate::files::{has_no_locks, open_in_place, read_text, user_cache};

/// The files of a repository without a name, the first that is there.
const FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const ENDPOINT: &str = "https://huggingface.co";
/// Seconds without a byte after which a download ends, unless HF_HUB_DOWNLOAD_TIMEOUT sets them.
const TIMEOUT: u64 = 30;
/// How often progress is reported where nothing arrives.
const POLL: Duration = Duration::from_millis(100);
/// Longer than a commit's hash, or a token.
const MAX_TEXT: u64 = 4096;

/// The progress of a download.
#[derive(Debug, Clone, Copy)]
pub struct Download<'a> {
    /// The address of the file.
    pub url: &'a str,
    /// Number of bytes that have arrived.
    pub done: u64,
    /// Number of bytes in the file; 0 until the hub has answered.
    pub total: u64,
}

/// Is told of downloads, several times a second. Its error ends the download.
pub type OnDownload<'a> = dyn FnMut(&Download) -> Result<()> + 'a;

/// A file of the hub in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CachedFile {
    /// The path in the cache.
    pub path: PathBuf,
    /// The commit that the file is of.
    pub commit: String,
}

/// Returns a file of the hub, from the cache if it is there. Returns an error that says what to do
/// if it is not there and cannot be downloaded.
pub(super) fn fetch(wanted: &HubFile, on_download: &mut OnDownload) -> Result<CachedFile> {
    let hub = Hub::from_environment()?;
    if let Some(found) = hub.cached(wanted) {
        return Ok(found);
    }
    let url = hub.url(wanted, wanted.file.as_deref().unwrap_or(FILES[0]));
    ensure!(
        !hub.offline,
        "it is not in {}, and HF_HUB_OFFLINE is set: unset it, or download {url} elsewhere and set \
         weights to the file",
        hub.cache.path().display()
    );
    let _lock = hub.lock(wanted, &url, on_download)?;
    if let Some(found) = hub.cached(wanted) {
        return Ok(found); // another process has downloaded it
    }
    let files: Vec<&str> = match &wanted.file {
        Some(file) => vec![file],
        None => FILES.to_vec(),
    };
    for file in &files {
        if hub.download(wanted, file, on_download)? {
            return hub.cached(wanted).context("internal: a download is not in the cache");
        }
    }
    bail!(
        "{} has no {} at the revision {}: check the name, or name the file, as in \
         hf://ORG/NAME/FILE",
        wanted.repository,
        files.join(" or "),
        wanted.revision
    )
}

/// Returns the SHA-256 hash of a file's content, in hexadecimal.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The hub and its cache, as the environment sets them for Python's huggingface_hub too.
struct Hub {
    cache: Cache,
    endpoint: String,
    token: Option<String>,
    offline: bool,
    timeout: Duration,
}

impl Hub {
    fn from_environment() -> Result<Self> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name)?.into_string().ok();
        let home = set("HF_HOME").map(PathBuf::from);
        let home = home
            .or_else(|| Some(user_cache()?.join("huggingface")))
            .context("set HF_HOME to the folder for files of the Hugging Face hub")?;
        let token_file = set("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let token = text("HF_TOKEN").or_else(|| read_text(&token_file, MAX_TEXT).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let is_true = |text: String| ["1", "on", "yes", "true"].contains(&&*text.to_lowercase());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let seconds = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.parse().ok());
        Ok(Self {
            cache: Cache::new(set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from)),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            offline: text("HF_HUB_OFFLINE").is_some_and(is_true),
            timeout: Duration::from_secs(seconds.unwrap_or(TIMEOUT)),
        })
    }

    fn repo(&self, wanted: &HubFile) -> Repo {
        let HubFile { repository, revision, .. } = wanted.clone();
        Repo::with_revision(repository, RepoType::Model, revision)
    }

    /// Returns the repository's folder in the cache.
    fn folder(&self, wanted: &HubFile) -> PathBuf {
        self.cache.path().join(self.repo(wanted).folder_name())
    }

    fn url(&self, wanted: &HubFile, file: &str) -> String {
        let Self { endpoint, .. } = self;
        let repository = &wanted.repository;
        format!("{endpoint}/{repository}/resolve/{}/{file}", wanted.revision)
    }

    fn cached(&self, wanted: &HubFile) -> Option<CachedFile> {
        let folder = self.folder(wanted);
        let is_commit =
            |text: &str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let commit = if is_commit(&wanted.revision) {
            wanted.revision.clone()
        } else {
            let text = read_text(&folder.join("refs").join(&wanted.revision), MAX_TEXT).ok()?;
            Some(text.trim().to_owned()).filter(|text| is_commit(text))?
        };
        let snapshot = folder.join("snapshots").join(&commit);
        let path = match &wanted.file {
            Some(file) => snapshot.join(file),
            None => FILES.iter().map(|file| snapshot.join(file)).find(|path| path.is_file())?,
        };
        path.is_file().then_some(CachedFile { path, commit })
    }

    /// Waits until no other process downloads files of the repository. The lock lasts until the
    /// file that this returns is closed.
    fn lock(&self, wanted: &HubFile, url: &str, on_download: &mut OnDownload) -> Result<File> {
        let folder = self.folder(wanted);
        let path = folder.join(".vmbeauty.lock");
        let unwritable = || {
            let path = path.display();
            format!("cannot write {path}: set HF_HOME to a folder that can be written to")
        };
        fs::create_dir_all(&folder).with_context(unwritable)?;
        let file = open_in_place(&path).with_context(unwritable)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    on_download(&Download { url, done: 0, total: 0 })?;
                    thread::sleep(POLL);
                }
                Err(TryLockError::Error(error)) if has_no_locks(&error) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error).with_context(unwritable),
            }
        }
    }

    /// Downloads a file into the cache. Returns whether the hub has it.
    fn download(&self, wanted: &HubFile, file: &str, on_download: &mut OnDownload) -> Result<bool> {
        let url = self.url(wanted, file);
        let api = ApiBuilder::from_cache(self.cache.clone()).with_endpoint(self.endpoint.clone());
        let api = api.with_token(self.token.clone()).build()?;
        let mut download = Download { url: &url, done: 0, total: 0 };
        let arrived = self.run(api.repo(self.repo(wanted)), file, &mut download, on_download);
        let path = match arrived? {
            Ok(path) => path,
            Err(error) => return self.refused(wanted, &error, &url).map(|()| false),
        };
        if !is_intact(&path, download.total)? {
            for damaged in [fs::canonicalize(&path)?, path] {
                fs::remove_file(&damaged)
                    .with_context(|| format!("cannot remove {}", damaged.display()))?;
            }
            bail!("{url} was damaged on its way: run the command again");
        }
        Ok(true)
    }

    /// Downloads a file in a thread, which is left alone if the server is silent for too long.
    fn run(
        &self,
        repo: ApiRepo,
        file: &str,
        download: &mut Download,
        on_download: &mut OnDownload,
    ) -> Result<Result<PathBuf, ApiError>> {
        let (sender, received) = mpsc::channel();
        let file = file.to_owned();
        let meter = Meter { sender, done: 0, total: 0 };
        let work = move || repo.download_with_progress(&file, meter);
        let thread = thread::Builder::new().name("download".into()).spawn(work);
        let thread = thread.context("cannot start a thread: raise the limit of processes")?;
        let mut last = Instant::now();
        loop {
            match received.recv_timeout(POLL) {
                Ok(counts) => {
                    (download.done, download.total) = counts;
                    last = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => ensure!(
                    last.elapsed() < self.timeout,
                    "nothing came from {} for {} s: run the command again, or set \
                     HF_HUB_DOWNLOAD_TIMEOUT to more seconds",
                    download.url,
                    self.timeout.as_secs()
                ),
            }
            on_download(download)?;
        }
        // hf-hub panics where an answer lacks what the hub's have.
        thread.join().ok().with_context(|| self.is_no_hub())
    }

    fn is_no_hub(&self) -> String {
        format!("{} does not answer as the Hugging Face hub does: check HF_ENDPOINT", self.endpoint)
    }

    /// Returns an error that says why a download failed, unless the hub does not have the file.
    fn refused(&self, wanted: &HubFile, error: &ApiError, url: &str) -> Result<()> {
        let status = match error {
            ApiError::RequestError(error) => match **error {
                ureq::Error::StatusCode(status) => status,
                _ => 0,
            },
            ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) => bail!(self.is_no_hub()),
            // More than the file has: like 416, nothing can be added to it.
            ApiError::InvalidResume => 416,
            _ => 0,
        };
        match status {
            404 => Ok(()),
            401 | 403 => bail!(
                "the hub refuses {url} (HTTP {status}): the name is wrong, or the repository needs \
                 a token: set HF_TOKEN, and accept its terms on its page"
            ),
            416 => {
                self.remove_unfinished(wanted);
                bail!("an earlier download of {url} was damaged: run the command again")
            }
            _ => bail!(
                "cannot download {url}: {error}; run the command again, or download it elsewhere \
                 and set weights to the file"
            ),
        }
    }

    /// Removes what hf-hub has begun to download of a repository.
    fn remove_unfinished(&self, wanted: &HubFile) {
        let blobs = self.folder(wanted).join("blobs");
        for entry in fs::read_dir(blobs).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|ending| ending == "part") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Returns whether a file has its length, and the SHA-256 hash that is its name in the cache. (A
/// small file's name there is another hash, of git.)
fn is_intact(path: &Path, length: u64) -> Result<bool> {
    let blob = fs::canonicalize(path)?;
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    Ok(fs::metadata(&blob)?.len() == length && (name.len() != 64 || sha256(&blob)? == name))
}

/// Sends the numbers of bytes that have arrived and that the file has.
struct Meter {
    sender: Sender<(u64, u64)>,
    done: u64,
    total: u64,
}

impl Meter {
    fn send(&self) {
        // Nobody listens any more after a time-out.
        let _ = self.sender.send((self.done, self.total));
    }
}

impl Progress for Meter {
    fn init(&mut self, size: usize, _: &str) {
        (self.done, self.total) = (0, size as u64);
        self.send();
    }

    fn update(&mut self, bytes: usize) {
        self.done += bytes as u64;
        self.send();
    }

    fn finish(&mut self) {}
}
