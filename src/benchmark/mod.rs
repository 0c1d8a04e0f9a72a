//! What `vmbeauty benchmark` times: the selective scan, the data pipeline and training.

pub mod data;
pub mod scan;
pub mod train;
