//! What the branches look at: maps, figures and the command.

mod sandbox;

use std::fs;

use image::{Rgb, RgbImage};
use safetensors::SafeTensors;
use sandbox::Sandbox;
use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{BackboneKind, Config};
use vm_beautynet::explain::{
    HiddenAttention, Layers, Method, Request, explain, integrated_gradients,
};
use vm_beautynet::models::{BeautyNet, Images, Tap};
use vm_beautynet::ops::{Path, ScanInputs, selective_scan};

/// Two blocks and three, on 32 pixels in patches of 8.
fn small() -> BeautyNet {
    let yaml = "{data: {image_size: 32}, model: {vit: {name: vit_micro_patch8_64, embed_dim: 24, depth: 2}, mamba: {name: vim_micro_patch8_64, embed_dim: 24, depth: 3}, fusion: {dim: 16}}}";
    let config = Config::from_yaml(yaml, "small", &[]).unwrap();
    tch::manual_seed(1);
    BeautyNet::new(&config, Device::Cpu).unwrap()
}

fn pictures(count: i64) -> Tensor {
    Tensor::randn([count, 3, 32, 32], (Kind::Float, Device::Cpu))
}

fn largest(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

/// A request that both branches have: what one lacks gives way to its counterpart.
fn request(method: Method) -> Request {
    let mut request = Request::new(method);
    if !method.explains(BackboneKind::Vit) {
        request.vit.method = Method::AttentionRollout;
    }
    if !method.explains(BackboneKind::Vim) {
        request.mamba.method = Method::HiddenAttention;
    }
    request
}

#[test]
fn every_method_gives_the_maps_of_a_batch_that_its_pictures_get_alone() {
    let (net, x) = (small(), pictures(3));
    for &method in Method::ALL {
        let whole = explain(&net, Images::Normalised(&x), &request(method)).unwrap();
        let part = x.narrow(0, 1, 1);
        let alone = explain(&net, Images::Normalised(&part), &request(method)).unwrap();
        for (whole, alone) in [(whole.vit, alone.vit), (whole.mamba, alone.mamba)] {
            let (whole, alone) = (whole.unwrap().grid, alone.unwrap().grid);
            assert_eq!(whole.size(), [3, 1, 4, 4], "{method}");
            assert!(whole.min().double_value(&[]) >= 0.0, "{method}");
            let apart = largest(&(whole.narrow(0, 1, 1) - &alone));
            assert!(apart <= 1e-4 * largest(&alone) + 1e-7, "{method}: {apart}");
        }
        assert!(net.parameters().iter().all(|(_, p)| !p.grad().defined()));
    }
}

#[test]
fn the_map_of_a_block_is_the_same_alone_and_in_a_strip() {
    let (net, x) = (small(), pictures(2));
    for &method in Method::ALL.iter().filter(|method| method.has_layers()) {
        let mut all = request(method);
        (all.vit.layers, all.mamba.layers) = (Layers::All, Layers::All);
        let strip = explain(&net, Images::Normalised(&x), &all).unwrap();
        let mut one = request(method);
        (one.vit.layers, one.mamba.layers) = (Layers::One(0), Layers::One(1));
        let one = explain(&net, Images::Normalised(&x), &one).unwrap();
        let (vit, mamba) = (strip.vit.unwrap(), strip.mamba.unwrap());
        assert_eq!((vit.layers.len(), mamba.layers.len()), (2, 3));
        for (strip, one) in [
            (vit.grid.select(1, 0), one.vit.unwrap().grid.select(1, 0)),
            (
                mamba.grid.select(1, 1),
                one.mamba.unwrap().grid.select(1, 0),
            ),
        ] {
            let apart = largest(&(strip - &one));
            assert!(apart <= 1e-4 * largest(&one) + 1e-7, "{method}: {apart}");
        }
    }
}

#[test]
fn integrated_gradients_add_up_to_the_scores_difference() {
    let (net, x) = (small(), pictures(2));
    let score = |x: &Tensor| net.forward(Images::Normalised(x), false).unwrap().score;
    let difference = score(&x) - score(&x.zeros_like());
    let apart = |steps: usize| {
        let whole = integrated_gradients(&net, Images::Normalised(&x), steps).unwrap();
        let sums = whole
            .iter()
            .map(|(_, a)| a.sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float));
        let added: Tensor = sums.reduce(|a, b| a + b).unwrap();
        largest(&(&added - &difference)) / largest(&difference)
    };
    let (coarse, fine) = (apart(32), apart(512));
    assert!(fine < 0.01 && fine < coarse, "{coarse} {fine}");
}

/// What one block receives.
struct Block(usize, Option<Tensor>);

impl Tap for Block {
    fn mixer_input(&mut self, branch: BackboneKind, layer: usize, tokens: Tensor) -> Tensor {
        if branch == BackboneKind::Vim && layer == self.0 {
            self.1 = Some(tokens.shallow_clone());
        }
        tokens
    }
}

#[test]
fn a_blocks_hidden_attention_times_its_inputs_is_its_scan() {
    let (net, x) = (small(), pictures(1));
    let _guard = tch::no_grad_guard();
    for layer in 0..3 {
        let mut block = Block(layer, None);
        net.forward_tapped(Images::Normalised(&x), &mut block)
            .unwrap();
        for operands in net.scan_operands(layer, &block.1.unwrap()).unwrap() {
            let transposed = |x: &Tensor| x.transpose(1, 2);
            let y = selective_scan(
                &ScanInputs {
                    u: &transposed(&operands.u),
                    delta: &transposed(&operands.dt),
                    a: &operands.a,
                    b: &transposed(&operands.b),
                    c: &transposed(&operands.c),
                    d: None,
                    z: None,
                    delta_bias: None,
                    delta_softplus: false,
                    reverse: operands.reverse,
                },
                Path::Auto,
            )
            .unwrap();
            let attention = HiddenAttention::new(&operands, 0).unwrap();
            let l = attention.length() as i64;
            for channel in 0..attention.channels() {
                let matrix = Tensor::from_slice(&attention.channel(channel).unwrap()).view([l, l]);
                let u = operands.u.get(0).select(1, channel as i64).contiguous();
                let apart = largest(&(matrix.mv(&u) - y.get(0).get(channel as i64)));
                assert!(apart <= 1e-4 * largest(&y), "block {layer}: {apart:e}");
            }
        }
    }
}

#[test]
fn a_branch_without_a_method_names_those_that_it_has() {
    let net = small();
    let parse = |methods: &[&str], layers: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        Request::parse(&net, &owned(methods), &owned(layers))
    };
    for (methods, layers, says) in [
        (
            vec!["attention-rollout"],
            vec![],
            "Mamba branch has no attention-rollout; it has grad-cam, ",
        ),
        (
            vec!["hidden-attention"],
            vec![],
            "ViT branch has no hidden-attention; it has grad-cam, ",
        ),
        (vec!["gradcam"], vec![], "did you mean grad-cam?"),
        (vec!["occlusion"], vec!["1"], "no layer to choose"),
        (vec!["grad-cam"], vec!["2"], "ViT branch has 2, from 0 to 1"),
        (vec!["grad-cam"], vec!["first"], "name a block by its index"),
    ] {
        let error = format!("{:#}", parse(&methods, &layers).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
    let both = parse(
        &["vit=attention-rollout", "mamba=hidden-attention"],
        &["vit.blocks.0", "mamba=all"],
    )
    .unwrap();
    assert_eq!(both.vit.method, Method::AttentionRollout);
    assert_eq!(
        (both.vit.layers, both.mamba.layers),
        (Layers::One(0), Layers::All)
    );
}

/// The normalisation under which the pictures of [`with_spot`] are 0 outside the spot.
const MEAN_COLOUR: &str =
    "data.normalize={mean: [0.48627, 0.45490, 0.40784], std: [0.5, 0.5, 0.5]}";

/// Grey, with a spot of noise-like stripes at a known place.
fn with_spot(width: u32, height: u32, centre: (u32, u32), radius: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let inside = x.abs_diff(centre.0) <= radius && y.abs_diff(centre.1) <= radius;
        match inside {
            true => Rgb([if (x / 9 + y / 9) % 2 == 0 { 255 } else { 0 }; 3]),
            false => Rgb([124, 116, 104]),
        }
    })
}

/// Where a grey map is heaviest.
fn centre_of_mass(map: &image::GrayImage) -> (f64, f64) {
    let mut sums = (0.0, 0.0, 0.0);
    for (x, y, pixel) in map.enumerate_pixels() {
        let mass = f64::from(pixel.0[0]);
        sums = (
            sums.0 + mass,
            sums.1 + mass * f64::from(x),
            sums.2 + mass * f64::from(y),
        );
    }
    (sums.1 / sums.0, sums.2 / sums.0)
}

#[test]
fn maps_lie_on_the_right_pixels_of_portrait_and_landscape_originals() {
    let sandbox = Sandbox::new();
    for resize in ["squash", "crop", "pad"] {
        let run = format!("runs/{resize}");
        sandbox.done(&[
            "train",
            "small.yaml",
            "--output",
            &run,
            "--set",
            "train.epochs=1",
            "--set",
            &format!("data.resize={resize}"),
            "--set",
            MEAN_COLOUR,
        ]);
        let cases = [
            ("wide", 600, 400, (420, 100)),
            ("tall", 300, 500, (80, 340)),
        ];
        for (name, width, height, spot) in cases {
            with_spot(width, height, spot, 50)
                .save(sandbox.path(&format!("{name}.png")))
                .unwrap();
        }
        // A picture of the mean colour holds nothing that could be attributed: all of the map lies on the spot, whatever the model
        // has learnt.
        sandbox.done(&[
            "explain",
            &run,
            "wide.png",
            "tall.png",
            "--output",
            &format!("out/{resize}"),
            "--method",
            "integrated-gradients",
        ]);
        for (name, width, height, spot) in cases {
            let file = sandbox.path(&format!("out/{resize}/maps/{name}_fused.png"));
            let map = image::open(file).unwrap().to_luma8();
            assert_eq!(map.dimensions(), (width, height));
            let (x, y) = centre_of_mass(&map);
            let apart = (x - f64::from(spot.0)).hypot(y - f64::from(spot.1));
            // A patch of the original is a quarter of a side.
            let patch = f64::from(width.max(height)) / 4.0;
            assert!(
                apart < patch,
                "{resize} {name}: the map is at {x:.0}, {y:.0}"
            );
        }
    }
}

#[test]
fn the_command_writes_figures_maps_and_a_sheet_and_names_what_it_cannot_read() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("runs/small");
    fs::create_dir(sandbox.path("faces")).unwrap();
    let long = format!("{}.png", "a_very_long_name_".repeat(10));
    for (name, width, height) in [(long.as_str(), 200, 300), ("b.png", 300, 200)] {
        let path = sandbox.path(&format!("faces/{name}"));
        with_spot(width, height, (100, 100), 40).save(path).unwrap();
    }
    fs::write(sandbox.path("faces/broken.png"), b"no picture").unwrap();
    let output = sandbox.run(&[
        "explain",
        "runs/small",
        "faces",
        "--output",
        "out",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("left out: ") && errors.contains("broken.png"),
        "{errors}"
    );
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = json["images"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    let shares =
        rows[0]["weight_vit"].as_f64().unwrap() + rows[0]["weight_mamba"].as_f64().unwrap();
    assert!((shares - 1.0).abs() < 1e-5);
    for row in rows {
        let figure = image::open(sandbox.path(row["figure"].as_str().unwrap())).unwrap();
        assert!(
            figure.width() > 700 && figure.width() < 1400,
            "{}",
            figure.width()
        );
    }
    let bytes = fs::read(sandbox.path("out/maps/b.safetensors")).unwrap();
    let maps = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(maps.tensor("vit").unwrap().shape(), [1, 32, 32]);
    assert_eq!(maps.tensor("mamba_grid").unwrap().shape(), [1, 4, 4]);
    assert_eq!(maps.tensor("fused").unwrap().shape(), [32, 32]);
    assert!(sandbox.path("out/contact_sheet_1.png").exists());
    for map in ["vit", "mamba", "fused"] {
        assert!(sandbox.path(&format!("out/maps/b_{map}.png")).exists());
    }
    let (code, errors) = sandbox.fails(&[
        "explain",
        "runs/small",
        "faces/broken.png",
        "--output",
        "none",
    ]);
    assert_eq!(code, 1);
    assert!(errors.contains("none can be read"), "{errors}");
}

#[test]
fn a_split_is_measured_and_the_result_kept() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("runs/small");
    let arguments = [
        "explain",
        "runs/small",
        "--evaluate",
        "test",
        "--limit",
        "12",
        "--json",
    ];
    let json = sandbox.json(&arguments);
    assert_eq!(json["images"], 12);
    assert_eq!(json["curves"].as_array().unwrap().len(), 3);
    assert_eq!(json["parts"].as_array().unwrap().len(), 15);
    let overlap = json["agreement"]["top20_overlap"]["mean"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&overlap));
    for part in json["parts"].as_array().unwrap() {
        let (mass, area) = (part["mass"]["mean"].as_f64(), part["area"]["mean"].as_f64());
        assert!(mass.unwrap() <= 1.0 && area.unwrap() > 0.0, "{part}");
    }
    let kept = fs::read_to_string(sandbox.path("runs/small/explain_test.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&kept).unwrap(),
        json
    );
    assert_eq!(sandbox.json(&arguments), json);
}
