//! The presets with more tokens or layers than the plain backbones, and the choice of features:
//! everything that reads tokens knows them.

use crate::generator::{alone_with_seed, alone_with_the_generator};
use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{Branch, Config, Features, FusionStrategy};
use vm_beautynet::explain::{ExplainOptions, Layers, Method, explain};
use vm_beautynet::models::masked_image::MaskedImageModel;
use vm_beautynet::models::summary::{Summary, summarize};
use vm_beautynet::models::{BeautyNet, ForwardContext, Images};

/// A preset of each variant, with sizes that fit a test.
const VITS: [&str; 5] = [
    "name: vit_micro_patch8_64, embed_dim: 24",
    "name: deit_tiny_distilled_patch16_224, embed_dim: 24",
    "name: vit_small_patch14_dinov2, embed_dim: 24, num_heads: 3",
    "name: vit_small_patch14_reg4_dinov2, embed_dim: 24, num_heads: 3",
    "name: vit_base_patch16_clip_quickgelu_224, embed_dim: 24, num_heads: 3",
];
const MAMBAS: [&str; 3] = [
    "name: vim_micro_patch8_64, embed_dim: 16",
    "name: mambar_micro_patch8_64, embed_dim: 16",
    "name: mambar_small_patch16_224, embed_dim: 16, d_state: 8",
];

fn config(vit: &str, mamba: &str, features: Features, strategy: FusionStrategy) -> Config {
    let small = format!("patch_size: 8, depth: 2, drop_path: 0, features: {features}");
    let set = [
        "data.image_size=24".to_string(),
        format!("model.vit={{{vit}, {small}}}"),
        format!("model.mamba={{{mamba}, {small}}}"),
        format!("model.fusion={{strategy: {strategy}, dim: 16}}"),
    ];
    Config::from_yaml("", "variants", &set).unwrap()
}

/// Calls `check` with a config of each variant and each kind of features.
fn for_each(strategy: FusionStrategy, check: impl Fn(&Config, &str)) {
    for &features in Features::ALL {
        for vit in VITS {
            let config = config(vit, MAMBAS[0], features, strategy);
            check(&config, &format!("{vit}, {features}"));
        }
        for mamba in &MAMBAS[1..] {
            let config = config(VITS[0], mamba, features, strategy);
            check(&config, &format!("{mamba}, {features}"));
        }
    }
}

fn images(count: i64) -> Tensor {
    Tensor::randint(256, [count, 3, 24, 24], (Kind::Uint8, Device::Cpu))
}

#[test]
fn every_fusion_takes_every_feature_vector() {
    let _alone = alone_with_seed(1);
    for &strategy in FusionStrategy::ALL {
        for_each(strategy, |config, what| {
            let net = BeautyNet::new(config, Device::Cpu).unwrap();
            let output = net.forward(Images::Pixels(&images(2)), ForwardContext::train()).unwrap();
            let width = |branch| Some(config.shape(branch).unwrap()?.feature_width());
            let found = [&output.vit, &output.mamba].map(|f| f.as_ref().map(|f| f.size()[1]));
            assert_eq!(found, [width(Branch::Vit), width(Branch::Mamba)], "{strategy}, {what}");
            output.score.square().sum(Kind::Float).backward();
            for (name, parameter) in net.parameters() {
                // The neck makes the feature of class tokens, and cross-attention reads tokens.
                let is_used = !name.starts_with("mamba.n")
                    || name == "mamba.norm_f.weight"
                    || (strategy != FusionStrategy::CrossAttention
                        && config.model.mamba.features.has_class_tokens());
                assert!(
                    !parameter.requires_grad() || parameter.grad().defined() == is_used,
                    "{strategy}, {what}: {name}"
                );
            }
        });
    }
}

#[test]
fn features_are_made_of_class_and_patch_tokens() {
    let _alone = alone_with_the_generator();
    struct Nothing;
    impl vm_beautynet::models::Tap for Nothing {}
    let x = images(2);
    let backbones = VITS.map(|vit| (vit, MAMBAS[0], Branch::Vit)).into_iter();
    for (vit, mamba, branch) in backbones.chain(MAMBAS.map(|mamba| (VITS[0], mamba, Branch::Mamba)))
    {
        let of = |features| {
            tch::manual_seed(4);
            let config = config(vit, mamba, features, FusionStrategy::Gated);
            let net = BeautyNet::new(&config, Device::Cpu).unwrap();
            let tokens = net.branch_tokens(branch, Images::Pixels(&x), &mut Nothing);
            (tokens.unwrap().unwrap(), net.token_layout(branch).unwrap())
        };
        let (both, layout) = of(Features::ClsMean);
        let patches = layout.patches_of(both.tokens()).unwrap();
        assert_eq!(patches.size()[1], 9, "{vit}, {mamba}");
        let mean = patches.mean_dim(1, false, Kind::Float);
        let (cls, _) = of(Features::Cls);
        let expected = Tensor::cat(&[cls.features(), &mean], -1);
        assert!(both.features().equal(&expected), "{vit}, {mamba}");
        assert!(of(Features::Mean).0.features().equal(&mean), "{vit}, {mamba}");
        let row_by_row = patches.flatten(1, 2);
        assert!(of(Features::Patches).0.features().equal(&row_by_row), "{vit}, {mamba}");
    }
}

#[test]
fn every_method_explains_every_patch_and_no_other_token() {
    let _alone = alone_with_seed(2);
    for_each(FusionStrategy::Gated, |config, what| {
        let net = BeautyNet::new(config, Device::Cpu).unwrap();
        let x = images(2);
        for (vit, mamba) in [
            (Method::GradCam, Method::GradCam),
            (Method::EigenCam, Method::LayerCam),
            (Method::AttentionRollout, Method::HiddenAttention),
            (Method::IntegratedGradients, Method::Occlusion),
        ] {
            let mut options = ExplainOptions::new(vit);
            options.mamba.method = mamba;
            if vit.has_layers() {
                (options.vit.layers, options.mamba.layers) = (Layers::All, Layers::All);
            }
            let found = explain(&net, Images::Pixels(&x), &options).unwrap();
            for maps in [found.vit.unwrap(), found.mamba.unwrap()] {
                let count = maps.layers.len().max(1) as i64;
                assert_eq!(maps.grid.size(), [2, count, 3, 3], "{what}, {vit}");
                assert_eq!(maps.grid.isfinite().all().int64_value(&[]), 1, "{what}, {vit}");
            }
        }
    });
}

#[test]
fn rollout_is_the_attention_of_the_tokens_that_the_features_are_made_of() {
    let _alone = alone_with_the_generator();
    // Two class tokens, four registers in no feature, nine patches.
    for (vit, classes, special) in [(VITS[1], 2, 2), (VITS[3], 1, 5)] {
        for &features in Features::ALL {
            tch::manual_seed(3);
            let config = config(vit, MAMBAS[0], features, FusionStrategy::VitOnly);
            let net = BeautyNet::new(&config, Device::Cpu).unwrap();
            let x = images(1);
            let mut options = ExplainOptions::new(Method::AttentionRollout);
            options.vit.layers = Layers::One(0);
            let found = explain(&net, Images::Pixels(&x), &options).unwrap().vit.unwrap();
            // Of one block: half of the mean over heads, half of the identity.
            struct First(Option<Tensor>);
            impl vm_beautynet::models::Tap for First {
                fn mixer_input(&mut self, _: Branch, layer: usize, x: Tensor) -> Tensor {
                    if layer == 0 {
                        self.0 = Some(x.shallow_clone());
                    }
                    x
                }
            }
            let mut first = First(None);
            net.branch_tokens(Branch::Vit, Images::Pixels(&x), &mut first).unwrap();
            let attention = net.attention(0, &first.0.unwrap()).unwrap();
            let identity = Tensor::eye(special + 9, (Kind::Float, Device::Cpu));
            let mixing = (attention.mean_dim(1, false, Kind::Float) + identity) * 0.5;
            let rows =
                |from, count: i64| mixing.narrow(1, from, count).mean_dim(1, false, Kind::Float);
            let (class, patches) = (rows(0, classes), rows(special, 9));
            let row = match features {
                Features::Cls => class,
                Features::Mean | Features::Patches => patches,
                Features::ClsMean => (class + patches) * 0.5,
            };
            let expected = row.narrow(1, special, 9).view([1, 1, 3, 3]);
            let error = (found.grid - expected).abs().max().double_value(&[]);
            assert!(error < 1e-6, "{vit}, {features}: {error}");
        }
    }
}

#[test]
fn masked_pretraining_trains_every_parameter() {
    let _alone = alone_with_seed(6);
    for_each(FusionStrategy::Gated, |config, what| {
        for &branch in Branch::ALL {
            let shape = config.shape(branch).unwrap().unwrap();
            let backbone = config.model.backbone(branch);
            let model = MaskedImageModel::new(backbone, shape, true, Device::Cpu).unwrap();
            let x = model.normalize(&images(2)).unwrap();
            let mask =
                Tensor::from_slice(&[true, false, true, false, false, true, true, false, true]);
            let mask = mask.expand([2, 9], false);
            let prediction = model.predict(&x, &mask, ForwardContext::train()).unwrap();
            let losses = model.losses(&prediction, &x, &mask, true).unwrap();
            (losses.pixels + losses.colors.unwrap()).backward();
            for (name, parameter) in model.parameters() {
                let is_neck = name.starts_with("mamba.n") && name != "mamba.norm_f.weight";
                let is_used = !is_neck || shape.features.has_class_tokens();
                assert_eq!(parameter.grad().defined(), is_used, "{what}: {name}");
            }
        }
    });
}

#[test]
fn dinov2_has_timms_parameters_and_multiply_adds() {
    let _alone = alone_with_the_generator();
    let summary = |name: &str| {
        let set = [
            format!("model.vit.name={name}"),
            "data.image_size=518".to_string(),
            "model.fusion.strategy=vit_only".to_string(),
            "model.head.hidden=[]".to_string(),
        ];
        summarize(&Config::from_yaml("", "summary", &set).unwrap()).unwrap()
    };
    // timm: 22.06 M parameters, and 46.8 G multiply-adds at 518 pixels.
    let found = summary("vit_small_patch14_dinov2");
    assert_eq!(found.parameters - 385, 22_056_192);
    let multiply_adds = found.multiply_adds as f64;
    assert!((multiply_adds / 46.8e9 - 1.0).abs() < 0.01, "{multiply_adds}");
    let names: Vec<&str> = found.layers.iter().map(|layer| &layer.name[..]).collect();
    assert_eq!(names[..4], ["vit.patch_embed", "vit.cls_token", "vit.pos_embed", "vit.blocks.0"]);
    // Four registers, but no position of the class token; their work in every block.
    let registers = summary("vit_small_patch14_reg4_dinov2");
    assert_eq!(registers.parameters - found.parameters, (4 - 1) * 384);
    assert!(registers.multiply_adds > found.multiply_adds + 12 * 4 * 12 * 384 * 384);
}

#[test]
fn mamba_reg_counts_its_registers_and_its_neck() {
    let _alone = alone_with_the_generator();
    let summary = |name: &str, features: &str| {
        let set = [
            format!("model.mamba={{name: {name}, features: {features}}}"),
            "model.fusion.strategy=mamba_only".to_string(),
            "model.head.hidden=[]".to_string(),
        ];
        summarize(&Config::from_yaml("", "summary", &set).unwrap()).unwrap()
    };
    let cls = summary("mambar_small_patch16_224", "cls");
    // 27.8 M with 1000 classes; the head has one output for 2304 features.
    assert_eq!(cls.parameters - 2305, 27_801_064 - 2_305_000);
    let layer = |name: &str| cls.layers.iter().find(|layer| layer.name == name).unwrap();
    assert_eq!(layer("mamba.neck").multiply_adds, 12 * 384 * 192);
    let vim = summary("vim_small_patch16_224", "cls");
    let block = |summary: &Summary| {
        summary.layers.iter().find(|l| l.name == "mamba.layers.5").map(|l| l.multiply_adds).unwrap()
    };
    assert_eq!(block(&cls) * 197, block(&vim) * 208);
    let mean = summary("mambar_small_patch16_224", "mean");
    assert_eq!(mean.parameters, cls.parameters - 2304 + 384);
    let order: Vec<&str> = cls.layers.iter().map(|layer| &layer.name[..]).collect();
    assert_eq!(order[order.len() - 4..], ["mamba.norm_f", "mamba.neck", "mamba.norm_neck", "head"]);
}
