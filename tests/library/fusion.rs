//! The fusion strategies: their gradients, their equations, and what their weights say of the
//! branches.

use std::collections::BTreeMap;

use crate::generator::alone_with_the_generator;
use tch::{Device, Kind, Tensor, nn};
use vm_beautynet::config::{Branch, Config, FusionStrategy, HeadOutput};
use vm_beautynet::models::fusion::{BranchTokens, Fused, Fusion};
use vm_beautynet::models::head::RegressionHead;
use vm_beautynet::models::tokens::TokenLayout;
use vm_beautynet::models::vim::VisionMamba;
use vm_beautynet::models::vit::VisionTransformer;
use vm_beautynet::models::{BeautyNet, ForwardContext, Images};
use vm_beautynet::train::optimizer::Optimizer;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn config(strategy: FusionStrategy, overrides: &[&str]) -> Config {
    let mut all: Vec<String> = [
        "data.image_size=16",
        "model.vit={name: vit_micro_patch8_64, embed_dim: 24, depth: 1, drop_path: 0}",
        "model.mamba={name: vim_micro_patch8_64, embed_dim: 20, depth: 1, drop_path: 0}",
        "model.fusion.dim=32",
        "model.head={hidden: [12], dropout: 0}",
        "train.optimizer.lr=0.01",
    ]
    .map(str::to_string)
    .to_vec();
    all.push(format!("model.fusion.strategy={strategy}"));
    all.extend(overrides.iter().map(|text| text.to_string()));
    Config::from_yaml("", "test", &all).unwrap()
}

/// Wraps the tokens of a branch, whose feature vector is its class token.
fn tokens(config: &Config, branch: Branch, tokens: Tensor) -> BranchTokens {
    let layout = TokenLayout::new(&config.shape(branch).unwrap().unwrap());
    let layout = layout.with_patches(tokens.size()[1] - 1);
    let features = layout.class_mean(&tokens).unwrap();
    BranchTokens::new(tokens, layout, features)
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[test]
fn every_parameter_of_every_strategy_receives_gradient_within_a_few_steps() {
    let _alone = alone_with_the_generator();
    for &strategy in FusionStrategy::ALL {
        tch::manual_seed(3);
        let config = config(strategy, &[]);
        let net = BeautyNet::new(&config, Device::Cpu).unwrap();
        let parameters = net.parameters();
        let trained = || parameters.iter().filter(|(_, p)| p.requires_grad());
        let mut optimizer =
            Optimizer::new(&parameters, &config.train.optimizer, &config.train.freeze);
        let mut reached: BTreeMap<&str, f64> = BTreeMap::new();
        for _ in 0..3 {
            let images = Tensor::randint(256, [6, 3, 16, 16], (Kind::Uint8, Device::Cpu));
            optimizer.zero_grad();
            let output = net.forward(Images::Pixels(&images), ForwardContext::train()).unwrap();
            let targets = Tensor::randn([6], CPU);
            output.prediction.scaled.mse_loss(&targets, tch::Reduction::Mean).backward();
            for (name, parameter) in trained() {
                let gradient = parameter.grad();
                assert!(gradient.defined(), "{strategy}: {name} has no gradient");
                let largest = gradient.abs().max().double_value(&[]);
                assert!(largest.is_finite(), "{strategy}: {name}");
                let before = reached.entry(name).or_default();
                *before = before.max(largest);
            }
            optimizer.step([0.01; 2], None).unwrap();
        }
        for (name, largest) in reached {
            assert!(largest > 1e-9, "{strategy}: {name}'s gradient is {largest}");
        }
    }
}

/// A fusion whose parameters are all random, and tokens of both branches to put in: (5, 1 + 4, 24)
/// and (5, 1 + 6, 20).
struct Case {
    config: Config,
    fusion: Fusion,
    parameters: BTreeMap<String, Tensor>,
    vit: Tensor,
    mamba: Tensor,
}

/// Index of the class token of `Case::mamba`.
const MIDDLE: i64 = 3;

impl Case {
    fn new(strategy: FusionStrategy) -> Self {
        Self::with(strategy, &[])
    }

    fn with(strategy: FusionStrategy, overrides: &[&str]) -> Self {
        tch::manual_seed(11);
        let variables = nn::VarStore::new(Device::Cpu);
        let config = config(strategy, overrides);
        let fusion = Fusion::new(&variables.root(), &config.model, Some(24), Some(20)).unwrap();
        let _guard = tch::no_grad_guard();
        let parameters: BTreeMap<String, Tensor> = variables.variables().into_iter().collect();
        for parameter in parameters.values() {
            let noise = parameter.randn_like() * 0.3;
            let _ = parameter.shallow_clone().g_add_(&noise);
        }
        Self {
            config,
            fusion,
            parameters,
            vit: Tensor::randn([5, 5, 24], CPU),
            mamba: Tensor::randn([5, 7, 20], CPU),
        }
    }

    fn forward(&self) -> Fused {
        self.forward_of(&self.vit, &self.mamba, ForwardContext::eval())
    }

    fn forward_of(&self, vit: &Tensor, mamba: &Tensor, ctx: ForwardContext) -> Fused {
        let vit = tokens(&self.config, Branch::Vit, vit.shallow_clone());
        let mamba = tokens(&self.config, Branch::Mamba, mamba.shallow_clone());
        self.fusion.forward(Some(&vit), Some(&mamba), ctx).unwrap()
    }

    /// The class tokens.
    fn features(&self) -> [Tensor; 2] {
        [self.vit.select(1, 0), self.mamba.select(1, MIDDLE)]
    }

    fn p(&self, name: &str) -> &Tensor {
        &self.parameters[name]
    }

    /// `x Wᵀ + b` with the parameters under `name`.
    fn affine(&self, name: &str, x: &Tensor) -> Tensor {
        let product = x.matmul(&self.p(&format!("{name}.weight")).transpose(0, 1));
        match self.parameters.get(&format!("{name}.bias")) {
            Some(bias) => product + bias,
            None => product,
        }
    }

    fn projected(&self) -> [Tensor; 2] {
        let [vit, mamba] = self.features();
        [self.affine("vit_proj", &vit), self.affine("mamba_proj", &mamba)]
    }

    #[track_caller]
    fn check(&self, vector: &Tensor, vit_weight: Option<&Tensor>) {
        let _guard = tch::no_grad_guard();
        let fused = self.forward();
        assert_eq!(fused.vector.size()[1], self.fusion.width());
        assert!(difference(&fused.vector, vector) < 1e-5);
        match (fused.weights, vit_weight) {
            (None, None) => {}
            (Some(weights), Some(expected)) => {
                assert_eq!(weights.size(), [5, 2]);
                assert!(difference(&weights.select(1, 0), expected) < 1e-6);
                assert!(difference(&weights.select(1, 1), &(1.0 - expected)) < 1e-6);
            }
            (weights, _) => panic!("the weights are {weights:?}"),
        }
    }
}

fn softmax_weight(scores: &Tensor) -> Tensor {
    let e = scores.exp();
    e.select(-1, 0) / (e.select(-1, 0) + e.select(-1, 1))
}

#[test]
fn concat_and_sum_follow_their_equations() {
    let _alone = alone_with_the_generator();
    let case = Case::new(FusionStrategy::Concat);
    case.check(&Tensor::cat(&case.projected(), 1), None);
    let case = Case::new(FusionStrategy::Sum);
    let [vit, mamba] = case.projected();
    case.check(&(vit + mamba), None);
}

#[test]
fn the_weights_of_weighted_are_the_softmax_of_its_scalars() {
    let _alone = alone_with_the_generator();
    let case = Case::new(FusionStrategy::Weighted);
    let [vit, mamba] = case.projected();
    let vit_weight = softmax_weight(case.p("weights")).expand([5], false);
    assert!((vit_weight.double_value(&[0]) - 0.5).abs() > 0.01);
    let column = vit_weight.unsqueeze(1);
    case.check(&(&column * vit + (1.0 - &column) * mamba), Some(&vit_weight));
}

#[test]
fn the_weights_of_gated_are_its_gates_for_each_image() {
    let _alone = alone_with_the_generator();
    let case = Case::new(FusionStrategy::Gated);
    let projected = case.projected();
    let vit_weight = softmax_weight(&case.affine("gate", &Tensor::cat(&projected, 1)));
    assert!(vit_weight.std(true).double_value(&[]) > 0.01);
    let [vit, mamba] = projected;
    let column = vit_weight.unsqueeze(1);
    case.check(&(&column * vit + (1.0 - &column) * mamba), Some(&vit_weight));
}

#[test]
fn the_weights_of_gmu_are_its_gates_means_over_channels() {
    let _alone = alone_with_the_generator();
    let case = Case::new(FusionStrategy::Gmu);
    let [vit, mamba] = case.projected().map(|x| x.tanh());
    let gate = case.affine("gate", &Tensor::cat(&case.features(), 1)).sigmoid();
    let vit_weight = gate.mean_dim([1i64].as_slice(), false, Kind::Float);
    case.check(&(&gate * vit + (1.0 - &gate) * mamba), Some(&vit_weight));
}

#[test]
fn bilinear_is_a_projection_of_the_products() {
    let _alone = alone_with_the_generator();
    let case = Case::new(FusionStrategy::Bilinear);
    let [vit, mamba] = case.projected().map(|x| x.tanh());
    case.check(&case.affine("pool", &(vit * mamba)), None);
}

#[test]
fn score_is_the_weighted_mean_of_two_predictions() {
    let _alone = alone_with_the_generator();
    let case = Case::new(FusionStrategy::Score);
    let predict = |branch: &str, x: &Tensor| {
        let hidden = case.affine(&format!("{branch}.layers.0"), x).gelu("none");
        case.affine(&format!("{branch}.layers.1"), &hidden)
    };
    let [vit, mamba] = case.features();
    let (vit, mamba) = (predict("vit_head", &vit), predict("mamba_head", &mamba));
    let vit_weight = softmax_weight(case.p("weights")).expand([5], false);
    let column = vit_weight.unsqueeze(1);
    assert_eq!(config(FusionStrategy::Score, &[]).head_output(), HeadOutput::Fused);
    case.check(&(&column * vit + (1.0 - &column) * mamba), Some(&vit_weight));
}

#[test]
fn the_weights_of_cross_attention_are_the_attention_to_each_branch() {
    let _alone = alone_with_the_generator();
    let case = Case::new(FusionStrategy::CrossAttention);
    let _guard = tch::no_grad_guard();
    // Head by head and image by image, from the equation.
    let direction = |name: &str, class: &Tensor, others: &Tensor| {
        let x = Tensor::cat(&[&class.unsqueeze(0), others], 0); // (l, 32)
        let part = |part: &str| format!("{name}.{part}");
        let x = x.layer_norm(
            [32],
            Some(case.p(&part("norm.weight"))),
            Some(case.p(&part("norm.bias"))),
            1e-6,
            false,
        );
        let q = case.affine(&part("q"), &x.narrow(0, 0, 1));
        let (k, v) = (case.affine(&part("k"), &x), case.affine(&part("v"), &x));
        let mut read = Vec::new();
        let mut to_itself = 0.0;
        for head in 0..2 {
            let of = |t: &Tensor| t.narrow(1, 16 * head, 16);
            let scores = of(&q).matmul(&of(&k).transpose(0, 1)) / 4.0;
            let attention = scores.exp() / scores.exp().sum(Kind::Float); // (1, l)
            to_itself += attention.double_value(&[0, 0]) / 2.0;
            read.push(attention.matmul(&of(&v)));
        }
        let read = case.affine(&part("proj"), &Tensor::cat(&read, 1)).squeeze();
        (class + read, to_itself)
    };
    let (mut vectors, mut vit_weights) = (Vec::new(), Vec::new());
    for image in 0..5 {
        let vit = case.affine("vit_proj", &case.vit.select(0, image));
        let mamba = case.affine("mamba_proj", &case.mamba.select(0, image));
        let mamba_patches =
            Tensor::cat(&[mamba.narrow(0, 0, MIDDLE), mamba.narrow(0, MIDDLE + 1, 6 - MIDDLE)], 0);
        let (a, vit_to_itself) = direction("from_vit", &vit.select(0, 0), &mamba_patches);
        let (b, mamba_to_itself) =
            direction("from_mamba", &mamba.select(0, MIDDLE), &vit.narrow(0, 1, 4));
        vectors.push(a + b);
        vit_weights.push(((vit_to_itself + 1.0 - mamba_to_itself) / 2.0) as f32);
    }
    case.check(&Tensor::stack(&vectors, 0), Some(&Tensor::from_slice(&vit_weights)));
}

#[test]
fn branch_dropout_predicts_an_image_from_one_branch_or_from_both() {
    let _alone = alone_with_the_generator();
    let images = 600;
    let strategies = FusionStrategy::ALL.iter();
    for &strategy in strategies.filter(|of| Branch::ALL.iter().all(|&branch| of.uses(branch))) {
        let case = Case::with(strategy, &["model.fusion.branch_dropout=0.4"]);
        let random = |l: i64, d: i64| Tensor::randn([images, l, d], CPU);
        let (vit, mamba) = (random(5, 24), random(7, 20));
        let train = ForwardContext::train_on(Device::Cpu, 8);
        let fused = case.forward_of(&vit, &mamba, train);
        // Whether each image's vector stays the same if the tokens of a branch change.
        let ignored = |vit: &Tensor, mamba: &Tensor, ctx: ForwardContext, than: &Tensor| {
            let changed = case.forward_of(vit, mamba, ctx).vector - than;
            let largest = changed.abs().flatten(1, -1).amax([1i64].as_slice(), false);
            Vec::<f64>::try_from(largest.to_kind(Kind::Double)).unwrap()
        };
        let of_vit = ignored(&random(5, 24), &mamba, train, &fused.vector);
        let of_mamba = ignored(&vit, &random(7, 20), train, &fused.vector);
        let [mut vit_dropped, mut mamba_dropped] = [0, 0];
        for (row, (of_vit, of_mamba)) in of_vit.into_iter().zip(of_mamba).enumerate() {
            assert!(of_vit > 0.0 || of_mamba > 0.0, "{strategy}: an image lacks both");
            vit_dropped += i32::from(of_vit == 0.0);
            mamba_dropped += i32::from(of_mamba == 0.0);
            if let Some(weights) = &fused.weights
                && strategy != FusionStrategy::CrossAttention
            {
                let weight = weights.double_value(&[row as i64, 0]);
                assert!(of_vit > 0.0 || weight == 0.0, "{strategy}: {weight}");
                assert!(of_mamba > 0.0 || weight == 1.0, "{strategy}: {weight}");
            }
        }
        for dropped in [vit_dropped, mamba_dropped] {
            assert!((90..150).contains(&dropped), "{strategy}: {dropped} of {images}, not 120");
        }
        // Evaluation drops none; a gate in float32 may close on a branch all the same.
        let eval = ForwardContext::eval();
        let both = case.forward_of(&vit, &mamba, eval).vector;
        let of_vit = ignored(&random(5, 24), &mamba, eval, &both);
        assert!(of_vit.into_iter().filter(|&change| change == 0.0).count() < 10, "{strategy}");
    }
}

#[test]
fn a_gate_with_branch_dropout_has_finite_gradients_and_the_present_branch_its_projection() {
    let _alone = alone_with_the_generator();
    for strategy in [FusionStrategy::Weighted, FusionStrategy::Gated] {
        let case = Case::with(strategy, &["model.fusion.branch_dropout=0.9"]);
        let train = ForwardContext::train_on(Device::Cpu, 3);
        let fused = case.forward_of(&case.vit, &case.mamba, train);
        let [vit, mamba] = case.projected();
        let weights = fused.weights.unwrap();
        let mut alone = 0;
        for image in 0..5 {
            for (branch, projected) in [&vit, &mamba].into_iter().enumerate() {
                if weights.double_value(&[image, branch as i64]) == 1.0 {
                    let (found, expected) = (fused.vector.get(image), projected.get(image));
                    assert!(difference(&found, &expected) < 1e-6);
                    alone += 1;
                }
            }
        }
        assert!(alone >= 3, "{alone}");
        fused.vector.square().sum(Kind::Float).backward();
        for (name, parameter) in &case.parameters {
            let gradient = parameter.grad();
            assert!(bool::try_from(gradient.isfinite().all()).unwrap(), "{strategy}: {name}");
        }
    }
}

#[test]
fn strategies_of_two_branches_start_from_weights_that_favor_neither() {
    let _alone = alone_with_the_generator();
    for &strategy in FusionStrategy::ALL {
        let net = BeautyNet::new(&config(strategy, &[]), Device::Cpu).unwrap();
        let images = Tensor::randint(256, [8, 3, 16, 16], (Kind::Uint8, Device::Cpu));
        let output = net.forward(Images::Pixels(&images), ForwardContext::eval()).unwrap();
        let Some(weights) = output.weights else {
            continue;
        };
        let mean = weights.select(1, 0).mean(Kind::Float).double_value(&[]);
        // Attention is random at the start, the others' weights are zero.
        let slack = match strategy {
            FusionStrategy::CrossAttention => 0.1,
            _ => 1e-6,
        };
        assert!((mean - 0.5).abs() <= slack, "{strategy}: {mean}");
    }
}

/// Optimizer steps until the branches can be distinguished.
const STEPS: usize = 200;

/// Returns the mean weight of the ViT branch after training with this seed on images whose score
/// only one branch gets: the other gets noise.
fn trained_vit_weight(strategy: FusionStrategy, vit_has_signal: bool, seed: i64) -> f64 {
    let config = config(strategy, &[]);
    tch::manual_seed(seed);
    let variables = nn::VarStore::new(Device::Cpu);
    let root = variables.root();
    let (vit_shape, mamba_shape) = (
        config.shape(Branch::Vit).unwrap().unwrap(),
        config.shape(Branch::Mamba).unwrap().unwrap(),
    );
    let vit = VisionTransformer::new(&(&root / "vit"), &vit_shape);
    let mamba = VisionMamba::new(&(&root / "mamba"), &mamba_shape);
    let fusion = Fusion::new(
        &(&root / "fusion"),
        &config.model,
        Some(vit_shape.embed_dim),
        Some(mamba_shape.embed_dim),
    )
    .unwrap();
    let (path, head) = (&root / "head", &config.model.head);
    let head = RegressionHead::new(&path, fusion.width(), head, HeadOutput::Score);
    let mut parameters: Vec<(String, Tensor)> = variables.variables().into_iter().collect();
    parameters.sort_by(|a, b| a.0.cmp(&b.0)); // so that sums over them are deterministic
    let mut optimizer = Optimizer::new(&parameters, &config.train.optimizer, &config.train.freeze);
    let forward = |b: i64| {
        // The score is the brightness.
        let scores = Tensor::randn([b], CPU);
        let signal = Tensor::randn([b, 3, 16, 16], CPU) * 0.5 + scores.view([b, 1, 1, 1]) * 0.5;
        let noise = Tensor::randn([b, 3, 16, 16], CPU);
        let (for_vit, for_mamba) = if vit_has_signal { (signal, noise) } else { (noise, signal) };
        let train = ForwardContext::train();
        let vit = vit.forward(&for_vit, None, train).unwrap();
        let mamba = mamba.forward(&for_mamba, None, train).unwrap();
        let vit = tokens(&config, Branch::Vit, vit);
        let mamba = tokens(&config, Branch::Mamba, mamba);
        let fused = fusion.forward(Some(&vit), Some(&mamba), train).unwrap();
        let loss =
            head.forward(&fused.vector, train).scaled.mse_loss(&scores, tch::Reduction::Mean);
        (loss, fused.weights.unwrap())
    };
    for step in 0..STEPS {
        optimizer.zero_grad();
        forward(32).0.backward();
        // One learning rate for all: a gate that trains faster than the branches can encode the
        // score itself, with any mean weight.
        let lr = 0.01 * (1.0 - step as f64 / STEPS as f64);
        optimizer.step([lr; 2], Some(1.0)).unwrap();
    }
    let _guard = tch::no_grad_guard();
    let (loss, weights) = forward(256);
    let loss = loss.double_value(&[]);
    assert!(loss < 0.3, "{strategy} has not learned: its loss is {loss}");
    weights.select(1, 0).mean(Kind::Float).double_value(&[])
}

#[test]
fn the_branch_with_the_signal_gets_the_larger_weight() {
    let _alone = alone_with_the_generator();
    tch::set_num_threads(1); // the tensors are tiny
    for strategy in [FusionStrategy::Gated, FusionStrategy::Weighted] {
        for seed in [1, 2] {
            let with_vit_signal = trained_vit_weight(strategy, true, seed);
            let with_mamba_signal = trained_vit_weight(strategy, false, seed);
            assert!(
                with_vit_signal > 0.5,
                "{strategy}: the ViT has the signal, its weight is {with_vit_signal}"
            );
            assert!(
                with_mamba_signal < 0.5,
                "{strategy}: the Mamba has the signal, the ViT's weight is {with_mamba_signal}"
            );
        }
    }
}
