//! What `vmbeauty benchmark` times: the selective scan, the mixer around it, the data pipeline and
//! training. Also the time that a training or a sweep takes, from a few measured steps.

pub mod data;
pub mod estimate;
pub mod estimate_runs;
pub mod measure;
pub mod mixer;
pub mod scan;
pub mod train;
