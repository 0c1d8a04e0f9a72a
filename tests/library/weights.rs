//! Weights files: what loads, and what is refused.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::generator::alone_with_the_generator;
use crate::torch_files::Archive;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use vm_beautynet::config::{Branch, Config};
use vm_beautynet::models::{BeautyNet, weights};
use zip::ZipArchive;

const MICRO: [&str; 4] = [
    "data.image_size=32",
    "model.vit={name: vit_micro_patch8_64, depth: 2}",
    "model.mamba={name: vim_micro_patch8_64, depth: 2}",
    "model.fusion.dim=16",
];

fn config(overrides: &[&str]) -> Config {
    let all: Vec<String> = MICRO.iter().chain(overrides).map(|s| s.to_string()).collect();
    Config::from_yaml("", "test", &all).unwrap()
}

fn network(overrides: &[&str]) -> BeautyNet {
    BeautyNet::new(&config(overrides), Device::Cpu).unwrap()
}

/// Returns the lock of the generator, and a file in a folder of its own.
fn alone_with(file: &str) -> (impl Sized + use<>, TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    (alone_with_the_generator(), folder, path)
}

fn message(error: anyhow::Error) -> String {
    format!("{error:#}")
}

/// Writes the ViT's weights like a published file: without our prefix, with a classifier.
fn published_vit(net: &BeautyNet, path: &Path) {
    let mut tensors = net.branch_parameters(Branch::Vit);
    let options = (Kind::Float, Device::Cpu);
    tensors.push(("head.weight".into(), Tensor::zeros([1000, 96], options)));
    tensors.push(("head.bias".into(), Tensor::zeros([1000], options)));
    weights::save(path, &tensors, HashMap::new()).unwrap();
}

#[test]
fn saved_weights_load_bit_for_bit_with_the_scale_of_the_scores() {
    let (_alone, _folder, path) = alone_with("w.safetensors");
    tch::manual_seed(1);
    let mut net = network(&[]);
    net.head_mut().set_score_scale(5.5, 1.25);
    weights::save(&path, &net.parameters(), HashMap::new()).unwrap();
    tch::manual_seed(2);
    let other = network(&[]);
    weights::load(&other.parameters(), &path).unwrap();
    for ((name, a), (_, b)) in net.parameters().iter().zip(other.parameters()) {
        assert!(a.equal(&b), "{name}");
    }
}

#[test]
fn a_published_backbone_loads_without_its_classifier() {
    let (_alone, _folder, path) = alone_with("vit.safetensors");
    tch::manual_seed(1);
    let source = network(&[]);
    published_vit(&source, &path);
    tch::manual_seed(2);
    let loaded = network(&[&format!("model.vit.weights={}", path.display())]);
    assert_same_vit(&source, &loaded);
}

#[test]
fn a_file_of_another_preset_is_refused_with_the_names_that_differ() {
    let (_alone, folder, path) = alone_with("vit.safetensors");
    published_vit(&network(&[]), &path);
    let whole = folder.path().join("whole.safetensors");
    published_vit(&network(&["model.vit.depth=null"]), &whole);
    let text = refusal(&[&format!("model.vit.weights={}", whole.display())]);
    assert!(text.contains("its sizes are those of vit_micro_patch8_64: set model.vit"), "{text}");
    for (overrides, words) in [
        ("model.vit.depth=3", vec!["missing: blocks.2.attn.proj.bias"]),
        ("model.vit.depth=1", vec!["unexpected: blocks.1.attn.proj.bias"]),
        (
            "model.vit.embed_dim=48",
            vec!["of another shape", "([96] in the file, [48] in the model)"],
        ),
    ] {
        let weights = format!("model.vit.weights={}", path.display());
        let text = refusal(&[overrides, &weights]);
        for word in words.iter().chain(&["model.vit.weights", "vit.safetensors"]) {
            assert!(text.contains(word), "{text:?} does not contain {word}");
        }
    }
}

#[test]
fn an_error_lists_at_most_twenty_names_of_each_kind() {
    let (_alone, _folder, path) = alone_with("vit.safetensors");
    published_vit(&network(&[]), &path);
    let weights = format!("model.vit.weights={}", path.display());
    let text = refusal(&["model.vit.depth=8", &weights]);
    assert!(text.contains("and 52 more"), "{text}");
    assert_eq!(text.matches("blocks.").count(), 20, "{text}");
}

fn vit_parameters(net: &BeautyNet) -> Vec<(String, Tensor)> {
    let all = net.parameters().into_iter();
    all.filter(|(name, _)| name.starts_with("vit.")).collect()
}

fn assert_same_vit(a: &BeautyNet, b: &BeautyNet) {
    for ((name, a), (_, b)) in vit_parameters(a).iter().zip(vit_parameters(b)) {
        assert!(a.equal(&b), "{name}");
    }
}

fn notes(net: &BeautyNet) -> Vec<String> {
    net.notes().iter().map(ToString::to_string).collect()
}

#[test]
fn without_strict_what_fits_is_loaded_and_the_rest_is_noted() {
    let (_alone, _folder, path) = alone_with("vit.safetensors");
    let source = network(&["model.vit.depth=1"]);
    published_vit(&source, &path);
    let weights = format!("model.vit.weights={}", path.display());
    tch::manual_seed(9);
    let loaded = network(&[&weights, "model.vit.strict=false"]);
    let parameters = loaded.parameters();
    for (name, expected) in vit_parameters(&source) {
        let (_, ours) = parameters.iter().find(|(n, _)| *n == name).unwrap();
        assert!(ours.equal(&expected), "{name}");
    }
    let [note] = loaded.notes() else {
        panic!("{:?}", loaded.notes());
    };
    assert!(note.is_warning && note.text.starts_with("model.vit.weights: "), "{note:?}");
    for words in ["features are not the published model's", "missing: blocks.1.attn.proj.bias"] {
        assert!(note.text.contains(words), "{note:?}");
    }

    // A file of another model is refused nevertheless.
    let other = vec![("fc.weight".to_string(), Tensor::from(1.0f32))];
    weights::save(&path, &other, HashMap::new()).unwrap();
    let text = refusal(&[&weights, "model.vit.strict=false"]);
    assert!(text.contains("none of its names") && text.contains("unexpected: fc.weight"), "{text}");
}

/// Writes the ViT's weights with changes, and returns the override that names the file.
fn changed_vit(
    net: &BeautyNet,
    path: &Path,
    change: impl Fn(&mut Vec<(String, Tensor)>),
) -> String {
    let copy = |(name, tensor): (String, Tensor)| (name, tensor.detach().copy());
    let mut tensors = net.branch_parameters(Branch::Vit).into_iter().map(copy).collect();
    change(&mut tensors);
    weights::save_torch(path, &tensors).unwrap();
    format!("model.vit.weights={}", path.display())
}

fn refusal(overrides: &[&str]) -> String {
    message(BeautyNet::new(&config(overrides), Device::Cpu).unwrap_err())
}

#[test]
fn weights_that_are_not_finite_or_quantized_are_refused_with_file_and_parameter() {
    let (_alone, folder, path) = alone_with("broken.pth");
    let net = network(&[]);
    for (value, at) in [(f64::NAN, 0), (f64::INFINITY, 95), (f64::NEG_INFINITY, 50)] {
        let weights = changed_vit(&net, &path, |tensors| {
            let (_, norm) = tensors.iter().find(|(name, _)| name == "blocks.1.norm2.bias").unwrap();
            let _ = norm.get(at).fill_(value);
        });
        let text = refusal(&[&weights]);
        for words in ["model.vit.weights", "broken.pth", "blocks.1.norm2.bias has NaN or infinity"]
        {
            assert!(text.contains(words), "{value}: {text}");
        }
    }
    let weights = changed_vit(&net, &path, |tensors| {
        let (_, norm) = tensors.iter_mut().find(|(name, _)| name == "norm.weight").unwrap();
        *norm = norm.to_kind(Kind::Int8);
    });
    assert!(refusal(&[&weights]).contains("norm.weight is stored as Int8: quantized"));
    // Before the names, to which a quantized model adds scales.
    let weights = changed_vit(&net, &path, |tensors| {
        let (name, norm) = tensors.iter_mut().find(|(name, _)| name == "norm.weight").unwrap();
        (*name, *norm) = ("norm.weight._data".into(), norm.to_kind(Kind::Int8));
        tensors.push(("norm.weight._scale".into(), Tensor::from(0.5f32)));
    });
    assert!(refusal(&[&weights]).contains("norm.weight._data is stored as Int8: quantized"));
    // A run's own weights, too.
    let own = folder.path().join("best.safetensors");
    let (_, first) = &net.parameters()[0];
    let _ = tch::no_grad(|| first.view(-1).get(0).fill_(f64::NAN));
    weights::save(&own, &net.parameters(), HashMap::new()).unwrap();
    let text = message(weights::load(&net.parameters(), &own).unwrap_err());
    assert!(text.contains("best.safetensors") && text.contains("has NaN"), "{text}");
}

#[test]
fn another_architecture_is_named_instead_of_its_parameters() {
    let (_alone, _folder, path) = alone_with("other.pth");
    let net = network(&[]);
    for (extra, words) in [
        ("blocks.0.ls1.gamma", "LayerScale: blocks.0.ls1.gamma"),
        ("fc_norm.weight", "average pooling"),
        ("norm_pre.weight", "a norm before its blocks"),
        ("blocks.0.attn.q_norm.weight", "norms of queries and keys"),
        ("reg_token", "register tokens"),
        ("dist_token", "a distillation token"),
        ("blocks.1.mlp.w12.weight", "SwiGLU"),
        ("blocks.0.attn.relative_position_bias_table", "relative position biases"),
    ] {
        let weights = changed_vit(&net, &path, |tensors| {
            tensors.push((extra.to_string(), Tensor::from(1.0f32)));
        });
        let text = refusal(&[&weights]);
        assert!(text.contains("another architecture than model.vit"), "{text}");
        assert!(text.contains(words) && !text.contains("unexpected"), "{text}");
        // What is dropped changes the features: a warning says so.
        let loaded = network(&[&weights, "model.vit.strict=false"]);
        let [note] = loaded.notes() else {
            panic!("{:?}", loaded.notes());
        };
        assert!(note.is_warning && note.text.contains("1 of the file's parameters"), "{note}");
        assert!(note.text.contains(words) && note.text.contains(extra), "{note}");
    }
    let lacking = changed_vit(&net, &path, |tensors| {
        tensors.retain(|(name, _)| name != "cls_token");
    });
    assert!(refusal(&[&lacking]).contains("no class token"), "{}", refusal(&[&lacking]));
    let vim = path.with_file_name("vim.pth");
    weights::save_torch(&vim, &net.branch_parameters(Branch::Mamba)).unwrap();
    let text = refusal(&[&format!("model.vit.weights={}", vim.display())]);
    assert!(text.contains("Mamba layers, which model.mamba has"), "{text}");
}

#[test]
fn the_remedy_for_another_architecture_is_the_preset_that_has_it() {
    let (_alone, _folder, path) = alone_with("published.safetensors");
    let of = |name: &str| {
        network(&[&format!("model.vit={{name: {name}, depth: null}}"), "data.image_size=112"])
    };
    for (published, chosen, words) in [
        ("vit_small_patch14_dinov2", "vit_small_patch16_224", "LayerScale: blocks.0.ls1.gamma"),
        ("vit_small_patch14_reg4_dinov2", "vit_small_patch14_dinov2", "register tokens: reg_token"),
        ("deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224", "a distillation token"),
        ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "no distillation token"),
    ] {
        weights::save(&path, &of(published).branch_parameters(Branch::Vit), HashMap::new())
            .unwrap();
        let weights = path.display();
        let weights = format!("model.vit={{name: {chosen}, depth: null, weights: {weights}}}");
        let text = refusal(&[&weights, "data.image_size=112"]);
        let (_, remedy) = text.split_once(", or set model.vit.name to ").expect(&text);
        assert!(text.contains(words) && remedy.contains(published), "{text}");
        assert!(!remedy.contains(chosen), "{text}");
    }
}

#[test]
fn openais_names_load_as_timms() {
    let (_alone, _folder, path) = alone_with("FaRL-Base-Patch16-LAIONFace20M-ep16.pth");
    let clip = "model.vit={name: vit_base_patch16_clip_quickgelu_224, embed_dim: 48, depth: 2, \
                num_heads: 3, patch_size: 8}";
    tch::manual_seed(1);
    let source = network(&[clip]);
    let names = [
        ("cls_token", "class_embedding"),
        ("pos_embed", "positional_embedding"),
        ("patch_embed.proj", "conv1"),
        ("norm_pre", "ln_pre"),
        ("blocks", "transformer.resblocks"),
        ("norm1", "ln_1"),
        ("norm2", "ln_2"),
        ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    ];
    let mut tensors = Vec::new();
    for (name, tensor) in source.branch_parameters(Branch::Vit) {
        let name = match name.strip_prefix("norm.") {
            Some(rest) => format!("ln_post.{rest}"),
            None => names.iter().fold(name, |name, (timm, clip)| name.replacen(timm, clip, 1)),
        };
        let tensor = match &name[..] {
            "class_embedding" => tensor.squeeze(),
            "positional_embedding" => tensor.squeeze_dim(0),
            _ => tensor,
        };
        tensors.push((format!("visual.{name}"), tensor.to_kind(Kind::Half)));
    }
    let text_encoder =
        ["transformer.resblocks.0.ln_1.weight", "positional_embedding", "logit_scale"];
    for name in text_encoder.into_iter().chain(["visual.proj"]) {
        tensors.push((name.to_string(), Tensor::ones([48, 48], (Kind::Half, Device::Cpu))));
    }
    weights::save_torch(&path, &tensors).unwrap();
    tch::manual_seed(2);
    let loaded = network(&[clip, &format!("model.vit.weights={}", path.display())]);
    for ((name, a), (_, b)) in vit_parameters(&source).iter().zip(vit_parameters(&loaded)) {
        assert!(a.to_kind(Kind::Half).equal(&b.to_kind(Kind::Half)), "{name}");
    }
    let skipped = "model.vit.weights: skipped without the prefix visual.: logit_scale, \
                   positional_embedding, transformer.resblocks.0.ln_1.weight";
    assert_eq!(notes(&loaded), [skipped]);
    // In a preset of another architecture, the file is named for what it is.
    let plain = clip.replace("clip_quickgelu_", "");
    let text = refusal(&[&plain, &format!("model.vit.weights={}", path.display())]);
    assert!(text.contains("a norm before its blocks: norm_pre."), "{text}");
}

#[test]
fn of_a_student_and_a_teacher_the_teacher_loads_and_of_other_networks_none() {
    let (_alone, _folder, path) = alone_with("two.pth");
    let net = network(&[]);
    let under = |prefixes: [&'static str; 2]| {
        changed_vit(&net, &path, |tensors| {
            let own = std::mem::take(tensors);
            for (index, prefix) in prefixes.into_iter().enumerate() {
                let scaled = |(name, t): &(String, Tensor)| {
                    (format!("{prefix}{name}"), t * (index as f64 + 1.0))
                };
                tensors.extend(own.iter().map(scaled));
            }
        })
    };
    let loaded = network(&[&under(["module.student.backbone.", "module.teacher.backbone."])]);
    for ((name, a), (_, b)) in vit_parameters(&net).iter().zip(vit_parameters(&loaded)) {
        assert!((a * 2.0).equal(&b), "{name}");
    }
    let notes: Vec<String> = loaded.notes().iter().map(ToString::to_string).collect();
    let chosen = "model.vit.weights: it holds several networks: module.student.backbone., \
                  module.teacher.backbone.; loaded module.teacher.backbone.";
    assert_eq!(notes[0], chosen);
    let text = refusal(&[&under(["a.", "b."])]);
    assert!(text.contains("it holds several networks: a., b.: save the state dict"), "{text}");
}

#[test]
fn the_run_says_which_of_several_state_dicts_it_loads() {
    let (_alone, _folder, path) = alone_with("dino.pth");
    let net = network(&[]);
    let weights = changed_vit(&net, &path, |_| ());
    // The writer's pickle has no memo: the dictionary of the model can be there twice.
    let mut zip = ZipArchive::new(fs::File::open(&path).unwrap()).unwrap();
    let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
    for index in 0..zip.len() {
        let (mut entry, mut bytes) = (zip.by_index(index).unwrap(), Vec::new());
        entry.read_to_end(&mut bytes).unwrap();
        entries.push((entry.name().unwrap().into_owned(), bytes));
    }
    let (start, key) = (b"\x80\x02}", b"X\x05\0\0\0model");
    let pickle = &mut entries.iter_mut().find(|(name, _)| name.ends_with("data.pkl")).unwrap().1;
    let model = &pickle[start.len() + key.len()..pickle.len() - 1];
    let (student, teacher) = (b"X\x07\0\0\0student", b"X\x07\0\0\0teacher");
    *pickle = [&start[..], student, model, teacher, model, b"."].concat();
    let entries: Vec<(&str, &[u8])> = entries.iter().map(|(a, b)| (&**a, &b[..])).collect();
    fs::copy(Archive::new(&entries).path(), &path).unwrap();
    assert_eq!(
        notes(&network(&[&weights])),
        ["model.vit.weights: loaded what is under teacher, not student"]
    );
}

#[test]
fn the_prefixes_of_wrappers_and_frameworks_load_also_nested() {
    let (_alone, _folder, path) = alone_with("wrapped.pth");
    let net = network(&[]);
    for prefix in [
        "model.",
        "module.",
        "_orig_mod.",
        "backbone.",
        "net.",
        "encoder.",
        "student.",
        "teacher.",
        "module.encoder.",
        "model.backbone.",
        "module._orig_mod.",
        "model.net._orig_mod.backbone.",
    ] {
        let prefixed = |tensors: &mut Vec<(String, Tensor)>| {
            tensors.iter_mut().for_each(|(name, _)| *name = format!("{prefix}{name}"));
        };
        assert!(network(&[&changed_vit(&net, &path, prefixed)]).notes().is_empty());
        let weights = changed_vit(&net, &path, |tensors| {
            prefixed(tensors);
            tensors.push(("n_averaged".to_string(), Tensor::from(3i64)));
        });
        let loaded = network(&[&weights]);
        assert_same_vit(&net, &loaded);
        let skipped = format!("model.vit.weights: skipped without the prefix {prefix}: n_averaged");
        assert_eq!(notes(&loaded), [skipped]);
    }
}

#[test]
fn a_position_embedding_repeated_over_millions_of_tokens_is_refused() {
    let (_alone, _folder, path) = alone_with("repeated.pth");
    // The writer stores each value, so the shape is put into the pickle afterwards.
    let tokens = 1 + (1i64 << 24);
    let weights = changed_vit(&network(&[]), &path, |_| ());
    let mut bytes = fs::read(&path).unwrap();
    let integer = |value: i64| [&[0x8a, 8], &value.to_le_bytes()[..]].concat();
    let shape = |sizes: [i64; 3], strides: [i64; 3]| {
        let tuple = |of: [i64; 3]| [&b"("[..], &of.map(integer).concat(), b"t"].concat();
        [tuple(sizes), tuple(strides)].concat()
    };
    let (old, new) = (shape([1, 17, 96], [17 * 96, 96, 1]), shape([1, tokens, 96], [0, 0, 1]));
    let at = bytes.windows(old.len()).position(|part| part == old).unwrap();
    bytes[at..at + new.len()].copy_from_slice(&new);
    fs::write(&path, bytes).unwrap();
    let text = refusal(&[&weights]);
    assert!(text.contains(&format!("pos_embed ([1, {tokens}, 96] in the file")), "{text}");
}

#[test]
fn a_tensor_larger_than_all_memory_is_a_one_line_error() {
    let (_alone, _folder, path) = alone_with("sparse.safetensors");
    let length = 1u64 << 43; // 8 TiB, of which the disk has none
    let shape = format!("[{}]", length / 4);
    let json = format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{length}]}}}}"#);
    let header = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    fs::write(&path, &header).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    if file.set_len(header.len() as u64 + length).is_err() {
        return; // the file system has no files of this size
    }
    let mut file = weights::WeightsFile::open(&path).unwrap();
    let text = message(file.tensor("x").unwrap_err());
    assert!(text.contains("8192 GiB, more than the memory"), "{text}");
}

#[test]
fn a_folder_in_place_of_a_weights_file_is_an_error_that_names_the_files_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let weights = format!("model.vit.weights={}", folder.path().display());
    let check = || config(&[&weights]).model.check_weights().unwrap_err().to_string();
    assert!(check().contains("a folder without a weights file"), "{}", check());
    fs::write(folder.path().join("model.safetensors"), "").unwrap();
    fs::write(folder.path().join("config.json"), "").unwrap();
    let file = folder.path().join("model.safetensors");
    assert!(check().ends_with(&format!("set it to {}", file.display())), "{}", check());
}

#[test]
fn a_safetensors_file_has_no_ema_weights() {
    let (_alone, _folder, path) = alone_with("vit.safetensors");
    published_vit(&network(&[]), &path);
    let weights = format!("model.vit.weights={}", path.display());
    let text = refusal(&[&weights, "model.vit.weights_ema=true"]);
    assert!(text.contains("no EMA weights"), "{text}");
}

#[test]
fn another_patch_and_image_size_resample_the_embeddings_of_both_branches() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let source = network(&[]);
    for (branch, at, resampled_at) in [(Branch::Vit, 0, 0), (Branch::Mamba, 8, 18)] {
        let path = folder.path().join(format!("{branch}.pth"));
        weights::save_torch(&path, &source.branch_parameters(branch)).unwrap();
        // From 4x4 patches of 8 pixels to 6x6 of 4.
        let loaded = network(&[
            &format!("model.{branch}.weights={}", path.display()),
            "data.image_size=24",
            &format!("model.{branch}.patch_size=4"),
        ]);
        let notes = notes(&loaded).join("; ");
        assert!(notes.contains("from 4x4 to 6x6 patches"), "{notes}");
        assert!(notes.contains("from 8x8 to 4x4 pixels"), "{notes}");
        assert!(!notes.contains("warning"), "{notes}");
        let [old, new] = [&source, &loaded].map(|net| {
            let parameters = net.branch_parameters(branch);
            parameters.into_iter().find(|(name, _)| name == "pos_embed").unwrap().1
        });
        assert_eq!(new.size(), [1, 37, 96]);
        assert!(new.select(1, resampled_at).equal(&old.select(1, at)), "{branch}");
    }
}

#[test]
fn damaged_files_are_one_line_errors_that_name_the_file() {
    let (_alone, _folder, path) = alone_with("w.safetensors");
    let net = network(&[]);
    weights::save(&path, &net.parameters(), HashMap::new()).unwrap();
    let saved = fs::read(&path).unwrap();
    let header = |json: &str, data: usize| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let huge = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,16],"data_offsets":[0,8]}}"#;
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("cut in the header", saved[..100].to_vec()),
        ("cut in the data", saved[..saved.len() - 1].to_vec()),
        ("with trailing bytes", [&saved[..], b"x"].concat()),
        ("not safetensors", b"PK\x03\x04 a zip file, as torch.save writes them".to_vec()),
        ("overlapping tensors", header(overlapping, 12)),
        ("a shape whose size overflows", header(huge, 8)),
        ("a header longer than memory", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
    ] {
        fs::write(&path, bytes).unwrap();
        let text = message(weights::load(&net.parameters(), &path).unwrap_err());
        assert!(text.contains("w.safetensors") && !text.contains('\n'), "{what}: {text:?}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let _alone = alone_with_the_generator();
    let error = weights::load(&[], Path::new("/nowhere/w.safetensors")).unwrap_err();
    assert!(message(error).contains("/nowhere/w.safetensors"));
}
