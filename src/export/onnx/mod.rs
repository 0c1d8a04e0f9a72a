//! Export of the whole model as one ONNX file, with a description of how an image becomes its
//! input, and programs that do both.

use anyhow::Result;
use serde::Serialize;
use tch::Tensor;

use super::Writer;
use crate::config::{
    Branch, Config, DatasetName, FaceAlignment, Interpolation, Loss, Normalize, Resize,
};
use crate::models::onnx::{InputType, OnnxOptions};
use crate::run::{Run, content_hash};

/// The name of the model file.
pub(super) const MODEL_FILE: &str = "model.onnx";
/// The name of the file that says how an image becomes the model's input.
pub(super) const PREPROCESS_FILE: &str = "preprocess.json";
const PYTHON: &str = include_str!("predict.py");
const JAVASCRIPT: &str = include_str!("predict.mjs");

/// Writes the model, `preprocess.json` and the programs.
pub(super) fn write(run: &Run, options: OnnxOptions, writer: &mut Writer) -> Result<()> {
    let (model, preprocess) = convert(run, options)?;
    writer.write(MODEL_FILE, model)?;
    writer.json(PREPROCESS_FILE, &preprocess)?;
    let resize = run.config.data.resize;
    writer.write("predict.py", python(resize, options.input))?;
    writer.write("predict.mjs", javascript(resize, options.input))
}

/// Returns the content of the model file, and that of `preprocess.json`.
pub(super) fn convert(run: &Run, options: OnnxOptions) -> Result<(Vec<u8>, Preprocess)> {
    run.config.check_image_sizes()?;
    let test_time_flip = run.config.data.test_time_flip;
    let mut model = run.net.onnx(OnnxOptions { test_time_flip, ..options })?;
    let preprocess = Preprocess::new(run, options.input, model.outputs())?;
    model.describe("run", &preprocess.run);
    model.describe("weights_blake3", &preprocess.weights_blake3);
    Ok((model.to_bytes()?, preprocess))
}

/// `preprocess.json`.
#[derive(Debug, Serialize)]
pub(super) struct Preprocess {
    model: &'static str,
    run: String,
    weights_blake3: String,
    input: Input,
    outputs: Vec<String>,
    /// Side of the square, in pixels.
    image_size: i64,
    resize: Resize,
    /// The length that `crop` resizes the short side to, in pixels.
    short_side: i64,
    interpolation: Interpolation,
    antialias: bool,
    apply_exif_orientation: bool,
    /// The color behind transparent pixels and around padded images.
    background: [u8; 3],
    face_alignment: Option<FaceAlignment>,
    normalization: Normalization,
    test_time_flip: Inside,
    score: ScoreScale,
}

#[derive(Debug, Serialize)]
struct Input {
    name: &'static str,
    r#type: &'static str,
    shape: [serde_json::Value; 4],
    range: [u8; 2],
    color: &'static str,
}

/// What the model does itself.
#[derive(Debug, Serialize)]
struct Inside {
    inside_the_model: bool,
    value: bool,
}

#[derive(Debug, Serialize)]
struct Normalization {
    inside_the_model: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    vit: Option<Normalize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mamba: Option<Normalize>,
}

#[derive(Debug, Serialize)]
struct ScoreScale {
    /// The lowest and the highest rating, where they are known.
    range: Option<[f64; 2]>,
    training_mean: f64,
    training_std: f64,
}

impl Preprocess {
    fn new(run: &Run, input: InputType, outputs: Vec<String>) -> Result<Self> {
        let data = &run.config.data;
        let size = data.image_size;
        let normalization = |branch| -> Result<Option<Normalize>> {
            let shape = run.config.shape(branch)?;
            Ok(shape.map(|shape| Normalize { mean: shape.mean, std: shape.std }))
        };
        Ok(Self {
            model: MODEL_FILE,
            run: run.config.name.clone(),
            weights_blake3: content_hash(&run.weights)?,
            input: Input::new(input, size),
            outputs,
            image_size: size,
            resize: data.resize,
            short_side: data.short_side.map_or(size, i64::from),
            interpolation: data.interpolation,
            antialias: true,
            apply_exif_orientation: true,
            background: data.background,
            face_alignment: data.face_alignment(),
            normalization: Normalization {
                inside_the_model: true,
                vit: normalization(Branch::Vit)?,
                mamba: normalization(Branch::Mamba)?,
            },
            test_time_flip: Inside { inside_the_model: true, value: data.test_time_flip },
            score: ScoreScale::new(run)?,
        })
    }
}

impl Input {
    fn new(input: InputType, size: i64) -> Self {
        let (r#type, sizes, range) = match input {
            InputType::Uint8 => ("uint8", [size, size, 3], [0, 255]),
            InputType::Float => ("float32", [3, size, size], [0, 1]),
        };
        let [a, b, c] = sizes.map(serde_json::Value::from);
        Self { name: "images", r#type, shape: ["batch".into(), a, b, c], range, color: "RGB" }
    }
}

impl ScoreScale {
    fn new(run: &Run) -> Result<Self> {
        let scores = run.net.head().to_scores(&Tensor::from_slice(&[0f32, 1.0]));
        let scores = Vec::<f32>::try_from(scores.flatten(0, -1))?;
        let [mean, above] = [0, 1].map(|index| scores.get(index).map_or(0.0, |&x| f64::from(x)));
        Ok(Self {
            range: score_range(&run.config),
            training_mean: mean,
            training_std: above - mean,
        })
    }
}

/// Returns the lowest and the highest rating of the dataset, if they are known.
fn score_range(config: &Config) -> Option<[f64; 2]> {
    let train = &config.train;
    let distribution = train.loss == Loss::LabelDistribution;
    train.label_distribution.range.filter(|_| distribution).or(match config.data.dataset {
        DatasetName::Synthetic | DatasetName::ScutFbp5500 => Some([1.0, 5.0]),
        DatasetName::Mebeauty => Some([1.0, 10.0]),
        DatasetName::Csv | DatasetName::Folder => None,
    })
}

fn python(resize: Resize, input: InputType) -> String {
    let square = match resize {
        Resize::Squash => "image = image.resize((size, size), resample)",
        Resize::Crop => {
            "short, scale = how[\"short_side\"], how[\"short_side\"] / min(image.size)\n    \
             image = image.resize([max(short, int(side * scale)) for side in image.size], \
             resample)\n    \
             left, top = [round((side - size) / 2) for side in image.size]\n    \
             image = image.crop((left, top, left + size, top + size))"
        }
        Resize::Pad => {
            "edges = [[int(size * (1 + end * side / max(image.size)) / 2 + 0.5) for side in \
             image.size] for end in (-1, 1)]\n    \
             inner = [max(1, last - first) for first, last in zip(*edges)]\n    \
             inner, image = image.resize(inner, resample), background.resize((size, \
             size)).convert(\"RGB\")\n    \
             image.paste(inner, tuple(edges[0]))"
        }
    };
    let pixels = match input {
        InputType::Uint8 => "np.asarray(image)[None]",
        InputType::Float => "np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255",
    };
    PYTHON.replace("SQUARE", square).replace("PIXELS", pixels)
}

fn javascript(resize: Resize, input: InputType) -> String {
    let frame = match resize {
        Resize::Squash => "const frame = side => [0, side, 0, size];",
        Resize::Crop => {
            "const frame = (side, short) => {\n  \
             const length = side === short ? how.short_side : \
             Math.floor(side * (how.short_side / short));\n  \
             const [offset, pixel] = [(length - size) / 2, side / length];\n  \
             const first = Math.floor(offset) + (offset % 1 && Math.floor(offset) % 2);\n  \
             return [first * pixel, size * pixel, 0, size];\n};"
        }
        Resize::Pad => {
            "const frame = (side, short, long) => {\n  \
             const [first, last] = [-1, 1].map(end => Math.round(size * (1 + end * side / long) / \
             2));\n  \
             return [0, side, first, Math.max(1, last - first)];\n};"
        }
    };
    let pixels = match input {
        InputType::Uint8 => "\"uint8\", square, [1, size, size, 3]",
        InputType::Float => {
            "\"float32\", Float32Array.from(square, (_, i) => square[i % (size * size) * 3 + \
             Math.floor(i / size / size)] / 255), [1, 3, size, size]"
        }
    };
    JAVASCRIPT.replace("FRAME", frame).replace("PIXELS", pixels)
}
