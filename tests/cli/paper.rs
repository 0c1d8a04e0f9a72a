//! The sweeps of experiments/paper, on synthetic faces under the names of SCUT-FBP5500.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_yaml::Value as Yaml;
use vm_beautynet::data::synthetic::{FaceSeed, rated_score, render};

use crate::sandbox::Sandbox;

/// The sweeps, with the number of their runs.
const SWEEPS: [(&str, usize); 6] = [
    ("vit_folds", 5),
    ("mamba_folds", 5),
    ("fusion_folds", 40),
    ("vit_60_40", 3),
    ("mamba_60_40", 3),
    ("fusion_60_40", 24),
];

fn project(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn sweep_file(name: &str) -> PathBuf {
    project(&format!("experiments/paper/{name}.yaml"))
}

/// Writes 40 faces in the published layout of SCUT-FBP5500.
fn write_dataset(root: &Path) {
    let lines: Vec<String> = (0..40u64)
        .map(|index| {
            let face = FaceSeed { seed: 5, index };
            let name = format!("{}{}.jpg", ["AF", "AM", "CF", "CM"][index as usize % 4], index + 1);
            fs::create_dir_all(root.join("Images")).unwrap();
            render(face, 48).save(root.join("Images").join(&name)).unwrap();
            format!("{name} {:.6}\n", rated_score(face, 0.2))
        })
        .collect();
    let write = |folder: &str, name: &str, keep: &dyn Fn(usize) -> bool| {
        let folder = root.join("train_test_files").join(folder);
        fs::create_dir_all(&folder).unwrap();
        let kept = lines.iter().enumerate().filter(|(index, _)| keep(*index));
        fs::write(folder.join(name), kept.map(|(_, line)| &**line).collect::<String>()).unwrap();
    };
    write("", "All_labels.txt", &|_| true);
    for fold in 1..=5 {
        let folder = format!("5_folders_cross_validations_files/cross_validation_{fold}");
        write(&folder, &format!("train_{fold}.txt"), &|index| index % 5 + 1 != fold);
        write(&folder, &format!("test_{fold}.txt"), &|index| index % 5 + 1 == fold);
    }
    let split = "split_of_60%training and 40%testing";
    write(split, "train.txt", &|index| index % 5 < 3);
    write(split, "test.txt", &|index| index % 5 >= 3);
}

/// Writes the sweep with its own base and axes, for micro backbones on the synthetic faces.
fn write_micro_sweep(sandbox: &Sandbox, name: &str) {
    let file = sweep_file(name);
    let mut sweep: Yaml = serde_yaml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let base = file.parent().unwrap().join(sweep["base"].as_str().unwrap());
    sweep["base"] = base.to_str().unwrap().into();
    let mut set = sweep.get("set").map(|set| set.as_mapping().unwrap().clone()).unwrap_or_default();
    let mut text = String::new();
    for branch in ["vit: {name: vit", "mamba: {name: vim"] {
        let (key, preset) = branch.split_once(": {name: ").unwrap();
        writeln!(text, "model.{key}.name: {preset}_micro_patch8_64").unwrap();
        writeln!(text, "model.{key}.weights: null\nmodel.{key}.embed_dim: 24").unwrap();
        writeln!(text, "model.{key}.depth: 1").unwrap();
    }
    text += "model.fusion.dim: 16\nmodel.head.hidden: [16]\ndata.root: scut\ndata.image_size: 32\n";
    text += "data.workers: 1\ntrain.epochs: 1\ntrain.schedule.warmup_epochs: 0\ntrain.threads: 1\n";
    text += "train.tensorboard: false\ndevice: cpu\n";
    let micro: Yaml = serde_yaml::from_str(&text).unwrap();
    set.extend(micro.as_mapping().unwrap().clone());
    sweep["set"] = Yaml::Mapping(set);
    fs::write(sandbox.path(&format!("{name}.yaml")), serde_yaml::to_string(&sweep).unwrap())
        .unwrap();
}

#[test]
fn each_table_of_the_paper_lists_its_runs() {
    let sandbox = Sandbox::new();
    for (name, runs) in SWEEPS {
        let file = sweep_file(name);
        let listed = sandbox.json(&["sweep", file.to_str().unwrap(), "--dry-run", "--json"]);
        assert_eq!(listed["runs"].as_array().unwrap().len(), runs, "{name}");
        assert_eq!((&listed["left"], &listed["seconds_left"]), (&runs.into(), &Value::Null));
        let readme = fs::read_to_string(project("experiments/paper/README.md")).unwrap();
        assert!(readme.contains(&format!("| [{name}.yaml]({name}.yaml) | {runs} |")), "{name}");
    }
}

#[test]
fn a_table_of_the_paper_runs_on_the_published_names() {
    let sandbox = Sandbox::new();
    write_dataset(&sandbox.path("scut"));
    write_micro_sweep(&sandbox, "mamba_60_40");
    let sweep = ["sweep", "mamba_60_40.yaml", "--output", "out", "--quiet", "--json"];
    let results = sandbox.json(&sweep);
    let point = &results["points"][0];
    assert_eq!((&point["name"], &point["images"]), (&"strategy=mamba_only".into(), &16.into()));
}

#[test]
#[ignore = "trains eighty models: minutes"]
fn every_table_of_the_paper_runs_on_the_published_names_and_is_reported() {
    let sandbox = Sandbox::new();
    write_dataset(&sandbox.path("scut"));
    let mut folders = Vec::new();
    for (name, runs) in SWEEPS {
        write_micro_sweep(&sandbox, name);
        let file = format!("{name}.yaml");
        let results =
            sandbox.json(&["sweep", &file, "--output", name, "--jobs", "2", "--quiet", "--json"]);
        let finished = results["runs"].as_array().unwrap();
        assert!(finished.iter().all(|run| run["status"] == "finished"), "{results}");
        let images = if name.ends_with("folds") { 40 } else { 16 };
        for point in results["points"].as_array().unwrap() {
            assert_eq!(point["images"], images, "{name}");
        }
        println!("{name}: {} of {runs} runs", finished.len());
        assert_eq!(finished.len(), runs);
        folders.push(name);
    }
    for protocol in ["folds", "60_40"] {
        let of = folders.iter().copied().filter(|name| name.ends_with(protocol));
        let report = [&["report"][..], &of.collect::<Vec<_>>(), &["-o", "r/report.html"]].concat();
        sandbox.done(&report);
        let table = fs::read_to_string(sandbox.path("r/report.csv")).unwrap();
        for strategy in ["vit_only", "mamba_only", "concat", "score"] {
            assert!(table.contains(strategy), "{strategy}: {table}");
        }
    }
}
