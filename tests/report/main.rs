//! `vmbeauty report`.

#[path = "../sandbox/mod.rs"]
mod sandbox;
mod written;

mod bad_input;
mod explained;
mod forms;
mod numbers;
mod sources;
