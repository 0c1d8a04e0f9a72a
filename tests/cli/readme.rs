//! The README says what is true.

use std::fs;
use std::path::Path;

use vm_beautynet::config::{Config, reference_markdown};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_config_reference_is_the_one_that_the_types_give() {
    let readme = fs::read_to_string(project().join("README.md")).unwrap();
    let expected = reference_markdown();
    assert!(readme.contains(&expected), "README.md's config reference must be:\n{expected}");
}

#[test]
fn every_ready_made_config_is_valid() {
    for entry in fs::read_dir(project().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
    }
}
