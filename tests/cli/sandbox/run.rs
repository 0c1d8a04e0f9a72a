//! What a run has left in its directory.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tch::Tensor;
use vm_beautynet::models::weights::WeightsFile;

/// What resuming needs, in a run directory.
pub(crate) const CHECKPOINT: &str = "state/checkpoint.safetensors";

/// `vmbeauty train small.yaml` in the folder `run`, with these keys set.
pub(crate) fn train_arguments<'a>(run: &'a str, set: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["train", "small.yaml", "--output", run];
    arguments.extend(set.iter().flat_map(|set| ["--set", set]));
    arguments
}

/// A file's tensors by name.
pub(crate) fn tensors(file: &Path) -> HashMap<String, Tensor> {
    Tensor::read_safetensors(file).unwrap().into_iter().collect()
}

/// The largest difference of a weight between two runs' last ones.
pub(crate) fn largest_difference(runs: [&Path; 2]) -> f64 {
    let [a, b] = runs.map(|run| tensors(&run.join("last.safetensors")));
    assert_eq!(a.len(), b.len());
    let differences =
        a.iter().map(|(name, tensor)| (tensor - &b[name]).abs().max().double_value(&[]));
    differences.fold(0.0, f64::max)
}

/// Lines of `metrics.jsonl`.
pub(crate) fn epochs(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How far a run's checkpoint has come.
pub(crate) fn progress(run: &Path) -> Value {
    let metadata = WeightsFile::open(&run.join(CHECKPOINT)).unwrap().metadata();
    serde_json::from_str(&metadata["progress"]).unwrap()
}
