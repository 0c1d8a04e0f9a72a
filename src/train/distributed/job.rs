//! One process's membership in a job: joining the store, waiting for other ranks, and leaving.

use std::mem;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use tch::Device;

use super::environment::Environment;
use super::heartbeat::{self, Heartbeat, OnLost};
use crate::ops::OpError;
use crate::ops::distributed::{ProcessGroup, Store};

/// The time that a collective waits for a rank that is alive but late: it may have images to decode
/// or a checkpoint to write.
pub(super) const COLLECTIVE_TIMEOUT: Duration = Duration::from_secs(1800);
/// The time that a rank that ends waits for the others to have read why.
const FAREWELL: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// The error of a collective that broke: another rank is gone, or has ended with an error.
#[derive(Debug, thiserror::Error)]
#[error("the connection to another rank is broken: {0}")]
pub(super) struct Broken(pub OpError);

/// A rank of a job, with its connections to the others.
pub(super) struct Job {
    pub environment: Environment,
    pub store: Store,
    pub group: OnceLock<(ProcessGroup, Device)>,
    heartbeat: Heartbeat,
}

impl Job {
    /// Joins the job's store, and waits until all ranks have.
    pub(super) fn join(environment: Environment, lost: OnLost) -> Result<Self> {
        let Environment { rank, size, ref address, serves, join_timeout, .. } = environment;
        let place = format!("{}:{}", address.host, address.port);
        let store = Store::open(address, serves, join_timeout).with_context(|| {
            if serves {
                format!("cannot serve the ranks' store at {place} (MASTER_ADDR and MASTER_PORT)")
            } else {
                format!(
                    "cannot reach rank 0 at {place} within {} s (MASTER_ADDR, MASTER_PORT; \
                     VMB_JOIN_TIMEOUT for more seconds)",
                    join_timeout.as_secs()
                )
            }
        })?;
        let joined = store.add(&format!("joined/{rank}"), 1)?;
        ensure!(joined == 1, "two processes have RANK={rank} at {place}");
        store.set(&heartbeat::key(rank), b"1")?;
        let asked = Instant::now();
        for other in 0..size {
            let left = join_timeout.saturating_sub(asked.elapsed());
            let beat = store.get(&heartbeat::key(other), left.max(POLL));
            beat.with_context(|| {
                format!(
                    "rank {other} has not joined at {place} within {} s (VMB_JOIN_TIMEOUT for more \
                     seconds)",
                    join_timeout.as_secs()
                )
            })?;
        }
        let beats = Store::open(address, false, join_timeout)?;
        Ok(Self {
            heartbeat: Heartbeat::start(beats, rank, size, lost)?,
            environment,
            store,
            group: OnceLock::new(),
        })
    }

    /// Returns the process group and the device of its tensors.
    pub(super) fn group(&self) -> Result<&(ProcessGroup, Device)> {
        self.group.get().context("internal: the ranks are not connected yet")
    }

    /// Waits for a key and returns its value; fails once another rank has failed. The heartbeat
    /// notices ranks that are gone.
    pub(super) fn wait_for(&self, key: &str) -> Result<Vec<u8>> {
        while !self.store.has(key).map_err(Broken)? {
            if let Some(failure) = self.failure()? {
                bail!(failure);
            }
            sleep(POLL);
        }
        Ok(self.store.get(key, COLLECTIVE_TIMEOUT).map_err(Broken)?)
    }

    /// Returns the error of another rank that has reported one.
    fn failure(&self) -> Result<Option<String>> {
        let Environment { rank, size, .. } = self.environment;
        for other in (0..size).filter(|&other| other != rank) {
            let key = failure_key(other);
            if self.store.has(&key).map_err(Broken)? {
                let text = self.store.get(&key, FAREWELL).map_err(Broken)?;
                let text = String::from_utf8_lossy(&text);
                return Ok(Some(format!("rank {other} failed: {text}")));
            }
        }
        Ok(None)
    }

    /// Adds another rank's error to that of a broken collective: the other rank either reports it
    /// about now, or no longer can.
    pub(super) fn explain(&self, error: Error) -> Error {
        if !error.chain().any(|cause| cause.is::<Broken>()) {
            return error;
        }
        let asked = Instant::now();
        while asked.elapsed() < FAREWELL / 2 {
            match self.failure() {
                Ok(Some(failure)) => return error.context(failure),
                Ok(None) => sleep(POLL),
                Err(_) => break,
            }
        }
        error.context("another rank is gone: its process or its host has ended")
    }

    /// Reports an error to the other ranks and breaks the connections, so that none waits.
    pub(super) fn give_up(self, error: &Error) {
        if error.chain().any(|cause| cause.is::<Broken>()) {
            // Its destructor would wait for collectives with a rank that is gone.
            mem::forget(self.group);
        } else {
            let text = format!("{error:#}");
            let key = failure_key(self.environment.rank);
            let _ = self.store.set(&key, text.as_bytes());
            drop(self.group);
        }
        drop(self.heartbeat);
        farewell(&self.store, self.environment.size);
    }

    /// Leaves a job that succeeded on all ranks.
    pub(super) fn leave(self) {
        drop(self.heartbeat);
        farewell(&self.store, self.environment.size);
    }
}

/// Waits until all ranks that are not gone are leaving, because the store ends with the process
/// that serves it.
fn farewell(store: &Store, size: usize) {
    const KEY: &str = "leaving";
    let asked = Instant::now();
    let mut leaving = store.add(KEY, 1);
    while asked.elapsed() < FAREWELL && leaving.is_ok_and(|ranks| ranks < size as i64) {
        sleep(POLL);
        leaving = store.add(KEY, 0);
    }
}

fn failure_key(rank: usize) -> String {
    format!("failed/{rank}")
}
