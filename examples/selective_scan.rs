//! Uses the selective scan operator alone, in both directions, with gradients.
//!
//! ```sh
//! cargo run --release --example selective_scan
//! ```

use anyhow::Result;
use tch::{Device, Kind, Tensor};
use vm_beautynet::ops::{Path, ScanInputs, selective_scan, selective_scan_eager};

/// Returns the largest difference of the fused scan from libtorch's own operations, relative to the
/// largest output, forward and reversed.
pub(crate) fn run() -> Result<[f64; 2]> {
    let (batch, dim, length, state) = (2, 8, 50, 16);
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let u = random(&[batch, dim, length]).set_requires_grad(true);
    let delta = random(&[batch, dim, length]);
    let a = -random(&[dim, state]).exp(); // negative: the state decays
    let (b, c) = (random(&[batch, state, length]), random(&[batch, state, length]));
    let (d, z) = (random(&[dim]), random(&[batch, dim, length]));

    let mut differences = [0.0; 2];
    for (difference, reverse) in differences.iter_mut().zip([false, true]) {
        let inputs = ScanInputs {
            u: &u,
            delta: &delta,
            a: &a,
            b: &b,
            c: &c,
            d: Some(&d),
            z: Some(&z),
            delta_bias: None,
            delta_softplus: true,
            reverse,
        };
        let fused = selective_scan(&inputs, Path::Auto)?; // (batch, dim, length)
        let eager = selective_scan_eager(&inputs)?;
        *difference = ((&fused - &eager).abs().max() / eager.abs().max()).double_value(&[]);
        fused.sum(Kind::Float).backward();
    }
    println!("kernels: {}", Path::best());
    println!("gradient of u: {:?}", u.grad().size());
    println!("largest relative difference: {differences:?}");
    Ok(differences)
}

fn main() -> Result<()> {
    run()?;
    Ok(())
}
