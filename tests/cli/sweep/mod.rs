//! Tests of cross-validation and sweeps through the program, on runs of a second.

mod console;
mod cross_validation;
mod grid;
mod search;
