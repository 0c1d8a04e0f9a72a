//! What each branch looks at: maps over the patches of a picture.

mod cam;
mod evaluate;
mod figure;
mod gallery;
mod hidden_attention;
mod maps;
mod method;
pub(crate) mod paint;
mod pixels;
mod place;
mod recorder;
mod request;
mod rollout;
mod scale;

pub use evaluate::{Agreement, Curves, Evaluation, PartShare, evaluate};
pub use figure::{Explained, figure};
pub use gallery::Gallery;
pub use hidden_attention::HiddenAttention;
pub use maps::{BranchMaps, Explanation, explain};
pub use method::Method;
pub use pixels::{PATH_STEPS, integrated_gradients};
pub use place::PlacedMap;
pub use request::{BRANCHES, BranchRequest, Layers, Request, key, present, title};
pub use scale::scaled;

use maps::without_class;
