//! The documentation states what the code does.

use std::path::Path;
use std::{env, fs};

use vm_beautynet::config::{Config, reference_markdown};

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
fn every_relative_link_of_the_documentation_leads_to_a_file() {
    let docs = fs::read_dir(project().join("docs")).unwrap();
    let experiments = fs::read_dir(project().join("experiments")).unwrap();
    let mut pages: Vec<_> = docs.map(|entry| entry.unwrap().path()).collect();
    pages.extend(experiments.map(|entry| entry.unwrap().path().join("README.md")));
    pages.extend(["README.md", "CONTRIBUTING.md", "csrc/README.md"].map(|p| project().join(p)));
    for page in pages.iter().filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
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
fn every_ready_made_config_is_valid() {
    for entry in fs::read_dir(project().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
    }
}
