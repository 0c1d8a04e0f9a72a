//! What `vmbeauty benchmark` times: the selective scan, the mixer around it, the data pipeline and
//! training.

pub mod data;
pub mod measure;
pub mod mixer;
pub mod scan;
pub mod train;
