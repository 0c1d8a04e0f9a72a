//! `vmbeauty report`.

mod written;

mod bad_input;
mod explained;
mod forms;
mod numbers;
mod selection;
mod sources;
