//! One vector from the two branches' feature vectors.

use anyhow::{Result, bail};
use tch::{Kind, Tensor, nn};

use super::layers::{Init, Linear};
use crate::config::{FusionConfig, FusionStrategy};

/// The fused vector, and how much each branch had in it.
#[derive(Debug)]
pub struct Fused {
    /// (b, `Fusion::width`).
    pub vector: Tensor,
    /// (b, 2): the weights of the ViT and the Mamba branch, which sum to 1; `None` where one branch is alone.
    pub weights: Option<Tensor>,
}

/// How two branches are joined. `v` and `m` are their feature vectors, `P` learned projections to `dim` channels.
#[derive(Debug)]
pub struct Fusion {
    kind: Join,
    width: i64,
}

#[derive(Debug)]
enum Join {
    Single,
    Weighted {
        project: Projections,
        weights: Tensor,
    },
    Gated {
        project: Projections,
        gate: Linear,
    },
}

#[derive(Debug)]
struct Projections {
    vit_proj: Linear,
    mamba_proj: Linear,
}

impl Projections {
    fn new(path: &nn::Path, widths: [i64; 2], dim: i64) -> Self {
        let linear = |name: &str, width| {
            Linear::new(path / name, width, dim, true, Init::pytorch_default(width))
        };
        Self {
            vit_proj: linear("vit_proj", widths[0]),
            mamba_proj: linear("mamba_proj", widths[1]),
        }
    }

    fn forward(&self, vit: &Tensor, mamba: &Tensor) -> [Tensor; 2] {
        [self.vit_proj.forward(vit), self.mamba_proj.forward(mamba)]
    }
}

impl Fusion {
    /// New parameters under `path` for branches of these feature widths; an absent branch has none.
    ///
    /// # Errors
    /// A strategy that this version does not have.
    pub fn new(
        path: &nn::Path,
        config: &FusionConfig,
        vit_width: Option<i64>,
        mamba_width: Option<i64>,
    ) -> Result<Self> {
        let dim = config.dim;
        let (kind, width) = match (vit_width, mamba_width) {
            (Some(width), None) | (None, Some(width)) => (Join::Single, width),
            (Some(vit), Some(mamba)) => {
                let project = Projections::new(path, [vit, mamba], dim);
                let kind = match config.strategy {
                    FusionStrategy::Weighted => Join::Weighted {
                        project,
                        weights: Init::Constant(0.0).parameter(path, "weights", &[2]),
                    },
                    FusionStrategy::Gated => Join::Gated {
                        project,
                        // Zero weights: training starts from equal shares.
                        gate: Linear::new(path / "gate", 2 * dim, 2, true, Init::Constant(0.0)),
                    },
                    other => bail!(
                        "model.fusion.strategy {} is not available in this version: use gated, weighted, vit_only or mamba_only",
                        other.name()
                    ),
                };
                (kind, dim)
            }
            (None, None) => bail!("model.fusion.strategy leaves out both branches"),
        };
        Ok(Self { kind, width })
    }

    /// Channels of the fused vector.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Joins the branches' features, (b, d_vit) and (b, d_mamba).
    ///
    /// - `weighted`: `w = softmax(a)` with two learned scalars `a`; `w₁ P₁v + w₂ P₂m`.
    /// - `gated` (VM-BeautyNet, arXiv 2510.16220): `w = softmax(G [P₁v; P₂m] + c)`, per image; `w₁ P₁v + w₂ P₂m`.
    /// - `vit_only`, `mamba_only`: the feature itself.
    ///
    /// # Errors
    /// A branch that the strategy needs is missing.
    pub fn forward(&self, vit: Option<&Tensor>, mamba: Option<&Tensor>) -> Result<Fused> {
        let both = || match (vit, mamba) {
            (Some(vit), Some(mamba)) => Ok((vit, mamba)),
            _ => bail!("the fusion needs both branches"),
        };
        let (projected, weights) = match &self.kind {
            Join::Single => {
                let Some(feature) = vit.or(mamba) else {
                    bail!("the fusion needs a branch");
                };
                return Ok(Fused {
                    vector: feature.shallow_clone(),
                    weights: None,
                });
            }
            Join::Weighted { project, weights } => {
                let (vit, mamba) = both()?;
                let b = vit.size()[0];
                let weights = weights.softmax(-1, Kind::Float).expand([b, 2], false);
                (project.forward(vit, mamba), weights)
            }
            Join::Gated { project, gate } => {
                let (vit, mamba) = both()?;
                let projected = project.forward(vit, mamba);
                let weights = gate
                    .forward(&Tensor::cat(&projected, -1))
                    .softmax(-1, Kind::Float);
                (projected, weights)
            }
        };
        let share = |branch: i64| weights.narrow(1, branch, 1);
        Ok(Fused {
            vector: &projected[0] * share(0) + &projected[1] * share(1),
            weights: Some(weights),
        })
    }
}
