//! Slices of a batch: on the CPU each is computed by one thread, and the threads take slices until
//! none is left. Operators are too small to occupy several threads each, and would wait for all of
//! them at the end.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};
use tch::Device;

use crate::ops;

/// Slices of a small batch: as many threads as most machines have, in turns of the same length.
const FEW: usize = 4;
/// Images of a slice, over which the overhead of its operators and the sum of its gradients are
/// spread.
const IMAGES: usize = 4;
/// Slices of a large batch.
const MANY: usize = 64;

/// Divides batches into slices, and computes them on several threads. A batch's slices depend on
/// its size and never on the number of threads, and so do results.
#[derive(Debug)]
pub struct Slicer {
    size: Size,
    /// The threads, each with one thread per operator; `None` uses the calling one.
    pool: Option<ThreadPool>,
}

#[derive(Debug, Clone, Copy)]
enum Size {
    Images(usize),
    Auto,
    Whole,
}

impl Slicer {
    /// Creates the slicer for models on `device`: on the CPU with slices of `images` (`None`
    /// chooses by the size of the batch) and as many threads as libtorch has in this one; on a GPU
    /// batches stay whole. Returns an error if threads cannot be started.
    pub fn new(images: Option<usize>, device: Device) -> Result<Self> {
        let threads = tch::get_num_threads();
        if device != Device::Cpu {
            return Ok(Self::whole());
        }
        let size = images.map_or(Size::Auto, Size::Images);
        if threads <= 1 {
            return Ok(Self { size, pool: None });
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads as usize)
            .thread_name(|_| "slices".to_string())
            .build()
            .context("cannot start the threads that compute; lower train.threads")?;
        let ready = pool.broadcast(|_| ops::use_one_thread());
        tch::set_num_threads(threads);
        ready.into_iter().collect::<Result<(), _>>()?;
        Ok(Self { size, pool: Some(pool) })
    }

    /// Creates the slicer whose batches stay whole, and are computed by the calling thread.
    pub fn whole() -> Self {
        Self { size: Size::Whole, pool: None }
    }

    /// Returns whether batches stay whole.
    pub fn is_whole(&self) -> bool {
        matches!(self.size, Size::Whole)
    }

    /// Returns the slices of a batch of `len` images.
    pub fn slices(&self, len: usize) -> Vec<Range<usize>> {
        let size = match self.size {
            Size::Images(images) => images.max(1),
            Size::Auto => len.div_ceil(FEW).min(IMAGES).max(len.div_ceil(MANY)).max(1),
            Size::Whole => len.max(1),
        };
        (0..len).step_by(size).map(|start| start..len.min(start + size)).collect()
    }

    /// Returns `compute` of the numbers from 0 to `count`. Threads begin with the numbers in order.
    /// Returns the error of the first number that has one.
    pub fn map<T: Send>(
        &self,
        count: usize,
        compute: impl Fn(usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let Some(pool) = &self.pool else {
            return (0..count).map(compute).collect();
        };
        let next = AtomicUsize::new(0);
        let computed = pool.broadcast(|_| {
            let mut mine = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return mine;
                }
                let result = compute(number);
                if result.is_err() {
                    next.store(count, Ordering::Relaxed);
                }
                mine.push((number, result));
            }
        });
        let mut computed: Vec<(usize, Result<T>)> = computed.into_iter().flatten().collect();
        computed.sort_by_key(|(number, _)| *number);
        computed.into_iter().map(|(_, result)| result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn slicer(images: Option<usize>) -> Slicer {
        Slicer::new(images, Device::Cpu).unwrap()
    }

    #[test]
    fn slices_depend_on_the_batch_by_the_rule_that_the_config_documents() {
        let counts = [1, 8, 16, 24, 64, 256, 1024].map(|len| slicer(None).slices(len).len());
        assert_eq!(counts, [1, 4, 4, 6, 16, 64, 64]);
    }

    #[test]
    fn slices_cover_the_batch_in_order() {
        for images in [None, Some(1), Some(3), Some(500)] {
            for len in [0, 1, 2, 5, 16, 64, 300] {
                let slices = slicer(images).slices(len);
                assert!(slices.len() <= images.map_or(64, |images| len.div_ceil(images)));
                assert!(slices.iter().all(|slice| !slice.is_empty()));
                assert_eq!(
                    slices.into_iter().flatten().collect::<Vec<_>>(),
                    Vec::from_iter(0..len)
                );
            }
        }
        let whole = Slicer::new(Some(1), Device::Cuda(0)).unwrap().slices(5);
        assert_eq!((whole.len(), whole[0].clone()), (1, 0..5));
    }

    #[test]
    fn results_are_in_order_and_the_first_error_is_returned() {
        let slicer = slicer(None);
        assert_eq!(slicer.map(9, |n| Ok(n * n)).unwrap(), [0, 1, 4, 9, 16, 25, 36, 49, 64]);
        let error = slicer.map(9, |n| if n >= 4 { bail!("number {n}") } else { Ok(()) });
        assert_eq!(error.unwrap_err().to_string(), "number 4");
    }

    #[test]
    fn a_panic_in_a_thread_reaches_the_caller_with_its_message() {
        let slicer = slicer(None);
        let panics = || slicer.map(9, |n| if n == 4 { panic!("number {n}") } else { Ok(n) });
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
        assert_eq!(caught.downcast_ref::<String>().unwrap(), "number 4");
        assert_eq!(slicer.map(3, Ok).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn a_thread_that_computes_slices_starts_no_others() {
        let before = tch::get_num_threads();
        let slicer = slicer(None);
        let threads = slicer.map(8, |_| Ok(tch::get_num_threads())).unwrap();
        assert!(threads.iter().all(|&threads| threads == 1));
        assert_eq!(tch::get_num_threads(), before);
    }
}
