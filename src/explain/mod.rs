//! Attribution maps: which patches of an image each branch's prediction depends on.

mod attention;
mod cam;
pub(crate) mod canvas;
mod drawing;
mod evaluate;
mod figure;
mod figure_writer;
mod input_image;
mod maps;
mod options;
mod pixel_attribution;
mod recorder;
mod sanity;

pub use attention::HiddenAttention;
pub use drawing::Drawing;
pub use evaluate::evaluate;
pub use figure::{ExplainedImage, LabeledHeatmap, MapTensors, draw_figure, explained_images};
pub use figure_writer::{FigureOptions, FigureWriter};
pub use input_image::{Heatmap, InputImage};
pub use maps::{BranchMaps, Explanation, explain, scale_maps};
pub use options::{BranchOptions, ExplainOptions, Layers, Method, branches};
pub use pixel_attribution::{PATH_STEPS, integrated_gradients};
pub use sanity::{sanity_check, ssim};
