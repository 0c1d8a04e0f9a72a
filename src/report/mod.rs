//! The report on runs: tables, charts and one HTML page.

mod assemble;
pub(crate) mod axis;
mod breakdown;
mod compare;
mod config_keys;
mod explained;
mod html;
mod json;
mod models;
mod search;
mod selection;
mod sources;
mod tables;
mod write;

pub use assemble::{ReportOptions, RunReport};
pub(crate) use breakdown::{Breakdown, Estimate, by_group};
pub(crate) use config_keys::affects_results;
pub use html::EmbeddedImages;
pub(crate) use tables::{group_thousands, text_table};
pub use write::{check_name, write};
