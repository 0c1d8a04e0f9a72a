//! A build without the feature `distributed` says how to get it.

use crate::sandbox::Sandbox;

#[test]
fn a_job_of_several_processes_is_refused_with_the_way_to_build_it() {
    let sandbox = Sandbox::new();
    let job = [
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "29500"),
    ];
    let mut command = sandbox.command(&["train", "small.yaml", "--output", "run"]);
    let output = command.envs(job).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("make distributed"), "{errors}");
    assert!(!sandbox.path("run").exists());
}
