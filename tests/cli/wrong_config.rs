//! What is given in place of a config, and values that mean something else than they say.

use std::fs;

use crate::sandbox::{SMALL, Sandbox};

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_key() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("bom.yaml"), format!("\u{feff}{}", SMALL.trim_start())).unwrap();
    sandbox.done(&["summary", "bom.yaml"]);
    let sweep = "\u{feff}name: s\nbase: bom.yaml\naxes: {train.optimizer.lr: [1e-3, 2e-3]}\n";
    fs::write(sandbox.path("sweep.yaml"), sweep).unwrap();
    sandbox.done(&["sweep", "sweep.yaml", "--dry-run", "--output", "s"]);
}

#[test]
#[cfg(unix)]
fn a_pipe_in_place_of_a_config_does_not_wait_for_a_writer() {
    let sandbox = Sandbox::new();
    let pipe = sandbox.path("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for arguments in [["summary", "pipe.yaml"], ["sweep", "pipe.yaml"]] {
        let (code, error) = sandbox.fails(&arguments);
        assert!(code == 2 && error.contains("is a pipe"), "{error}");
    }
}

#[test]
#[cfg(unix)]
fn a_config_or_a_sweep_may_come_through_a_pipe_of_the_shell() {
    use std::io::Write;
    use std::process::Stdio;
    let sandbox = Sandbox::new();
    let piped = |arguments: &[&str], text: &[u8]| {
        let mut command = sandbox.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (head, tail) = text.split_at(text.len() / 2);
        // The reader may have seen enough.
        let _ = stdin.write_all(head);
        // It finds the pipe empty for a while.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let _ = stdin.write_all(tail);
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let small = fs::read(sandbox.path("small.yaml")).unwrap();
    for path in ["/dev/stdin", "/dev/fd/0"] {
        let (code, error) = piped(&["summary", path], &small);
        assert_eq!(code, Some(0), "{error}");
    }
    let (code, error) = piped(&["sweep", "/dev/stdin"], &small);
    assert!(code == Some(2) && error.contains("this is a config, not a sweep"), "{error}");
    let (code, error) = piped(&["summary", "/dev/stdin"], &vec![b'#'; 3 << 20]);
    assert!(code == Some(2) && error.contains("more than the limit of 1 MiB"), "{error}");
}

#[test]
fn a_value_that_yaml_cuts_is_refused_by_every_command_that_sets() {
    let sandbox = Sandbox::new();
    for (set, words) in [
        ("data.root=set #1/x.csv", "--set 'data.root=\"set #1/x.csv\"'"),
        ("model.vit.weights=", "model.vit.weights=null"),
    ] {
        for command in [&["summary", "small.yaml"][..], &["data", "check", "small.yaml"]] {
            let (code, error) = sandbox.fails(&[command, &["--set", set]].concat());
            assert!(code == 2 && error.contains(words), "{error}");
        }
    }
}

#[test]
fn a_run_whose_dataset_has_moved_is_told_of_the_option() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("run");
    let config = fs::read_to_string(sandbox.path("run/config.yaml")).unwrap();
    for dataset in ["csv", "mebeauty", "folder"] {
        let moved = config.replace("dataset: synthetic", &format!("dataset: {dataset}"));
        fs::write(sandbox.path("run/config.yaml"), moved).unwrap();
        let (code, error) = sandbox.fails(&["evaluate", "run", "--data-root", "gone"]);
        assert!(code == 1 && error.contains("--data-root"), "{error}");
        assert!(!error.contains(" data.root"), "{error}");
        let explain = ["explain", "run", "--evaluate", "test", "--data-root", "gone"];
        let (_, error) = sandbox.fails(&explain);
        assert!(error.contains("--data-root") && !error.contains(" data.root"), "{error}");
    }
    // A dataset that is there and wrong has not moved.
    let moved = config.replace("dataset: synthetic", "dataset: csv");
    fs::write(sandbox.path("run/config.yaml"), moved).unwrap();
    fs::write(sandbox.path("faces.csv"), "image,score\na.png,three\n").unwrap();
    let (_, error) = sandbox.fails(&["evaluate", "run", "--data-root", "faces.csv"]);
    assert!(error.contains("faces.csv:2") && !error.contains("--data-root"), "{error}");
}

#[test]
fn an_image_that_is_not_there_is_not_said_to_be_found() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("run");
    let (code, error) = sandbox.fails(&["predict", "run", "gone.png"]);
    assert_eq!(code, 1);
    assert!(error.contains("gone.png: no such file"), "{error}");
    assert!(error.ends_with("error: the image cannot be read\n"), "{error}");
}
