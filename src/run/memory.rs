//! The memory of this process.

use std::fs;

/// Returns the resident memory of this process, in bytes; `None` if the system has no `/proc`.
pub fn resident_bytes() -> Option<u64> {
    memory("VmRSS:")
}

/// Returns the peak resident memory of this process so far, in bytes; `None` if the system has no
/// `/proc`.
pub fn peak_bytes() -> Option<u64> {
    memory("VmHWM:")
}

fn memory(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes << 10)
}
