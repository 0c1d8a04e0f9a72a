//! Opens any bytes as a safetensors file, reads its tensors and loads them into a backbone, or fails
//! with an error that names the file. Start with what fuzz/seeds.py writes as the corpus.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_beautynet_fuzz::weights::check;

fuzz_target!(|bytes: &[u8]| {
    // Other formats are the target checkpoints'.
    if !bytes.starts_with(b"PK") {
        check(bytes);
    }
});
