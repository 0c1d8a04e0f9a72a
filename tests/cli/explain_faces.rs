//! Maps on synthetic faces, whose score is made of known parts: what a branch looks at that has
//! learned it.
//!
//! Trains a model of the Mamba alone, so that its branch is the one that the score hangs on: `make
//! test-explain`, minutes. A ViT from scratch learns too little in as many epochs for its maps to
//! be judged: whether it does hangs on rounding.

use std::path::Path;

use crate::sandbox::Sandbox;
use serde_json::Value;

/// The lower end of a metric's interval.
fn least(mean: &Value) -> f64 {
    mean["ci"][0].as_f64().unwrap_or(f64::NAN)
}

/// Trains this branch alone, and measures its maps by each method and layer on 100 test faces: they
/// have more of their mass on eyes, nose and mouth than these have of the area, and patches shown
/// in their order bring the score sooner than in random order.
fn trained_maps_beat_chance(strategy: &str, epochs: usize, methods: &[&[&str]]) {
    let sandbox = Sandbox::new();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.yaml");
    let strategy = format!("model.fusion.strategy={strategy}");
    let epochs = format!("train.epochs={epochs}");
    let config = config.to_str().unwrap();
    let set = ["--set", &strategy, "--set", &epochs];
    sandbox.done(&[&["train", config, "--output", "run"][..], &set].concat());
    let mut failed = Vec::new();
    for method in methods {
        let asked = ["explain", "run", "--evaluate", "test", "--limit", "100", "--json"];
        let json = sandbox.json(&[&asked[..], method].concat());
        let insertion = &json["curves"][0]["insertion_over_random"];
        let parts = json["parts"].as_array().unwrap();
        let part = parts.iter().find(|part| part["part"] == "features").unwrap();
        let mass = &part["over_chance"];
        println!("{strategy} {method:?}: insertion over random {insertion}, mass over area {mass}");
        let beats_chance = least(insertion) > 0.0 && least(mass) > 0.0;
        if !beats_chance {
            failed.push(method);
        }
    }
    assert!(failed.is_empty(), "{strategy}: no better than chance: {failed:?}");
}

#[test]
#[ignore = "trains a model: minutes"]
fn mamba_maps_lie_on_what_the_score_is_made_of() {
    trained_maps_beat_chance(
        "mamba_only",
        4,
        &[
            &["--method", "layer-cam"],
            &["--method", "integrated-gradients"],
            &["--method", "occlusion"],
            &["--method", "hidden-attention"],
        ],
    );
}
