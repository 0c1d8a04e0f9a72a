//! Masked-image pretraining through the library, on synthetic faces, in seconds.

use std::fs;
use std::path::Path;

use crate::generator::alone_with_the_generator;
use vm_beautynet::config::Config;
use vm_beautynet::models::BeautyNet;
use vm_beautynet::models::weights::WeightsFile;
use vm_beautynet::run::{PretrainEpochRecord as EpochRecord, RunKind};
use vm_beautynet::train::pretrain::{Outcome, pretrain};
use vm_beautynet::train::{Observer, Options, StepRecord, Stop, Stopped};

const SMALL: &str = "
data: {dataset: synthetic, image_size: 32, workers: 1, synthetic: {train: 24, val: 8, test: 4}}
model:
  vit: {name: vit_micro_patch8_64, embed_dim: 24, depth: 1}
  mamba: {name: vim_micro_patch8_64, embed_dim: 24, depth: 1}
train: {threads: 1}
pretrain: {epochs: 3, batch_size: 8, warmup_epochs: 1}
";

fn config(set: &[&str]) -> Config {
    let set: Vec<String> = set.iter().map(|set| set.to_string()).collect();
    Config::from_yaml(SMALL, "small.yaml", &set).unwrap()
}

fn start(set: &[&str], root: &Path) -> Outcome {
    pretrain(&config(set), root, &Options::default(), &mut []).unwrap()
}

fn error(set: &[&str], root: &Path, options: &Options) -> String {
    let result = pretrain(&config(set), root, options, &mut []);
    format!("{:#}", result.unwrap_err())
}

/// Requests a stop after this number of steps.
struct StopsAfter(usize, Stop);

impl Observer<EpochRecord> for StopsAfter {
    fn step(&mut self, _record: &StepRecord) {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 {
            self.1.request();
        }
    }
}

fn read(root: &Path, file: &str) -> Vec<u8> {
    fs::read(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

const WEIGHTS: [&str; 2] = ["vit.safetensors", "mamba.safetensors"];

#[test]
fn the_loss_falls_on_validation_images() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let set = ["pretrain={epochs: 12, lr: 3.0e-3}"];
    let outcome = start(&set, folder.path());
    let text = String::from_utf8(read(folder.path(), "metrics.jsonl")).unwrap();
    let records: Vec<EpochRecord> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 24);
    for done in outcome.backbones {
        let own: Vec<&EpochRecord> =
            records.iter().filter(|record| record.branch == done.branch).collect();
        let (first, last) = (own[0], own[11]);
        assert_eq!(last, &done.last);
        assert!(last.val_loss < 0.97 * first.val_loss, "{first:?} {last:?}");
        assert!(last.train_loss < 0.97 * first.train_loss);
        assert!(last.val_color_loss.unwrap() < first.val_color_loss.unwrap());
        assert_eq!((last.epoch, last.step), (12, 36));
    }
    let image = image::open(folder.path().join("reconstructions.png")).unwrap();
    // 8 rows: the image, and masked and reconstructed for two backbones.
    assert_eq!((image.width(), image.height()), (504, 804));
}

#[test]
fn the_weights_load_into_a_run_and_record_their_provenance() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let outcome = start(&[], folder.path());
    let files = WEIGHTS.map(|name| folder.path().join(name));
    let set = [
        format!("model.vit.weights={}", files[0].display()),
        format!("model.mamba.weights={}", files[1].display()),
    ];
    let config = config(&set.each_ref().map(String::as_str));
    let net = BeautyNet::new(&config, tch::Device::Cpu).unwrap();
    assert!(net.notes().is_empty());
    for (done, path) in outcome.backbones.iter().zip(&files) {
        assert_eq!(&done.weights, path);
        let mut file = WeightsFile::open(path).unwrap();
        let prefix = format!("{}.", done.branch);
        let mut compared = 0;
        for (name, tensor) in net.parameters() {
            if let Some(name) = name.strip_prefix(&prefix) {
                assert_eq!(tensor, file.tensor(name).unwrap(), "{name}");
                compared += 1;
            }
        }
        assert_eq!(compared, file.shapes().len());
        let origin: serde_json::Value = serde_json::from_str(&file.metadata()["pretrain"]).unwrap();
        assert_eq!(origin["images"], 24);
        assert_eq!(origin["epochs"], 3);
        assert_eq!(origin["images_blake3"].as_str().unwrap().len(), 64);
        let yaml = origin["config"].as_str().unwrap();
        Config::from_yaml(yaml, "a.yaml", &[]).unwrap();
    }
}

#[test]
fn a_stopped_and_resumed_pretraining_ends_with_the_same_bytes() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let uninterrupted = folder.path().join("uninterrupted");
    start(&[], &uninterrupted);
    // In the second epoch of the ViT, between two epochs of the Mamba, and in its last one.
    for steps in [4, 12, 17] {
        let root = folder.path().join(steps.to_string());
        let options = Options::default();
        let observer = StopsAfter(steps, options.stop.clone());
        let error = pretrain(&config(&[]), &root, &options, &mut [Box::new(observer)]).unwrap_err();
        let stopped = error.downcast_ref::<Stopped>().unwrap();
        assert_eq!(stopped.exit_code(), 143);
        let text = error.to_string();
        let remedy = format!(
            "vmbeauty pretrain {} --output {} --resume",
            root.join("pretrain.yaml").display(),
            root.display()
        );
        assert!(text.contains(&remedy), "{text}");
        assert!(!root.join("mamba.safetensors").exists());
        let resume = Options { resume: true, ..Options::default() };
        pretrain(&config(&[]), &root, &resume, &mut []).unwrap();
        for file in WEIGHTS.iter().chain(&["reconstructions.png"]) {
            assert!(read(&root, file) == read(&uninterrupted, file), "{steps}: {file}");
        }
        let lines = |root: &Path| read(root, "metrics.jsonl").split(|b| *b == b'\n').count();
        assert_eq!(lines(&root), lines(&uninterrupted));
    }
}

#[test]
fn a_backbones_weights_do_not_depend_on_the_other_branch() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let (both, alone) = (folder.path().join("both"), folder.path().join("alone"));
    start(&[], &both);
    let outcome = start(&["model.fusion.strategy=mamba_only"], &alone);
    assert_eq!(outcome.backbones.len(), 1);
    assert!(!alone.join("vit.safetensors").exists());
    let tensors = |root: &Path| {
        let mut file = WeightsFile::open(&root.join("mamba.safetensors")).unwrap();
        let names: Vec<String> = file.shapes().into_keys().collect();
        names.into_iter().map(|name| file.tensor(&name).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(tensors(&both), tensors(&alone));
}

/// Writes images into folders, each in a color of its own.
fn images(root: &Path, split: &str, count: u8, tone: u8) {
    let folder = root.join(split).join("3");
    fs::create_dir_all(&folder).unwrap();
    for i in 0..count {
        let image = image::RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb([tone + 5 * i, (x * 8) as u8, (y * u32::from(i + 1)) as u8])
        });
        image.save(folder.join(format!("{i}.png"))).unwrap();
    }
}

#[test]
fn validation_and_test_images_change_no_weight() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, tones: [u8; 3]| {
        let data = folder.path().join(name);
        for (split, tone) in ["train", "val", "test"].iter().zip(tones) {
            images(&data, split, 6, tone);
        }
        let set = [
            format!("data={{dataset: folder, root: {}}}", data.display()),
            "model.fusion.strategy=vit_only".to_string(),
        ];
        let root = folder.path().join(format!("{name}-out"));
        let outcome = start(&set.each_ref().map(String::as_str), &root);
        let mut file = WeightsFile::open(&outcome.backbones[0].weights).unwrap();
        let origin: serde_json::Value = serde_json::from_str(&file.metadata()["pretrain"]).unwrap();
        (
            file.tensor("blocks.0.mlp.fc1.weight").unwrap(),
            outcome.backbones[0].last.val_loss,
            origin["images_blake3"].clone(),
        )
    };
    let reference = made("a", [10, 100, 200]);
    let others = made("b", [10, 150, 60]);
    assert_eq!(reference.0, others.0);
    assert_eq!(reference.2, others.2);
    assert_ne!(reference.1, others.1);
    let train = made("c", [70, 100, 200]);
    assert_ne!(reference.0, train.0);
    assert_ne!(reference.2, train.2);
}

#[test]
fn a_data_set_without_training_images_is_refused() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    images(&data, "val", 3, 10);
    fs::create_dir_all(data.join("train/3")).unwrap();
    let set = format!("data={{dataset: folder, root: {}}}", data.display());
    let out = folder.path().join("out");
    let found = error(&[&set], &out, &Options::default());
    assert!(found.contains("train"), "{found}");
    assert!(!out.exists());
}

#[test]
fn a_folder_with_other_content_is_refused() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let fresh = Options::default();
    let resume = Options { resume: true, ..Options::default() };
    let root = folder.path();
    assert!(error(&[], root, &resume).contains("no pretraining to resume"));
    for name in ["config.yaml", "vit.safetensors"] {
        fs::write(root.join(name), "").unwrap();
        let found = error(&[], root, &fresh);
        assert!(found.contains(name) && found.contains("--output"), "{found}");
        fs::remove_file(root.join(name)).unwrap();
    }
    start(&["pretrain.epochs=1"], root);
    assert!(error(&["pretrain.epochs=1"], root, &fresh).contains("add --resume"));
    assert!(error(&["pretrain.epochs=2"], root, &resume).contains("another config"));
    let run = vm_beautynet::run::RunDir::check_free(root, RunKind::Train).unwrap_err();
    assert!(run.to_string().contains("holds a pretraining"), "{run}");
}

#[test]
fn impossible_masks_and_patches_are_refused_by_their_keys() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (set, key) in [
        ("pretrain.mask_patch=4", "pretrain.mask_patch must be less than the 4 patches"),
        (
            "model.mamba={name: vim_tiny_patch16_stride8_224, depth: 1, embed_dim: 24}",
            "model.mamba.name: its patches overlap",
        ),
        ("model.vit.weights=gone.safetensors", "model.vit.weights: there is no file"),
        ("model.vit.image_size=64", "model.vit.image_size must be data.image_size"),
    ] {
        let found = error(&[set], &out, &Options::default());
        assert!(found.contains(key), "{found}");
    }
    assert!(!out.exists());
}

#[test]
fn a_step_or_weights_that_are_not_finite_end_pretraining() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // The learning rate is so large that the weights overflow in the second step.
    let broken = ["pretrain={lr: 1.0e+38, warmup_epochs: 0, epochs: 1}"];
    let found = error(&broken, &root.join("a"), &Options::default());
    assert!(found.contains("not finite") && found.contains("pretrain.lr"), "{found}");
    // Skipping steps repairs neither such weights nor finite ones whose validation loss overflows.
    let overflows = "pretrain={lr: 1.0e+30, warmup_epochs: 0, epochs: 1, batch_size: 12}";
    for (run, set, words) in
        [("b", broken[0], "were not finite before it"), ("c", overflows, "after epoch 1")]
    {
        let found = error(&[set, "train.on_nan=skip"], &root.join(run), &Options::default());
        assert!(found.contains(words) && found.contains("pretrain.lr"), "{found}");
    }
}

#[test]
fn it_starts_from_the_weights_that_the_config_names() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    start(&["pretrain.epochs=6", "pretrain.lr=3.0e-3"], &a);
    let set = format!("model.vit.weights={}", a.join("vit.safetensors").display());
    let alone = "model.fusion.strategy=vit_only";
    start(&["pretrain.epochs=1", alone, &set], &b);
    let distance = |to: &Path| {
        let [mut from, mut to] =
            [&b, to].map(|root| WeightsFile::open(&root.join("vit.safetensors")).unwrap());
        let name = "patch_embed.proj.weight";
        let difference = from.tensor(name).unwrap() - to.tensor(name).unwrap();
        difference.abs().mean(tch::Kind::Float).double_value(&[])
    };
    let fresh = folder.path().join("fresh");
    start(&["pretrain.epochs=1", alone], &fresh);
    assert!(distance(&a) < distance(&fresh));
}

#[test]
fn precision_and_activation_checkpointing_follow_the_training_config() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let reference = folder.path().join("reference");
    start(&[], &reference);
    let again = folder.path().join("again");
    start(&["train.checkpoint_activations=true"], &again);
    let half = folder.path().join("half");
    start(&["train.precision=bf16"], &half);
    let weight = |root: &Path| {
        let mut file = WeightsFile::open(&root.join("mamba.safetensors")).unwrap();
        file.tensor("layers.0.mixer.in_proj.weight").unwrap()
    };
    assert_eq!(weight(&reference), weight(&again));
    assert_ne!(weight(&reference), weight(&half));
    assert!(weight(&reference).allclose(&weight(&half), 0.0, 0.02, false));
}
