"""The selective scan of Mamba and its causal convolution for PyTorch, on CPUs and CUDA GPUs.

`selective_scan_fn` and `causal_conv1d_fn` replace the functions of mamba-ssm and causal-conv1d; the operators
themselves are `torch.ops.vm_beautynet.selective_scan` and `.causal_conv1d_silu`.
"""

from pathlib import Path

import torch

__all__ = ["causal_conv1d_fn", "selective_scan_fn"]

for _library in Path(__file__).parent.glob("_operators*.so"):
    torch.ops.load_library(_library)


def _refuse(function, **given):
    names = [name for name, value in given.items() if value is not None and value is not False]
    if names:
        raise NotImplementedError(f"{function}: not offered: {', '.join(names)}")


def _per_step(name, x, u):
    """B or C as (batch, state, length)."""
    if x.dim() == 4 and x.size(1) == 1:
        return x.squeeze(1)
    if x.dim() == 3 and x.size(0) == u.size(0):
        return x
    raise NotImplementedError(
        f"selective_scan_fn: {name} must have shape (batch, state, length) or (batch, 1, state, length), has "
        f"{tuple(x.shape)}: constant {name}, (dim, state), and more than one group are not offered")


# torch.compile calls them as they are: their autograd functions are C++, which it cannot trace.
@torch.compiler.disable
def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                      return_last_state=False):
    """mamba-ssm's selective_scan_fn: (batch, dim, length) in u's type, differentiable once.

    u, delta, z: (batch, dim, length); A: (dim, state), real; B, C: (batch, state, length) or
    (batch, 1, state, length); D, delta_bias: (dim). Any strides and any mixture of floating types; the state
    is float32, float64 for float64 u. return_last_state is not offered.
    """
    _refuse("selective_scan_fn", return_last_state=return_last_state, complex_A=A.is_complex())
    return torch.ops.vm_beautynet.selective_scan(
        u, delta, A, _per_step("B", B, u), _per_step("C", C, u), D, z, delta_bias, delta_softplus)


@torch.compiler.disable
def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
                     final_states_out=None, activation=None):
    """causal-conv1d's causal_conv1d_fn with SiLU: (batch, dim, length) in x's type, differentiable once.

    x: (batch, dim, length); weight: (dim, width), width at most 8; bias: (dim). activation must be "silu" or
    "swish"; sequence indices and states are not offered.
    """
    _refuse("causal_conv1d_fn", seq_idx=seq_idx, initial_states=initial_states,
            return_final_states=return_final_states, final_states_out=final_states_out)
    if activation not in ("silu", "swish"):
        raise NotImplementedError(f"causal_conv1d_fn: activation must be 'silu' or 'swish', is {activation!r}")
    return torch.ops.vm_beautynet.causal_conv1d_silu(x, weight.unsqueeze(1), bias)
