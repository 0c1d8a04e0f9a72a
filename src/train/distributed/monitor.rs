//! Notices ranks that are gone. A process that dies closes its connections, which ends the others'
//! collectives at once; a host that loses its power, or a process that is stopped, closes nothing:
//! it is missed when its heart no longer beats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::ops::distributed::Store;

/// Seconds without a beat after which a rank counts as gone.
const SILENCE: u32 = 30;
/// Time between two beats.
const BEAT: Duration = Duration::from_secs(2);
const GET_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do when a rank is gone; it does not come back.
pub type OnLost = Arc<dyn Fn(&str) + Send + Sync>;

/// Beats for this rank and listens for the others, until it is dropped.
pub(super) struct Monitor {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Monitor {
    /// `store` is a connection of its own: whoever waits in the other one must not hold up the
    /// heart.
    pub fn start(store: Store, rank: usize, size: usize, lost: OnLost) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let silent: Arc<Vec<AtomicU32>> = Arc::new((0..size).map(|_| AtomicU32::new(0)).collect());
        let heart = Heart { store, rank, stop: Arc::clone(&stop), silent: Arc::clone(&silent) };
        let guard_stop = Arc::clone(&stop);
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = Builder::new().name(name.to_string()).spawn(run);
            thread.context("cannot start a thread that watches the other ranks")
        };
        Ok(Self {
            threads: vec![
                spawn("heartbeat", Box::new(move || heart.beat()))?,
                spawn("watch-ranks", Box::new(move || guard(rank, &silent, &guard_stop, &lost)))?,
            ],
            stop,
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The key under which a rank beats.
pub(super) fn key(rank: usize) -> String {
    format!("beat/{rank}")
}

struct Heart {
    store: Store,
    rank: usize,
    stop: Arc<AtomicBool>,
    /// Seconds since each rank was last heard of.
    silent: Arc<Vec<AtomicU32>>,
}

impl Heart {
    /// Where the store no longer answers, whoever serves it is gone: all are silent then, and the
    /// guard sees it.
    fn beat(&self) {
        let mut last: Vec<Vec<u8>> = vec![Vec::new(); self.silent.len()];
        let mut count = 1u64;
        while !self.stop.load(Ordering::Relaxed) {
            count += 1;
            let mine = self.store.set(&key(self.rank), count.to_string().as_bytes());
            if mine.is_err() {
                return;
            }
            for (rank, silent) in self.silent.iter().enumerate() {
                let Ok(beat) = self.store.get(&key(rank), GET_TIMEOUT) else {
                    return;
                };
                if beat != last[rank] {
                    last[rank] = beat;
                    silent.store(0, Ordering::Relaxed);
                }
            }
            pause(BEAT, &self.stop);
        }
    }
}

/// Counts seconds by its own waking, so that a job that was stopped as a whole, and goes on, misses
/// nobody.
fn guard(rank: usize, silent: &[AtomicU32], stop: &AtomicBool, lost: &OnLost) {
    let size = silent.len();
    loop {
        pause(Duration::from_secs(1), stop);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        for (other, silent) in silent.iter().enumerate() {
            if silent.fetch_add(1, Ordering::Relaxed) < SILENCE || other == rank {
                continue;
            }
            lost(&format!(
                "rank {rank} of {size}: rank {other} has not been heard of for {SILENCE} s: its process has stopped, or its host or the network between is gone"
            ));
            return;
        }
    }
}

/// Sleeps, unless told to stop meanwhile.
fn pause(time: Duration, stop: &AtomicBool) {
    let slice = Duration::from_millis(50);
    let mut left = time;
    while !left.is_zero() && !stop.load(Ordering::Relaxed) {
        sleep(slice.min(left));
        left = left.saturating_sub(slice);
    }
}
