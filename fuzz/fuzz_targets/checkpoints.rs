//! Opens any bytes as a checkpoint of torch.save, reads its tensors and loads them into a backbone,
//! or fails with an error that names the file. Bytes that begin as none of torch.save's files are
//! the pickle in one. Start with what fuzz/seeds.py writes as the corpus.
#![no_main]

use std::io::{Cursor, Write};

use libfuzzer_sys::fuzz_target;
use vm_beautynet_fuzz::weights::check;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"PK") || bytes.get(2..4) == Some(b"\x8a\n") {
        return check(bytes);
    }
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, content) in [("data.pkl", bytes), ("data/0", &[0; 64]), ("data/1", &[0; 256])] {
        zip.start_file(format!("archive/{name}"), options)
            .and_then(|()| Ok(zip.write_all(content)?))
            .expect("an entry is written");
    }
    check(&zip.finish().expect("the zip file is written").into_inner());
});
