//! The CUDA kernels that operators would launch on a GPU, counted on a CPU.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr::null_mut;

use serde::Serialize;

use super::OpError;
use super::ffi;

/// CUDA kernels that a GPU would have launched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Launches {
    /// Their number.
    pub total: u64,
    /// Their number by libtorch's name of the operator, or this project's name of the kernel.
    pub by_operator: BTreeMap<String, u64>,
}

/// Counts until it is ended or dropped.
struct Counter(*mut c_void);

impl Counter {
    fn end(&mut self) -> Launches {
        let mut launches = Launches::default();
        // SAFETY: csrc allocated the counter for this value alone, on this thread (a raw pointer
        // makes the type `!Send`), and it is ended once.
        let lines =
            unsafe { ffi::vmb_count_launches_end(std::mem::replace(&mut self.0, null_mut())) };
        let text = ffi::taken_text(lines).unwrap_or_default();
        for (count, name) in text.lines().filter_map(|line| line.split_once(' ')) {
            let count = count.parse().unwrap_or(0);
            launches.total += count;
            launches.by_operator.insert(name.to_string(), count);
        }
        launches
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if !self.0.is_null() {
            self.end();
        }
    }
}

/// Runs `f`, which computes on CPU tensors, and returns the CUDA kernels that it would launch if
/// the tensors were on a GPU. `csrc/ops/launches.cpp` says what is counted and what cannot be seen.
/// Returns an error inside another count.
///
/// # Examples
/// ```
/// use tch::{Device, Kind, Tensor};
/// use vm_beautynet::ops::count_launches;
///
/// let x = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
/// // A product and a sum; the transposed view is free.
/// let (_, launches) = count_launches(|| x.matmul(&x.transpose(0, 1)) + 1.0)?;
/// assert_eq!(launches.total, 2);
/// # Ok::<(), vm_beautynet::ops::OpError>(())
/// ```
pub fn count_launches<R>(f: impl FnOnce() -> R) -> Result<(R, Launches), OpError> {
    let mut pointer = null_mut();
    // SAFETY: `pointer` is written where no message is returned.
    ffi::check(unsafe { ffi::vmb_count_launches_begin(&mut pointer) })?;
    let mut counter = Counter(pointer);
    let result = f();
    Ok((result, counter.end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Path, ScanInputs, causal_conv1d_silu, selective_scan};
    use tch::{Device, Kind, Tensor};

    const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn names(launches: &Launches) -> Vec<(&str, u64)> {
        launches.by_operator.iter().map(|(name, count)| (name.as_str(), *count)).collect()
    }

    #[test]
    fn a_composed_operator_counts_as_its_parts_and_views_are_free() {
        let [x, w] = [[4, 5, 6], [7, 6, 1]].map(|shape| Tensor::ones(shape, OPTIONS));
        let (_, launches) = count_launches(|| {
            let y = x.linear(&w.squeeze_dim(-1), None::<&Tensor>).transpose(1, 2);
            let _ = Tensor::empty([3], OPTIONS);
            y.contiguous().reshape([4, 35]) // a copy, then a view
        })
        .unwrap();
        assert_eq!(names(&launches), [("aten::copy_", 1), ("aten::mm", 1)]);
    }

    #[test]
    fn what_is_one_kernel_on_a_gpu_counts_as_one_forward_and_backward() {
        let x = Tensor::ones([4, 6], OPTIONS).set_requires_grad(true);
        let weight = Tensor::ones([6], OPTIONS).set_requires_grad(true);
        let (_, launches) =
            count_launches(|| x.rms_norm([6], Some(&weight), 1e-5).sum(Kind::Float).backward())
                .unwrap();
        assert_eq!(launches.by_operator["aten::rms_norm"], 1, "{launches:?}");
        assert_eq!(launches.by_operator["aten::rms_norm backward"], 2, "{launches:?}");
        for of_the_composite in ["aten::pow", "aten::rsqrt", "aten::mean"] {
            assert!(!launches.by_operator.contains_key(of_the_composite), "{launches:?}");
        }
    }

    #[test]
    fn the_operators_count_as_their_cuda_kernels() {
        let sequence = |rows| Tensor::rand([2, rows, 5], OPTIONS).set_requires_grad(true);
        let [u, delta, b, c] = [8, 8, 4, 4].map(sequence);
        let a = -Tensor::ones([8, 4], OPTIONS);
        let inputs = ScanInputs {
            u: &u,
            delta: &delta,
            a: &a,
            b: &b,
            c: &c,
            d: None,
            z: None,
            delta_bias: None,
            delta_softplus: true,
            reverse: false,
        };
        let (y, launches) =
            count_launches(|| selective_scan(&inputs, Path::Auto).unwrap()).unwrap();
        assert_eq!(names(&launches), [("selective_scan", 1)]);
        let (_, launches) = count_launches(|| y.sum(Kind::Float).backward()).unwrap();
        assert_eq!(launches.by_operator["selective_scan's backward"], 1, "{launches:?}");
        assert!(launches.by_operator["sum_parts"] >= 1, "{launches:?}");
        let weight = Tensor::ones([8, 1, 4], OPTIONS);
        let (_, launches) =
            count_launches(|| causal_conv1d_silu(&u, &weight, None, false, Path::Auto)).unwrap();
        assert_eq!(names(&launches), [("causal_conv1d_silu", 1)]);
    }

    #[test]
    fn a_count_inside_another_is_refused_and_the_outer_one_goes_on() {
        let (inner, launches) = count_launches(|| {
            let inner = count_launches(|| ());
            let _ = Tensor::ones([2], OPTIONS) + 1.0;
            inner
        })
        .unwrap();
        assert!(inner.unwrap_err().0.contains("already"));
        assert!(launches.by_operator.contains_key("aten::add"), "{launches:?}");
        let (_, after) = count_launches(|| ()).unwrap();
        assert_eq!(after, Launches::default());
    }
}
