//! Attribution maps: the library's methods, and `vmbeauty explain`.

use std::fs;
use std::path::Path as FilePath;

use crate::sandbox::Sandbox;
use crate::sandbox::run::{CHECKPOINT, epochs, tensors, train_arguments};
use image::{Rgb, RgbImage};
use safetensors::SafeTensors;
use serde_json::Value;
use tch::{Device, Kind, Tensor};
use vm_beautynet::config::{Branch, Config};
use vm_beautynet::explain::{
    ExplainOptions, HiddenAttention, Layers, Method, explain, integrated_gradients,
};
use vm_beautynet::models::{BeautyNet, ForwardContext, Images, Tap};
use vm_beautynet::ops::{Path, ScanInputs, selective_scan};
use vm_beautynet::run::Run;

/// Returns a model with two ViT and three Mamba blocks, on 32 pixels in patches of 8.
fn small() -> BeautyNet {
    let yaml = "{data: {image_size: 32}, model: {\
        vit: {name: vit_micro_patch8_64, embed_dim: 24, depth: 2}, \
        mamba: {name: vim_micro_patch8_64, embed_dim: 24, depth: 3}, fusion: {dim: 16}}}";
    let config = Config::from_yaml(yaml, "small", &[]).unwrap();
    tch::manual_seed(1);
    BeautyNet::new(&config, Device::Cpu).unwrap()
}

fn images(count: i64) -> Tensor {
    Tensor::randn([count, 3, 32, 32], (Kind::Float, Device::Cpu))
}

fn largest(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

/// Returns options that fit both branches: a branch that lacks the method gets its counterpart.
fn options(method: Method) -> ExplainOptions {
    let mut options = ExplainOptions::new(method);
    if !method.applies_to(Branch::Vit) {
        options.vit.method = Method::AttentionRollout;
    }
    if !method.applies_to(Branch::Mamba) {
        options.mamba.method = Method::HiddenAttention;
    }
    options
}

#[test]
fn maps_of_a_batch_equal_the_maps_of_its_images_alone() {
    let (net, x) = (small(), images(3));
    for &method in Method::ALL {
        let batch = explain(&net, Images::Normalized(&x), &options(method)).unwrap();
        let one = x.narrow(0, 1, 1);
        let alone = explain(&net, Images::Normalized(&one), &options(method)).unwrap();
        for (batch, alone) in [(batch.vit, alone.vit), (batch.mamba, alone.mamba)] {
            let (batch, alone) = (batch.unwrap().grid, alone.unwrap().grid);
            assert_eq!(batch.size(), [3, 1, 4, 4], "{method}");
            assert!(batch.min().double_value(&[]) >= 0.0, "{method}");
            let error = largest(&(batch.narrow(0, 1, 1) - &alone));
            assert!(error <= 1e-4 * largest(&alone) + 1e-7, "{method}: {error}");
        }
        assert!(net.parameters().iter().all(|(_, p)| !p.grad().defined()));
    }
}

#[test]
fn the_map_of_one_block_equals_its_map_among_all_blocks() {
    let (net, x) = (small(), images(2));
    for &method in Method::ALL.iter().filter(|method| method.has_layers()) {
        let mut all = options(method);
        (all.vit.layers, all.mamba.layers) = (Layers::All, Layers::All);
        let strip = explain(&net, Images::Normalized(&x), &all).unwrap();
        let mut one = options(method);
        (one.vit.layers, one.mamba.layers) = (Layers::One(0), Layers::One(1));
        let one = explain(&net, Images::Normalized(&x), &one).unwrap();
        let (vit, mamba) = (strip.vit.unwrap(), strip.mamba.unwrap());
        assert_eq!((vit.layers.len(), mamba.layers.len()), (2, 3));
        for (strip, one) in [
            (vit.grid.select(1, 0), one.vit.unwrap().grid.select(1, 0)),
            (mamba.grid.select(1, 1), one.mamba.unwrap().grid.select(1, 0)),
        ] {
            let apart = largest(&(strip - &one));
            assert!(apart <= 1e-4 * largest(&one) + 1e-7, "{method}: {apart}");
        }
    }
}

#[test]
fn integrated_gradients_sum_to_the_difference_of_the_scores() {
    let (net, x) = (small(), images(2));
    let score =
        |x: &Tensor| net.forward(Images::Normalized(x), ForwardContext::eval()).unwrap().score;
    let difference = score(&x) - score(&x.zeros_like());
    let apart = |steps: usize| {
        let attributions = integrated_gradients(&net, Images::Normalized(&x), steps).unwrap();
        let sums = attributions
            .iter()
            .map(|(_, a)| a.sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float));
        let added: Tensor = sums.reduce(|a, b| a + b).unwrap();
        largest(&(&added - &difference)) / largest(&difference)
    };
    let (coarse, fine) = (apart(32), apart(512));
    assert!(fine < 0.01 && fine < coarse, "{coarse} {fine}");
}

/// Records the input of one block.
struct Block(usize, Option<Tensor>);

impl Tap for Block {
    fn mixer_input(&mut self, branch: Branch, layer: usize, tokens: Tensor) -> Tensor {
        if branch == Branch::Mamba && layer == self.0 {
            self.1 = Some(tokens.shallow_clone());
        }
        tokens
    }
}

#[test]
fn hidden_attention_times_the_inputs_of_a_block_equals_its_scan() {
    let (net, x) = (small(), images(1));
    let _guard = tch::no_grad_guard();
    for layer in 0..3 {
        let mut block = Block(layer, None);
        net.forward_tapped(Images::Normalized(&x), &mut block).unwrap();
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
fn an_error_lists_the_methods_that_a_branch_has() {
    let net = small();
    let parse = |methods: &[&str], layers: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        ExplainOptions::parse(&net, &owned(methods), &owned(layers))
    };
    for (methods, layers, says) in [
        (
            vec!["attention-rollout"],
            vec![],
            "Mamba branch has no attention-rollout; it has grad-cam, ",
        ),
        (vec!["hidden-attention"], vec![], "ViT branch has no hidden-attention; it has grad-cam, "),
        (vec!["gradcam"], vec![], "did you mean grad-cam?"),
        (vec!["occlusion"], vec!["1"], "no layer to choose"),
        (vec!["grad-cam"], vec!["2"], "ViT branch has 2, from 0 to 1"),
        (vec!["grad-cam"], vec!["first"], "name a block by its index"),
    ] {
        let error = format!("{:#}", parse(&methods, &layers).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
    let both =
        parse(&["vit=attention-rollout", "mamba=hidden-attention"], &["vit.blocks.0", "mamba=all"])
            .unwrap();
    assert_eq!(both.vit.method, Method::AttentionRollout);
    assert_eq!((both.vit.layers, both.mamba.layers), (Layers::One(0), Layers::All));
}

/// The normalization that makes the images of [`with_spot`] 0 outside the spot.
const MEAN_COLOR: &str = "data.normalize={mean: [0.48627, 0.45490, 0.40784], std: [0.5, 0.5, 0.5]}";

/// Returns a gray image with a checkered spot at a known position.
fn with_spot(width: u32, height: u32, center: (u32, u32), radius: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let inside = x.abs_diff(center.0) <= radius && y.abs_diff(center.1) <= radius;
        if inside {
            Rgb([if (x / 9 + y / 9) % 2 == 0 { 255 } else { 0 }; 3])
        } else {
            Rgb([124, 116, 104])
        }
    })
}

/// Returns the center of mass of a gray image.
fn center_of_mass(map: &image::GrayImage) -> (f64, f64) {
    let mut sums = (0.0, 0.0, 0.0);
    for (x, y, pixel) in map.enumerate_pixels() {
        let mass = f64::from(pixel.0[0]);
        sums = (sums.0 + mass, sums.1 + mass * f64::from(x), sums.2 + mass * f64::from(y));
    }
    (sums.1 / sums.0, sums.2 / sums.0)
}

#[test]
fn maps_lie_on_the_right_pixels_of_portrait_and_landscape_originals() {
    let sandbox = Sandbox::new();
    for resize in ["squash", "crop", "pad"] {
        let run = format!("runs/{resize}");
        sandbox.train(&run, &["train.epochs=1", &format!("data.resize={resize}"), MEAN_COLOR]);
        let cases = [("wide", 600, 400, (420, 100)), ("tall", 300, 500, (80, 340))];
        for (name, width, height, spot) in cases {
            with_spot(width, height, spot, 50).save(sandbox.path(&format!("{name}.png"))).unwrap();
        }
        // An image of the mean color has no attribution, so all of it is on the spot, whatever the
        // model has learned.
        let out = format!("out/{resize}");
        let explain = ["explain", &run, "wide.png", "tall.png", "--output", &out];
        sandbox.done(&[&explain[..], &["--method", "integrated-gradients"]].concat());
        for (name, width, height, spot) in cases {
            let file = sandbox.path(&format!("out/{resize}/maps/{name}_fused.png"));
            let map = image::open(file).unwrap().to_luma8();
            assert_eq!(map.dimensions(), (width, height));
            let (x, y) = center_of_mass(&map);
            let distance = (x - f64::from(spot.0)).hypot(y - f64::from(spot.1));
            // A patch of the original is a quarter of a side.
            let patch = f64::from(width.max(height)) / 4.0;
            assert!(distance < patch, "{resize} {name}: the map is at {x:.0}, {y:.0}");
        }
    }
}

#[test]
fn the_command_writes_figures_maps_and_a_sheet_and_names_unreadable_images() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("runs/small");
    fs::create_dir(sandbox.path("faces")).unwrap();
    let long = format!("{}.png", "a_very_long_name_".repeat(10));
    for (name, width, height) in [(long.as_str(), 200, 300), ("b.png", 300, 200)] {
        let path = sandbox.path(&format!("faces/{name}"));
        with_spot(width, height, (100, 100), 40).save(path).unwrap();
    }
    fs::write(sandbox.path("faces/broken.png"), b"no image").unwrap();
    let output = sandbox.run(&["explain", "runs/small", "faces", "--output", "out", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("skipped: ") && errors.contains("broken.png"), "{errors}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["method"], &json["blocks"]), (&"layer-cam".into(), &"ViT 0, Mamba 0".into()));
    assert!(errors.contains("not checked on this model") && json["checked"].is_null(), "{errors}");
    let rows = json["images"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    let weights =
        rows[0]["weight_vit"].as_f64().unwrap() + rows[0]["weight_mamba"].as_f64().unwrap();
    assert!((weights - 1.0).abs() < 1e-5);
    for row in rows {
        let figure = image::open(sandbox.path(row["figure"].as_str().unwrap())).unwrap();
        assert!(figure.width() > 700 && figure.width() < 1400, "{}", figure.width());
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
    let (code, errors) =
        sandbox.fails(&["explain", "runs/small", "faces/broken.png", "--output", "none"]);
    assert_eq!(code, 1);
    assert!(errors.contains("the image cannot be read"), "{errors}");
}

#[test]
fn figures_for_a_paper_are_as_large_as_asked_and_svg() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("runs/small");
    with_spot(200, 100, (50, 50), 20).save(sandbox.path("<&>.png")).unwrap();
    let explain = |more: &[&str]| {
        let arguments = ["explain", "runs/small", "<&>.png", "--output", "out"];
        sandbox.done(&[&arguments[..], more].concat());
        image::open(sandbox.path("out/<&>.png")).unwrap().to_rgb8()
    };
    let usual = explain(&[]);
    assert!(!sandbox.path("out/<&>.svg").exists());
    let large = explain(&["--size", "576", "--svg"]);
    assert_eq!(large.dimensions(), (2 * usual.width(), 2 * usual.height()));
    let svg = fs::read_to_string(sandbox.path("out/<&>.svg")).unwrap();
    assert!(svg.starts_with("<svg xmlns") && svg.ends_with("</svg>\n"));
    assert!(svg.contains(">&lt;&amp;&gt;.png</text>") && svg.contains(">layer-cam, blocks ViT 0"));
    // The image, three maps and the color bar.
    assert_eq!(svg.matches("<image ").count(), 5);
    let (code, errors) =
        sandbox.fails(&["explain", "runs/small", "<&>.png", "--output", "out", "--size", "9000"]);
    assert!(code == 2 && errors.contains("64..=1024"), "{errors}");
}

#[test]
fn metrics_of_a_split_are_printed_and_saved_in_the_run() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("runs/small");
    let arguments = ["explain", "runs/small", "--evaluate", "test", "--limit", "12", "--json"];
    let json = sandbox.json(&arguments);
    assert_eq!(json["images"], 12);
    assert_eq!(json["curves"].as_array().unwrap().len(), 3);
    assert_eq!(json["regions"].as_array().unwrap().len(), 15);
    let overlap = json["agreement"]["top20_overlap"]["mean"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&overlap));
    for region in json["regions"].as_array().unwrap() {
        let mean = |key: &str| region[key]["mean"].as_f64().unwrap();
        assert!(mean("attribution") <= 1.0 && mean("area") > 0.0, "{region}");
    }
    assert_eq!(sandbox.read_json("runs/small/explain_test.json"), json);
    let passed = json["passed"].as_array().unwrap();
    assert_eq!(passed.len(), 3);
    for (verdict, curves) in passed.iter().zip(json["curves"].as_array().unwrap()) {
        assert_eq!(verdict["map"], curves["map"]);
        let better = curves["insertion_over_random"]["ci"][0].as_f64().unwrap() > 0.0;
        assert!(better || verdict["passed"] == false, "{verdict}");
    }
    // Figures of the same method say so, and those of another do not.
    with_spot(64, 64, (30, 30), 9).save(sandbox.path("a.png")).unwrap();
    let figures = |method: &str| {
        sandbox.json(&["explain", "runs/small", "a.png", "-o", "out", "--method", method, "--json"])
    };
    assert_eq!(figures("layer-cam")["checked"]["passed"], json["passed"]);
    assert!(figures("grad-cam")["checked"].is_null());
    let last = ["explain", "runs/small/last.safetensors", "a.png", "-o", "out", "--json"];
    let same = fs::read(sandbox.path("runs/small/last.safetensors")).unwrap()
        == fs::read(sandbox.path("runs/small/best.safetensors")).unwrap();
    assert_eq!(sandbox.json(&last)["checked"].is_null(), !same, "other weights are not checked");
    assert_eq!(sandbox.json(&arguments), json);
}

#[test]
fn maps_on_different_patch_grids_are_evaluated_on_the_finer_one() {
    let sandbox = Sandbox::new();
    // 2x2 patches next to 4x4.
    sandbox.train("run", &["model.vit.patch_size=16", "train.epochs=1"]);
    let json = sandbox.json(&["explain", "run", "--evaluate", "test", "--json"]);
    let curves = json["curves"].as_array().unwrap();
    assert_eq!(curves.len(), 3);
    for of in curves.iter().map(|curve| &curve["insertion"]).chain([&json["agreement"]["spearman"]])
    {
        assert!(of["n"].as_i64().unwrap() > 0, "{of}");
        assert!(of["mean"].as_f64().unwrap().is_finite(), "{of}");
    }
    let overlap = json["agreement"]["top20_overlap"]["mean"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&overlap), "{overlap}");
}

#[test]
fn metrics_are_saved_in_the_output_folder_and_randomized_weights_change_the_maps() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("runs/small");
    let weights = fs::read(sandbox.path("runs/small/best.safetensors")).unwrap();
    let command = "explain runs/small --evaluate val --sanity --output out/maps --json";
    let arguments: Vec<&str> = command.split(' ').collect();
    let json = sandbox.json(&arguments);
    assert_eq!(sandbox.read_json("out/maps/explain_evaluate.json"), json);
    assert_eq!(json["split"], "val");
    let stages = json["sanity"]["stages"].as_array().unwrap();
    let names: Vec<&Value> = stages.iter().map(|stage| &stage["randomized"]).collect();
    assert_eq!(
        serde_json::to_value(names).unwrap(),
        serde_json::json!([
            ["head"],
            ["fusion"],
            ["vit.blocks.0", "mamba.layers.0"],
            ["vit.embeddings", "mamba.embeddings"]
        ])
    );
    for stage in stages {
        for map in stage["maps"].as_array().unwrap() {
            let value = |what: &str| map[what]["mean"].as_f64();
            let rank = value("rank_correlation").unwrap_or(0.0);
            let ssim = value("ssim").unwrap();
            assert!(rank < 0.999 && ssim < 0.999, "the map did not change: {stage}");
        }
    }
    for figure in 1..=4 {
        let file = sandbox.path(&format!("out/maps/sanity_{figure}.png"));
        // Five panels of 112 pixels in two rows.
        assert!(image::open(file).unwrap().width() > 5 * 112);
    }
    assert!(!sandbox.path("out/maps/sanity_5.png").exists());
    // The run does not change, and a second check has the same random weights.
    let after = fs::read(sandbox.path("runs/small/best.safetensors")).unwrap();
    assert_eq!(weights, after);
    assert_eq!(sandbox.json(&arguments), json);
    let plain = sandbox.json(&["explain", "runs/small", "--evaluate", "val", "--json"]);
    assert_eq!(plain["curves"], json["curves"]);
    assert!(plain["sanity"].is_null());
    let (code, errors) =
        sandbox.fails(&["explain", "runs/small", "a.png", "--output", "o", "--sanity"]);
    assert!(code == 2 && errors.contains("--sanity"), "{errors}");
    fs::write(sandbox.path("file"), "").unwrap();
    let (code, errors) =
        sandbox.fails(&["explain", "runs/small", "--evaluate", "val", "--output", "file"]);
    assert!(code == 1 && errors.contains("cannot create the folder file"), "{errors}");
}

#[test]
fn maps_of_an_input_tensor_equal_the_librarys() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("runs/small");
    let input = images(3);
    let save = |name: &str, tensors: &[(&str, &Tensor)]| {
        Tensor::write_safetensors(tensors, sandbox.path(name)).unwrap();
    };
    save("batch.safetensors", &[("input", &input)]);
    let command = "explain runs/small --input-tensor batch.safetensors --output out --json";
    let json = sandbox.json(&command.split(' ').collect::<Vec<_>>());
    let run = Run::open(&sandbox.path("runs/small"), &[]).unwrap();
    let options = ExplainOptions::new(Method::LayerCam);
    let ours = explain(&run.net, Images::Normalized(&input), &options).unwrap();
    let fused = ours.fused().unwrap().unwrap();
    let rows = json["images"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    for (row, shown) in rows.iter().enumerate() {
        assert_eq!(shown["image"], format!("batch_{row}"));
        let at = row as i64;
        let score = shown["score"].as_f64().unwrap();
        assert!((score - ours.score.double_value(&[at])).abs() < 1e-4);
        let maps = tensors(&sandbox.path(&format!("out/maps/batch_{row}.safetensors")));
        let grid = ours.mamba.as_ref().unwrap().grid.get(at);
        assert!(largest(&(&maps["mamba_grid"] - &grid)) <= 1e-4 * largest(&grid));
        assert!(largest(&(&maps["fused"] - fused.get(at))) < 1e-3);
        let figure = shown["figure"].as_str().unwrap();
        assert!(image::open(sandbox.path(figure)).unwrap().width() > 700);
    }
    save("named.safetensors", &[("images", &input)]);
    save("gray.safetensors", &[("input", &input.narrow(1, 0, 1).contiguous())]);
    save("flat.safetensors", &[("input", &input.get(0).get(0))]);
    save(
        "large.safetensors",
        &[("input", &Tensor::zeros([1, 3, 40, 40], (Kind::Float, Device::Cpu)))],
    );
    fs::write(sandbox.path("text.safetensors"), "no tensors").unwrap();
    for (file, says) in [
        ("named.safetensors", "it holds images"),
        ("gray.safetensors", "input has 1 channels, an image has 3"),
        (
            "flat.safetensors",
            "input must have the shape (batch, 3, height, width), it has [32, 32]",
        ),
        ("large.safetensors", "takes images of shape (batch, 3, 32, 32)"),
        ("text.safetensors", "text.safetensors"),
        ("missing.safetensors", "missing.safetensors"),
    ] {
        let arguments = ["explain", "runs/small", "--input-tensor", file, "--output", "none"];
        let (code, errors) = sandbox.fails(&arguments);
        assert!(code == 1 && errors.contains(says), "{file}: {errors}");
    }
}

/// Counts a tag in TensorBoard's event files.
fn tags(run: &FilePath, tag: &str) -> usize {
    let files = fs::read_dir(run.join("tensorboard")).unwrap();
    let count = |file: std::io::Result<fs::DirEntry>| {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        bytes.windows(tag.len()).filter(|window| *window == tag.as_bytes()).count()
    };
    files.map(count).sum()
}

#[test]
fn figures_do_not_change_training() {
    let sandbox = Sandbox::new();
    let set = [
        "train.epochs=4",
        "train.ema_decay=0.9",
        "model.vit.drop_path=0.2",
        "model.head.dropout=0.2",
    ];
    sandbox.train("plain", &set);
    let set = [&set[..], &["train.explain_every=2"]].concat();
    sandbox.train("watched", &set);
    let runs = ["plain", "watched"].map(|run| sandbox.path(run));
    for file in ["best.safetensors", "last.safetensors", CHECKPOINT] {
        let [plain, watched] = [0, 1].map(|run| tensors(&runs[run].join(file)));
        assert!(plain == watched, "{file}");
    }
    for file in ["predictions_val.csv", "predictions_test.csv"] {
        let [plain, watched] = [0, 1].map(|run| fs::read(runs[run].join(file)).unwrap());
        assert_eq!(plain, watched, "{file}");
    }
    for epoch in 0..4 {
        for figure in ["train_loss", "val"] {
            let [plain, watched] = [0, 1].map(|run| epochs(&runs[run])[epoch][figure].clone());
            assert_eq!(plain, watched);
        }
    }
    assert_eq!(tags(&runs[0], "explain/1"), 0);
    assert_eq!(tags(&runs[1], "explain/1"), 2);
    assert_eq!(tags(&runs[1], "explain/4"), 2);
    let off = ["train.explain_every=2", "train.tensorboard=false"];
    let (code, errors) = sandbox.fails(&train_arguments("off", &off));
    let words = "train.explain_every renders figures for TensorBoard";
    assert!(code == 2 && errors.contains(words), "{errors}");
}

/// Returns the peak memory of a command in MB.
#[cfg(target_os = "linux")]
fn peak(sandbox: &Sandbox, arguments: &[&str]) -> f64 {
    let mut child = sandbox.command(arguments).spawn().unwrap();
    let file = format!("/proc/{}/status", child.id());
    let mut most: f64 = 0.0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(&file).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        most = most.max(kib.unwrap_or(0.0) / 1024.0);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
    most
}

/// `cargo test --release --test cli explain -- --ignored --nocapture` prints the numbers.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "explains 330 images of 3 megapixels: a minute or two"]
fn memory_does_not_grow_with_the_number_image_range() {
    let sandbox = Sandbox::new();
    sandbox.train_one_epoch("runs/small");
    fs::create_dir(sandbox.path("faces")).unwrap();
    let explain = |count: usize| {
        for at in 0..count {
            let image = with_spot(2000, 1500, (100 + 5 * at as u32, 700), 90);
            image.save(sandbox.path(&format!("faces/{at}.jpg"))).unwrap();
        }
        peak(&sandbox, &["explain", "runs/small", "faces", "--output", "out"])
    };
    let (few, many) = (explain(30), explain(300));
    println!("30 images: {few:.0} MB, 300 images: {many:.0} MB");
    // 270 images of 9 MB each would be 2.4 GB.
    assert!(many < few + 100.0, "{few:.0} MB, then {many:.0} MB");
}
