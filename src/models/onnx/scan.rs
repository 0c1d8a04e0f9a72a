//! The selective scan in ONNX's operators.

use super::ScanForm;
use super::graph::{Graph, Value, int, ints};

/// The operands of one scan, as in [`ScanInputs`](crate::ops::ScanInputs) but with the length
/// before the channels.
#[derive(Debug)]
pub(in crate::models) struct ScanValues<'a> {
    /// (b, l, inner).
    pub u: &'a Value,
    /// (b, l, inner): the step sizes, after bias and softplus.
    pub dt: &'a Value,
    /// (d_state, inner).
    pub a: &'a Value,
    /// (b, l, d_state).
    pub b: &'a Value,
    /// (b, l, d_state).
    pub c: &'a Value,
    /// `[l, d_state, inner]`.
    pub sizes: [i64; 3],
    /// Whether to scan from the last step to the first.
    pub reverse: bool,
}

/// Adds `h_l = exp(dt_l A) h_{l-1} + dt_l u_l B_l` and `y_l = C_l . h_l` to a graph: y (b, l,
/// inner). The channels are the last dimension of the states: runtimes compute rows of them at a
/// time, and there are more channels than states.
pub(in crate::models) fn selective_scan(graph: &mut Graph, scan: &ScanValues) -> Value {
    let product = graph.mul(scan.dt, scan.u);
    let [dt, dt_u] = [scan.dt, &product].map(|x| graph.unsqueeze(x, 2)); // (b, l, 1, inner)
    let b = graph.unsqueeze(scan.b, 3); // (b, l, d_state, 1)
    let c = graph.unsqueeze(scan.c, 2); // (b, l, 1, d_state)
    let y = match graph.scan {
        ScanForm::Loop => over_length(graph, scan, [&dt, &dt_u, &b, &c]),
        ScanForm::Unrolled => by_doubling(graph, scan, [&dt, &dt_u, &b, &c]),
    };
    graph.squeeze(&y, 2)
}

/// Returns y (b, l, 1, inner) by an ONNX Scan, whose state is h (b, d_state, inner). It reads and
/// writes from the last step to the first where the scan is reversed.
fn over_length(graph: &mut Graph, scan: &ScanValues, steps: [&Value; 4]) -> Value {
    let zero = graph.number(0.0);
    let start = graph.expand_to_batch(&zero, scan.u, &scan.sizes[1..]);
    let names = ["h", "dt", "dt_u", "B", "C"];
    let body = graph.subgraph("body", &names, |graph, inputs| {
        let [h, dt, dt_u, b, c] = inputs else { return Vec::new() };
        let (decay, input) = (graph.mul(dt, scan.a), graph.mul(dt_u, b));
        let decay = graph.op("Exp", &[&decay]);
        let decayed = graph.mul(&decay, h);
        let h = graph.add(&decayed, &input);
        let y = graph.matmul(c, &h); // (b, 1, inner)
        vec![h, y]
    });
    let reverse = i64::from(scan.reverse);
    let attributes = vec![
        body,
        int("num_scan_inputs", 4),
        ints("scan_input_axes", &[1; 4]),
        ints("scan_input_directions", &[reverse; 4]),
        ints("scan_output_axes", &[1]),
        ints("scan_output_directions", &[reverse]),
    ];
    let inputs = [&[&start], &steps[..]].concat();
    graph.op_outputs("Scan", &inputs, attributes, 2).remove(1)
}

/// Returns y (b, l, 1, inner) by doubling steps (Hillis and Steele, "Data parallel algorithms",
/// 1986): after the steps of 1, 2, 4, … tokens, each token's state has the inputs of twice as many
/// tokens before it.
fn by_doubling(graph: &mut Graph, scan: &ScanValues, [dt, dt_u, b, c]: [&Value; 4]) -> Value {
    let length = scan.sizes[0];
    let exponent = graph.mul(dt, scan.a);
    let mut decay = graph.op("Exp", &[&exponent]); // (b, l, d_state, inner)
    let mut h = graph.mul(dt_u, b);
    let mut step = 1;
    while step < length {
        let earlier = shifted(graph, scan, &h, step, 0.0);
        let decayed = graph.mul(&decay, &earlier);
        h = graph.add(&h, &decayed);
        if 2 * step < length {
            let earlier = shifted(graph, scan, &decay, step, 1.0);
            decay = graph.mul(&decay, &earlier);
        }
        step *= 2;
    }
    graph.matmul(c, &h)
}

/// Returns x (b, l, …, …) with each token at the place of the one `step` tokens later in the scan,
/// and `fill` where there was none.
fn shifted(graph: &mut Graph, scan: &ScanValues, x: &Value, step: i64, fill: f64) -> Value {
    let kept = graph.slice(x, 1, if scan.reverse { step } else { 0 }, scan.sizes[0] - step);
    let pads = if scan.reverse { [0, step] } else { [step, 0] };
    let (pads, fill, axis) = (graph.integers(&pads), graph.number(fill), graph.integers(&[1]));
    graph.op("Pad", &[&kept, &pads, &fill, &axis])
}
