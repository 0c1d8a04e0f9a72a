//! Attribution maps on synthetic faces, whose score depends on known regions.
//!
//! Trains a model of the Mamba alone, so that the score depends on its branch: `make test-explain`,
//! minutes. A ViT from scratch learns too little in as many epochs for its maps to be evaluated:
//! whether it learns depends on rounding.

use std::path::Path;

use crate::sandbox::Sandbox;
use serde_json::Value;

/// Returns the lower end of a metric's interval.
fn lower_end(mean: &Value) -> f64 {
    mean["ci"][0].as_f64().unwrap_or(f64::NAN)
}

/// Trains a model of one branch and evaluates its maps by each method on 100 test faces: the
/// fraction of attribution on eyes, nose and mouth must exceed their fraction of the area, and
/// insertion in the map's order must exceed insertion in random order. Hidden attention is not
/// among the methods: after as few epochs its insertion is within chance on some machines.
fn trained_maps_beat_chance(strategy: &str, epochs: usize, methods: &[&[&str]]) {
    let sandbox = Sandbox::new();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.yaml");
    let strategy = format!("model.fusion.strategy={strategy}");
    let epochs = format!("train.epochs={epochs}");
    let config = config.to_str().unwrap();
    // Maps of 8x8 patches, where the quickstart's stem leaves 4x4, and a recipe for them.
    let patches = "model.mamba={patch_size: 8, stem: patchify}";
    let recipe = "train={batch_size: 24, slice: null, optimizer: {backbone_lr: 2e-3}, schedule: \
                  {warmup_epochs: 0.5}}";
    let set = [&strategy, &epochs, patches, recipe];
    let set: Vec<&str> = set.into_iter().flat_map(|key| ["--set", key]).collect();
    sandbox.done(&[&["train", config, "--output", "run"][..], &set].concat());
    let mut failed = Vec::new();
    for method in methods {
        let asked = ["explain", "run", "--evaluate", "test", "--limit", "100", "--json"];
        let json = sandbox.json(&[&asked[..], method].concat());
        let insertion = &json["curves"][0]["insertion_over_random"];
        let regions = json["regions"].as_array().unwrap();
        let features = regions.iter().find(|region| region["region"] == "features").unwrap();
        let over_area = &features["over_chance"];
        println!(
            "{strategy} {method:?}: insertion over random {insertion}, \
             attribution over area {over_area}"
        );
        let beats_chance = lower_end(insertion) > 0.0 && lower_end(over_area) > 0.0;
        if !beats_chance {
            failed.push(method);
        }
    }
    assert!(failed.is_empty(), "{strategy}: no better than chance: {failed:?}");
}

#[test]
#[ignore = "trains a model: minutes"]
fn mamba_maps_are_on_the_scored_regions() {
    trained_maps_beat_chance(
        "mamba_only",
        4,
        &[
            &["--method", "layer-cam"],
            &["--method", "integrated-gradients"],
            &["--method", "occlusion"],
        ],
    );
}
