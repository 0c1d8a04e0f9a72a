//! `vmbeauty report`.

#[path = "../sandbox/mod.rs"]
mod sandbox;
mod written;

mod bad_input;
mod forms;
mod numbers;
mod sources;
