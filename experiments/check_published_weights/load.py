"""Saves timm's models of the ViT presets in the ways that checkpoints are published, and compares features.

    python load.py [PRESET...] [--vmbeauty target/release/vmbeauty]

Needs torch, timm and safetensors. The weights are random: nothing is downloaded. Each preset is saved in nine ways, from
which `vmbeauty features --input-tensor` computes the features of one random image; they are compared with timm's.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.utils import CheckpointSaver, ModelEmaV3

TOLERANCE = 1e-4
PRESETS = [
    "vit_tiny_patch16_224",
    "vit_tiny_patch16_384",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch16_224",
    "vit_small_patch16_384",
    "deit_small_patch16_224",
    "deit_small_distilled_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_224",
    "deit_base_patch16_224",
    "vit_base_patch16_clip_quickgelu_224",
    "vit_base_patch16_384",
    "vit_base_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2",
]


def random_model(name):
    """A model in which every parameter has an effect: timm initializes many with zeros, and LayerScale with 1e-5."""
    model = timm.create_model(name, pretrained=False).eval()
    for parameter in model.parameters():
        scale = 0.02 if parameter.dim() > 1 else 0.2
        parameter.copy_(torch.randn_like(parameter) * scale + (parameter.dim() == 1) * parameter.mean().round())
    for module in model.modules():
        if hasattr(module, "gamma"):
            module.gamma.copy_(1 + 0.2 * torch.randn_like(module.gamma))
    return model


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def save_with_saver(model, ema, folder):
    """A training checkpoint as timm's train.py writes it."""
    optimizer = torch.optim.AdamW(model.parameters())
    saver = CheckpointSaver(model, optimizer, argparse.Namespace(model="vit"), ema, checkpoint_dir=folder, recovery_dir=folder)
    saver.save_checkpoint(0, metric=1.0)
    return next(pathlib.Path(folder).glob("checkpoint-0*"))


def lightning(state):
    """The keys of a Lightning checkpoint, in which the network is an attribute of the module."""
    return {
        "epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.5.0", "state_dict": prefixed("model.", state),
        "loops": {}, "callbacks": {}, "optimizer_states": [], "lr_schedulers": [], "hyper_parameters": {"lr": 1e-4},
    }


def ways(model, folder):
    """Yields name, file, the model that it holds, and whether its EMA weights are meant."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for kind in [torch.float32, torch.float16, torch.bfloat16]:
        rounded = {name: value.to(kind) for name, value in state.items()}
        name = f"safetensors {str(kind).split('.')[1]}"
        save_file(rounded, folder / "model.safetensors")
        model.load_state_dict({name: value.float() for name, value in rounded.items()})
        yield name, folder / "model.safetensors", model, False
    model.load_state_dict(state)
    for name, content, new in [
        (".pth", state, True),
        (".pth, the old format", state, False),
        ("`module.`", torch.nn.DataParallel(model).state_dict(), True),
        ("`_orig_mod.`", torch.compile(model).state_dict(), True),
        ("Lightning", lightning(state), True),
    ]:
        torch.save(content, folder / "model.pth", _use_new_zipfile_serialization=new)
        yield name, folder / "model.pth", model, False
    ema = ModelEmaV3(model)
    for parameter in ema.module.parameters():
        parameter.mul_(0.9)
    file = save_with_saver(model, ema, str(folder))
    yield "CheckpointSaver", file, model, False
    yield "CheckpointSaver, EMA", file, ema.module, True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=PRESETS, help="presets to check; all ViT presets by default")
    parser.add_argument("--vmbeauty", default="target/release/vmbeauty", help="the program")
    arguments = parser.parse_args()

    right = True
    print("| preset | image | largest difference of a feature, and where | state dicts |\n| --- | --- | --- | --- |")
    for preset in arguments.presets:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            folder, worst, count = pathlib.Path(folder), (-1.0, ""), 0
            model = random_model(preset)
            image = torch.randn(1, *model.pretrained_cfg["input_size"])
            save_file({"input": image}, folder / "input.safetensors")
            (folder / "vit.yaml").write_text("model: {fusion: {strategy: vit_only}}\n")
            for name, file, reference, ema in ways(model, folder):
                theirs = reference.forward_head(reference.forward_features(image), pre_logits=True)
                settings = [f"data.image_size={image.shape[-1]}", f"model.vit.name={preset}", f"model.vit.weights={file}"]
                settings += [f"model.vit.weights_ema={str(ema).lower()}", "device=cpu"]
                command = [arguments.vmbeauty, "features", folder / "vit.yaml", "--input-tensor", folder / "input.safetensors"]
                command += ["--output", folder / "features.safetensors"]
                for setting in settings:
                    command += ["--set", setting]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode != 0:
                    sys.exit(f"{preset}, {name}: {done.stderr.strip()}")
                ours = load_file(folder / "features.safetensors")["vit"]
                error = (theirs - ours).abs().max().item() / theirs.abs().max().item()
                worst, count = max(worst, (error, name)), count + 1
            print(f"| `{preset}` | {image.shape[-1]} px | {worst[0]:.1e} ({worst[1]}) | {count} |", flush=True)
            right &= worst[0] <= TOLERANCE
    sys.exit(0 if right else f"features differ by more than {TOLERANCE} of the largest value")


if __name__ == "__main__":
    main()
