//! Loads any bytes as a config, or fails with an error that names the file; what is loaded is the
//! same after it was written and loaded again. Start with what fuzz/seeds.py writes as the corpus.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use vm_beautynet::config::Config;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    fs::write(&path, bytes).expect("a file is written");
    match Config::load(&path, &[]) {
        Ok(config) => {
            let yaml = config.to_yaml().expect("a config can be written");
            let again = Config::from_yaml(&yaml, "again", &[]).expect("what is written is valid");
            assert_eq!(again, config);
        }
        Err(error) => assert!(error.to_string().contains("config.yaml"), "{error}"),
    }
});
