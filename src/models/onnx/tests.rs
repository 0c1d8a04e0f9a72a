use std::collections::HashSet;

use prost::Message;
use tch::Device;

use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use super::{InputType, MAX_BYTES, OnnxModel, OnnxOptions, ScanForm};
use crate::config::{Config, FusionStrategy};
use crate::models::BeautyNet;

const SMALL: &str = "
data: {image_size: 32}
model:
  vit: {name: vit_micro_patch8_64, depth: 2}
  mamba: {name: vim_micro_patch8_64, depth: 2}
  fusion: {dim: 16}";

/// Returns the file of a small model with these changes, read again.
fn exported(set: &[&str], options: OnnxOptions) -> (BeautyNet, GraphProto) {
    let set: Vec<String> = set.iter().map(|set| set.to_string()).collect();
    let config = Config::from_yaml(SMALL, "test", &set).unwrap();
    let net = BeautyNet::new(&config, Device::Cpu).unwrap();
    let bytes = net.onnx(options).unwrap().to_bytes().unwrap();
    let model = ModelProto::decode(&*bytes).unwrap();
    assert_eq!((model.ir_version, model.opset_import[0].version), (8, 18));
    (net, model.graph.unwrap())
}

fn unrolled() -> OnnxOptions {
    OnnxOptions { scan: ScanForm::Unrolled, ..OnnxOptions::default() }
}

/// Checks that each node reads what is there before it and that each name is written once, in the
/// graph and in the graphs of its nodes.
fn check_order(graph: &GraphProto, outside: &HashSet<String>) {
    let mut known = outside.clone();
    let mut add = |name: &str| assert!(known.insert(name.to_string()), "{name} is there twice");
    graph.initializer.iter().for_each(|tensor| add(&tensor.name));
    graph.input.iter().for_each(|input| add(&input.name));
    for node in &graph.node {
        for input in &node.input {
            assert!(known.contains(input), "{} reads {input}, which is not there", node.name);
        }
        for attribute in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
            check_order(attribute, &known);
        }
        for output in &node.output {
            assert!(known.insert(output.clone()), "{output} is there twice");
        }
    }
    for output in &graph.output {
        assert!(known.contains(&output.name), "the output {} is not there", output.name);
    }
}

fn outputs(graph: &GraphProto) -> Vec<(String, Vec<i64>)> {
    let sizes = graph.output.iter().map(|output| {
        let tensor = output.r#type.clone().unwrap().tensor_type.unwrap();
        let dimensions = tensor.shape.unwrap().dim;
        assert_eq!(dimensions[0].dim_param.as_deref(), Some("batch"));
        (output.name.clone(), dimensions[1..].iter().map(|dim| dim.dim_value.unwrap()).collect())
    });
    sizes.collect()
}

fn count(graph: &GraphProto, op_type: &str) -> usize {
    let is_one = |node: &&NodeProto| node.op_type == op_type;
    graph.node.iter().filter(is_one).count()
}

#[test]
fn every_fusion_strategy_is_a_graph_in_order_with_its_outputs() {
    for &strategy in FusionStrategy::ALL {
        let set = format!("model.fusion.strategy={strategy}");
        for options in [OnnxOptions::default(), unrolled()] {
            let (net, graph) = exported(&[&set], options);
            check_order(&graph, &HashSet::new());
            let width = net.fusion().width();
            let mut expected = vec![("score".to_string(), vec![])];
            let weighted = ["weighted", "gated", "gmu", "cross_attention", "score"];
            if weighted.contains(&strategy.name()) {
                expected.push(("branch_weights".to_string(), vec![2]));
            }
            expected.push(("features".to_string(), vec![width]));
            assert_eq!(outputs(&graph), expected, "{strategy}");
        }
    }
}

#[test]
fn every_parameter_is_in_the_file_under_its_name() {
    let (net, graph) = exported(&[], OnnxOptions::default());
    for (name, parameter) in net.parameters() {
        let of_parameter = |initializer: &str| match initializer.strip_prefix(&name) {
            Some(suffix) => suffix.is_empty() || suffix.starts_with('.'),
            None => false,
        };
        let found = graph.initializer.iter().find(|tensor| of_parameter(&tensor.name));
        let found = found.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(found.raw_data.len(), 4 * parameter.numel(), "{name}");
    }
}

#[test]
fn the_scan_is_a_loop_in_each_direction_or_has_none() {
    let (_, graph) = exported(&[], OnnxOptions::default());
    let directions: Vec<i64> = graph
        .node
        .iter()
        .filter(|node| node.op_type == "Scan")
        .flat_map(|node| &node.attribute)
        .filter(|attribute| attribute.name == "scan_output_directions")
        .map(|attribute| attribute.ints[0])
        .collect();
    assert_eq!(directions, [0, 1, 0, 1]);
    let (_, graph) = exported(&[], unrolled());
    // 17 tokens: steps of 1, 2, 4, 8 and 16, the last of which needs no decay.
    assert_eq!((count(&graph, "Scan"), count(&graph, "Pad")), (0, 4 * 9));
}

#[test]
fn the_input_is_what_was_asked_for_and_mirror_images_are_computed_inside() {
    let (_, graph) = exported(&[], OnnxOptions::default());
    let input = |graph: &GraphProto| {
        let tensor = graph.input[0].r#type.clone().unwrap().tensor_type.unwrap();
        let sizes = tensor.shape.unwrap().dim.into_iter().map(|dim| dim.dim_value.unwrap_or(-1));
        (tensor.elem_type, sizes.collect::<Vec<i64>>())
    };
    assert_eq!(input(&graph), (2, vec![-1, 32, 32, 3]));
    let options =
        OnnxOptions { input: InputType::Float, test_time_flip: true, ..OnnxOptions::default() };
    let (_, flipped) = exported(&[], options);
    assert_eq!(input(&flipped), (1, vec![-1, 3, 32, 32]));
    check_order(&flipped, &HashSet::new());
    assert_eq!(outputs(&flipped), outputs(&graph));
}

#[test]
fn variants_of_the_backbones_are_graphs_in_order() {
    for (vit, mamba) in [
        ("{name: deit_tiny_distilled_patch16_224, depth: 1, features: cls_mean}", "{stem: conv}"),
        ("{name: vit_small_patch14_reg4_dinov2, depth: 1}", "{features: mean}"),
        ("{name: vit_base_patch16_clip_quickgelu_224, depth: 1}", "{features: cls_mean}"),
        ("{stem: conv, features: patches}", "{features: patches}"),
        ("{stem: conv, features: mean}", "{name: mambar_micro_patch8_64}"),
        ("{depth: 1}", "{name: mambar_small_patch16_224, depth: 1}"),
        ("{depth: 1}", "{name: vim_tiny_patch16_stride8_224, depth: 1}"),
    ] {
        let set = [format!("model.vit={vit}"), format!("model.mamba={mamba}")];
        let size = if vit.contains("patch14") { 56 } else { 64 };
        let size = format!("data.image_size={size}");
        let (_, graph) = exported(&[&set[0], &set[1], &size], OnnxOptions::default());
        check_order(&graph, &HashSet::new());
    }
}

#[test]
fn a_file_that_is_larger_than_the_format_allows_is_refused() {
    // Zeros take no memory before they are read.
    let weights = TensorProto { raw_data: vec![0; MAX_BYTES], ..TensorProto::default() };
    let graph = GraphProto { initializer: vec![weights], ..GraphProto::default() };
    let model = OnnxModel(ModelProto { graph: Some(graph), ..ModelProto::default() });
    let error = model.to_bytes().unwrap_err().to_string();
    assert!(error.starts_with("the model takes 2.1 GB, and an ONNX file holds 2.1 GB"), "{error}");
}
