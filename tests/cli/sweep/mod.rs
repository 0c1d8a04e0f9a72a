//! Tests of cross-validation and sweeps through the program, on runs of a second.

mod console;
mod cross_validation;
mod grid;
mod search;

use std::fs;

use crate::sandbox::Sandbox;

/// A sandbox with this sweep in sweep.yaml.
fn sandbox(sweep: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("sweep.yaml"), sweep).unwrap();
    sandbox
}
