"""Times the operators on the first GPU; prints Markdown tables.

    python timing.py                      forward and backward, ours and eager, where mamba-ssm is installed its own too
    python timing.py launch B,D,L,N       one forward and backward of each operator, for ncu
    python timing.py metrics REPORT.csv   the key metrics of `ncu --import FILE --page raw --csv` per kernel
    python timing.py rehearse             on a CPU: that everything above runs, with small shapes

Times are medians over replays of a CUDA graph, so that no launch is waited for. `cold`: sets of operands in turn, enough
that none is in the L2 cache; `warm`: one set. `of copy`: the bytes of operands and results over the time, compared with
those of a copy in device memory.
"""

import csv
import statistics
import sys
import time

import torch

import vm_beautynet_ops  # noqa: F401  registers the operators

SHAPES = [(1, 384, 197, 16), (8, 384, 197, 16), (64, 384, 197, 16), (256, 384, 197, 16), (8, 768, 4097, 16)]
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Scan:
    """A scan on tensors as the mixer has them: u and delta (b, l, d); z half of in_proj's output; B and C parts of x_proj's."""

    def __init__(self, shape, dtype, seed=0):
        batch, dim, length, state = self.shape = shape
        generator = torch.Generator(DEVICE).manual_seed(seed)
        def normal(*sizes):
            return torch.randn(sizes, generator=generator, device=DEVICE)
        rank = max(1, dim // 32)
        xz, low = normal(batch, length, 2 * dim).to(dtype), normal(batch, length, rank + 2 * state).to(dtype)
        u, delta = normal(batch, length, dim).to(dtype), (normal(batch, length, dim) - 2).to(dtype)
        A = -torch.arange(1, state + 1, device=DEVICE, dtype=torch.float32).repeat(dim, 1)
        B, C = low[:, :, rank:rank + state], low[:, :, rank + state:]
        operands = [u.transpose(1, 2), delta.transpose(1, 2), A, B.transpose(1, 2), C.transpose(1, 2), normal(dim),
                    xz[:, :, dim:].transpose(1, 2), normal(dim)]
        self.operands = [x.detach().requires_grad_() for x in operands]
        self.dout = normal(batch, length, dim).to(dtype).transpose(1, 2)
        self.bytes = sum(x.numel() * x.element_size() for x in [*operands, self.dout])

    def infer(self, function):
        with torch.no_grad():
            return function(*self.operands)

    def train(self, function):
        return torch.autograd.grad(function(*self.operands), self.operands, self.dout)


def ours(*operands):
    return torch.ops.vm_beautynet.selective_scan(*operands, True)


def eager(*operands):
    return torch.ops.vm_beautynet.selective_scan_eager(*operands, True)


def mamba_ssm():
    """mamba-ssm's function on its own layout, None where it is not installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    def run(u, delta, A, B, C, D, z, delta_bias):
        u, delta, B, C, z = (x.contiguous() for x in (u, delta, B, C, z))
        return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, True)
    return run


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def microseconds(function, most_seconds=1.0):
    """The median time of a call, timed one by one."""
    function()
    synchronize()
    times, end = [], time.monotonic() + most_seconds
    while len(times) < 5 or (time.monotonic() < end and len(times) < 200):
        if DEVICE == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            stop.record()
            stop.synchronize()
            times.append(1e3 * start.elapsed_time(stop))
        else:
            start = time.perf_counter()
            function()
            times.append(1e6 * (time.perf_counter() - start))
    return statistics.median(times)


def in_graph(functions, rounds):
    """The median time of a call where all functions, some rounds of them, are one CUDA graph."""
    if DEVICE != "cuda":
        return microseconds(lambda: [function() for function in functions], 0) / len(functions)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for function in functions:
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for function in functions:
                function()
    return microseconds(graph.replay) / (rounds * len(functions))


def copy_rate(size):
    """Bytes read and written per microsecond by a copy in device memory."""
    source = torch.zeros(size // 4, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * size / in_graph([lambda: target.copy_(source)], 4)


def time_scans(shapes, cache_bytes, copy):
    print("\n| shape (b, d, l, n) | type | caches | pass | ours µs | of copy | eager µs | mamba-ssm µs |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    theirs = mamba_ssm()
    for shape in shapes:
        for name, dtype in TYPES.items():
            first = Scan(shape, dtype)
            sets = max(1, min(16, -(-cache_bytes // first.bytes)))
            calls = [first, *(Scan(shape, dtype, seed) for seed in range(1, sets))]
            for caches, used in (("cold", calls), ("warm", calls[:1])):
                rounds = max(1, 32 // len(used))
                for which, factor in (("infer", 1), ("train", 3)):
                    took = in_graph([lambda call=call: getattr(call, which)(ours) for call in used], rounds)
                    # Training reads the operands twice and writes their gradients.
                    rate = factor * first.bytes / took / copy
                    others = ["", ""]
                    if caches == "warm":
                        others[0] = f"{microseconds(lambda: getattr(first, which)(eager), 0):.0f}"
                        if theirs:
                            others[1] = f"{in_graph([lambda: getattr(first, which)(theirs)], rounds):.1f}"
                    kind = {"infer": "inference", "train": "forward and backward"}[which]
                    print(f"| {shape} | {name} | {caches} | {kind} | {took:.1f} | {rate:.0%} | {' | '.join(others)} |", flush=True)
            del calls, first


def launch(shape):
    batch, dim, length, _ = shape
    for _ in range(2):
        Scan(shape, torch.float32).train(ours)
    x = torch.randn(batch, length, dim, device=DEVICE).transpose(1, 2).requires_grad_()
    weight, bias = torch.ones(dim, 1, 4, device=DEVICE).requires_grad_(), torch.ones(dim, device=DEVICE).requires_grad_()
    torch.ops.vm_beautynet.causal_conv1d_silu(x, weight, bias).sum().backward()
    synchronize()


# Column: ncu's name.
METRICS = {
    "µs": "gpu__time_duration.sum", "registers": "launch__registers_per_thread", "blocks": "launch__grid_size", "threads": "launch__block_size",
    "warps %": "sm__warps_active.avg.pct_of_peak_sustained_active", "issue %": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "DRAM %": "dram__throughput.avg.pct_of_peak_sustained_elapsed", "L2 hits %": "lts__t_sector_hit_rate.pct",
    "instructions": "smsp__inst_executed.sum", "XU %": "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",
    "bank conflicts": "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum", "spill sectors": "l1tex__t_sectors_pipe_lsu_mem_local_op_ld.sum",
}
STALL = "smsp__average_warps_issue_stalled_"


def metrics(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(line for line in file if line.startswith('"')))
    print("\n| kernel | " + " | ".join(METRICS) + " | stalls, warps per issue |")
    print("| --- |" + " --- |" * (len(METRICS) + 1))
    for row in rows[1:]:  # the first holds the units
        stalls = {}
        for key, value in row.items():
            if key and key.startswith(STALL) and key.endswith("_per_issue_active.ratio") and value not in ("", "n/a"):
                stalls[key[len(STALL):].split("_per_")[0]] = float(value.replace(",", ""))
        worst = sorted(stalls.items(), key=lambda item: -item[1])[:4]
        values = [row.get(key) or "" for key in METRICS.values()]
        print(f"| {row['Kernel Name'][:60]} | {' | '.join(values)} | {', '.join(f'{name} {value:.1f}' for name, value in worst)} |")


def main(arguments):
    if arguments[:1] == ["metrics"] and len(arguments) == 2:
        return metrics(arguments[1])
    if arguments == ["rehearse"]:
        time_scans([(1, 8, 5, 2)], 1 << 14, copy_rate(1 << 16))
        return launch((1, 8, 5, 2))
    if DEVICE != "cuda":
        sys.exit("no GPU: PyTorch sees none (`timing.py rehearse` runs on a CPU)")
    if arguments[:1] == ["launch"] and len(arguments) == 2:
        return launch(tuple(map(int, arguments[1].split(","))))
    if arguments:
        sys.exit(__doc__)
    properties = torch.cuda.get_device_properties(0)
    memory, cache = copy_rate(1 << 30), copy_rate(8 << 20)
    print(f"{properties.name}, {properties.multi_processor_count} multiprocessors, torch {torch.__version__}: a copy moves "
          f"{memory / 1e6:.2f} TB/s in device memory, {cache / 1e6:.2f} TB/s in the L2 cache")
    time_scans(SHAPES, 200 << 20, memory)


if __name__ == "__main__":
    main(sys.argv[1:])
