"""Compare exported ONNX files in onnxruntime with vmbeauty: scores of every fusion strategy, and speed.

    pip install onnxruntime numpy pillow
    python compare.py                          agreement on 200 images, size and images/s
    python compare.py --pytorch PYTHON         PyTorch's eager twin (../pytorch_twin) too, in a Python that has it
    python compare.py --only speed
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/onnx"))

from models import PROGRAM, make_images, make_run, pixels_of, predictions, run_onnx, vmbeauty  # noqa: E402

STRATEGIES = ["concat", "sum", "weighted", "gated", "gmu", "bilinear", "cross_attention", "score", "vit_only", "mamba_only"]
TINY = ["data.image_size=224", "model.vit={name: vit_tiny_patch16_224, depth: 12}",
        "model.mamba={name: vim_tiny_patch16_224, depth: 24}", "model.fusion.dim=256", "model.head.hidden=[128]"]
FORMS = ["loop", "unrolled"]
TWIN = """
import json, sys, time, torch
sys.path.insert(0, sys.argv[1])
from twin import Twin
torch.set_num_threads(int(sys.argv[4]))
model, steps = Twin().eval(), int(sys.argv[3])
x = torch.randn(int(sys.argv[2]), 3, 224, 224)
with torch.no_grad():
    model(x)
    begin = time.perf_counter()
    for _ in range(steps):
        model(x)
print(json.dumps(len(x) * steps / (time.perf_counter() - begin)))
"""


def exported(folder, run, form):
    vmbeauty(folder, "export", run, "--format", "onnx", "--scan", form, "--output", folder / form)
    return folder / form / "model.onnx"


def in_batches(path, pixels, batch=20):
    """The scores of images, batch by batch."""
    return np.concatenate([run_onnx(path, pixels[at : at + batch])["score"] for at in range(0, len(pixels), batch)])


def agreement(count):
    """Prints the largest difference of a score, relative to the standard deviation of the training scores."""
    print(f"\nLargest difference of a score from `vmbeauty predict` on {count} images, in standard deviations of the\n"
          "training scores (micro models with random weights, 32 pixels):\n")
    print("| strategy | loop | unrolled |\n| --- | --- | --- |")
    largest = 0
    for strategy in STRATEGIES:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            run = make_run(folder, f"model.fusion.strategy={strategy}")
            files = make_images(folder / "images", count, (32, 32))
            scores, _ = predictions(run, files)
            differences = []
            for form in FORMS:
                path = exported(folder, run, form)
                std = json.loads((path.parent / "preprocess.json").read_text())["score"]["training_std"]
                differences.append(np.abs(in_batches(path, pixels_of(files)) - scores).max() / std)
            print(f"| `{strategy}` | {differences[0]:.1e} | {differences[1]:.1e} |", flush=True)
            largest = max(largest, *differences)
    print(f"\nThe largest is {largest:.1e}.")
    assert largest < 1e-4


def onnx_rate(path, pixels, steps, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(["score"], {"images": pixels})
    begin = time.perf_counter()
    for _ in range(steps):
        session.run(["score"], {"images": pixels})
    return len(pixels) * steps / (time.perf_counter() - begin)


def our_rate(batch, steps, threads):
    sets = [f"train.batch_size={batch}", f"train.threads={threads}"]
    command = [PROGRAM, "benchmark", "train", "--json", "--steps", str(steps), *[word for s in sets for word in ("--set", s)]]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)["infer_images_per_second"]


def twin_rate(python, batch, steps, threads):
    command = [python, "-c", TWIN, ROOT / "experiments/pytorch_twin", batch, steps, threads]
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"the twin failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def speed(args):
    """Prints images per second of the tiny ensemble: the median of turns, in which all take part one after the other."""
    threads, steps = args.threads, args.steps
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run = make_run(folder, *TINY)
        paths = {form: exported(folder, run, form) for form in FORMS}
        pixels = pixels_of(make_images(folder / "images", max(args.batch), (224, 224)))
        print(f"\nImages per second, ViT-Ti and Vim-Ti at 224 pixels, {threads} threads, medians of {args.turns} turns:\n")
        print("| | file, MB |" + "".join(f" batch {batch} |" for batch in args.batch))
        print("| --- | --- |" + " --- |" * len(args.batch))
        runners = {"`vmbeauty`": ("", lambda batch: our_rate(batch, steps, threads))}
        for form, path in paths.items():
            measure = lambda batch, path=path: onnx_rate(path, pixels[:batch], steps, threads)
            runners[f"onnxruntime, {form}"] = (f"{path.stat().st_size / 1e6:.1f}", measure)
        if args.pytorch:
            runners["PyTorch, eager Vim"] = ("", lambda batch: twin_rate(args.pytorch, batch, steps, threads))
        rates = {(name, batch): [] for name in runners for batch in args.batch}
        for _ in range(args.turns):
            for batch in args.batch:
                for name, (_, measure) in runners.items():
                    rates[name, batch].append(measure(batch))
        for name, (size, _) in runners.items():
            print(f"| {name} | {size} |" + "".join(f" {statistics.median(rates[name, batch]):.2f} |" for batch in args.batch))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["agreement", "speed"])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--pytorch", metavar="PYTHON", help="a Python with torch and timm, to time the eager twin")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=4, help="batches of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.only != "speed":
        agreement(args.images)
    if args.only != "agreement":
        speed(args)


if __name__ == "__main__":
    main()
