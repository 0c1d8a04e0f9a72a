//! Any bytes are a picture or an error; what is a picture goes through both transforms. Start with tests/fixtures/pictures as corpus.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_beautynet::config::DataConfig;
use vm_beautynet::data::{TrainTransform, Workspace, decode_picture};

fuzz_target!(|bytes: &[u8]| {
    let Ok(picture) = decode_picture(bytes) else {
        return;
    };
    let config = DataConfig {
        image_size: 32,
        ..DataConfig::default()
    };
    let transform = TrainTransform::new(&config).expect("the size is positive");
    let (mut workspace, mut out) = (Workspace::default(), vec![0; 3 * 32 * 32]);
    let eval = transform.eval().apply(&picture, &mut workspace, &mut out);
    eval.expect("every picture can be evaluated");
    let train = transform.apply(&picture, (1, 2, 3), &mut workspace, &mut out);
    train.expect("every picture can be augmented");
});
