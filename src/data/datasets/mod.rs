//! The datasets: each reads its lists into rows.

pub(super) mod csv;
pub(super) mod image_folder;
pub(super) mod locate;
pub(super) mod mebeauty;
mod score_list;
pub(super) mod scut_fbp5500;
pub mod synthetic;
pub(super) mod votes;
