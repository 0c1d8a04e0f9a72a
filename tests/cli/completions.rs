//! Completion scripts, as a shell uses them.

use std::fs;
use std::process::Command;

use crate::sandbox::Sandbox;

/// What bash offers for the last of `words`, as it splits them; `None` where there is no bash.
fn offered(script: &str, words: &[&str]) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vmbeauty.bash");
    fs::write(&file, script).unwrap();
    let current = words.last().filter(|word| **word != "=").unwrap_or(&"");
    let program = format!(
        "source {}; compopt() {{ :; }}; COMP_WORDS=({}); COMP_CWORD={}; {} vmbeauty '{current}' \
         '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display(),
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
        "\"$(complete -p vmbeauty | sed 's/.*-F \\([^ ]*\\).*/\\1/')\"",
        words[words.len() - 2],
    );
    let output = Command::new("bash").args(["--norc", "-c", &program]).output().ok()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let words = String::from_utf8(output.stdout).unwrap();
    Some(words.lines().filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

#[test]
fn bash_offers_values_and_keys_and_no_dash_for_an_empty_word() {
    let sandbox = Sandbox::new();
    let script = sandbox.done(&["completions", "bash"]);
    let Some(commands) = offered(&script, &["vmbeauty", ""]) else {
        return; // no bash
    };
    assert!(commands.contains(&"train".into()), "{commands:?}");
    let of = |words: &[&str]| offered(&script, words).unwrap();
    let none: [String; 0] = [];
    assert!(commands.iter().all(|word| !word.starts_with('-')), "{commands:?}");
    // Nothing is offered where file names belong: bash completes those.
    for words in [
        &["vmbeauty", "train", ""][..],
        &["vmbeauty", "train", "a.yaml", "--set", "data.root", "="],
        &["vmbeauty", "train", "a.yaml", "--set", "data.root", "=", "x"],
    ] {
        assert_eq!(of(words), none, "{words:?}");
    }
    let keys = of(&["vmbeauty", "train", "a.yaml", "--set", "train.opt"]);
    assert!(keys.contains(&"train.optimizer.lr=".into()), "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("train.optimizer.") && key.ends_with('=')));
    assert_eq!(of(&["vmbeauty", "config", ""]), ["show", "keys", "schema", "diff", "help"]);
    let keys = of(&["vmbeauty", "config", "show", "a.yaml", "--set", "train.opt"]);
    assert!(keys.contains(&"train.optimizer.lr=".into()), "{keys:?}");
    let methods = of(&["vmbeauty", "explain", "run", "--method", ""]);
    assert!(methods.contains(&"grad-cam++".into()) && methods.len() > 6, "{methods:?}");
    let methods = of(&["vmbeauty", "explain", "run", "--method", "=", "layer"]);
    assert_eq!(methods, ["layer-cam"]);
    let methods = of(&["vmbeauty", "explain", "run", "--method", "vit", "=", "layer"]);
    assert_eq!(methods, ["layer-cam"]);
    let splits = of(&["vmbeauty", "explain", "run", "--evaluate", ""]);
    assert_eq!(splits, ["train", "val", "test"]);
    let options = of(&["vmbeauty", "train", "a.yaml", "--"]);
    assert!(options.contains(&"--resume".into()), "{options:?}");
    assert!(!options.contains(&"--stop-with-stdin".into()), "{options:?}");
}

#[test]
fn every_script_offers_all_subcommands_and_nothing_that_is_hidden() {
    let sandbox = Sandbox::new();
    let commands = "train evaluate predict features cross-validate sweep export summary data \
                    benchmark doctor";
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = sandbox.done(&["completions", shell]);
        let missing = commands.split(' ').find(|command| !script.contains(command));
        assert_eq!(missing, None, "{shell}");
        assert!(!script.contains("stop-with-stdin"), "{shell}");
        assert!(!script.contains("man-pages"), "{shell}");
        assert!(
            script.contains("train.optimizer.lr=") || shell == "powershell" || shell == "elvish"
        );
    }
}

#[test]
fn each_command_has_a_manual_page_without_what_is_hidden() {
    let sandbox = Sandbox::new();
    sandbox.done(&["man-pages", "man1"]);
    let page = |name: &str| fs::read_to_string(sandbox.path(&format!("man1/{name}.1"))).unwrap();
    assert!(page("vmbeauty").contains("vmbeauty\\-train(1)"), "{}", page("vmbeauty"));
    assert!(!page("vmbeauty").contains("man\\-pages"), "{}", page("vmbeauty"));
    assert!(page("vmbeauty-train").contains("\\-\\-resume"));
    assert!(!page("vmbeauty-train").contains("stdin"));
    assert!(page("vmbeauty-config-show").contains("\\-\\-set"));
}
