//! The program itself, on small synthetic datasets in a temporary directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use vm_beautynet::eval::predictions::Predictions;

use crate::sandbox::Sandbox;
use crate::sandbox::run::train_arguments;

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns every tensor's bytes by name: the headers of two files with the same tensors may differ
/// in time stamps.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = bytes(path);
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

/// Reads the lines of metrics.jsonl without the keys that depend on the clock.
fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            let object = value.as_object_mut().unwrap();
            for key in ["seconds", "images_per_second", "data_wait"] {
                object.remove(key);
            }
            value
        })
        .collect()
}

#[test]
fn a_run_fills_its_directory_and_the_other_commands_read_it() {
    let sandbox = Sandbox::new();
    let table = sandbox.done(&["train", "small.yaml", "--output", "run"]);
    assert!(table.contains("linear model") && table.contains("test"), "{table}");
    let run = sandbox.path("run");
    for name in [
        "config.yaml",
        "summary.json",
        "metrics.jsonl",
        "predictions_val.csv",
        "predictions_test.csv",
        "best.safetensors",
        "last.safetensors",
        "state/checkpoint.safetensors",
        "tensorboard",
    ] {
        assert!(run.join(name).exists(), "{name}");
    }
    let summary = sandbox.read_json("run/summary.json");
    assert_eq!(summary["test"]["n"], 16);
    assert_eq!(summary["epochs"], 3);
    assert_eq!(summary["commit"].as_str(), source_commit::COMMIT);
    assert_eq!(metrics(&run).len(), 3);
    let predictions = fs::read_to_string(run.join("predictions_test.csv")).unwrap();
    assert!(predictions.starts_with("image,target,prediction"));
    assert_eq!(predictions.lines().count(), 17);

    // evaluate reads the same weights, computes the same metrics, and writes the same predictions
    // on request.
    let evaluated = sandbox.json(&["evaluate", "run", "--predictions", "asked.csv", "--json"]);
    let read = |path: &str| Predictions::read(&sandbox.path(path)).unwrap();
    let (asked, written) = (read("asked.csv"), read("run/predictions_test.csv"));
    assert_eq!(asked.images, written.images);
    assert_eq!(asked.targets, written.targets);
    for (asked, written) in asked.predictions.iter().zip(&written.predictions) {
        assert!((asked - written).abs() < 1e-5, "{asked} is not {written}");
    }
    assert_eq!(asked.predictions.len(), 16);
    for key in ["mae", "rmse"] {
        let (a, b) = (evaluated[key].as_f64().unwrap(), summary["test"][key].as_f64().unwrap());
        assert!((a - b).abs() < 1e-6, "{key}: {a} is not {b}");
    }
    // The resolved config runs again, to the same weights.
    sandbox.done(&["train", "run/config.yaml", "--output", "again"]);
    let again = sandbox.path("again");
    assert_eq!(metrics(&run), metrics(&again));
    for weights in ["best.safetensors", "last.safetensors"] {
        assert_eq!(bytes(&run.join(weights)), bytes(&again.join(weights)), "{weights}");
    }
}

#[test]
fn a_start_that_fails_leaves_no_run_directory_behind() {
    let sandbox = Sandbox::new();
    let absent =
        ["train", "small.yaml", "--set", "data.dataset=csv", "--set", "data.root=absent.csv"];
    let (_, errors) = sandbox.fails(&absent);
    assert!(errors.contains("absent.csv"), "{errors}");
    assert!(!sandbox.path("runs").exists());
}

#[test]
fn resuming_with_different_data_is_an_error() {
    let sandbox = Sandbox::new();
    let mut rows = String::from("image,score,split\n");
    for i in 0..8u8 {
        sandbox.image(&format!("set/{i}.png"), i * 30);
        rows += &format!("{i}.png,{i},{}\n", if i < 6 { "train" } else { "val" });
    }
    fs::write(sandbox.path("set/list.csv"), &rows).unwrap();
    let train = train_arguments("run", &["data={dataset: csv, root: set/list.csv}"]);
    sandbox.done(&train);
    fs::write(sandbox.path("set/list.csv"), rows.replace("3.png,3", "3.png,4")).unwrap();
    let (_, errors) = sandbox.fails(&[&train[..], &["--resume"]].concat());
    assert!(errors.contains("dataset is not the one"), "{errors}");
}

#[test]
fn a_second_run_takes_the_next_free_directory_and_never_overwrites() {
    let sandbox = Sandbox::new();
    let arguments = ["train", "small.yaml", "--set", "train.epochs=1"];
    sandbox.done(&arguments);
    sandbox.done(&arguments);
    assert!(sandbox.path("runs/small/summary.json").exists());
    assert!(sandbox.path("runs/small-2/summary.json").exists());
    let (code, errors) = sandbox.fails(&["train", "small.yaml", "--output", "runs/small"]);
    assert_eq!(code, 1);
    assert!(errors.contains("--resume"), "{errors}");
}

/// Returns the tensors whose names have a prefix, with the prefix removed.
fn with_prefix(tensors: &BTreeMap<String, Vec<u8>>, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let named = tensors.iter();
    named
        .filter_map(|(name, bytes)| Some((name.strip_prefix(prefix)?.to_string(), bytes.clone())))
        .collect()
}

#[test]
fn fine_tuning_options_freeze_the_modules_that_they_name() {
    let sandbox = Sandbox::new();
    let last = |name: &str, set: &[&str]| {
        sandbox.train(name, &[&["train.epochs=2", "model.vit.depth=2"], set].concat());
        tensors(&sandbox.path(name).join("last.safetensors"))
    };
    // A backbone with learning rate 0 keeps its initial weights while the head trains.
    let initial = last("initial", &["train.optimizer.backbone_lr=0"]);
    let plain = last("plain", &[]);
    assert_ne!(with_prefix(&plain, "head."), with_prefix(&initial, "head."));

    let frozen = last("frozen", &["train.freeze.vit=all"]);
    assert_eq!(with_prefix(&frozen, "vit."), with_prefix(&initial, "vit."));
    assert_ne!(with_prefix(&frozen, "mamba."), with_prefix(&initial, "mamba."));

    let first = last("first", &["train.freeze={vit: 1, mamba: all}"]);
    for name in ["vit.patch_embed.", "vit.pos_embed", "vit.blocks.0.", "mamba."] {
        assert_eq!(with_prefix(&first, name), with_prefix(&initial, name), "{name}");
    }
    for name in ["vit.blocks.1.", "vit.norm."] {
        assert_ne!(with_prefix(&first, name), with_prefix(&initial, name), "{name}");
    }

    let unfrozen = last("unfrozen", &["train.freeze={vit: all, epochs: 1}"]);
    assert_ne!(with_prefix(&unfrozen, "vit."), with_prefix(&initial, "vit."));
    assert_ne!(unfrozen, plain);

    let decayed = last("decayed", &["train.optimizer.layer_decay=0.5"]);
    assert_ne!(with_prefix(&decayed, "vit.blocks.0."), with_prefix(&plain, "vit.blocks.0."));
}

#[test]
fn ema_weights_are_evaluated_and_saved_and_do_not_change_training() {
    let sandbox = Sandbox::new();
    sandbox.train("plain", &[]);
    sandbox.train("averaged", &["train.ema_decay=0.9"]);
    let plain = tensors(&sandbox.path("plain/last.safetensors"));
    let kept = tensors(&sandbox.path("averaged/last.safetensors"));
    let checkpoint = tensors(&sandbox.path("averaged/state/checkpoint.safetensors"));
    assert_eq!(with_prefix(&checkpoint, "model."), plain);
    assert_eq!(with_prefix(&checkpoint, "ema."), kept);
    assert_ne!(kept, plain);
    let mae = |run: &str| metrics(&sandbox.path(run))[2]["val"]["mae"].clone();
    assert_ne!(mae("plain"), mae("averaged"));
    let evaluated =
        sandbox.json(&["evaluate", "averaged/last.safetensors", "--split", "val", "--json"]);
    let (a, b) = (evaluated["mae"].as_f64().unwrap(), mae("averaged").as_f64().unwrap());
    assert!((a - b).abs() < 1e-6, "{a} is not {b}");
}

#[test]
fn an_export_has_the_published_names_and_a_model_card() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("run");
    let best = tensors(&sandbox.path("run/best.safetensors"));
    let listed = sandbox.done(&["export", "run", "--format", "safetensors", "--output", "out"]);
    assert_eq!(listed.lines().count(), 6, "{listed}");
    for branch in ["vit", "mamba"] {
        let exported = tensors(&sandbox.path(&format!("out/{branch}.safetensors")));
        assert_eq!(exported, with_prefix(&best, &format!("{branch}.")));
    }
    let card = fs::read_to_string(sandbox.path("out/README.md")).unwrap();
    let summary = sandbox.read_json("run/summary.json");
    let mae = format!("{:.4}", summary["test"]["mae"].as_f64().unwrap());
    for words in [
        &mae,
        "48 training, 16 validation and 16 test images",
        "license: mit",
        "must not be used to evaluate",
        "vit_micro_patch8_64",
        "seed: 7",
    ] {
        assert!(card.contains(words), "{words} is not in\n{card}");
    }
    // The exported network predicts the same scores.
    sandbox.image("face.png", 90);
    let predict = |run: &str| sandbox.done(&["predict", run, "face.png", "--format", "csv"]);
    assert_eq!(predict("out/model.safetensors"), predict("run"));

    sandbox.done(&["export", "run", "--format", "timm", "--output", "timm"]);
    let config = sandbox.read_json("timm/vit/config.json");
    assert_eq!(config["model_args"]["embed_dim"], 24);
    let exported = tensors(&sandbox.path("timm/vit/model.safetensors"));
    assert_eq!(exported, with_prefix(&best, "vit."));
    // The exported backbones initialize another run.
    let set = "model={vit: {weights: out/vit.safetensors}, mamba: {weights: timm/mamba/model.pth}}";
    sandbox.train("tuned", &[set, "train.freeze={vit: all, mamba: all}", "train.epochs=1"]);
    let tuned = tensors(&sandbox.path("tuned/last.safetensors"));
    for branch in ["vit.", "mamba."] {
        assert_eq!(with_prefix(&tuned, branch), with_prefix(&best, branch));
    }
    // timm cannot build a convolutional stem.
    let set = "model.mamba={name: vim_micro_patch8_64, stem: conv, depth: 1, embed_dim: 24}";
    sandbox.train("conv", &[set, "train.epochs=1"]);
    let (code, error) = sandbox.fails(&["export", "conv", "--format", "timm", "--output", "no"]);
    assert!(code == 1 && error.contains("model.mamba.stem: conv"), "{error}");
    sandbox.done(&["export", "conv", "--output", "conv_out"]);
    let card = fs::read_to_string(sandbox.path("conv_out/README.md")).unwrap();
    assert!(card.contains("a convolutional stem, 1 blocks"), "{card}");
    // Metrics belong to the best weights only.
    sandbox.done(&["export", "run/last.safetensors", "--output", "last"]);
    let card = fs::read_to_string(sandbox.path("last/README.md")).unwrap();
    assert!(card.contains("No metrics") && !card.contains(&mae), "{card}");
}

#[test]
fn an_onnx_export_says_how_images_become_its_input() {
    let sandbox = Sandbox::new();
    let set = ["--set", "data={resize: crop, short_side: 40, test_time_flip: true}"];
    sandbox.done(&[&["train", "small.yaml", "--output", "run"], &set[..]].concat());
    let export = |more: &[&str]| {
        let all = ["export", "run", "--output", "out", "--format", "onnx"];
        sandbox.done(&[&all[..], more].concat())
    };
    let names = ["model.onnx", "preprocess.json", "predict.py", "predict.mjs", "README.md"];
    let listed = names.map(|name| format!("out/{name}\n")).concat();
    assert_eq!(export(&["--scan", "unrolled", "--input", "float"]), listed);
    assert_eq!(export(&[]), listed);
    let how = sandbox.read_json("out/preprocess.json");
    assert_eq!(how["input"]["shape"], json!(["batch", 32, 32, 3]));
    assert_eq!((&how["resize"], &how["short_side"]), (&json!("crop"), &json!(40)));
    assert_eq!(how["outputs"], json!(["score", "branch_weights", "features"]));
    assert_eq!(how["test_time_flip"]["value"], true);
    let summary = sandbox.read_json("run/summary.json");
    assert_eq!(how["weights_blake3"], summary["files"]["best.safetensors"]);
    let card = fs::read_to_string(sandbox.path("out/README.md")).unwrap();
    assert!(card.contains("`model.onnx`: the whole model"), "{card}");
    let (code, error) = sandbox.fails(&["export", "run", "--output", "no", "--scan", "unrolled"]);
    assert!(code == 2 && error.contains("--scan applies to --format onnx only"), "{error}");
}

#[test]
fn a_web_page_has_the_model_its_interval_and_a_policy_that_lets_nothing_out() {
    let sandbox = Sandbox::new();
    let set = ["--set", "data.resize=pad"];
    sandbox.done(&[&["train", "small.yaml", "--output", "run"], &set[..]].concat());
    let export = ["export", "run", "--output", "page", "--format", "web"];
    let (code, error) = sandbox.fails(&export);
    assert!(
        code == 1 && error.contains("onnxruntime.js: `make web-runtime` fetches it"),
        "{error}"
    );
    let runtime = sandbox.path(".cache/vm-beautynet/onnxruntime-web-1.30.0");
    fs::create_dir_all(&runtime).unwrap();
    fs::write(runtime.join("onnxruntime.js"), "the runtime").unwrap();
    let scripts = ["onnxruntime.js", "model.js", "resample.js", "page.js"];
    let names = [&["index.html", "style.css"][..], &scripts, &["README.md"]].concat();
    let listed: String = names.iter().map(|name| format!("page/{name}\n")).collect();
    assert_eq!(sandbox.done(&export), listed);
    let text = |name: &str| fs::read_to_string(sandbox.path("page").join(name)).unwrap();
    let page = text("index.html");
    for script in scripts {
        assert!(page.contains(&format!("<script src=\"{script}\"></script>")), "{page}");
    }
    assert!(page.contains("content=\"default-src 'none'; script-src 'self' blob: "), "{page}");
    assert!(page.contains("<h1>small</h1>") && !page.contains("://"), "{page}");
    assert_eq!(text("onnxruntime.js"), "the runtime");
    let script = text("model.js");
    let about = script.lines().next().unwrap().strip_prefix("const RUN = ").unwrap();
    let about: Value = serde_json::from_str(about.trim_end_matches(';')).unwrap();
    assert_eq!(about["preprocess"]["resize"], "pad");
    sandbox.image("face.png", 90);
    let predict = ["predict", "run", "face.png", "--interval", "0.9", "--format", "json"];
    let row = sandbox.json(&predict)["predictions"][0].clone();
    let number = |value: &Value| value.as_f64().unwrap();
    let half = (number(&row["upper"]) - number(&row["lower"])) / 2.0;
    assert!((number(&about["interval"]["half"]) - half).abs() < 1e-6, "{about} {row}");
    assert!(script.contains("\nMODEL.push(\""));
    assert!(text("README.md").contains("`index.html`: the page"));
    let predictions = sandbox.path("run/predictions_val.csv");
    fs::write(&predictions, text("../run/predictions_val.csv") + "\n").unwrap();
    let (code, error) = sandbox.fails(&export);
    assert!(code == 1 && error.contains("predictions_val.csv is not what the run"), "{error}");
    assert!(error.contains("write it again: vmbeauty evaluate"), "{error}");
}

#[test]
fn predict_and_features_read_images_and_features_reports_those_that_cannot_be_read() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("run");
    sandbox.image("faces/a.png", 0);
    sandbox.image("faces/b.jpg", 90);
    let predicted = sandbox.json(&["predict", "run", "faces", "--format", "json"]);
    assert_eq!(predicted["predictions"].as_array().unwrap().len(), 2);
    assert!(predicted["predictions"][0]["weight_vit"].is_number());
    let csv = sandbox.done(&["predict", "run", "faces/a.png", "--format", "csv"]);
    assert!(
        csv.starts_with("image,score,weight_vit,weight_mamba,in_distribution,error\nfaces/a.png,"),
        "{csv}"
    );

    fs::write(sandbox.path("faces/broken.jpg"), b"not an image").unwrap();
    let features = ["features", "run", "faces", "--output", "f.safetensors"];
    let (code, errors) = sandbox.fails(&features);
    assert!(code == 1 && errors.contains("skipped: faces/broken.jpg: not an image"), "{errors}");
    let file = bytes(&sandbox.path("f.safetensors"));
    let features = safetensors::SafeTensors::deserialize(&file).unwrap();
    let shape = |name: &str| features.tensor(name).unwrap().shape().to_vec();
    assert_eq!([shape("vit"), shape("mamba"), shape("fused")], [[2, 24], [2, 24], [2, 16]]);
    assert_eq!(shape("score"), [2]);
}

#[test]
fn features_of_an_input_tensor_equal_the_reference_implementations() {
    let sandbox = Sandbox::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
    let old = "image_size: 48, patch_size: 8, embed_dim: 48, depth: 3";
    let vit = "embed_dim: 48, depth: 2, num_heads: 3, image_size";
    for (branch, file, preset, sizes, features) in [
        ("vit", "vit_small", "vit_tiny_patch16_224", format!("{old}, num_heads: 3"), ""),
        ("mamba", "vim_small", "vim_tiny_patch16_224", format!("{old}, d_state: 16"), ""),
        (
            "mamba",
            "mambar_small",
            "mambar_small_patch16_224",
            "embed_dim: 48, depth: 2, image_size: 64".into(),
            "",
        ),
        ("vit", "dinov2_small", "vit_base_patch14_dinov2", format!("{vit}: 70"), "cls"),
        ("vit", "dinov2_reg4_small", "vit_base_patch14_reg4_dinov2", format!("{vit}: 70"), "mean"),
        (
            "vit",
            "deit_distilled_small",
            "deit_small_distilled_patch16_224",
            format!("{vit}: 64"),
            "",
        ),
        (
            "vit",
            "clip_small",
            "vit_base_patch16_clip_quickgelu_224",
            format!("{vit}: 64"),
            "cls_mean",
        ),
    ] {
        let weights = golden.join(format!("{file}_case_weights.safetensors"));
        let (features, expected) = match features {
            "" => ("cls", "features".to_string()),
            _ => (features, format!("features_{features}")),
        };
        let config = format!(
            "model:\n  {branch}: {{name: {preset}, weights: {weights:?}, features: {features}, {sizes}}}\n  fusion: {{strategy: {branch}_only}}\n"
        );
        fs::write(sandbox.path("golden.yaml"), config).unwrap();
        let case = golden.join(format!("{file}_case.safetensors"));
        sandbox.done(&[
            "features",
            "golden.yaml",
            "--input-tensor",
            case.to_str().unwrap(),
            "--output",
            "f.safetensors",
        ]);
        let read = |path: &Path, name: &str| -> Vec<f32> {
            let file = bytes(path);
            let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
            let data = tensors.tensor(name).unwrap().data().to_vec();
            data.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
        };
        let (ours, expected) =
            (read(&sandbox.path("f.safetensors"), branch), read(&case, &expected));
        assert_eq!(ours.len(), expected.len());
        let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (a, b) in ours.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-4 * largest, "{file}: {a} is not {b}");
        }
    }
}

#[test]
fn a_missing_config_and_wrong_usage_end_with_2() {
    let sandbox = Sandbox::new();
    for arguments in [&["train", "absent.yaml"][..], &["train"], &["trian", "small.yaml"]] {
        assert_eq!(sandbox.fails(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn failures_end_with_1_and_name_the_file() {
    let sandbox = Sandbox::new();
    let (code, errors) = sandbox.fails(&["evaluate", "nowhere"]);
    assert_eq!(code, 1);
    assert!(errors.contains("nowhere"), "{errors}");
    fs::create_dir(sandbox.path("empty")).unwrap();
    let (_, errors) = sandbox.fails(&["predict", "empty", "x.jpg"]);
    assert!(errors.contains("empty is no run directory"), "{errors}");
    let (code, errors) =
        sandbox.fails(&["train", "small.yaml", "--set", "model.vit.weights=absent.safetensors"]);
    assert_ne!(code, 0);
    assert!(errors.contains("absent.safetensors"), "{errors}");
    let (_, errors) = sandbox.fails(&["train", "small.yaml", "--output", "small.yaml/run"]);
    assert!(errors.contains("small.yaml/run"), "{errors}");
}

#[test]
fn a_summary_adds_up_what_its_layers_have() {
    let sandbox = Sandbox::new();
    let summary = sandbox.json(&["summary", "small.yaml", "--json"]);
    let layers = summary["layers"].as_array().unwrap();
    let total: i64 = layers.iter().map(|layer| layer["parameters"].as_i64().unwrap()).sum();
    assert_eq!(summary["parameters"], total);
    let bytes = summary["activation_bytes"].as_i64().unwrap();
    assert!(bytes > 0);
    assert_eq!(summary["batch_activation_bytes"], 16 * bytes);
    assert_eq!(summary["flops"].as_i64(), summary["multiply_adds"].as_i64().map(|n| 2 * n));
    let table = sandbox.done(&["summary", "small.yaml"]);
    assert!(table.contains("mamba.layers.0") && table.contains("total"), "{table}");
}

#[test]
fn data_check_prints_one_json_object_with_missing_and_unreadable_images() {
    let sandbox = Sandbox::new();
    let mut rows = String::from("image,score,split\n");
    for i in 0..6 {
        sandbox.image(&format!("set/{i}.png"), i * 40);
        let split = ["train", "train", "train", "val", "val", "test"][i as usize];
        rows += &format!("{i}.png,{},{split}\n", i + 1);
    }
    rows += "gone.png,3,train\n";
    fs::write(sandbox.path("set/list.csv"), rows).unwrap();
    fs::write(sandbox.path("set/0.png"), b"").unwrap();
    let set = "data={dataset: csv, root: set/list.csv}";
    let report = sandbox.json(&["data", "check", "small.yaml", "--json", "--set", set]);
    assert_eq!(report["missing"][0]["id"], "gone.png");
    assert_eq!(report["unreadable"][0]["id"], "0.png");
    // Training skips those two and reports it.
    let errors = sandbox.log(&train_arguments("run", &[set, "train.epochs=1"]));
    assert!(
        errors.contains("2 images to train")
            && errors.contains("2 rows of the dataset were skipped"),
        "{errors}"
    );
}

#[test]
fn benchmark_scan_prints_every_case_as_json_and_as_a_table() {
    let sandbox = Sandbox::new();
    let small = ["benchmark", "scan", "--shape", "1,20,40,4", "--runs", "2"];
    let report = sandbox.json(&[&small[..], &["--json"]].concat());
    let cases = report["cases"].as_array().unwrap();
    let passes: Vec<_> = cases.iter().map(|case| (&case["layout"], &case["pass"])).collect();
    let expected =
        [("bdl", "forward"), ("bdl", "backward"), ("bld", "forward"), ("bld", "backward")];
    assert!(
        passes
            .iter()
            .zip(expected)
            .all(|(found, (layout, pass))| *found.0 == layout && *found.1 == pass)
    );
    assert_eq!((cases.len(), &report["device"]), (4, &"cpu".into()));
    for case in cases {
        assert_eq!(case["shape"], serde_json::json!([1, 20, 40, 4]));
        let number = |key: &str| case[key].as_f64().unwrap_or_else(|| panic!("{key}: {case}"));
        let quotient = number("eager_ms") / number("ours_ms");
        assert!((number("ratio") - quotient).abs() <= 1e-9 * quotient);
        for key in [
            "limit_ms",
            "limit_fraction",
            "ours_peak_bytes",
            "eager_peak_bytes",
            "inputs_outputs_bytes",
        ] {
            assert!(number(key) > 0.0, "{key}: {case}");
        }
    }
    let table = sandbox.done(&small);
    assert!(table.contains("[1, 20, 40, 4]") && table.contains("backward"), "{table}");
    let mixer = sandbox.json(&["benchmark", "scan", "--mixer", "--runs", "1", "--json"]);
    let operations = mixer["mixer"]["operations"].as_array().unwrap();
    let is_scan = |operation: &Value| operation["name"] == "selective scan";
    assert!(operations.iter().any(|o| is_scan(o) && o["gemm"] == false));
    assert!(mixer["mixer"]["total"]["backward_ms"].as_f64().unwrap() > 0.0);
    let (code, errors) = sandbox.fails(&["benchmark", "scan", "--shape", "1,2,3"]);
    assert!(code == 2 && errors.contains("four positive sizes"), "{errors}");
}
