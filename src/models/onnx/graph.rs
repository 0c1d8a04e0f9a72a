//! A graph under construction: values, nodes and initializers.

use std::collections::{HashMap, HashSet};

use anyhow::{Error, Result};
use tch::{Device, Kind, Tensor};

use super::ScanForm;
use super::proto::{
    AttributeProto, Dimension, GraphProto, NodeProto, TensorProto, TensorShapeProto, TensorType,
    TypeProto, ValueInfoProto, attribute_type, data_type,
};

/// A tensor of a graph, by its name.
#[derive(Debug, Clone)]
pub(in crate::models) struct Value(String);

/// A graph under construction. Its nodes are in the order in which layers add them, each after
/// those that it reads.
#[derive(Debug)]
pub(in crate::models) struct Graph {
    proto: GraphProto,
    /// The names of the parameters, by the address of their values.
    names: HashMap<usize, String>,
    /// The names of the initializers.
    initializers: HashSet<String>,
    /// What the names of values begin with now.
    scope: String,
    /// The first error, which ends up in the result.
    error: Option<Error>,
    /// How the selective scan is written.
    pub scan: ScanForm,
}

/// Returns an attribute that is an integer.
pub(in crate::models) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, attribute_type::INT) }
}

/// Returns an attribute that is a list of integers.
pub(in crate::models) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, attribute_type::INTS) }
}

/// Returns an attribute that is a number.
pub(in crate::models) fn float(name: &str, value: f64) -> AttributeProto {
    AttributeProto { f: Some(value as f32), ..attribute(name, attribute_type::FLOAT) }
}

fn attribute(name: &str, r#type: i32) -> AttributeProto {
    AttributeProto { name: name.to_string(), r#type, ..AttributeProto::default() }
}

impl Graph {
    /// Returns an empty graph for a network with these parameters.
    pub(in crate::models) fn new(parameters: &[(String, Tensor)], scan: ScanForm) -> Self {
        let address = |tensor: &Tensor| tensor.data_ptr() as usize;
        Self {
            proto: GraphProto { name: "vm_beautynet".to_string(), ..GraphProto::default() },
            names: parameters.iter().map(|(name, t)| (address(t), name.clone())).collect(),
            initializers: HashSet::new(),
            scope: String::new(),
            error: None,
            scan,
        }
    }

    /// Returns what `build` returns; the names of the values that it adds begin with `name/`.
    pub(in crate::models) fn scoped<T>(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let length = self.scope.len();
        self.scope += name;
        self.scope.push('/');
        let built = build(self);
        self.scope.truncate(length);
        built
    }

    /// Adds an input of the type `data_type`, whose first dimension is the batch.
    pub(in crate::models) fn input(&mut self, name: &str, is_uint8: bool, rest: &[i64]) -> Value {
        let element = if is_uint8 { data_type::UINT8 } else { data_type::FLOAT };
        self.proto.input.push(batch_of(name, element, rest));
        Value(name.to_string())
    }

    /// Names a value as an output of float32, whose first dimension is the batch.
    pub(in crate::models) fn output(&mut self, name: &str, value: &Value, rest: &[i64]) {
        self.add_node("Identity", name, &[value], vec![name.to_string()], Vec::new());
        self.proto.output.push(batch_of(name, data_type::FLOAT, rest));
    }

    /// Returns a parameter of the network, under its name in a weights file.
    pub(in crate::models) fn parameter(&mut self, parameter: &Tensor) -> Value {
        self.derived(parameter, "", || parameter.shallow_clone())
    }

    /// Returns a constant that is computed from a parameter, under the parameter's name and this
    /// suffix.
    pub(in crate::models) fn derived(
        &mut self,
        parameter: &Tensor,
        suffix: &str,
        compute: impl FnOnce() -> Tensor,
    ) -> Value {
        let name = match self.names.get(&(parameter.data_ptr() as usize)) {
            Some(name) => format!("{name}{suffix}"),
            None => format!("{}constant_{}{suffix}", self.scope, self.initializers.len()),
        };
        self.initializer(name, compute)
    }

    /// Returns a constant with a name in the scope.
    pub(in crate::models) fn constant(&mut self, name: &str, value: &Tensor) -> Value {
        self.initializer(format!("{}{name}", self.scope), || value.shallow_clone())
    }

    /// Returns a number.
    pub(in crate::models) fn number(&mut self, value: f64) -> Value {
        let scalar = || Tensor::from(value).to_kind(Kind::Float);
        self.initializer(format!("number_{}", value as f32), scalar)
    }

    /// Returns a list of integers, as shapes and axes are.
    pub(in crate::models) fn integers(&mut self, values: &[i64]) -> Value {
        let name: Vec<String> = values.iter().map(i64::to_string).collect();
        self.initializer(format!("integers_{}", name.join("_")), || Tensor::from_slice(values))
    }

    fn initializer(&mut self, name: String, value: impl FnOnce() -> Tensor) -> Value {
        if self.initializers.insert(name.clone()) {
            match tensor_proto(&name, &value()) {
                Ok(tensor) => self.proto.initializer.push(tensor),
                Err(error) => self.error = self.error.take().or(Some(error)),
            }
        }
        Value(name)
    }

    /// Adds a node with one output and returns it.
    pub(in crate::models) fn op(&mut self, op_type: &str, inputs: &[&Value]) -> Value {
        self.op_with(op_type, inputs, Vec::new())
    }

    /// Adds a node with one output and attributes, and returns the output.
    pub(in crate::models) fn op_with(
        &mut self,
        op_type: &str,
        inputs: &[&Value],
        attributes: Vec<AttributeProto>,
    ) -> Value {
        self.op_outputs(op_type, inputs, attributes, 1).remove(0)
    }

    /// Adds a node with attributes, and returns its outputs.
    pub(in crate::models) fn op_outputs(
        &mut self,
        op_type: &str,
        inputs: &[&Value],
        attributes: Vec<AttributeProto>,
        outputs: usize,
    ) -> Vec<Value> {
        let name = format!("{}{op_type}_{}", self.scope, self.proto.node.len());
        let output = |index: usize| match index {
            0 => name.clone(),
            _ => format!("{name}:{index}"),
        };
        let outputs: Vec<String> = (0..outputs).map(output).collect();
        self.add_node(op_type, &name, inputs, outputs.clone(), attributes);
        outputs.into_iter().map(Value).collect()
    }

    fn add_node(
        &mut self,
        op_type: &str,
        name: &str,
        inputs: &[&Value],
        output: Vec<String>,
        attribute: Vec<AttributeProto>,
    ) {
        let input = inputs.iter().map(|value| value.0.clone()).collect();
        let (name, op_type) = (name.to_string(), op_type.to_string());
        self.proto.node.push(NodeProto { input, output, name, op_type, attribute });
    }

    /// Returns an attribute that is a graph with inputs of these names, whose nodes `build` adds
    /// and whose outputs it returns. It may read values of this graph.
    pub(in crate::models) fn subgraph(
        &mut self,
        name: &str,
        inputs: &[&str],
        build: impl FnOnce(&mut Self, &[Value]) -> Vec<Value>,
    ) -> AttributeProto {
        let inputs = inputs.iter().map(|input| Value(format!("{}{name}/{input}", self.scope)));
        let inputs: Vec<Value> = inputs.collect();
        let outside = std::mem::take(&mut self.proto.node);
        let outputs = self.scoped(name, |graph| build(graph, &inputs));
        let node = std::mem::replace(&mut self.proto.node, outside);
        let element = |value: &Value| ValueInfoProto {
            name: value.0.clone(),
            r#type: Some(tensor_type(data_type::FLOAT, None)),
        };
        let graph = GraphProto {
            node,
            name: format!("{}{name}", self.scope),
            initializer: Vec::new(),
            input: inputs.iter().map(element).collect(),
            output: outputs.iter().map(element).collect(),
        };
        AttributeProto { g: Some(graph), ..attribute(name, attribute_type::GRAPH) }
    }

    pub(super) fn into_proto(self) -> Result<GraphProto> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.proto),
        }
    }
}

/// Operators that several layers use.
impl Graph {
    pub(in crate::models) fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.op("Add", &[a, b])
    }

    pub(in crate::models) fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.op("Mul", &[a, b])
    }

    pub(in crate::models) fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        self.op("MatMul", &[a, b])
    }

    /// Returns `x · weightᵀ + bias`.
    pub(in crate::models) fn linear(
        &mut self,
        x: &Value,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Value {
        let transposed = self.derived(weight, ".T", || weight.tr());
        let product = self.matmul(x, &transposed);
        match bias {
            Some(bias) => {
                let bias = self.parameter(bias);
                self.add(&product, &bias)
            }
            None => product,
        }
    }

    /// Divides the channels of x (b, l, d) among heads: (b, l, heads, d / heads), transposed to
    /// this order.
    pub(in crate::models) fn by_head(
        &mut self,
        x: &Value,
        [heads, head_dim]: [i64; 2],
        order: [i64; 4],
    ) -> Value {
        let x = self.reshape(x, &[0, 0, heads, head_dim]);
        self.transpose(&x, &order)
    }

    /// Attends with q (b, heads, n, head_dim) to k (b, heads, head_dim, l) and v (b, heads, l,
    /// head_dim): returns the output (b, heads, n, head_dim) and the attention (b, heads, n, l).
    pub(in crate::models) fn attention(
        &mut self,
        [q, k, v]: [&Value; 3],
        head_dim: i64,
    ) -> (Value, Value) {
        let logits = self.matmul(q, k);
        let logits = self.scale(&logits, (head_dim as f64).powf(-0.5));
        let attention = self.softmax(&logits);
        (self.matmul(&attention, v), attention)
    }

    pub(in crate::models) fn scale(&mut self, x: &Value, factor: f64) -> Value {
        let factor = self.number(factor);
        self.mul(x, &factor)
    }

    pub(in crate::models) fn concat(&mut self, values: &[&Value], axis: i64) -> Value {
        self.op_with("Concat", values, vec![int("axis", axis)])
    }

    pub(in crate::models) fn softmax(&mut self, x: &Value) -> Value {
        self.op_with("Softmax", &[x], vec![int("axis", -1)])
    }

    /// Reshapes; 0 keeps a dimension, -1 is what is left.
    pub(in crate::models) fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.integers(shape);
        self.op("Reshape", &[x, &shape])
    }

    pub(in crate::models) fn transpose(&mut self, x: &Value, order: &[i64]) -> Value {
        self.op_with("Transpose", &[x], vec![ints("perm", order)])
    }

    pub(in crate::models) fn unsqueeze(&mut self, x: &Value, axis: i64) -> Value {
        let axis = self.integers(&[axis]);
        self.op("Unsqueeze", &[x, &axis])
    }

    pub(in crate::models) fn squeeze(&mut self, x: &Value, axis: i64) -> Value {
        let axis = self.integers(&[axis]);
        self.op("Squeeze", &[x, &axis])
    }

    /// Returns a range along an axis.
    pub(in crate::models) fn slice(
        &mut self,
        x: &Value,
        axis: i64,
        start: i64,
        length: i64,
    ) -> Value {
        let range = [start, start + length, axis].map(|value| self.integers(&[value]));
        self.op("Slice", &[x, &range[0], &range[1], &range[2]])
    }

    /// Returns one index along an axis, which goes away.
    pub(in crate::models) fn select(&mut self, x: &Value, axis: i64, index: i64) -> Value {
        let one = self.slice(x, axis, index, 1);
        self.squeeze(&one, axis)
    }

    /// Returns ranges of these lengths along the last axis, one after the other.
    pub(in crate::models) fn split(&mut self, x: &Value, lengths: &[i64]) -> Vec<Value> {
        let sizes = self.integers(lengths);
        self.op_outputs("Split", &[x, &sizes], vec![int("axis", -1)], lengths.len())
    }

    /// Returns the mean along an axis.
    pub(in crate::models) fn mean(&mut self, x: &Value, axis: i64, keep: bool) -> Value {
        let axis = self.integers(&[axis]);
        self.op_with("ReduceMean", &[x, &axis], vec![int("keepdims", keep.into())])
    }

    pub(in crate::models) fn gelu(&mut self, x: &Value) -> Value {
        let scaled = self.scale(x, std::f64::consts::FRAC_1_SQRT_2);
        let (erf, one) = (self.op("Erf", &[&scaled]), self.number(1.0));
        let sum = self.add(&erf, &one);
        let product = self.mul(x, &sum);
        self.scale(&product, 0.5)
    }

    pub(in crate::models) fn silu(&mut self, x: &Value) -> Value {
        let gate = self.op("Sigmoid", &[x]);
        self.mul(x, &gate)
    }

    /// Broadcasts x to the batch of `like` and these other dimensions.
    pub(in crate::models) fn expand_to_batch(
        &mut self,
        x: &Value,
        like: &Value,
        rest: &[i64],
    ) -> Value {
        let batch = self.op_with("Shape", &[like], vec![int("start", 0), int("end", 1)]);
        let rest = self.integers(rest);
        let shape = self.concat(&[&batch, &rest], 0);
        self.op("Expand", &[x, &shape])
    }
}

fn batch_of(name: &str, element: i32, rest: &[i64]) -> ValueInfoProto {
    let batch = Dimension { dim_value: None, dim_param: Some("batch".to_string()) };
    let rest = rest.iter().map(|&size| Dimension { dim_value: Some(size), dim_param: None });
    let dim = std::iter::once(batch).chain(rest).collect();
    let r#type = Some(tensor_type(element, Some(TensorShapeProto { dim })));
    ValueInfoProto { name: name.to_string(), r#type }
}

fn tensor_type(elem_type: i32, shape: Option<TensorShapeProto>) -> TypeProto {
    TypeProto { tensor_type: Some(TensorType { elem_type, shape }) }
}

fn tensor_proto(name: &str, value: &Tensor) -> Result<TensorProto> {
    let flat = value.f_to_device(Device::Cpu)?.f_reshape([-1])?;
    let (data_type, raw_data) = match value.kind() {
        Kind::Int64 => {
            let values = Vec::<i64>::try_from(&flat)?;
            (data_type::INT64, values.into_iter().flat_map(i64::to_le_bytes).collect())
        }
        _ => {
            let values = Vec::<f32>::try_from(&flat.f_to_kind(Kind::Float)?)?;
            (data_type::FLOAT, values.into_iter().flat_map(f32::to_le_bytes).collect())
        }
    };
    Ok(TensorProto { dims: value.size(), data_type, name: name.to_string(), raw_data })
}
