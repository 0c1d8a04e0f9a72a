//! Notices ranks that are gone. A process that dies closes its connections, which ends the others'
//! collectives at once. A host that loses its power, or a process that is stopped, closes nothing:
//! its missing heartbeat shows that it is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::ops::distributed::Store;

/// Seconds without a beat after which a rank counts as gone.
const SILENCE: u32 = 30;
/// The time between two beats.
const BEAT: Duration = Duration::from_secs(2);
const GET_TIMEOUT: Duration = Duration::from_secs(10);

/// The function to call, with the reason, when a rank is gone.
pub type OnLost = Arc<dyn Fn(&str) + Send + Sync>;

/// Beats for this rank and watches the others until it is dropped.
pub(super) struct Heartbeat {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Heartbeat {
    /// Starts the threads. `store` is a connection of their own, so that a wait on the other one
    /// does not delay a beat.
    pub(super) fn start(store: Store, rank: usize, size: usize, lost: OnLost) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let silent: Arc<Vec<AtomicU32>> = Arc::new((0..size).map(|_| AtomicU32::new(0)).collect());
        let sender = Sender { store, rank, stop: Arc::clone(&stop), silent: Arc::clone(&silent) };
        let watch_stop = Arc::clone(&stop);
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = Builder::new().name(name.to_string()).spawn(run);
            thread.context("cannot start a thread that watches the other ranks")
        };
        Ok(Self {
            threads: vec![
                spawn("heartbeat", Box::new(move || sender.run()))?,
                spawn("watch-ranks", Box::new(move || watch(rank, &silent, &watch_stop, &lost)))?,
            ],
            stop,
        })
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Returns the key under which a rank beats.
pub(super) fn key(rank: usize) -> String {
    format!("beat/{rank}")
}

struct Sender {
    store: Store,
    rank: usize,
    stop: Arc<AtomicBool>,
    /// Seconds since each rank's last beat.
    silent: Arc<Vec<AtomicU32>>,
}

impl Sender {
    /// Beats, and resets the silence of ranks that have beaten. If the store no longer answers, its
    /// server is gone: all ranks are silent then, which `watch` notices.
    fn run(&self) {
        let mut last: Vec<Vec<u8>> = vec![Vec::new(); self.silent.len()];
        let mut count = 1u64;
        while !self.stop.load(Ordering::Relaxed) {
            count += 1;
            if self.store.set(&key(self.rank), count.to_string().as_bytes()).is_err() {
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

/// Calls `lost` once a rank has been silent too long. It counts seconds by its own wake-ups, so
/// that a job that is suspended and continued as a whole loses no rank.
fn watch(rank: usize, silent: &[AtomicU32], stop: &AtomicBool, lost: &OnLost) {
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
                "rank {rank} of {size}: rank {other} has not been heard of for {SILENCE} s: its \
                 process has stopped, or its host or the network between is gone"
            ));
            return;
        }
    }
}

/// Sleeps, unless it is stopped meanwhile.
fn pause(time: Duration, stop: &AtomicBool) {
    let slice = Duration::from_millis(50);
    let mut left = time;
    while !left.is_zero() && !stop.load(Ordering::Relaxed) {
        sleep(slice.min(left));
        left = left.saturating_sub(slice);
    }
}
