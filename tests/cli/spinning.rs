//! The bound of the time that OpenMP's threads spin, which the program sets for itself.

use std::fs;
use std::process::{Command, Stdio};

use crate::sandbox::Sandbox;

/// Starts a training, and returns its process's environment, command line and name.
fn started(prepare: impl FnOnce(&mut Command)) -> [String; 3] {
    let sandbox = Sandbox::new();
    let endless = "data.synthetic={train: 100000, val: 16, test: 16}";
    let mut command =
        sandbox.command(&["train", "small.yaml", "--output", "run", "--set", endless]);
    command.env_remove("OMP_WAIT_POLICY").env_remove("GOMP_SPINCOUNT");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    prepare(&mut command);
    let mut child = command.spawn().unwrap();
    let config = sandbox.path("run/config.yaml");
    while !config.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let files = ["environ", "cmdline", "comm"]
        .map(|file| fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    files.map(|text| text.replace('\0', "\n"))
}

#[test]
fn the_program_bounds_how_long_threads_spin_and_is_the_same_process() {
    let [environment, arguments, name] = started(|_| {});
    let set: Vec<&str> =
        environment.lines().filter(|line| line.starts_with("GOMP_SPINCOUNT=")).collect();
    assert_eq!(set.len(), 1, "{environment}");
    assert!(arguments.starts_with(env!("CARGO_BIN_EXE_vmbeauty")), "{arguments}");
    assert!(arguments.contains("\ntrain\nsmall.yaml\n"), "{arguments}");
    assert_eq!(name.trim(), "vmbeauty");
}

#[test]
fn a_setting_of_the_user_wins() {
    for (name, value) in [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")] {
        let [environment, ..] = started(|command| {
            command.env(name, value);
        });
        let set: Vec<&str> = environment
            .lines()
            .filter(|line| line.starts_with("GOMP_SPINCOUNT=") || line.starts_with("OMP_WAIT"))
            .collect();
        assert_eq!(set, [format!("{name}={value}")]);
    }
}

#[test]
fn stdin_and_the_exit_code_pass_through() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["train", "-"]);
    command.env_remove("OMP_WAIT_POLICY").env_remove("GOMP_SPINCOUNT");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // The program's name is whatever it was called.
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmbeauty"));
    std::os::unix::process::CommandExt::arg0(&mut command, "other");
    command.env_clear().arg("--version");
    assert!(command.output().unwrap().status.success());
}
