//! Tests of `vmbeauty cross-validate`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

use crate::sandbox::{SMALL, Sandbox};

const FAST: [&str; 4] = ["--set", "train.epochs=1", "--set", "train.tensorboard=false"];

fn validate(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    let all = [&["cross-validate"], arguments, &FAST[..], &["--json"]].concat();
    sandbox.json(&all)
}

/// Returns image -> (target, prediction, fold) of the pooled predictions.
fn pooled(folder: &Path) -> BTreeMap<String, (f64, f64, f64)> {
    let mut reader = csv::Reader::from_path(folder.join("predictions.csv")).unwrap();
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    let [target, prediction, fold] = ["target", "prediction", "fold"].map(column);
    let mut rows = BTreeMap::new();
    for record in reader.records() {
        let record = record.unwrap();
        let number = |index: usize| record[index].parse().unwrap();
        let row = (number(target), number(prediction), number(fold));
        assert!(rows.insert(record[0].to_string(), row).is_none(), "{} is in it twice", &record[0]);
    }
    rows
}

fn written(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn every_image_is_predicted_by_the_model_that_has_not_seen_it() {
    let sandbox = Sandbox::new();
    let result = validate(&sandbox, &["small.yaml", "--folds", "4", "--output", "cv"]);
    let rows = pooled(&sandbox.path("cv"));
    assert_eq!(rows.len(), 48 + 16 + 16);
    let folds = result["folds"].as_array().unwrap();
    assert_eq!(folds.len(), 4);
    let mut rmse = Vec::new();
    for (index, fold) in folds.iter().enumerate() {
        let name = format!("fold_{}_of_4", index + 1);
        assert_eq!(fold["fold"], name.as_str());
        let run = sandbox.path("cv").join(&name);
        let own = fs::read_to_string(run.join("predictions_test.csv")).unwrap();
        assert_eq!(own.lines().count() - 1, 20);
        for line in own.lines().skip(1) {
            let image = line.split(',').next().unwrap();
            assert_eq!(rows[image].2, (index + 1) as f64, "{image}");
        }
        rmse.push(fold["test"]["rmse"].as_f64().unwrap());
    }
    let mean = rmse.iter().sum::<f64>() / 4.0;
    let sd = (rmse.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
    assert!((result["mean"]["rmse"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert!((result["sd"]["rmse"].as_f64().unwrap() - sd).abs() < 1e-12);
    let squares: f64 = rows.values().map(|(t, p, _)| (t - p).powi(2)).sum();
    let expected = (squares / 80.0).sqrt();
    assert!((result["pooled"]["rmse"].as_f64().unwrap() - expected).abs() < 1e-9);
    assert_eq!(result["pooled"]["rmse_ci"].as_array().unwrap().len(), 2);
    let file = fs::read(sandbox.path("cv/cross_validation.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&file).unwrap(), result);
}

#[test]
fn finished_folds_are_not_run_again_and_a_stopped_one_resumes() {
    let sandbox = Sandbox::new();
    let arguments = ["small.yaml", "--folds", "3", "--output", "cv"];
    let first = validate(&sandbox, &arguments);
    let weights = |fold: &str| sandbox.path("cv").join(fold).join("best.safetensors");
    let before = ["fold_1_of_3", "fold_2_of_3", "fold_3_of_3"].map(|fold| written(&weights(fold)));
    // The state after a process was killed while it predicted, before the last fold.
    fs::remove_file(sandbox.path("cv/fold_2_of_3/summary.json")).unwrap();
    fs::remove_dir_all(sandbox.path("cv/fold_3_of_3")).unwrap();
    let again = validate(&sandbox, &arguments);
    assert_eq!(again["pooled"], first["pooled"]);
    assert_eq!(written(&weights("fold_1_of_3")), before[0]);
    assert_eq!(written(&weights("fold_2_of_3")), before[1], "its epochs were done");
    assert_ne!(written(&weights("fold_3_of_3")), before[2]);

    let (code, errors) =
        sandbox.fails(&["cross-validate", "small.yaml", "--folds", "3", "--output", "cv"]);
    assert_eq!(code, 1);
    assert!(errors.contains("another config"), "{errors}");
}

/// Writes images of ten people, four each; two of the files are identical.
fn people(sandbox: &Sandbox) {
    let mut rows = String::from("image,score,group,person\n");
    for i in 0..40u8 {
        sandbox.image(&format!("set/{i}.png"), i % 39 * 6);
        let group = ["a", "b"][usize::from(i / 20)];
        rows += &format!("{i}.png,{},{group},person {}\n", i % 9, i / 4);
    }
    fs::write(sandbox.path("set/list.csv"), rows).unwrap();
    let config = SMALL.replace("dataset: synthetic", "dataset: csv, root: set/list.csv");
    fs::write(sandbox.path("people.yaml"), config).unwrap();
}

#[test]
fn a_person_and_a_copied_file_are_in_one_fold() {
    let sandbox = Sandbox::new();
    people(&sandbox);
    validate(&sandbox, &["people.yaml", "--folds", "4", "--output", "cv"]);
    let rows = pooled(&sandbox.path("cv"));
    assert_eq!(rows.len(), 40);
    let fold_of = |i: u32| rows[&format!("{i}.png")].2;
    for i in 0..40 {
        assert_eq!(fold_of(i), fold_of(i / 4 * 4), "{i}.png and its person");
    }
    assert_eq!(fold_of(0), fold_of(39), "identical files");
    let folds: BTreeSet<u64> = (0..40).map(|i| fold_of(i) as u64).collect();
    assert_eq!(folds.len(), 4);
    // Validation images chose the epoch: nobody in them was learned from either.
    for fold in 1..=4 {
        let run = format!("cv/fold_{fold}_of_4/predictions_val.csv");
        let val = fs::read_to_string(sandbox.path(&run)).unwrap();
        let numbers: BTreeSet<u32> = val
            .lines()
            .skip(1)
            .map(|line| line.split('.').next().unwrap().parse().unwrap())
            .collect();
        for i in &numbers {
            let first = i / 4 * 4;
            assert!((first..first + 4).all(|other| numbers.contains(&other)), "{numbers:?}");
        }
    }
}

#[test]
fn scut_fbp5500_has_its_published_folds() {
    let sandbox = Sandbox::new();
    let names: Vec<String> = (1..=20).map(|i| format!("{}{i}.jpg", ["AF", "CM"][i % 2])).collect();
    for (i, name) in names.iter().enumerate() {
        sandbox.image(&format!("scut/Images/{name}"), i as u8 * 9);
    }
    for fold in 1..=5 {
        let lists = format!(
            "scut/train_test_files/5_folders_cross_validations_files/cross_validation_{fold}"
        );
        let lists = sandbox.path(&lists);
        fs::create_dir_all(&lists).unwrap();
        let list = |test: bool| -> String {
            let rows = names.iter().enumerate();
            let rows = rows.filter(|(i, _)| (i % 5 + 1 == fold) == test);
            rows.map(|(i, name)| format!("{name} {}.5\n", i % 4 + 1)).collect()
        };
        fs::write(lists.join(format!("train_{fold}.txt")), list(false)).unwrap();
        fs::write(lists.join(format!("test_{fold}.txt")), list(true)).unwrap();
    }
    let config =
        SMALL.replace("dataset: synthetic", "dataset: scut_fbp5500, root: scut, split: fold_1");
    fs::write(sandbox.path("scut.yaml"), config).unwrap();
    let result = validate(&sandbox, &["scut.yaml", "--output", "cv"]);
    assert_eq!(result["folds"][4]["fold"], "fold_5");
    for (i, name) in names.iter().enumerate() {
        assert_eq!(pooled(&sandbox.path("cv"))[name].2, (i % 5 + 1) as f64);
    }
    let (code, errors) = sandbox.fails(&["cross-validate", "small.yaml", "--folds", "published"]);
    assert_eq!(code, 2);
    assert!(errors.contains("no published folds"), "{errors}");
}
