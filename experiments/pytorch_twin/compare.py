"""Train and predict with vmbeauty and with its PyTorch twin in turn, and compare the medians.

    python compare.py [--vmbeauty target/release/vmbeauty] [--turns 3] [--steps 4]
    python compare.py --golden vim_small_case.safetensors …    # the twin against reference files
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BATCH, SIZE = 8, 224


def twin(steps):
    """Time the twin in this process."""
    import torch
    from twin import Twin

    torch.manual_seed(0)
    model = Twin()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    images, scores = torch.randn(BATCH, 3, SIZE, SIZE), torch.randn(BATCH)

    def train():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(images), scores).backward()
        optimizer.step()

    def rate(step):
        step()  # The first fills the allocator.
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        return BATCH * steps / (time.perf_counter() - begin)

    trained = rate(train)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model.eval()
    with torch.no_grad():
        predicted = rate(lambda: model(images))
    return {
        "train_images_per_second": trained,
        "infer_images_per_second": predicted,
        "peak_bytes": peak,
    }


def run(command):
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"{command[0]} failed; what it printed is above")
    # Libraries that timm imports may print a line before.
    return json.loads(result.stdout[result.stdout.index("{") :])


def check(files):
    """Compare the twin's Vision Mamba with reference files and the weights beside them."""
    import torch
    from safetensors import safe_open
    from twin import VisionMamba

    for path in map(Path, files):
        case = safe_open(path, "pt")
        about = case.metadata()
        sizes = [int(about[key]) for key in ("image_size", "patch_size", "embed_dim", "depth")]
        model = VisionMamba(*sizes)
        weights = safe_open(path.with_name(f"{path.stem}_weights.safetensors"), "pt")
        model.load_state_dict({key: weights.get_tensor(key) for key in weights.keys()})
        with torch.no_grad():
            error = (model(case.get_tensor("input")) - case.get_tensor("features")).abs().max()
        print(f"{path.name}: largest difference of a feature {error.item():.1e}")
        assert error < 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vmbeauty", default=ROOT / "target/release/vmbeauty", metavar="PROGRAM")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="training steps of a turn")
    parser.add_argument("--golden", nargs="+", metavar="FILE")
    parser.add_argument("--twin", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.golden:
        return check(args.golden)
    if args.twin:
        return print(json.dumps(twin(args.steps)))
    ours = [str(args.vmbeauty), "benchmark", "train", "--json", "--steps", str(args.steps)]
    theirs = [sys.executable, __file__, "--twin", "--steps", str(args.steps)]
    turns = [(run(ours), run(theirs)) for _ in range(args.turns)]
    print(f"{'':28}{'vmbeauty':>10}{'PyTorch':>10}{'ratio':>8}")
    for key, unit in [
        ("train_images_per_second", 1),
        ("infer_images_per_second", 1),
        ("peak_bytes", 1e9),
    ]:
        a, b = (statistics.median(turn[side][key] for turn in turns) / unit for side in (0, 1))
        print(f"{key.replace('bytes', 'GB'):28}{a:10.2f}{b:10.2f}{a / b:8.2f}")


if __name__ == "__main__":
    main()
