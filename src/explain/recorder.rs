//! Keeps what chosen blocks receive during a forward pass.

use anyhow::Result;
use tch::{NoGradGuard, Tensor};

use super::request::{Request, key};
use crate::config::BackboneKind;
use crate::models::{BeautyNet, Tap};

/// What is looked at in one branch.
#[derive(Default)]
struct Watch {
    /// Blocks whose inputs are kept, rising.
    layers: Vec<usize>,
    /// The block from which on gradients are recorded, if any are.
    record_from: Option<usize>,
    kept: Vec<Tensor>,
}

/// Keeps the inputs of blocks' mixers. Below the first block whose gradient is wanted nothing is
/// recorded, so a backward pass is short and its memory small.
pub(super) struct Recorder {
    /// By branch, as [`slot`] numbers them.
    watches: [Watch; 2],
    guard: Option<NoGradGuard>,
}

fn slot(branch: BackboneKind) -> usize {
    usize::from(key(branch) == "mamba")
}

impl Recorder {
    /// For what a request needs.
    pub fn new(net: &BeautyNet, request: &Request) -> Result<Self> {
        let mut watches: [Watch; 2] = Default::default();
        let mut any_gradient = false;
        for branch in super::request::present(net) {
            let method = request.of(branch).method;
            let mut layers = request.blocks(net, branch)?;
            if let Some(&last) = layers.last().filter(|_| method.is_rolled_out()) {
                layers = (0..=last).collect();
            }
            let depth = net.branch(branch).map_or(0, |shape| shape.depth as usize);
            let record_from = match layers.first() {
                Some(&first) if method.needs_gradients() => {
                    any_gradient = true;
                    first
                }
                // What comes after both branches is recorded for the sake of the other one.
                _ => depth.saturating_sub(1),
            };
            watches[slot(branch)] =
                Watch { layers, record_from: Some(record_from), kept: Vec::new() };
        }
        if !any_gradient {
            watches.iter_mut().for_each(|watch| watch.record_from = None);
        }
        Ok(Self { watches, guard: None })
    }

    /// What the watched blocks of a branch received, each (b, 1 + patches, d).
    pub fn kept(&self, branch: BackboneKind) -> &[Tensor] {
        &self.watches[slot(branch)].kept
    }

    /// Whether gradients are recorded.
    pub fn records(&self) -> bool {
        self.watches.iter().any(|watch| watch.record_from.is_some())
    }
}

impl Tap for Recorder {
    fn images(&mut self, _branch: BackboneKind, x: Tensor) -> Tensor {
        // The old guard goes first: it would otherwise switch recording on again under the new one.
        // Where nothing is recorded at all, the caller has switched it off.
        self.guard = None;
        self.guard = self.records().then(tch::no_grad_guard);
        x
    }

    fn mixer_input(&mut self, branch: BackboneKind, layer: usize, mut tokens: Tensor) -> Tensor {
        let watch = &mut self.watches[slot(branch)];
        if watch.record_from == Some(layer) {
            self.guard = None; // gradients are recorded from here on
            tokens = tokens.detach().set_requires_grad(true);
        }
        if watch.layers.contains(&layer) {
            watch.kept.push(tokens.shallow_clone());
        }
        tokens
    }
}
