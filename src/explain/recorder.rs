//! Records the inputs of chosen blocks during a forward pass.

use anyhow::Result;
use tch::{NoGradGuard, Tensor};

use super::options::{ExplainOptions, branches};
use crate::config::Branch;
use crate::models::{BeautyNet, Tap};

#[derive(Default)]
struct Recording {
    /// Blocks whose inputs are kept, in increasing order.
    layers: Vec<usize>,
    /// The first block with gradients, if any have them.
    grad_from: Option<usize>,
    inputs: Vec<Tensor>,
}

/// Records the inputs of blocks' mixers. Autograd is off below the first block whose gradients are
/// needed, so the backward pass is short and takes little memory.
pub(super) struct Recorder {
    /// ViT, then Mamba.
    recordings: [Recording; 2],
    guard: Option<NoGradGuard>,
}

fn slot(branch: Branch) -> usize {
    usize::from(branch == Branch::Mamba)
}

impl Recorder {
    /// Creates a recorder of the blocks that the options need.
    pub(super) fn new(net: &BeautyNet, options: &ExplainOptions) -> Result<Self> {
        let mut recordings: [Recording; 2] = Default::default();
        let any_gradient =
            branches(net).any(|(branch, _)| options.branch(branch).method.needs_gradients());
        for (branch, shape) in branches(net) {
            let options = options.branch(branch);
            let mut layers = options.blocks(branch, shape)?;
            if let Some(&last) = layers.last().filter(|_| options.method.is_rollout()) {
                layers = (0..=last).collect();
            }
            let grad_from = match layers.first() {
                Some(&first) if options.method.needs_gradients() => first,
                // The fusion has gradients because the other branch needs them.
                _ => (shape.depth as usize).saturating_sub(1),
            };
            let grad_from = any_gradient.then_some(grad_from);
            recordings[slot(branch)] = Recording { layers, grad_from, inputs: Vec::new() };
        }
        Ok(Self { recordings, guard: None })
    }

    /// Returns the inputs of a branch's recorded blocks, each (b, tokens, d).
    pub(super) fn inputs(&self, branch: Branch) -> &[Tensor] {
        &self.recordings[slot(branch)].inputs
    }

    /// Whether any block has gradients.
    pub(super) fn has_gradients(&self) -> bool {
        self.recordings.iter().any(|recording| recording.grad_from.is_some())
    }
}

impl Tap for Recorder {
    fn images(&mut self, _branch: Branch, x: Tensor) -> Tensor {
        // Drop the old guard first: dropped later, it would turn autograd on under the new guard.
        // Without any gradients the caller has turned autograd off.
        self.guard = None;
        self.guard = self.has_gradients().then(tch::no_grad_guard);
        x
    }

    fn mixer_input(&mut self, branch: Branch, layer: usize, mut tokens: Tensor) -> Tensor {
        let recording = &mut self.recordings[slot(branch)];
        if recording.grad_from == Some(layer) {
            self.guard = None; // autograd is on from here
            tokens = tokens.detach().set_requires_grad(true);
        }
        if recording.layers.contains(&layer) {
            recording.inputs.push(tokens.shallow_clone());
        }
        tokens
    }
}
