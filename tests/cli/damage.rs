//! Files of a run that changed after they were written are noticed where they are read.

use std::fs;

use crate::sandbox::Sandbox;

#[test]
fn predictions_that_evaluate_writes_into_the_run_are_the_runs_own() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("run");
    let file = sandbox.path("run/predictions_test.csv");
    let summary = sandbox.path("run/summary.json");
    let written = fs::read_to_string(&summary).unwrap();
    // As where another device computes another last digit.
    let recorded: serde_json::Value = serde_json::from_str(&written).unwrap();
    let hash = recorded["files"]["predictions_test.csv"].as_str().unwrap();
    let changed = written.replace(hash, &"0".repeat(64));
    fs::write(&summary, &changed).unwrap();
    let report = ["report", "run", "-o", "r.html", "--no-images"];
    let (_, error) = sandbox.fails(&report);
    let again = ["evaluate", "run", "--split", "test", "--predictions", "run/predictions_test.csv"];
    let remedy = format!("write it again: vmbeauty {}", again.join(" "));
    assert!(error.contains(&remedy) && !error.contains("train the run"), "{error}");
    // Other files are not the run's; another split and other weights are refused.
    for weights in ["run", "run/last.safetensors"] {
        sandbox.done(&["evaluate", weights, "--split", "test", "--predictions", "p.csv"]);
        assert_eq!(fs::read_to_string(&summary).unwrap(), changed);
    }
    let own = file.to_str().unwrap();
    for (weights, split, of) in
        [("run", "val", "test images"), ("run/last.safetensors", "test", "the run's best weights")]
    {
        let evaluate = ["evaluate", weights, "--split", split, "--predictions", own];
        let (code, error) = sandbox.fails(&evaluate);
        assert!(code == 2 && error.contains(&format!("is for the predictions of {of}")), "{error}");
    }
    sandbox.done(&again);
    sandbox.done(&report);
    assert_eq!(fs::read_to_string(&summary).unwrap(), written);
}

#[test]
fn changed_weights_predictions_and_checkpoints_are_errors_that_name_the_file() {
    let sandbox = Sandbox::new();
    let train = ["train", "small.yaml", "--quiet", "--output", "run"];
    sandbox.done(&train);
    fs::write(sandbox.path("face.png"), fs::read("tests/fixtures/images/palette.png").unwrap())
        .unwrap();
    let resume = [&train[..], &["--resume"]].concat();
    let commands: [&[&str]; 7] = [
        &["evaluate", "run"],
        &["predict", "run", "face.png"],
        &["explain", "run", "face.png", "--output", "e"],
        &["features", "run", "face.png", "--output", "f.safetensors"],
        &["export", "run", "--format", "safetensors", "--output", "x"],
        &["report", "run", "--output", "report.html"],
        &resume,
    ];
    for (name, command) in [
        ("best.safetensors", 0..5),
        ("best.safetensors", 6..7),
        ("predictions_test.csv", 5..6),
        ("state/checkpoint.safetensors", 6..7),
    ] {
        let file = sandbox.path("run").join(name);
        let written = fs::read(&file).unwrap();
        // A flipped bit in the last value; of a table, its last lines are missing.
        let mut changed = written.clone();
        if name.ends_with(".csv") {
            let lines: Vec<&[u8]> = written.split_inclusive(|&byte| byte == b'\n').collect();
            changed = lines[..lines.len() - 3].concat();
        } else {
            *changed.last_mut().unwrap() ^= 4;
        }
        fs::write(&file, &changed).unwrap();
        for arguments in &commands[command] {
            let (code, error) = sandbox.fails(arguments);
            assert_eq!(code, 1, "{arguments:?}: {error}");
            assert!(error.contains(name), "{arguments:?}: {error}");
            assert!(error.contains("is not what the run wrote") || error.contains("is damaged"));
        }
        fs::write(&file, &written).unwrap();
    }
    commands[..6].iter().for_each(|arguments| drop(sandbox.done(arguments)));
    // Weights without a summary have their own checksum.
    let last = sandbox.path("run/last.safetensors");
    let mut bytes = fs::read(&last).unwrap();
    let middle = bytes.len() - 1000;
    bytes[middle] ^= 1;
    fs::write(&last, bytes).unwrap();
    let (_, error) = sandbox.fails(&["predict", "run/last.safetensors", "face.png"]);
    assert!(error.contains("last.safetensors") && error.contains("is damaged"), "{error}");
}
