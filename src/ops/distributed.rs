//! Process groups over several processes and hosts, by libtorch's c10d. Without the feature
//! `distributed` every call returns an error that explains how to build with it.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::time::Duration;

use tch::Tensor;
use torch_sys::C_tensor;

use super::OpError;
use super::ffi::{check, free_message, pointer, pointers};

unsafe extern "C" {
    fn vmb_store_open(
        host: *const c_char,
        port: c_int,
        serve: c_int,
        prefix: *const c_char,
        timeout_ms: i64,
        store: *mut *mut c_void,
    ) -> *mut c_char;
    fn vmb_store_close(store: *mut c_void);
    fn vmb_store_set(
        store: *mut c_void,
        key: *const c_char,
        value: *const u8,
        length: i64,
    ) -> *mut c_char;
    fn vmb_store_get(
        store: *mut c_void,
        key: *const c_char,
        timeout_ms: i64,
        value: *mut *mut c_char,
        length: *mut i64,
    ) -> *mut c_char;
    fn vmb_store_has(store: *mut c_void, key: *const c_char, has: *mut c_int) -> *mut c_char;
    fn vmb_store_add(
        store: *mut c_void,
        key: *const c_char,
        amount: i64,
        sum: *mut i64,
    ) -> *mut c_char;
    fn vmb_group_join(
        store: *mut c_void,
        rank: c_int,
        size: c_int,
        nccl: c_int,
        timeout_ms: i64,
        group: *mut *mut c_void,
    ) -> *mut c_char;
    fn vmb_group_leave(group: *mut c_void);
    fn vmb_group_broadcast(group: *mut c_void, tensor: *mut c_void, root: c_int) -> *mut c_char;
    fn vmb_group_all_gather(
        group: *mut c_void,
        tensor: *const c_void,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn vmb_group_barrier(group: *mut c_void) -> *mut c_char;
    fn vmb_reducer_new(
        group: *mut c_void,
        parameters: *const *mut c_void,
        count: i64,
        bucket_bytes: i64,
        reducer: *mut *mut c_void,
    ) -> *mut c_char;
    fn vmb_reducer_free(reducer: *mut c_void);
    fn vmb_reducer_arm(reducer: *mut c_void) -> *mut c_char;
    fn vmb_reducer_finish(reducer: *mut c_void) -> *mut c_char;
    fn vmb_has_nccl() -> c_int;
    fn vmb_exit_now(code: c_int);
}

/// Converts to a C string; an interior NUL is an error.
fn c_string(text: &str) -> Result<CString, OpError> {
    CString::new(text).map_err(|_| OpError(format!("{text:?} has a NUL in it")))
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Calls a function of csrc that writes a pointer to a new object, and returns the pointer.
fn created(call: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Result<NonNull<c_void>, OpError> {
    let mut out = null_mut();
    check(call(&mut out))?;
    NonNull::new(out).ok_or_else(|| OpError("internal: csrc returned a null pointer".to_string()))
}

/// The address of the ranks' key-value store.
#[derive(Debug, Clone)]
pub struct StoreAddress {
    /// The host that serves the store.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The prefix of all keys.
    pub prefix: String,
}

/// A connection to the ranks' key-value store. It serves one call at a time: a call that waits
/// blocks other threads, which should use connections of their own.
#[derive(Debug)]
pub struct Store(NonNull<c_void>);

// SAFETY: c10d::TCPStore locks itself for every call; nothing in it belongs to a thread.
unsafe impl Send for Store {}
unsafe impl Sync for Store {}

impl Store {
    /// Connects, and serves the store from this process if `serve` is set, for as long as this
    /// value lives.
    pub fn open(address: &StoreAddress, serve: bool, timeout: Duration) -> Result<Self, OpError> {
        let (host, prefix) = (c_string(&address.host)?, c_string(&address.prefix)?);
        // SAFETY: the strings outlive the call; a pointer is written where no message is returned.
        created(|out| unsafe {
            vmb_store_open(
                host.as_ptr(),
                address.port.into(),
                serve.into(),
                prefix.as_ptr(),
                milliseconds(timeout),
                out,
            )
        })
        .map(Self)
    }

    /// Sets a key.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), OpError> {
        let key = c_string(key)?;
        // SAFETY: key and value outlive the call.
        check(unsafe {
            vmb_store_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr(), value.len() as i64)
        })
    }

    /// Waits for a key and returns its value.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, OpError> {
        let key = c_string(key)?;
        let (mut value, mut length) = (null_mut(), 0);
        // SAFETY: the key outlives the call; value and length are written where no message is
        // returned.
        check(unsafe {
            vmb_store_get(
                self.0.as_ptr(),
                key.as_ptr(),
                milliseconds(timeout),
                &mut value,
                &mut length,
            )
        })?;
        // SAFETY: csrc allocated `length` bytes, which nothing else owns, and which are freed once,
        // here.
        unsafe {
            let bytes = slice::from_raw_parts(value as *const u8, length as usize).to_vec();
            free_message(value);
            Ok(bytes)
        }
    }

    /// Returns whether a key is set, without waiting.
    pub fn has(&self, key: &str) -> Result<bool, OpError> {
        let key = c_string(key)?;
        let mut has = 0;
        // SAFETY: the key outlives the call, and so does `has`.
        check(unsafe { vmb_store_has(self.0.as_ptr(), key.as_ptr(), &mut has) })?;
        Ok(has != 0)
    }

    /// Adds to a counter that starts at 0, and returns its new value.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64, OpError> {
        let key = c_string(key)?;
        let mut sum = 0;
        // SAFETY: the key outlives the call, and so does `sum`.
        check(unsafe { vmb_store_add(self.0.as_ptr(), key.as_ptr(), amount, &mut sum) })?;
        Ok(sum)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: created by vmb_store_open, owned by this value alone.
        unsafe { vmb_store_close(self.0.as_ptr()) }
    }
}

/// The backend of the collectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// TCP, for CPU tensors; CUDA tensors are copied through the host.
    Gloo,
    /// GPU to GPU.
    Nccl,
}

/// Returns whether [`Backend::Nccl`] is compiled in.
pub fn has_nccl() -> bool {
    // SAFETY: returns a constant.
    unsafe { vmb_has_nccl() != 0 }
}

/// Exits the process at once: no destructor waits for a collective that never completes.
pub fn exit_now(code: i32) {
    // SAFETY: ends the process without running anything.
    unsafe { vmb_exit_now(code) }
}

/// A group of connected ranks. All of them must call every collective, in the same order.
#[derive(Debug)]
pub struct ProcessGroup {
    group: NonNull<c_void>,
    size: usize,
}

// SAFETY: c10d's process groups may be used from any thread, by one at a time, which `&mut` or the
// owner ensures; nothing in them belongs to a thread.
unsafe impl Send for ProcessGroup {}
unsafe impl Sync for ProcessGroup {}

impl ProcessGroup {
    /// Connects this process, `rank` of `size`, with the others, which must call this too. A
    /// collective that waits longer than `timeout` for another rank fails.
    pub fn join(
        store: &Store,
        rank: usize,
        size: usize,
        backend: Backend,
        timeout: Duration,
    ) -> Result<Self, OpError> {
        // SAFETY: the store is valid; a pointer is written where no message is returned.
        let group = created(|out| unsafe {
            vmb_group_join(
                store.0.as_ptr(),
                rank as c_int,
                size as c_int,
                (backend == Backend::Nccl).into(),
                milliseconds(timeout),
                out,
            )
        })?;
        Ok(Self { group, size })
    }

    /// Copies rank `root`'s values to all ranks, in place.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), OpError> {
        // SAFETY: both are valid for the call.
        check(unsafe {
            vmb_group_broadcast(self.group.as_ptr(), pointer(tensor) as *mut c_void, root as c_int)
        })
    }

    /// Returns every rank's tensor, by rank; they must have the same shape and type.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, OpError> {
        let mut out = vec![null_mut(); self.size];
        // SAFETY: `out` has room for a pointer per rank; without a message all are tensors
        // allocated with `new` that nothing else owns.
        unsafe {
            check(vmb_group_all_gather(self.group.as_ptr(), pointer(tensor), out.as_mut_ptr()))?;
            Ok(out.into_iter().map(|tensor| Tensor::from_ptr(tensor as *mut C_tensor)).collect())
        }
    }

    /// Waits until all ranks have called it. Returns an error if a rank has exited.
    pub fn barrier(&self) -> Result<(), OpError> {
        // SAFETY: the group is valid.
        check(unsafe { vmb_group_barrier(self.group.as_ptr()) })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: created by vmb_group_join, owned by this value alone; reducers share what they
        // need of it.
        unsafe { vmb_group_leave(self.group.as_ptr()) }
    }
}

/// Sums gradients over the ranks while backward runs: the gradients are in flat buckets, and the
/// all-reduce of a bucket starts as soon as its last gradient is ready (arXiv 2006.15704).
#[derive(Debug)]
pub struct Reducer(NonNull<c_void>);

impl Reducer {
    /// Creates a reducer for these leaves, which must require gradients, in the order in which
    /// backward reaches them; the order must be the same on all ranks. Buckets have about
    /// `bucket_bytes`, or one larger parameter.
    pub fn new(
        group: &ProcessGroup,
        parameters: &[Tensor],
        bucket_bytes: usize,
    ) -> Result<Self, OpError> {
        // SAFETY: group and tensors are valid for the call; csrc keeps references of its own.
        created(|out| unsafe {
            vmb_reducer_new(
                group.group.as_ptr(),
                pointers(parameters).as_ptr(),
                parameters.len() as i64,
                bucket_bytes as i64,
                out,
            )
        })
        .map(Self)
    }

    /// Marks the next backward pass as the last of its step. Gradients of earlier passes are summed
    /// with its own.
    pub fn arm(&mut self) -> Result<(), OpError> {
        // SAFETY: the reducer is valid.
        check(unsafe { vmb_reducer_arm(self.0.as_ptr()) })
    }

    /// Waits until every parameter's gradient is the sum over the ranks. If backward did not reach
    /// a parameter, this rank adds zeros. Returns an error if a rank has exited, or
    /// [`arm`](Self::arm) was not called.
    pub fn finish(&mut self) -> Result<(), OpError> {
        // SAFETY: the reducer is valid.
        check(unsafe { vmb_reducer_finish(self.0.as_ptr()) })
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: created by vmb_reducer_new, owned by this value alone. Takes its hooks off the
        // parameters.
        unsafe { vmb_reducer_free(self.0.as_ptr()) }
    }
}
