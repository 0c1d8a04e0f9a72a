"""Times the operators against the same formulas in PyTorch's own operations; prints a Markdown table.

    python benchmark.py [--runs 9] [--device cuda]
"""

import argparse
import statistics
import time

import torch
from torch.nn.functional import conv1d, pad, silu, softplus

from vm_beautynet_ops import causal_conv1d_fn, selective_scan_fn

# (batch, dim, length, state): a layer of Vim-Ti at 224 pixels, and a long sequence.
SHAPES = [(8, 384, 197, 16), (2, 384, 1024, 16)]


def selective_scan_eager(u, delta, A, B, C, D, z, delta_bias):
    """One addcmul and one product per step, over (length, batch, dim, state) tensors that are built at once."""
    steps = softplus(delta + delta_bias[:, None]).permute(2, 0, 1)                          # (l, b, d)
    decay = torch.exp(steps.unsqueeze(-1) * A).unbind(0)                                    # l times (b, d, n)
    inputs = ((steps * u.permute(2, 0, 1)).unsqueeze(-1) * B.permute(2, 0, 1).unsqueeze(2)).unbind(0)
    readout = C.permute(2, 0, 1).unsqueeze(-1).unbind(0)                                    # l times (b, n, 1)
    state, outputs = torch.zeros_like(inputs[0]), []
    for decay_of_step, input_of_step, readout_of_step in zip(decay, inputs, readout):
        state = torch.addcmul(input_of_step, decay_of_step, state)
        outputs.append((state @ readout_of_step).squeeze(-1))
    return (torch.stack(outputs, 2) + D[:, None] * u) * silu(z)


def causal_conv1d_eager(x, weight, bias):
    return silu(conv1d(pad(x, (weight.size(1) - 1, 0)), weight.unsqueeze(1), bias, groups=x.size(1)))


def cases(shape, device):
    """(name, ours, eager, operands) for each operator."""
    batch, dim, length, state = shape
    torch.manual_seed(0)
    def sample(*sizes):
        return torch.randn(sizes, device=device)
    scan = [sample(batch, dim, length), sample(batch, dim, length) - 2, -torch.exp(sample(dim, state)), sample(batch, state, length),
            sample(batch, state, length), sample(dim), sample(batch, dim, length), sample(dim)]
    convolution = [sample(batch, dim, length), sample(dim, 4), sample(dim)]
    yield "scan", lambda *x: selective_scan_fn(*x, delta_softplus=True), selective_scan_eager, scan
    yield "conv", lambda *x: causal_conv1d_fn(*x, activation="silu"), causal_conv1d_eager, convolution


def seconds(run, device):
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def measure(functions, operands, runs, device):
    """Median seconds of forward and backward for each function, all in turn, after a warm-up round."""
    leaves = [x.requires_grad_() for x in operands]
    times = [([], []) for _ in functions]
    for turn in range(runs + 1):
        for function, (forward, backward) in zip(functions, times):
            to_output, out = seconds(lambda: function(*leaves), device)
            dout = torch.ones_like(out)
            to_gradients, _ = seconds(lambda: torch.autograd.grad(out, leaves, dout), device)
            if turn > 0:
                forward.append(to_output)
                backward.append(to_gradients)
    return [tuple(map(statistics.median, pair)) for pair in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    print("| operator | shape (b, d, l, n) | pass | ours ms | eager ms | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        for name, ours, eager, operands in cases(shape, options.device):
            (our_times, eager_times) = measure([ours, eager], operands, max(options.runs, 1), options.device)
            for which, mine, theirs in zip(("forward", "backward"), our_times, eager_times):
                print(f"| {name} | {shape} | {which} | {1e3 * mine:.2f} | {1e3 * theirs:.2f} | {theirs / mine:.1f} |", flush=True)
    print(f"\nfloat32, medians of {max(options.runs, 1)} turns, torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}")


if __name__ == "__main__":
    main()
