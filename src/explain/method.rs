//! The ways to tell what a branch looks at.

use crate::config::BackboneKind;
use crate::config::names::names;

names! {
    /// A way to make a map of what a branch looks at.
    pub enum Method {
        /// Gradient-weighted tokens (arXiv 1610.02391): what raises the score.
        GradCam = "grad-cam",
        /// The same with weights that do not favor large parts (arXiv 1710.11063).
        GradCamPlusPlus = "grad-cam++",
        /// The tokens' first principal component (arXiv 2008.00299): what stands out, whatever the
        /// score.
        EigenCam = "eigen-cam",
        /// Each token weighed by its own gradient (LayerCAM, IEEE TIP 30, 2021): what raises the
        /// score, token by token.
        LayerCam = "layer-cam",
        /// Gradients of the pixels along the way from an image without content (arXiv 1703.01365):
        /// what raises the score.
        IntegratedGradients = "integrated-gradients",
        /// How far the score falls where a window of the image is covered (arXiv 1311.2901).
        Occlusion = "occlusion",
        /// Attention multiplied through the blocks (arXiv 2005.00928): what the class token reads;
        /// of the ViT.
        AttentionRollout = "attention-rollout",
        /// The attention that is hidden in the scans (arXiv 2403.01590), rolled out likewise; of
        /// the Vision Mamba.
        HiddenAttention = "hidden-attention",
    }
}

impl Method {
    /// Whether a branch of this kind has the method.
    pub fn explains(self, branch: BackboneKind) -> bool {
        match self {
            Method::AttentionRollout => branch == BackboneKind::Vit,
            Method::HiddenAttention => branch == BackboneKind::Vim,
            _ => true,
        }
    }

    /// Whether the map is of a block, which can be chosen.
    pub fn has_layers(self) -> bool {
        !matches!(self, Method::IntegratedGradients | Method::Occlusion)
    }

    /// Whether the map comes from the tokens that a block receives and the score's gradients with
    /// regard to them.
    pub(super) fn is_cam(self) -> bool {
        use Method::{EigenCam, GradCam, GradCamPlusPlus, LayerCam};
        matches!(self, GradCam | GradCamPlusPlus | EigenCam | LayerCam)
    }

    /// Whether the map is what blocks pass on, from the first up to the chosen one.
    pub(super) fn is_rolled_out(self) -> bool {
        matches!(self, Method::AttentionRollout | Method::HiddenAttention)
    }

    /// Whether the score's gradients enter at the blocks.
    pub(super) fn needs_gradients(self) -> bool {
        self.is_cam() && self != Method::EigenCam
    }
}
