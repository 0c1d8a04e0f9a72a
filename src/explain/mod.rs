//! What each branch looks at: maps over the patches of an image.

mod cam;
mod evaluate;
mod figure;
mod gallery;
mod hidden_attention;
mod maps;
mod method;
mod originals;
pub(crate) mod paint;
mod pixels;
mod place;
mod recorder;
mod request;
mod rollout;
mod sanity;
mod scale;
mod ssim;

pub use evaluate::{Agreement, Curves, Evaluation, PartShare, evaluate};
pub use figure::{Explained, figure};
pub use gallery::Gallery;
pub use hidden_attention::HiddenAttention;
pub use maps::{BranchMaps, Explanation, explain};
pub use method::Method;
pub use originals::{Original, pieces};
pub use pixels::{PATH_STEPS, integrated_gradients};
pub use place::PlacedMap;
pub use request::{BRANCHES, BranchRequest, Layers, Request, key, present, title};
pub use sanity::{Sanity, Similarity, Stage, sanity};
pub use scale::scaled;
pub use ssim::ssim;

use maps::without_class;
