//! The median of several runs, the end of what a device computes, and the memory of this process.

use std::fs;

use tch::{Cuda, Device};

/// Returns the median: of an even number of values the mean of the two in the middle; NaN of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// Waits until the device has computed all that it was given.
pub fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
