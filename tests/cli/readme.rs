//! The documentation states what the code does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use vm_beautynet::config::{PRESETS, reference, reference_markdown};

use crate::sandbox::Sandbox;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The end of the handwritten part of docs/config.md.
const MARKER: &str =
    "<!-- Generated from the types: VMB_UPDATE_DOCS=1 cargo test --test cli readme -->\n";

#[test]
fn the_config_page_is_the_reference_that_the_types_give() {
    let path = project().join("docs/config.md");
    let page = fs::read_to_string(&path).unwrap();
    let (intro, _) = page.split_once(MARKER).expect("docs/config.md has its marker");
    let expected = format!("{intro}{MARKER}{}", reference_markdown());
    if env::var_os("VMB_UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(
        page == expected,
        "docs/config.md is out of date: run VMB_UPDATE_DOCS=1 cargo test --test cli readme"
    );
}

#[test]
fn the_table_of_published_weights_is_that_of_the_presets() {
    let path = project().join("docs/pretrained.md");
    let page = fs::read_to_string(&path).unwrap();
    let begin =
        "<!-- Generated from the presets: VMB_UPDATE_DOCS=1 cargo test --test cli readme -->\n";
    let end = "<!-- End of the generated part -->\n";
    let (before, rest) = page.split_once(begin).expect("docs/pretrained.md has its marker");
    let (_, after) = rest.split_once(end).expect("docs/pretrained.md has its second marker");
    let code = |name: &str| format!("`{name}`");
    let rows = PRESETS.iter().map(|preset| {
        let others = preset.published.iter().skip(1).map(|name| code(name));
        let others = others.collect::<Vec<_>>().join(", ");
        let first = preset.published.first().map_or("none".into(), |name| code(name));
        format!("| `{}` | {first} | {others} |\n", preset.name)
    });
    let table: String = rows.collect();
    let head = "| preset | `weights: pretrained` | others |\n| --- | --- | --- |\n";
    let expected = format!("{before}{begin}\n{head}{table}\n{end}{after}");
    if env::var_os("VMB_UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(
        page == expected,
        "docs/pretrained.md is out of date: run VMB_UPDATE_DOCS=1 cargo test --test cli readme"
    );
}

/// The pages of the documentation, each with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let entries = |folder: &str| {
        fs::read_dir(project().join(folder)).unwrap().map(|entry| entry.unwrap().path())
    };
    let mut pages: Vec<_> = entries("docs").collect();
    pages.extend(entries("experiments").map(|folder| folder.join("README.md")));
    pages.extend(["README.md", "CONTRIBUTING.md", "csrc/README.md"].map(|p| project().join(p)));
    pages.retain(|page| page.extension().is_some_and(|ending| ending == "md"));
    let read = |page: PathBuf| {
        let text = fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        (page, text)
    };
    pages.into_iter().map(read).collect()
}

#[test]
fn every_relative_link_of_the_documentation_leads_to_a_file() {
    for (page, text) in pages() {
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or(link);
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let found = page.parent().unwrap().join(target).exists();
            assert!(found, "{} links to {target}, which does not exist", page.display());
        }
    }
}

#[test]
fn every_file_that_the_documentation_names_exists() {
    let roots = ["src/", "csrc/", "tests/", "configs/", "experiments/", "examples/", "scripts/"];
    for (page, text) in pages() {
        for name in text.split('`').skip(1).step_by(2) {
            let named = roots.iter().any(|root| name.starts_with(root));
            if named && !name.contains(['*', '{', ' ', '\n']) && !name.contains("NAME") {
                let found = project().join(name).exists();
                assert!(found, "{} names {name}, which does not exist", page.display());
            }
        }
    }
}

#[test]
fn every_command_in_the_documentation_has_a_subcommand_with_its_flags() {
    let mut helps = BTreeMap::new();
    for (page, text) in pages() {
        let joined = text.replace("\\\n", " ");
        for line in joined.lines().filter_map(|line| line.trim().strip_prefix("vmbeauty ")) {
            let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
            let nested = ["data", "benchmark", "config"].contains(&words[0]);
            let command = &words[..if nested { 2 } else { 1 }];
            let help = helps
                .entry(command.join(" "))
                .or_insert_with(|| Sandbox::new().done(&[command, &["--help"]].concat()));
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                let found = help.contains(*flag);
                assert!(found, "{}: `vmbeauty {line}`: no flag {flag}", page.display());
            }
        }
    }
    assert!(helps.len() > 10, "{:?}", helps.keys());
}

#[test]
fn every_config_key_in_the_documentation_exists() {
    let reference = reference();
    let exists = |key: &str| {
        reference.iter().any(|row| {
            row.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let mut checked = 0;
    for (page, text) in pages() {
        let code = text.split('`').skip(1).step_by(2);
        let set = text.split("--set ").skip(1);
        for text in code.chain(set) {
            let key = text.trim_start_matches('\'').split([':', '=', ' ', '\n']).next().unwrap();
            let section = key.split_once('.').map(|(section, _)| section);
            let config =
                section.is_some_and(|s| ["data", "model", "train", "pretrain"].contains(&s));
            let is_file = [".log", ".yaml", ".pth", ".safetensors", ".onnx", ".js"]
                .iter()
                .any(|end| key.ends_with(end));
            if config && !is_file && !key.contains(['*', '/', '|']) {
                assert!(exists(key), "{} names the key {key}", page.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "only {checked} keys were found");
}
