//! The programs in examples/, called as their `main` calls them.

#[path = "../../examples/compare_ensemble.rs"]
#[allow(dead_code, reason = "main is for cargo run --example")]
mod compare_ensemble;
#[path = "../../examples/compare_searches.rs"]
#[allow(dead_code, reason = "main is for cargo run --example")]
mod compare_searches;
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

use crate::sandbox::Sandbox;

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

#[test]
fn the_comparison_of_searches_simulates_what_the_search_does() {
    let sandbox = Sandbox::new();
    let grid = "name: grid\nbase: small.yaml\nset: {train.epochs: 4, train.tensorboard: false}\n\
                axes: {train.optimizer.lr: [1e-5, 1e-4, 1e-3, 1e-2]}\n";
    let asha = grid.replace("name: grid", "name: asha\nsearch: {name: asha, eta: 2}");
    let files = [("grid.yaml", grid), ("asha.yaml", &asha)].map(|(name, text)| {
        std::fs::write(sandbox.path(name), text).unwrap();
        sandbox.path(name)
    });
    let program = env!("CARGO_BIN_EXE_vmbeauty").into();
    let files = files.each_ref().map(|file| file.as_path());
    let rows = compare_searches::run(files, &sandbox.path("runs"), program).unwrap();
    let epochs: Vec<usize> = rows.iter().map(|row| row.epochs).collect();
    assert_eq!(epochs[..3], [16, 4 + 2 + 2, 4 + 2 + 2]);
    let [asha, simulated] = &rows[1..3] else { panic!() };
    assert_eq!((&asha.run, asha.pc), (&simulated.run, simulated.pc));
    assert!(rows[0].pc >= asha.pc && rows[0].wall.is_some());
}

#[test]
fn the_comparison_of_the_ensemble_has_its_branches_alone_averaged_and_within_it() {
    let sandbox = Sandbox::new();
    let sweep = "name: three\nbase: small.yaml\nfolds: 2\n\
                 set: {train.epochs: 1, train.tensorboard: false, train.branch_loss: 0.5}\n\
                 axes: {model.fusion.strategy: [vit_only, mamba_only, gated]}\n";
    std::fs::write(sandbox.path("three.yaml"), sweep).unwrap();
    sandbox.done(&["sweep", "three.yaml", "--output", "three", "--quiet"]);
    let board = compare_ensemble::compare(&sandbox.path("three")).unwrap();
    let mut names: Vec<&str> = board.models.iter().map(|model| model.name.as_str()).collect();
    names.sort();
    let of_gated = ["gated", "Mamba", "ViT"].map(|of| match of {
        "gated" => "gated, branch loss 0.5".to_string(),
        branch => format!("{branch} within gated, branch loss 0.5"),
    });
    let mut expected = vec!["ViT alone", "Mamba alone", "mean of both, trained separately"];
    expected.extend(of_gated.iter().map(String::as_str));
    expected.sort();
    assert_eq!(names, expected);
    let of = |name: &str| {
        let model = board.models.iter().find(|model| model.name == name).unwrap();
        (model.predictions[0].clone(), model.parameters)
    };
    let (vit, mamba) = (of("ViT alone"), of("Mamba alone"));
    let (mean, parameters) = of("mean of both, trained separately");
    assert_eq!((mean.images.len(), parameters), (board.images, vit.1 + mamba.1));
    for (row, &mean) in mean.predictions.iter().enumerate() {
        assert!((mean - (vit.0.predictions[row] + mamba.0.predictions[row]) / 2.0).abs() < 1e-6);
    }
    let gated = of("gated, branch loss 0.5").0;
    let head = of("ViT within gated, branch loss 0.5").0;
    assert_eq!(gated.column("prediction_vit"), Some(&head.predictions[..]));
}
