//! Attention between the two token sequences.

use anyhow::Result;
use tch::{Kind, Tensor, nn};

use super::{BranchTokens, BranchValues, Fused, FusedValue, Projections};
use crate::models::layers::{Init, LayerNorm, Linear};
use crate::models::onnx::{Graph, Value};

const NORM_EPS: f64 = 1e-6;
const MAX_HEADS: i64 = 8;
const MIN_HEAD_DIM: i64 = 16;

/// `cross_attention` (CrossViT, arXiv 2103.14899). With all tokens projected to `dim` channels,
/// each branch's class token attends to itself and the other branch's patch tokens: `x = LN([c_A;
/// T_B])`, `y_A = c_A + W softmax(q kᵀ / √d_h) v` by head, with `q` from the class token in `x`,
/// `k` and `v` from all of `x`; `z = y_A + y_B`, as CrossViT adds its branches' logits. In place of
/// the class token is the mean of the tokens that the branch's feature vector is made of.
///
/// The weight of a branch is the attention to its tokens, the mean over heads and over both
/// directions; the residual's contribution to `z` is not counted.
#[derive(Debug)]
pub(super) struct CrossAttention {
    project: Projections,
    from_vit: ClassAttention,
    from_mamba: ClassAttention,
}

impl CrossAttention {
    pub(super) fn new(path: &nn::Path, project: Projections, dim: i64) -> Self {
        Self {
            project,
            from_vit: ClassAttention::new(path / "from_vit", dim),
            from_mamba: ClassAttention::new(path / "from_mamba", dim),
        }
    }

    pub(super) fn forward(&self, vit: &BranchTokens, mamba: &BranchTokens) -> Result<Fused> {
        let [vit, mamba] = self.project.forward([&vit.sequence()?, &mamba.sequence()?]);
        let (from_vit, vit_to_itself) = self.from_vit.forward(&vit, &mamba);
        let (from_mamba, mamba_to_itself) = self.from_mamba.forward(&mamba, &vit);
        // The attention that a class token does not pay to itself goes to the other branch.
        let vit_weight = (vit_to_itself + 1.0 - mamba_to_itself) * 0.5; // (b, 1)
        Ok(Fused {
            vector: from_vit + from_mamba,
            weights: Some(Tensor::cat(&[&vit_weight, &(1.0 - &vit_weight)], -1)),
        })
    }

    /// Adds the fusion to a graph.
    pub(super) fn onnx(
        &self,
        graph: &mut Graph,
        vit: &BranchValues,
        mamba: &BranchValues,
    ) -> FusedValue {
        let (vit, mamba) = (vit.sequence(graph), mamba.sequence(graph));
        let [vit, mamba] = self.project.onnx(graph, [&vit, &mamba]);
        let (from_vit, vit_to_itself) = self.from_vit.onnx(graph, &vit, &mamba);
        let (from_mamba, mamba_to_itself) = self.from_mamba.onnx(graph, &mamba, &vit);
        let difference = graph.op("Sub", &[&vit_to_itself, &mamba_to_itself]);
        let half = graph.number(0.5);
        let vit_weight = graph.scale(&difference, 0.5);
        let vit_weight = graph.add(&vit_weight, &half);
        FusedValue {
            vector: graph.add(&from_vit, &from_mamba),
            weights: Some(FusedValue::weights_of(graph, &vit_weight)),
        }
    }
}

/// Returns the multiply-adds for one image beyond one product with each matrix, for branches of
/// these numbers of patches and widths that are projected to `d` channels.
pub(super) fn token_multiply_adds(patches: [i64; 2], widths: [i64; 2], d: i64) -> i64 {
    let of_branch = |patches: i64, width: i64| {
        // The projection; then keys and values of the patches; then scores and the weighted sum,
        // with the class token.
        patches * width * d + 2 * patches * d * d + 2 * (1 + patches) * d
    };
    of_branch(patches[0], widths[0]) + of_branch(patches[1], widths[1])
}

/// Multi-head attention whose only query is the class token.
#[derive(Debug)]
struct ClassAttention {
    norm: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    proj: Linear,
    heads: i64,
}

impl ClassAttention {
    fn new(path: nn::Path, dim: i64) -> Self {
        let linear = |name: &str, bias| {
            Linear::new(&path / name, dim, dim, bias, Init::pytorch_default(dim))
        };
        Self {
            norm: LayerNorm::new(&path / "norm", dim, NORM_EPS),
            q: linear("q", true),
            // A bias of the keys would add the same to every score, which softmax ignores.
            k: linear("k", false),
            v: linear("v", true),
            proj: linear("proj", true),
            heads: heads(dim),
        }
    }

    /// Updates the class token of `own` (b, 1 + patches, dim) from `other` (b, 1 + patches, dim),
    /// which have their class tokens first: returns the updated class
    /// token (b, dim), and the fraction of the attention that it pays to itself (b, 1).
    fn forward(&self, own: &Tensor, other: &Tensor) -> (Tensor, Tensor) {
        let class = own.narrow(1, 0, 1);
        let x = Tensor::cat(&[&class, &other.slice(1, 1, None, 1)], 1);
        let x = self.norm.forward(&x); // (b, 1 + patches, dim)
        let by_head = |x: Tensor| x.unflatten(-1, [self.heads, -1]).transpose(1, 2);
        let q = by_head(self.q.forward(&x.narrow(1, 0, 1))); // (b, heads, 1, dim / heads)
        let (k, v) = (by_head(self.k.forward(&x)), by_head(self.v.forward(&x)));
        let scale = (q.size()[3] as f64).powf(-0.5);
        let scores = q.matmul(&k.transpose(-2, -1)) * scale; // (b, heads, 1, 1 + patches)
        let attention = scores.softmax(-1, Kind::Float);
        let read = attention.matmul(&v).transpose(1, 2).flatten(1, 3); // (b, dim)
        let to_itself = attention.narrow(-1, 0, 1).flatten(1, -1).mean_dim(
            [-1i64].as_slice(),
            true,
            Kind::Float,
        );
        (class.squeeze_dim(1) + self.proj.forward(&read), to_itself)
    }

    fn onnx(&self, graph: &mut Graph, own: &Value, other: &Value) -> (Value, Value) {
        let dim = self.proj.weight().size()[0];
        let class = graph.slice(own, 1, 0, 1);
        let patches = graph.slice(other, 1, 1, i64::from(i32::MAX) - 1);
        let x = graph.concat(&[&class, &patches], 1);
        let x = self.norm.onnx(graph, &x);
        let heads = [self.heads, dim / self.heads];
        let k = self.k.onnx(graph, &x);
        let k = graph.by_head(&k, heads, [0, 2, 3, 1]);
        let v = self.v.onnx(graph, &x);
        let v = graph.by_head(&v, heads, [0, 2, 1, 3]);
        let first = graph.slice(&x, 1, 0, 1);
        let q = self.q.onnx(graph, &first);
        let q = graph.reshape(&q, &[0, heads[0], 1, heads[1]]);
        let (read, attention) = graph.attention([&q, &k, &v], heads[1]);
        let read = graph.reshape(&read, &[0, -1]);
        let to_itself = graph.slice(&attention, 3, 0, 1);
        let to_itself = graph.reshape(&to_itself, &[0, -1]);
        let to_itself = graph.mean(&to_itself, -1, true);
        let (class, read) = (graph.squeeze(&class, 1), self.proj.onnx(graph, &read));
        (graph.add(&class, &read), to_itself)
    }
}

/// Returns the largest number of heads, up to 8, that divides `dim` into at least 16 channels each;
/// one if there is none.
fn heads(dim: i64) -> i64 {
    (1..=MAX_HEADS).rev().find(|heads| dim % heads == 0 && dim / heads >= MIN_HEAD_DIM).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::heads;

    #[test]
    fn heads_divide_the_width_into_at_least_sixteen_channels() {
        assert_eq!([256, 96, 64, 17, 8, 1].map(heads), [8, 6, 4, 1, 1, 1]);
    }
}
