//! The programs in examples/, called as their `main` calls them.

#[path = "../../examples/predict.rs"]
#[allow(dead_code, reason = "main is for cargo run --example")]
mod predict;
#[path = "../../examples/selective_scan.rs"]
#[allow(dead_code, reason = "main is for cargo run --example")]
mod selective_scan;
#[path = "../../examples/train.rs"]
#[allow(dead_code, reason = "main is for cargo run --example")]
mod train;

use vm_beautynet::data::synthetic::{FaceSeed, render};

#[test]
fn the_examples_train_a_model_and_predict_a_new_face_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let outcome = train::run(&run).unwrap();
    assert_eq!(outcome.epochs, 2);
    let face = folder.path().join("face.png");
    render(FaceSeed { seed: 2, index: 0 }, 64).save(&face).unwrap();
    let predictions = predict::run(&run, &[face]).unwrap();
    assert!((1.0..=5.0).contains(&predictions.predictions[0]), "{predictions:?}");
}

#[test]
fn the_fused_scan_of_the_example_agrees_with_the_eager_one() {
    let differences = selective_scan::run().unwrap();
    assert!(differences.iter().all(|&difference| difference < 1e-5), "{differences:?}");
}
