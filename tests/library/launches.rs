//! The CUDA kernels of a training step, counted on the CPU.

use crate::generator::alone_with_the_generator;
use vm_beautynet::benchmark::train::step_launches;
use vm_beautynet::config::Config;

/// Launches of a Vim-Ti training step at two images of 224 pixels; float32, and bfloat16 autocast.
/// Lower them with the code. The first count, before any of them was saved, was 2,698 and 3,654.
const MAX_LAUNCHES: [(&str, u64); 2] = [("float32", 1069), ("bf16", 1305)];

#[test]
fn a_vim_tiny_step_launches_no_more_kernels_than_recorded() {
    let _alone = alone_with_the_generator();
    for (precision, max) in MAX_LAUNCHES {
        let config = format!(
            "data: {{dataset: synthetic, image_size: 224, workers: 1, \
             synthetic: {{train: 4, val: 1, test: 1}}}}\n\
             model: {{mamba: {{name: vim_tiny_patch16_224}}, fusion: {{strategy: mamba_only}}}}\n\
             train: {{batch_size: 2, precision: {precision}}}"
        );
        let launches = step_launches(&Config::from_yaml(&config, "test", &[]).unwrap()).unwrap();
        assert!(launches.total <= max, "{precision}: more than {max}: {launches:#?}");
        assert!(launches.total > max * 9 / 10, "{precision}: lower the bound: {launches:#?}");
    }
}
