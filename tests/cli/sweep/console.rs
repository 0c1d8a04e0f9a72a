//! What a sweep shows while it runs.

use std::fs;

use crate::sandbox::Sandbox;

/// A sweep of two runs that end and one that fails. A run of 1,600 images takes seconds: what is
/// shown of it is refreshed each second.
fn sandbox(images: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    let sweep = format!(
        "
name: s
base: small.yaml
set: {{train.epochs: 6, train.tensorboard: false, data.synthetic: {{train: {images}, val: 16}}}}
axes: {{train.optimizer.lr: [1e-3, 2e-3, 1e30]}}
"
    );
    fs::write(sandbox.path("s.yaml"), sweep).unwrap();
    sandbox
}

#[test]
fn a_log_of_a_sweep_has_a_line_for_each_event_and_for_epochs_at_the_rate_that_is_asked_for() {
    let sandbox = sandbox(1600);
    let output = sandbox.run(&["sweep", "s.yaml", "--output", "out", "--log-every", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let with = |words: &str| text.lines().filter(|line| line.contains(words)).count();
    assert_eq!(with("  started"), 3, "{text}");
    assert!(with("[0/3] lr=0.001  epoch ") > 0 && with("/6  best val PC ") > 0, "{text}");
    assert_eq!(with("  test PC "), 2, "{text}");
    let failed = text.lines().find(|line| line.contains("lr=1e+30  FAILED: step ")).unwrap();
    assert!(failed.contains("(log: out/runs/lr=1e+30/train.log)"), "{text}");
    assert!(sandbox.path("out/runs/lr=1e+30/train.log").exists());
    // By default a sweep of seconds has no line within a run.
    let sandbox = self::sandbox(160);
    let output = sandbox.run(&["sweep", "s.yaml", "--output", "out"]);
    assert!(!String::from_utf8(output.stderr).unwrap().contains("best val PC"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_shows_a_table_of_the_runs_under_way_that_fits_it() {
    let sandbox = sandbox(1600);
    let arguments = "sweep s.yaml --output out --jobs 2";
    let Some(output) = sandbox.run_in_terminal(60, arguments) else { return };
    let shown = String::from_utf8_lossy(&output.stdout);
    // A line is filled with spaces up to the terminal's end: a wider one would move those after it.
    let drawn = shown.split("\u{1b}[").map(without_command);
    let lines: Vec<String> = drawn
        .flat_map(|text| {
            let text: Vec<char> = text.trim_matches(['\r', '\n']).chars().collect();
            text.chunks(60).map(String::from_iter).collect::<Vec<_>>()
        })
        .collect();
    let has = |start: &str, words: &[&str]| {
        let found = |line: &&String| {
            line.starts_with(start) && words.iter().all(|words| line.contains(words))
        };
        assert!(lines.iter().any(|line| found(&line)), "{start} {words:?}: {lines:#?}");
    };
    has("run ", &[" state ", " epochs  best", "  time left"]);
    has("lr=0.001  training ", &["/6 "]);
    has("lr=0.002  training ", &["/6 "]);
    has("0 of 3 finished, ", &["2 under way"]);
    // The third run, which fails at once, may end before the second.
    has("[1/3] lr=0.00", &["test PC"]);
}

/// Removes the rest of a terminal's command, up to its letter, from the start of a text.
#[cfg(target_os = "linux")]
fn without_command(text: &str) -> &str {
    let end = text.find(|c: char| c.is_ascii_alphabetic());
    let is_command = end.is_some_and(|end| text[..end].chars().all(|c| c.is_ascii_digit()));
    if is_command { &text[end.map_or(0, |end| end + 1)..] } else { text }
}
