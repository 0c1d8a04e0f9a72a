"""Operands of the operators in any layout, and their results in float64 on the CPU."""

import json
import os
from pathlib import Path

# Before CUDA is initialized: without it, PyTorch refuses matrix products where results must be reproducible.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

import vm_beautynet_ops  # noqa: F401  registers the operators

GOLDEN = Path(__file__).resolve().parent.parent / "fixtures/golden"
DEVICE = os.environ.get("VMB_DEVICE", "cpu")
SCAN = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
SEQUENCES = ("u", "delta", "z", "B", "C", "x", "xz", "dout")
OPTIONAL = ("D", "z", "delta_bias")
# `slice`: rows are part of a wider innermost dimension, as z is of in_proj's output; `rows`: steps are adjacent, but
# sequences are longer than what is read of them.
LAYOUTS = ("bdl", "bld", "slice", "rows")

# Memory that nothing has written holds NaN: what a kernel leaves out is found.
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True


def golden():
    """(name, tensors, delta_softplus) of each reference file of the scan."""
    for path in sorted(GOLDEN.glob("scan_*.safetensors")):
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        softplus = header.pop("__metadata__")["delta_softplus"] == "1"
        case = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            values = torch.frombuffer(data, dtype=torch.float32, offset=start + begin, count=(end - begin) // 4)
            case[name] = values.clone().view(entry["shape"])
        yield path.stem, case, softplus


def random_scan(seed, batch, dim, length, state, optional=OPTIONAL):
    """Operands of the size that a Vision Mamba block has after its initialization, and a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    def normal(*shape):
        return torch.randn(shape, generator=generator)
    case = {"u": normal(batch, dim, length), "delta": normal(batch, dim, length) - 2,
            "A": -0.2 - 7.8 * torch.rand(dim, state, generator=generator), "B": normal(batch, state, length),
            "C": normal(batch, state, length), "dout": normal(batch, dim, length)}
    more = {"D": (dim,), "z": (batch, dim, length), "delta_bias": (dim,)}
    return case | {name: normal(*more[name]) for name in optional}


def placed(x, layout, device):
    """x (batch, rows, steps) on the device in a layout, with NaN around its rows."""
    batch, rows, steps = x.shape
    def filled(*shape):
        return torch.full(shape, float("nan"), dtype=x.dtype, device=device)
    target = {"bdl": lambda: filled(batch, rows, steps),
              "bld": lambda: filled(batch, steps, rows).transpose(1, 2),
              "slice": lambda: filled(batch, steps, rows + 5)[:, :, 3:3 + rows].transpose(1, 2),
              "rows": lambda: filled(batch, rows, steps + 3)[:, :, 2:2 + steps]}[layout]()
    return target.copy_(x)


def on_device(case, dtype, layouts, reverse=False, device=DEVICE):
    """The case as the operators get it: sequences in a type and in layouts by name ("" for the others), reversed."""
    result = {}
    for name, x in case.items():
        if name in SEQUENCES:
            x = x.flip(2) if reverse else x
            x = placed(x.to(dtype), layouts.get(name, layouts.get("", "bdl")), device)
        result[name] = x.to(device)
    return result


def exact(case, dtype):
    """The case in float64 on the CPU, with sequences rounded to the type."""
    return {name: (x.to(dtype) if name in SEQUENCES else x).double() for name, x in case.items()}


def scan(x, softplus, reverse=False):
    names = [name for name in SCAN if name in x]
    flags = {"delta_softplus": softplus, "reverse": reverse}
    return differentiate(lambda given: torch.ops.vm_beautynet.selective_scan(**given, **flags), x, names)


def convolution(x, reverse=False):
    names = [name for name in ("x", "weight", "bias") if name in x]
    return differentiate(lambda given: torch.ops.vm_beautynet.causal_conv1d_silu(**given, reverse=reverse), x, names)


def bimamba(x):
    names = [name for name in x if name != "dout"]
    def run(given):
        parameters = [x for name, x in given.items() if name != "xz"]
        return torch.ops.vm_beautynet.bimamba_inner(given["xz"], parameters[:7], parameters[7:])
    return differentiate(run, x, names)


def differentiate(run, x, names):
    """{out, d<name> of each operand} of an operator for the case's dout."""
    # Views keep their layouts: a leaf that is cloned would not.
    given = {name: x[name].detach().requires_grad_() for name in names}
    out = run(given)
    gradients = torch.autograd.grad(out, list(given.values()), x["dout"])
    return {"out": out.detach()} | {f"d{name}": gradient for name, gradient in zip(names, gradients)}
