//! Attribution maps: which patches of an image each branch's prediction depends on.

mod attention;
mod cam;
pub(crate) mod canvas;
mod evaluate;
mod figure;
mod figure_writer;
mod heatmap;
mod maps;
mod options;
mod pixel_attribution;
mod recorder;
mod sanity;

pub use attention::HiddenAttention;
pub use evaluate::{Agreement, Curves, Evaluation, PartShare, evaluate};
pub use figure::{ExplainedImage, draw_figure};
pub use figure_writer::FigureWriter;
pub use heatmap::{Heatmap, InputImage, explained_images};
pub use maps::{BranchMaps, Explanation, explain, scale_maps};
pub use options::{BranchOptions, ExplainOptions, Layers, Method, branches};
pub use pixel_attribution::{PATH_STEPS, integrated_gradients};
pub use sanity::{Sanity, Similarity, Stage, sanity, ssim};
