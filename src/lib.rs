//! lib
pub mod config;
pub mod eval;
pub mod files;
pub mod models;
pub mod ops;
pub mod report;
