"""Runs with random weights, their ONNX files, and what vmbeauty itself computes."""

import json
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("VMBEAUTY", str(ROOT / "target/release/vmbeauty"))
MICRO = """
name: micro
seed: 3
data: {image_size: 32, synthetic: {train: 8, val: 4, test: 4}}
model:
  vit: {name: vit_micro_patch8_64, depth: 2}
  mamba: {name: vim_micro_patch8_64, depth: 2}
  fusion: {dim: 32}
  head: {hidden: [16]}
train: {epochs: 1, batch_size: 4, schedule: {warmup_epochs: 0}}
"""


def vmbeauty(folder, *arguments):
    result = subprocess.run([PROGRAM, *map(str, arguments)], cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        raise AssertionError(f"vmbeauty {' '.join(map(str, arguments))} failed: {result.stderr}")
    return result.stdout


def read_tensors(path):
    """The tensors of a .safetensors file, all of which are float32."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    view = lambda about: np.frombuffer(data[slice(*about["data_offsets"])], "<f4").reshape(about["shape"])
    return {name: view(about) for name, about in header.items()}


def write_tensors(path, tensors):
    header, data = {}, b""
    for name, tensor in tensors.items():
        content = np.ascontiguousarray(tensor, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def make_run(folder, *overrides):
    """Trains for an epoch, and returns a run of the same config with random weights, on which every score depends:
    after so short a training, gates are zero, LayerScale is tiny and states hardly decay."""
    (folder / "config.yaml").write_text(MICRO)
    sets = [word for override in overrides for word in ("--set", override)]
    vmbeauty(folder, "train", "config.yaml", "--output", "trained", *sets)
    run, random = folder / "run", np.random.default_rng(5)
    run.mkdir()
    (run / "config.yaml").write_bytes((folder / "trained/config.yaml").read_bytes())
    weights = read_tensors(folder / "trained/best.safetensors")
    for name, tensor in weights.items():
        if name.startswith("head.score_"):
            continue
        if tensor.ndim > 1 and name.endswith("weight"):
            weights[name] = random.normal(0, 1.2 * np.prod(tensor.shape[1:]) ** -0.5, tensor.shape)
        else:
            weights[name] = tensor + random.normal(2.5 if "dt_proj" in name else 0, 0.3, tensor.shape)
    write_tensors(run / "best.safetensors", weights)
    return run


def make_images(folder, count, size, seed=1):
    """PNG images with large and small structures."""
    folder.mkdir(exist_ok=True)
    random, files = np.random.default_rng(seed), []
    width, height = size
    for at in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (5, 4, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        noise = random.normal(0, 12, (height, width, 3))
        pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        files.append(folder / f"{at:03}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def pixels_of(files, dtype=np.uint8):
    """Images of the model's size as its input."""
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    return pixels if dtype == np.uint8 else pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255


def run_onnx(path, pixels):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": pixels})))


def predictions(run, files):
    """The scores (n), and the branches' weights (n, 2) if there are some."""
    rows = json.loads(vmbeauty(run, "predict", run, *files, "--format", "json", "--quiet"))
    rows = rows["predictions"]
    scores = np.array([row["score"] for row in rows])
    if rows[0].get("weight_vit") is None:
        return scores, None
    return scores, np.array([[row["weight_vit"], row["weight_mamba"]] for row in rows])


def features(run, files):
    vmbeauty(run, "features", run, *files, "--output", "features.safetensors")
    return read_tensors(run / "features.safetensors")
