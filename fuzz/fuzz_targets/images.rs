//! Decodes any bytes to an image or an error, and applies both transforms to an image. Start with
//! tests/fixtures/images as the corpus.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_beautynet::config::DataConfig;
use vm_beautynet::data::{TrainTransform, Workspace, decode_image};

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = decode_image(bytes) else {
        return;
    };
    let config = DataConfig {
        image_size: 32,
        ..DataConfig::default()
    };
    let transform = TrainTransform::new(&config).expect("the size is positive");
    let (mut workspace, mut out) = (Workspace::default(), vec![0; 3 * 32 * 32]);
    let eval = transform.eval().apply(&image, &mut workspace, &mut out);
    eval.expect("every image can be evaluated");
    let train = transform.apply(&image, (1, 2, 3), &mut workspace, &mut out);
    train.expect("every image can be augmented");
});
