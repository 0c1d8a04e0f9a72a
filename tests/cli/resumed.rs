//! What a resumed run may change, and runs that start from the weights of another.

use std::fs;

use crate::sandbox::Sandbox;
use crate::sandbox::run::{CHECKPOINT, epochs, largest_difference, tensors, train_arguments};

/// Trains `small.yaml` in the run directory `run` with these values and options.
fn arguments<'a>(run: &'a str, set: &[&'a str], options: &[&'a str]) -> Vec<&'a str> {
    [&train_arguments(run, set), options].concat()
}

#[test]
fn a_resumed_run_may_move_and_compute_elsewhere_and_ends_with_the_same_weights() {
    let sandbox = Sandbox::new();
    for folder in ["a", "b"] {
        let mut table = "image,score,split\n".to_string();
        for index in 0..12u8 {
            let name = format!("{index}.png");
            sandbox.image(&format!("{folder}/{name}"), index * 20);
            let split = ["train", "train", "val", "test"][usize::from(index) % 4];
            table += &format!("{name},{},{split}\n", index % 5);
        }
        fs::write(sandbox.path(folder).join("r.csv"), table).unwrap();
    }
    let (a, b) = ("data={dataset: csv, root: a/r.csv}", "data={dataset: csv, root: b/r.csv}");
    let constant = "train.schedule.name=constant";
    sandbox.train("whole", &[a, constant]);
    sandbox.train("moved", &[a, constant, "train.epochs=2"]);
    let faster = ["data.workers=1", "data.cache=memory", "train.explain_every=9", "device=cpu"];
    let set = [&[b, constant][..], &faster].concat();
    let errors = sandbox.log(&arguments("moved", &set, &["--resume"]));
    assert!(errors.contains("data.workers 1, was 2; data.cache memory, was none"), "{errors}");
    let runs = ["whole", "moved"].map(|run| sandbox.path(run));
    assert_eq!(largest_difference([&runs[0], &runs[1]]), 0.0);
    let config = fs::read_to_string(sandbox.path("moved/config.yaml")).unwrap();
    assert!(config.contains("b/r.csv") && config.contains("workers: 1"), "{config}");
    let starts = fs::read_to_string(sandbox.path("moved/provenance.jsonl")).unwrap();
    assert!(starts.lines().last().unwrap().contains("data.workers 1, was 2"), "{starts}");
    // A dataset that is another one is refused, and the run keeps its config.
    fs::write(sandbox.path("a/r.csv"), "image,score\n0.png,1\n1.png,2\n2.png,3\n").unwrap();
    let (_, error) = sandbox.fails(&arguments("moved", &[a, constant], &["--resume"]));
    assert!(error.contains("the dataset is not the one that moved was started with"), "{error}");
    assert_eq!(fs::read_to_string(sandbox.path("moved/config.yaml")).unwrap(), config);
}

#[test]
fn a_checkpoint_with_other_fields_is_refused_as_one_of_another_version() {
    let sandbox = Sandbox::new();
    sandbox.train("run", &["train.epochs=1"]);
    let file = sandbox.path("run").join(CHECKPOINT);
    let mut bytes = fs::read(&file).unwrap();
    // The checksum goes, and the progress has a field of another name.
    for text in [&b"vmbeauty.blake3"[..], b"precision\\\":"] {
        let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
        bytes[at] = b'_';
    }
    fs::write(&file, bytes).unwrap();
    let (_, error) = sandbox.fails(&arguments("run", &["train.epochs=2"], &["--resume"]));
    assert!(error.contains("another version of vmbeauty wrote it: resume with"), "{error}");
}

#[test]
fn a_finished_run_is_lengthened_and_the_schedule_is_stated() {
    let sandbox = Sandbox::new();
    sandbox.train("run", &["train.epochs=2"]);
    let errors = sandbox.log(&arguments("run", &["train.epochs=4"], &["--resume"]));
    let words = "resumed with train.epochs 4, was 2. From here on, the learning rate follows the \
                 cosine schedule of 4 epochs: 1.0e-6 at the last step, ";
    assert!(errors.contains(words), "{errors}");
    assert_eq!(epochs(&sandbox.path("run")).len(), 4);
    let summary = sandbox.read_json("run/summary.json");
    assert_eq!((&summary["epochs"], &summary["stopped_early"]), (&4.into(), &false.into()));
    let (code, error) = sandbox.fails(&arguments("run", &["train.epochs=3"], &["--resume"]));
    assert_eq!(code, 1);
    assert!(error.contains("train.epochs 3, was 4 (train.epochs may only grow"), "{error}");
}

#[test]
fn what_changes_the_weights_is_refused_by_key_with_both_values() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("run");
    let set = ["train.epochs=1", "train.batch_size=8", "seed=8", "data.workers=1"];
    let (_, error) = sandbox.fails(&arguments("run", &set, &["--resume"]));
    let words = "run was started with another config: seed 8, was 7; train.batch_size 8, was 16; \
                 resume with its own (vmbeauty train run/config.yaml --output run --resume)";
    assert!(error.contains(words), "{error}");
    assert!(!error.contains("workers") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_new_run_starts_from_the_weights_of_another_and_resumes_without_it() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("first");
    let frozen =
        ["train.epochs=1", "train.optimizer.lr=1e-12", "train.schedule.min_lr=0", "seed=9"];
    sandbox.done(&arguments("second", &frozen, &["--from", "first"]));
    let [first, second] = ["first/best.safetensors", "second/last.safetensors"]
        .map(|file| tensors(&sandbox.path(file)));
    for (name, tensor) in &first {
        // The scale of the scores is that of the new training images.
        let difference = (tensor - &second[name]).abs().max().double_value(&[]);
        assert!(difference < 1e-6 || name.contains("score"), "{name}: {difference}");
    }
    let summary = fs::read_to_string(sandbox.path("second/summary.json")).unwrap();
    assert!(summary.contains("first/best.safetensors"), "{summary}");
    // The checkpoint has the weights: the run is resumed without naming them again.
    fs::remove_file(sandbox.path("second/summary.json")).unwrap();
    fs::remove_dir_all(sandbox.path("first")).unwrap();
    sandbox.done(&arguments("second", &frozen, &["--resume"]));
    let config = fs::read_to_string(sandbox.path("second/config.yaml")).unwrap();
    assert!(config.contains("first/best.safetensors"), "{config}");

    let other = ["train.epochs=1", "model.fusion.dim=8"];
    let (_, error) = sandbox.fails(&arguments("third", &other, &["--from", "second"]));
    assert!(error.contains("model.weights must be of a network as the section model"), "{error}");
    let (_, error) = sandbox.fails(&arguments("third", &[], &["--from", "gone"]));
    assert!(error.contains("gone does not exist: name a run directory"), "{error}");
}
