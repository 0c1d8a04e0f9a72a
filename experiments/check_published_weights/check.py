"""Opens an exported run with timm and PyTorch, and compares the ViT's features with vmbeauty's.

    python check.py RUN [--vmbeauty target/release/vmbeauty] [--vim-code FOLDER]

Needs torch, timm and safetensors. With --vim-code, the folder that holds models_mamba.py of the Vision Mamba project (and its
dependencies installed), the Vision Mamba's features are compared too; without it only its checkpoint's names are looked at.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import timm
import torch
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-4


def compare(name, theirs, ours):
    error = (theirs - ours).abs().max().item() / ours.abs().max().item()
    print(f"{name}: features of {tuple(ours.shape)}, largest difference {error:.1e} of the largest value")
    return error <= TOLERANCE


def vim_features(code, state, image):
    """The features of Vim's own model of these sizes."""
    sys.path.insert(0, str(code))
    import models_mamba

    embedding = state["patch_embed.proj.weight"]
    width, _, patch, _ = embedding.shape
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    stride = (image.shape[-1] - patch) // (side - 1) if side > 1 else patch
    model = models_mamba.VisionMamba(
        img_size=image.shape[-1], patch_size=patch, stride=stride, depth=depth, embed_dim=width,
        d_state=state["layers.0.mixer.A_log"].shape[1], rms_norm=True, residual_in_fp32=True, fused_add_norm=False,
        final_pool_type="mean", if_abs_pos_embed=True, if_rope=False, if_rope_residual=False, bimamba_type="v2",
        if_cls_token=True, if_divide_out=True, use_middle_cls_token=True, num_classes=0,
    )
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("head.") for name in missing), (missing, unexpected)
    return model.eval().forward_features(image)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run directory of vmbeauty")
    parser.add_argument("--vmbeauty", default="target/release/vmbeauty", help="the program")
    parser.add_argument("--vim-code", type=pathlib.Path, help="folder of Vim's models_mamba.py")
    arguments = parser.parse_args()

    right = True
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        folder = pathlib.Path(folder)
        export = [arguments.vmbeauty, "export", arguments.run, "--format", "timm", "--output", folder]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)

        def features(image):
            save_file({"input": image}, folder / "input.safetensors")
            command = [arguments.vmbeauty, "features", arguments.run, "--input-tensor", folder / "input.safetensors"]
            subprocess.run([*command, "--output", folder / "features.safetensors"], check=True, stderr=subprocess.DEVNULL)
            return load_file(folder / "features.safetensors")

        image = None
        if (folder / "vit").exists():
            model = timm.create_model(f"local-dir:{folder / 'vit'}", pretrained=True).eval()
            image = torch.randn(2, *model.pretrained_cfg["input_size"])
            right &= compare("timm's ViT", model(image), features(image)["vit"])
        if (folder / "mamba").exists():
            state = torch.load(folder / "mamba" / "model.pth", map_location="cpu", weights_only=True)["model"]
            print(f"Vision Mamba: {len(state)} tensors, from {min(state)} to {max(state)}")
            if arguments.vim_code:
                if image is None:
                    size = round((state["pos_embed"].shape[1] - 1) ** 0.5) * state["patch_embed.proj.weight"].shape[-1]
                    image = torch.randn(2, 3, size, size)
                theirs = vim_features(arguments.vim_code, state, image)
                right &= compare("Vim's model", theirs, features(image)["mamba"])
    sys.exit(0 if right else f"features differ by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
