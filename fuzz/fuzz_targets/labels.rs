//! Reads any bytes as a label list, or fails with an error that names the file; the first byte
//! selects the data set. Start with tests/fixtures/labels as the corpus.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use vm_beautynet::config::{DataConfig, DatasetName};
use vm_beautynet::data;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, text)) = bytes.split_first() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (dataset, split, file, others) = match choice % 4 {
        0 => (DatasetName::Csv, "official", "faces.csv", &[][..]),
        1 => (DatasetName::Csv, "official", "faces.tsv", &[][..]),
        2 => (
            DatasetName::Mebeauty,
            "official",
            "scores/train_2022.txt",
            &["scores/val_2022.txt", "scores/test_2022.txt"][..],
        ),
        _ => (
            DatasetName::ScutFbp5500,
            "fold_1",
            "1/train_1.txt",
            &["1/test_1.txt"][..],
        ),
    };
    for name in others.iter().chain([&file]) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder is made");
        fs::write(path, "a.jpg 1\n").expect("a list is written");
    }
    fs::write(folder.path().join(file), text).expect("the list is written");
    fs::write(folder.path().join("a.jpg"), "").expect("an image is written");
    let config = DataConfig {
        dataset,
        split: split.to_string(),
        root: folder.path().to_path_buf(),
        verify: false,
        ..DataConfig::default()
    };
    if let Err(error) = data::load(&config, 1) {
        let message = format!("{error:#}");
        let root = folder.path().display().to_string();
        assert!(
            message.contains(&root) || message.contains("data.overlap"),
            "{message}"
        );
    }
});
