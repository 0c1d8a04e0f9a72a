//! Errors name the file and the remedy.

use std::fs;

use super::written::{Row, Run, VAL, grouped};
use crate::sandbox::Sandbox;

#[test]
fn errors_name_the_file_and_the_remedy() {
    let sandbox = Sandbox::new();
    let test = grouped(0.5);
    let run = Run { set: "", seed: 1, val: &VAL, test: Some(&test) };
    for folder in ["csv", "summary", "metrics", "config"] {
        run.write(&sandbox, folder);
    }
    fs::create_dir(sandbox.path("empty")).unwrap();
    for (file, text) in [
        ("csv/predictions_test.csv", "image,target,prediction\na,1,high\n"),
        ("summary/summary.json", "{\"val\": 3}"),
        ("metrics/metrics.jsonl", "{\"epoch\": 1}\n"),
        ("config/config.yaml", "train: {epoch: 3}\n"),
    ] {
        fs::write(sandbox.path(file), text).unwrap();
    }
    for (folder, code, words) in [
        ("nothing", 1, "nothing does not exist: name run directories"),
        ("small.yaml", 1, "small.yaml is a file"),
        ("empty", 1, "empty holds no run: a run directory has a config.yaml"),
        ("csv", 1, "csv/predictions_test.csv: line 2: prediction is \"high\""),
        ("summary", 1, "summary/summary.json is not a summary"),
        ("metrics", 1, "metrics/metrics.jsonl:1: not an epoch's metrics"),
        ("config", 2, "did you mean train.epochs?"),
    ] {
        let (exit, error) = sandbox.fails(&["report", folder, "-o", "r.html", "--no-images"]);
        assert_eq!(exit, code, "{error}");
        assert!(error.contains(words), "{error}");
        assert!(!sandbox.path("r.html").exists());
    }
    for (arguments, code, words) in [
        (["report", "csv", "-o", "r.txt"], 1, "must name a file that ends in .html"),
        (["report", "csv", "-o", "empty"], 1, "must name a file that ends in .html"),
        (["report", "csv", "--split=train", "-o=r.html"], 2, "must be val or test, is train"),
        (["report", "csv", "--explain=empty", "-o=r.html"], 1, ""),
    ] {
        let (exit, error) = sandbox.fails(&arguments);
        assert_eq!(exit, code, "{error}");
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn predictions_that_are_cut_off_or_lack_rows_are_errors_that_name_the_file() {
    let sandbox = Sandbox::new();
    let test = grouped(0.5);
    Run { set: "", seed: 1, val: &VAL, test: Some(&test) }.write(&sandbox, "run");
    let path = sandbox.path("run/predictions_test.csv");
    let whole = fs::read_to_string(&path).unwrap();
    let last_line = whole.trim_end().rfind('\n').unwrap();
    for (text, words) in [
        (&whole[..last_line + 4], "predictions_test.csv: it is cut off or was edited"),
        (
            &whole[..last_line + 1],
            "has 23 predictions, but run/summary.json says that the run has 24",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let (code, error) = sandbox.fails(&["report", "run", "-o", "r.html", "--no-images"]);
        assert!(code == 1 && error.contains(words), "{error}");
    }
    let report = ["report", "run", "-o", "r.html", "--no-images"];
    let again = "`vmbeauty evaluate run --split test --predictions run/predictions_test.csv`";
    let (_, error) = sandbox.fails(&report);
    assert!(error.contains(again), "{error}");
    // An editor may drop the last newline. A cut within the last number is seen by the hash.
    fs::write(&path, whole.trim_end()).unwrap();
    sandbox.done(&report);
    let summary = sandbox.path("run/summary.json");
    let mut recorded = sandbox.read_json("run/summary.json");
    let hash = blake3::hash(whole.as_bytes()).to_hex().to_string();
    recorded["files"] = serde_json::json!({"predictions_test.csv": hash});
    fs::write(&summary, recorded.to_string()).unwrap();
    let (_, error) = sandbox.fails(&report);
    assert!(error.contains("predictions_test.csv is not what the run wrote"), "{error}");
}

#[test]
fn predictions_of_different_images_are_not_compared_and_a_note_says_why() {
    let sandbox = Sandbox::new();
    let a: Vec<Row> = vec![("a", 1.0, 2.0, ""), ("b", 2.0, 2.5, ""), ("c", 4.0, 3.0, "")];
    let b: Vec<Row> = vec![("a", 1.0, 2.0, ""), ("b", 2.0, 2.5, ""), ("d", 4.0, 3.0, "")];
    let c: Vec<Row> = vec![("a", 1.0, 2.0, ""), ("b", 2.0, 2.5, ""), ("c", 4.5, 3.0, "")];
    for (folder, set, test) in [
        ("first", "", &a),
        ("second", "model.fusion.strategy=sum", &b),
        ("third", "model.fusion.strategy=concat", &c),
    ] {
        let run = Run { set, seed: 1, val: &VAL, test: Some(test) };
        run.write(&sandbox, folder);
    }
    let command = "report first second third -o r.html --no-images --json";
    let report = sandbox.json(&command.split(' ').collect::<Vec<_>>());
    let boards = report["leaderboards"].as_array().unwrap();
    assert_eq!(boards.len(), 3);
    assert!(boards.iter().all(|board| board["comparisons"] == serde_json::json!([])));
    let notes = report["notes"].to_string();
    for words in [
        "first and second are not compared: they were evaluated on different images, c for one only",
        "first and third are not compared: c has the target 4 for one and 4.5 for the other",
    ] {
        assert!(notes.contains(words), "{notes}");
    }
    assert!(
        sandbox.path("r.leaderboard-2.csv").exists()
            && sandbox.path("r.leaderboard-3.csv").exists()
    );
}

#[test]
fn a_run_without_test_images_is_compared_on_val() {
    let sandbox = Sandbox::new();
    let run = Run { set: "", seed: 1, val: &VAL, test: None };
    run.write(&sandbox, "run");
    let report = sandbox.json(&["report", "run", "-o", "r.html", "--no-images", "--json"]);
    assert_eq!(report["split"], "val");
    let on_test = ["report", "run", "-o=r.html", "--no-images", "--split=test", "--json"];
    let report = sandbox.json(&on_test);
    assert_eq!(report["leaderboards"], serde_json::json!([]));
    assert!(report["notes"].to_string().contains("--split val ranks it"));
    // `vmbeauty evaluate run --split test --predictions run/predictions_test.csv` later.
    let rows = "image,target,prediction\na,1,2\nb,3,2\n";
    fs::write(sandbox.path("run/predictions_test.csv"), rows).unwrap();
    assert_eq!(sandbox.json(&on_test)["leaderboards"][0]["images"], 2);
}
