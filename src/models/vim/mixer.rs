//! The mixer of a Vision Mamba: two selective scans over the tokens, one from each end.

use anyhow::Result;
use tch::{Kind, Tensor, nn};

use crate::config::BackboneShape;
use crate::models::layers::{Init, Linear, Parameter};
use crate::models::onnx::{Graph, ScanValues, Value, int, ints, selective_scan};
use crate::ops::{self, MambaParameters, Path, ScanInputs};

const EXPAND: i64 = 2;
const D_CONV: i64 = 4;

/// One direction of the mixer; the backward one's parameters end in `_b`.
#[derive(Debug, Clone)]
pub(crate) struct Direction {
    conv1d_weight: Parameter,
    conv1d_bias: Parameter,
    pub x_proj: Linear,
    dt_proj_weight: Parameter,
    dt_proj_bias: Parameter,
    a_log: Parameter,
    d: Parameter,
    reverse: bool,
}

impl Direction {
    fn new(path: &nn::Path, inner: i64, dt_rank: i64, d_state: i64, reverse: bool) -> Self {
        let suffix = if reverse { "_b" } else { "" };
        let named = |name: &str| path / format!("{name}{suffix}");
        let (conv1d, dt_proj) = (named("conv1d"), named("dt_proj"));
        let init = Init::pytorch_default;
        let a_log_name = if reverse { "A_b_log" } else { "A_log" };
        let options = (Kind::Float, path.device());
        let a = Tensor::arange_start(1, d_state + 1, options).log();
        Self {
            conv1d_weight: init(D_CONV).parameter(&conv1d, "weight", &[inner, 1, D_CONV]),
            conv1d_bias: init(D_CONV).parameter(&conv1d, "bias", &[inner]),
            x_proj: Linear::new(named("x_proj"), inner, dt_rank + 2 * d_state, false, init(inner)),
            dt_proj_weight: init(dt_rank).parameter(&dt_proj, "weight", &[inner, dt_rank]),
            dt_proj_bias: dt_proj.var_copy("bias", &initial_dt_bias(inner, options)).into(),
            a_log: path.var_copy(a_log_name, &a.repeat([inner, 1])).into(),
            d: Init::Constant(1.0).parameter(path, &format!("D{suffix}"), &[inner]),
            reverse,
        }
    }

    fn parameters(&self) -> MambaParameters<'_> {
        MambaParameters {
            conv1d_weight: &self.conv1d_weight,
            conv1d_bias: &self.conv1d_bias,
            x_proj: self.x_proj.weight(),
            dt_proj_weight: &self.dt_proj_weight,
            dt_proj_bias: &self.dt_proj_bias,
            a_log: &self.a_log,
            d: &self.d,
        }
    }

    /// Causal convolution and SiLU of x (b, l, inner).
    pub(crate) fn convolve(&self, x: &Tensor) -> Result<Tensor> {
        let out = ops::causal_conv1d_silu(
            &x.transpose(1, 2),
            &self.conv1d_weight,
            Some(&*self.conv1d_bias),
            self.reverse,
            Path::Auto,
        )?;
        Ok(out.transpose(1, 2))
    }

    /// u (b, l, inner) to the low-rank step sizes (b, l, dt_rank), B and C (b, l, d_state).
    pub(crate) fn project(&self, u: &Tensor) -> Vec<Tensor> {
        let dt_rank = self.dt_proj_weight.size()[1];
        let d_state = self.a_log.size()[1];
        self.x_proj.forward(u).split_with_sizes([dt_rank, d_state, d_state], -1)
    }

    /// Low-rank step sizes (b, l, dt_rank) to step sizes (b, l, inner) before bias and softplus.
    pub(crate) fn step_sizes(&self, low_rank: &Tensor) -> Tensor {
        ops::linear(low_rank, &self.dt_proj_weight, None)
    }

    /// Selective scan of u, delta and z (b, l, inner) with B and C (b, l, d_state): the gated
    /// output (b, l, inner).
    pub(crate) fn scan(
        &self,
        u: &Tensor,
        delta: &Tensor,
        b: &Tensor,
        c: &Tensor,
        z: &Tensor,
    ) -> Result<Tensor> {
        let y = ops::selective_scan(
            &ScanInputs {
                u: &u.transpose(1, 2),
                delta: &delta.transpose(1, 2),
                a: &-self.a_log.exp(),
                b: &b.transpose(1, 2),
                c: &c.transpose(1, 2),
                d: Some(&*self.d),
                z: Some(&z.transpose(1, 2)),
                delta_bias: Some(&*self.dt_proj_bias),
                delta_softplus: true,
                reverse: self.reverse,
            },
            Path::Auto,
        )?;
        Ok(y.transpose(1, 2))
    }

    /// Adds the direction to a graph: x and silu(z) (b, l, inner) to the gated output (b, l,
    /// inner).
    fn onnx(&self, graph: &mut Graph, x: &Value, gate: &Value, length: i64) -> Value {
        let (inner, rank) = self.dt_proj_weight.size2().unwrap_or_default();
        let d_state = self.a_log.size()[1];
        let u = self.convolve_onnx(graph, x);
        let projected = self.x_proj.onnx(graph, &u);
        let projected = graph.split(&projected, &[rank, d_state, d_state]);
        let dt = graph.linear(&projected[0], &self.dt_proj_weight, Some(&*self.dt_proj_bias));
        let dt = graph.op("Softplus", &[&dt]);
        let a = graph.derived(&self.a_log, ".A", || -self.a_log.exp().tr());
        let scan = ScanValues {
            u: &u,
            dt: &dt,
            a: &a,
            b: &projected[1],
            c: &projected[2],
            sizes: [length, d_state, inner],
            reverse: self.reverse,
        };
        let y = selective_scan(graph, &scan);
        let d = graph.parameter(&self.d);
        let skipped = graph.mul(&u, &d);
        let y = graph.add(&y, &skipped);
        graph.mul(&y, gate)
    }

    /// Adds [`convolve`](Self::convolve) to a graph.
    fn convolve_onnx(&self, graph: &mut Graph, x: &Value) -> Value {
        let inner = self.d.size()[0];
        // Backward, each step is convolved with those after it.
        let (weight, pads) = if self.reverse {
            let flipped = || self.conv1d_weight.flip([2]);
            (graph.derived(&self.conv1d_weight, ".flipped", flipped), [0, D_CONV - 1])
        } else {
            (graph.parameter(&self.conv1d_weight), [D_CONV - 1, 0])
        };
        let bias = graph.parameter(&self.conv1d_bias);
        let by_channel = graph.transpose(x, &[0, 2, 1]);
        let attributes =
            vec![int("group", inner), ints("kernel_shape", &[D_CONV]), ints("pads", &pads)];
        let convolved = graph.op_with("Conv", &[&by_channel, &weight, &bias], attributes);
        let convolved = graph.silu(&convolved);
        graph.transpose(&convolved, &[0, 2, 1])
    }

    /// Returns the operands of the scan of x (b, l, inner), the first half of `in_proj`'s output.
    pub(super) fn operands(&self, x: &Tensor) -> Result<ScanOperands> {
        let u = self.convolve(x)?;
        let projected = self.project(&u);
        let dt = (self.step_sizes(&projected[0]) + &*self.dt_proj_bias).softplus();
        Ok(ScanOperands {
            u,
            dt,
            a: -self.a_log.exp(),
            b: projected[1].shallow_clone(),
            c: projected[2].shallow_clone(),
            reverse: self.reverse,
        })
    }
}

/// The operands of the scan of one direction of a mixer.
#[derive(Debug)]
pub struct ScanOperands {
    /// (b, l, inner): the sequence that is scanned.
    pub u: Tensor,
    /// (b, l, inner): the step sizes, after bias and softplus.
    pub dt: Tensor,
    /// (inner, d_state): negative.
    pub a: Tensor,
    /// (b, l, d_state).
    pub b: Tensor,
    /// (b, l, d_state).
    pub c: Tensor,
    /// Whether the scan runs from the last token to the first.
    pub reverse: bool,
}

/// Returns the inverse softplus of step sizes sampled log-uniformly from 0.001 to 0.1 (Mamba, arXiv
/// 2312.00752, section 3.6).
fn initial_dt_bias(inner: i64, options: (Kind, tch::Device)) -> Tensor {
    let (low, high) = (0.001f64.ln(), 0.1f64.ln());
    let dt = (Tensor::rand([inner], options) * (high - low) + low).exp().clamp_min(1e-4);
    // softplus⁻¹(dt) = dt + log(1 - exp(-dt))
    &dt + (-(-&dt).expm1()).log()
}

#[derive(Debug, Clone)]
pub(crate) struct Mixer {
    pub in_proj: Linear,
    pub forward: Direction,
    pub backward: Direction,
    pub out_proj: Linear,
}

impl Mixer {
    pub(crate) fn new(path: nn::Path, shape: &BackboneShape) -> Self {
        let dim = shape.embed_dim;
        let inner = EXPAND * dim;
        let dt_rank = dt_rank(dim);
        let linear =
            |name, inputs, outputs, init| Linear::new(&path / name, inputs, outputs, false, init);
        let out_bound = (inner as f64).powf(-0.5) / (shape.depth as f64).sqrt();
        Self {
            in_proj: linear("in_proj", dim, 2 * inner, Init::pytorch_default(dim)),
            forward: Direction::new(&path, inner, dt_rank, shape.d_state, false),
            backward: Direction::new(&path, inner, dt_rank, shape.d_state, true),
            out_proj: linear("out_proj", inner, dim, Init::Uniform { bound: out_bound }),
        }
    }

    /// Mixes the tokens `hidden` (b, l, embed_dim).
    pub(crate) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let xz = self.in_proj.forward(hidden); // (b, l, 2 inner)
        let (forward, backward) = (self.forward.parameters(), self.backward.parameters());
        let mixed = ops::bimamba_inner(&xz, &forward, &backward, Path::Auto)?;
        Ok(self.out_proj.forward(&mixed))
    }

    /// Adds the mixer to a graph, for tokens `hidden` (b, length, embed_dim).
    pub(super) fn onnx(&self, graph: &mut Graph, hidden: &Value, length: i64) -> Value {
        let inner = self.out_proj.weight().size()[1];
        let xz = self.in_proj.onnx(graph, hidden);
        let xz = graph.split(&xz, &[inner; 2]);
        let gate = graph.silu(&xz[1]);
        let mut run = |name: &str, direction: &Direction| {
            graph.scoped(name, |graph| direction.onnx(graph, &xz[0], &gate, length))
        };
        let both = [run("forward", &self.forward), run("backward", &self.backward)];
        let sum = graph.add(&both[0], &both[1]);
        let mean = graph.scale(&sum, 0.5);
        self.out_proj.onnx(graph, &mean)
    }

    pub(crate) fn merge(forward: &Tensor, backward: &Tensor) -> Tensor {
        (forward + backward) * 0.5
    }
}

/// Returns the rank of the step sizes' projection: a sixteenth of the width, rounded up.
pub(in crate::models) fn dt_rank(embed_dim: i64) -> i64 {
    (embed_dim + 15) / 16
}
