//! The model card of `vmbeauty export`.

use std::env;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Trains on images of two groups, and returns the card of the exported model.
fn card(sandbox: &Sandbox, layout: &str) -> String {
    let mut table = "image,score,split,group\n".to_string();
    for index in 0..60u8 {
        sandbox.image(&format!("{index}.png"), index * 4);
        let split = ["test", "train", "val"][usize::from(index) % 3];
        let group = ["female/asian", "male/asian"][usize::from(index) / 3 % 2];
        let score = f32::from(index % 7) + f32::from(index) / 100.0;
        table += &format!("{index}.png,{score},{split},{group}\n");
    }
    fs::write(sandbox.path("faces.csv"), table).unwrap();
    let data = "data={dataset: csv, root: faces.csv, image_size: 32}";
    sandbox.train("run", &[data, "train.epochs=1"]);
    sandbox.done(&["export", "run", "--format", layout, "--output", "out"]);
    fs::copy(sandbox.path("0.png"), sandbox.path("out/face.jpg")).unwrap();
    fs::read_to_string(sandbox.path("out/README.md")).unwrap()
}

/// Returns the blocks of code in a language.
fn code<'a>(card: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("\n```{language}\n");
    let blocks = card.split(&start).skip(1);
    blocks.map(|rest| rest.split("\n```\n").next().unwrap()).collect()
}

fn metadata(card: &str) -> Value {
    let (head, _) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    serde_yaml::from_str(head).unwrap()
}

#[test]
fn the_code_of_a_card_runs_in_its_folder() {
    let sandbox = Sandbox::new();
    let card = card(&sandbox, "safetensors");
    let program = sandbox.command(&[]).get_program().to_os_string();
    let folder = std::path::Path::new(&program).parent().unwrap().to_path_buf();
    let inherited = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([folder].into_iter().chain(env::split_paths(&inherited))).unwrap();
    let shell = code(&card, "sh");
    assert!(shell.len() == 1 && shell[0].contains("vmbeauty predict"), "{card}");
    let run = |program: &str, code: &str| {
        let mut command = Command::new(program);
        let command = command.args(["-c", code]).current_dir(sandbox.path("out"));
        command.env("PATH", &path).output().unwrap()
    };
    let output = run("sh", &format!("set -e\n{}", shell[0]));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("face.jpg"));
    assert!(sandbox.path("out/features.safetensors").exists());

    let python = code(&card, "python");
    assert!(python.len() == 1 && python[0].contains("\"vit\", \"mamba\""), "{card}");
    if !run("python3", "import safetensors, torch").status.success() {
        return eprintln!("not tested: Python has no safetensors and torch");
    }
    let output = run("python3", python[0]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_metadata_of_a_card_are_yaml_with_the_results_of_the_run() {
    let sandbox = Sandbox::new();
    let card = card(&sandbox, "timm");
    let metadata = metadata(&card);
    assert_eq!(metadata["library_name"], "vm-beautynet");
    assert_eq!(metadata["license"], "unknown", "the images are the user's");
    assert!(metadata.get("datasets").is_none(), "no dataset of the hub");
    assert!(metadata["tags"].as_array().unwrap().contains(&"vision-mamba".into()));
    let summary = sandbox.read_json("run/summary.json");
    let results = metadata["model-index"][0]["results"].as_array().unwrap();
    assert_eq!(metadata["model-index"][0]["name"], "small");
    for (result, split) in results.iter().zip(["val", "test"]) {
        assert!(result["dataset"]["split"].as_str().unwrap().starts_with(split));
        assert!(result["task"]["type"].is_string() && result["dataset"]["name"].is_string());
        let mae = result["metrics"].as_array().unwrap().iter().find(|of| of["type"] == "mae");
        assert_eq!(mae.unwrap()["value"], summary[split]["mae"]);
    }
    assert_eq!(results.len(), 2);
    // What a reader looks for, with intervals, and by group.
    for words in [
        "## Usage",
        "## Intended use and limits",
        "non-commercial",
        "must not be used to evaluate",
        "## Training recipe",
        "`adamw` with lr 0.001",
        "### By group (test)",
        "### By ethnicity (test)",
    ] {
        assert!(card.contains(words), "{words} is not in\n{card}");
    }
    let group = card.lines().find(|line| line.starts_with("| female/asian | 10 |")).unwrap();
    assert_eq!(group.matches('[').count(), 3, "{group}");
    assert!(code(&card, "python")[0].contains("local-dir:vit") && code(&card, "sh").is_empty());
}
