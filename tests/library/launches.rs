//! The CUDA kernels of a training step, counted on the CPU.

use crate::generator::alone_with_the_generator;
use vm_beautynet::benchmark::train::step_launches;
use vm_beautynet::config::Config;

const VIM_TINY: &str = "mamba: {name: vim_tiny_patch16_224}, fusion: {strategy: mamba_only}";
const VIT_TINY: &str = "vit: {name: vit_tiny_patch16_224}, fusion: {strategy: vit_only}";

/// Launches of a training step at two images of 224 pixels, by model and precision. Lower them with
/// the code. The first counts of Vim-Ti, before any of them was saved, were 2,698 and 3,654.
const MAX_LAUNCHES: [(&str, &str, u64); 3] =
    [(VIM_TINY, "float32", 1069), (VIM_TINY, "bf16", 1305), (VIT_TINY, "float32", 548)];

#[test]
fn a_step_of_a_tiny_backbone_launches_no_more_kernels_than_recorded() {
    let _alone = alone_with_the_generator();
    for (model, precision, max) in MAX_LAUNCHES {
        let config = format!(
            "data: {{dataset: synthetic, image_size: 224, workers: 1, \
             synthetic: {{train: 4, val: 1, test: 1}}}}\n\
             model: {{{model}}}\n\
             train: {{batch_size: 2, precision: {precision}}}"
        );
        let launches = step_launches(&Config::from_yaml(&config, "test", &[]).unwrap()).unwrap();
        let case = format!("{model}, {precision}");
        assert!(launches.total <= max, "{case}: more than {max}: {launches:#?}");
        assert!(launches.total > max * 9 / 10, "{case}: lower the bound: {launches:#?}");
    }
}
