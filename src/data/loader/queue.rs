//! The bounded queue between the workers of a pass and its consumer.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

pub(super) struct Queue<T> {
    state: Mutex<QueueState<T>>,
    /// Signals room for another item, or the end.
    room: Condvar,
    finished: Condvar,
}

struct QueueState<T> {
    /// The next item that no worker has claimed.
    unclaimed: usize,
    /// The item that the consumer wants next.
    wanted: usize,
    ready: BTreeMap<usize, Result<T>>,
    stopped: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(first: usize) -> Self {
        let state =
            QueueState { unclaimed: first, wanted: first, ready: BTreeMap::new(), stopped: false };
        Self { state: Mutex::new(state), room: Condvar::new(), finished: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        // Nothing under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room, and claims an item before `end`; returns `None` when the pass is
    /// over.
    pub(super) fn claim(&self, end: usize, window: usize) -> Option<usize> {
        let mut state = self
            .room
            .wait_while(self.lock(), |state| {
                !state.stopped && state.unclaimed < end && state.unclaimed >= state.wanted + window
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopped || state.unclaimed >= end {
            return None;
        }
        state.unclaimed += 1;
        Some(state.unclaimed - 1)
    }

    pub(super) fn put(&self, item: usize, loaded: Result<T>) {
        self.lock().ready.insert(item, loaded);
        self.finished.notify_all();
    }

    pub(super) fn take(&self, item: usize) -> Result<T> {
        let mut state = self.lock();
        loop {
            if let Some(loaded) = state.ready.remove(&item) {
                state.wanted = item + 1;
                drop(state);
                self.room.notify_all();
                return loaded;
            }
            state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn workers_stay_within_the_window() {
        let queue = Queue::<()>::new(0);
        assert_eq!([queue.claim(10, 2), queue.claim(10, 2)], [Some(0), Some(1)]);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.claim(10, 2));
            queue.put(0, Err(anyhow!("empty")));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waiting.is_finished());
            assert!(queue.take(0).is_err());
            assert_eq!(waiting.join().unwrap(), Some(2));
        });
        queue.stop();
        assert_eq!(queue.claim(10, 2), None);
    }
}
