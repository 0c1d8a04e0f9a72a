//! Items of a pass in order, loaded by worker threads ahead of the caller.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use anyhow::Result;

use super::queue::Queue;
use crate::data::image::Workspace;
use crate::data::panic::catch_panic;

type Load<T> = dyn Fn(usize, &mut Workspace) -> Result<T> + Send + Sync;

/// Loads the items of a pass. A panic while loading one is its error. Dropping it early stops its
/// threads.
pub(crate) struct Prefetch<T> {
    load: Arc<Load<T>>,
    items: Range<usize>,
    /// For items that the calling thread loads.
    workspace: Workspace,
    queue: Arc<Queue<T>>,
    workers: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts a pass over `items` with up to `workers` threads, which load up to `window` items
    /// ahead of the next one; without any, the calling thread loads each item on demand. Returns an
    /// error if a thread cannot be started.
    pub(crate) fn new(
        items: Range<usize>,
        workers: usize,
        window: usize,
        load: impl Fn(usize, &mut Workspace) -> Result<T> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut prefetch = Self {
            load: Arc::new(load),
            queue: Arc::new(Queue::new(items.start)),
            workspace: Workspace::default(),
            workers: Vec::new(),
            items,
        };
        let end = prefetch.items.end;
        // More threads than items would only start to stop.
        for _ in 0..workers.min(prefetch.left()) {
            let (load, queue) = (Arc::clone(&prefetch.load), Arc::clone(&prefetch.queue));
            let worker = Builder::new()
                .name("data".to_string())
                .spawn(move || work(&*load, &queue, end, window))?;
            prefetch.workers.push(worker);
        }
        Ok(prefetch)
    }

    /// Returns the next item; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Result<T>> {
        let item = self.items.next()?;
        Some(if self.workers.is_empty() {
            catch_panic(|| (self.load)(item, &mut self.workspace))
        } else {
            self.queue.take(item)
        })
    }
}

impl<T> Prefetch<T> {
    /// Ends the pass before its last item.
    pub(super) fn end(&mut self) {
        self.items.start = self.items.end;
    }

    /// Returns the number of items that are left.
    pub(super) fn left(&self) -> usize {
        self.items.len()
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.queue.stop();
        for worker in self.workers.drain(..) {
            // A worker catches its panics, so that its result carries nothing.
            let _ = worker.join();
        }
    }
}

fn work<T>(load: &Load<T>, queue: &Queue<T>, end: usize, window: usize) {
    let mut workspace = Workspace::default();
    while let Some(item) = queue.claim(end, window) {
        // A panic must still answer the claim.
        queue.put(item, catch_panic(|| load(item, &mut workspace)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_error_of_its_item_with_any_number_of_workers() {
        for workers in [0, 2] {
            let load = |item: usize, _: &mut Workspace| {
                assert_ne!(item, 1, "the second item");
                Ok(item)
            };
            let mut pass = Prefetch::new(0..3, workers, 2, load).unwrap();
            let items: Vec<_> = std::iter::from_fn(|| pass.next()).collect();
            assert!(matches!(items[..], [Ok(0), Err(_), Ok(2)]), "{items:?}");
            let error = items[1].as_ref().unwrap_err().to_string();
            assert!(error.contains("the second item"), "{error}");
        }
    }
}
