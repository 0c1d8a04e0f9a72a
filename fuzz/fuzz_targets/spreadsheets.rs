//! Reads any bytes as a spreadsheet of ratings, or fails with an error that names the file. Start
//! with tests/fixtures/ratings as the corpus.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use vm_beautynet::config::{DataConfig, DatasetName};
use vm_beautynet::data;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, content: &[u8]| {
        fs::write(folder.path().join(name), content).expect("a file is written");
    };
    fs::create_dir(folder.path().join("1")).expect("a folder is made");
    write("1/train_1.txt", b"CF1.jpg 1\nCF2.jpg 2\n");
    write("1/test_1.txt", b"CF3.jpg 1\n");
    for image in ["CF1.jpg", "CF2.jpg", "CF3.jpg"] {
        write(image, b"");
    }
    write("All_Ratings.xlsx", bytes);
    let config = DataConfig {
        dataset: DatasetName::ScutFbp5500,
        split: "fold_1".to_string(),
        root: folder.path().to_path_buf(),
        votes: true,
        verify: false,
        ..DataConfig::default()
    };
    if let Err(error) = data::load(&config, 1) {
        assert!(
            format!("{error:#}").contains("All_Ratings.xlsx"),
            "{error:#}"
        );
    }
});
