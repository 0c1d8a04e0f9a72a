//! What each branch looks at: maps over the patches of a picture.

mod grad_cam;
mod recorder;
mod scale;

pub use grad_cam::{BranchMap, GradCam, grad_cam};
pub use recorder::Recorder;
pub use scale::scaled;
