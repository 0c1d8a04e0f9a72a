"""The CUDA kernels of csrc/cuda in the PTX simulator: compile, pack the argument structs, launch, read back.

Structs follow csrc/cuda/kernels.h, where every field has eight bytes.
"""
import copy
import json
import re
import struct
import subprocess
from pathlib import Path

from toolchain import PROJECT, nvcc  # first: it finds numpy
import numpy as np

import ptxsim

SOURCES = PROJECT / "csrc/cuda"
STATES, TILE, THREADS, LANES, MAX_SUMS = 16, 16, 128, 4, 4
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
MANGLED = {"f32": "If", "f16": "INS0_3f16E", "bf16": "INS0_4bf16E"}


# ---------------------------------------------------------------- compiling
FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr"]
SOURCE_FILES = ["scan_forward.cu", "scan_backward.cu", "conv.cu", "sum_parts.cu"]
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


def compile_ptx(folder, source, arch=90, sources=SOURCES):
    """PTX of one .cu file; returns the parsed kernels by mangled name."""
    out = Path(folder) / (Path(source).stem + ".ptx")
    subprocess.run([nvcc(), *FLAGS, f"-arch=sm_{arch}", "-ptx", "-o", str(out), str(Path(sources) / source)], check=True)
    return ptxsim.load(out)


def resources(folder, source, archs=ARCHITECTURES):
    """What ptxas says of every kernel of a file, for every architecture."""
    targets = [flag for arch in archs for flag in ("-gencode", f"arch=compute_{arch},code=sm_{arch}")]
    command = [nvcc(), *FLAGS, *targets, "-Xptxas", "-v", "-c", "-o", str(Path(folder) / "resources.o"), str(SOURCES / source)]
    return parse_resources(subprocess.run(command, check=True, capture_output=True, text=True).stderr)


def parse_resources(log):
    """[{kernel, arch, registers, shared, spill_stores, spill_loads, stack}] of what `ptxas -v` printed."""
    entries = []
    for line in log.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)' for 'sm_(\d+)'", line):
            entries.append({"kernel": m.group(1), "arch": int(m.group(2))})
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            entries[-1].update(zip(("stack", "spill_stores", "spill_loads"), map(int, m.groups())))
        elif m := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            entries[-1].update(registers=int(m.group(1)), shared=int(shared.group(1)) if shared else 0)
    assert entries and all("registers" in entry and "stack" in entry for entry in entries), log
    return entries


def find(kernels, name, dtype=None, variant=""):
    """The kernel of that name, activation type, and second template argument as the compiler mangles it."""
    wanted = name + (MANGLED[dtype] if dtype else "") + variant
    hits = [k for mangled, k in kernels.items() if wanted in mangled]
    assert len(hits) == 1, (wanted, list(kernels))
    return hits[0]


# ---------------------------------------------------------------- reference files and types
def read_safetensors(path):
    """({name: array}, metadata) of a file of float32 tensors."""
    data = Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", (path, name, entry["dtype"])
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[8 + size + begin:8 + size + end], np.float32).reshape(entry["shape"]).copy()
    return tensors, metadata


def encode(x, dtype):
    x = np.ascontiguousarray(x, np.float32)
    return ptxsim.f32_to_bf16(x).reshape(x.shape) if dtype == "bf16" else x.astype(DTYPES[dtype])


def decode(x, dtype):
    return ptxsim.bf16_to_f32(x) if dtype == "bf16" else x.astype(np.float32)


# ---------------------------------------------------------------- operands
class Device:
    """Puts arrays of shape (batch, row, step) on the simulated device in either layout, and packs their Operand structs."""

    def __init__(self, dtype, rows_innermost=False, reverse=False, bytes_=1 << 24):
        self.gpu, self.dtype = ptxsim.Gpu(bytes_), dtype
        self.rows_innermost, self.reverse = rows_innermost, reverse

    def reversed(self):
        """The same memory, for operands of the opposite direction."""
        other = copy.copy(self)
        other.reverse = not self.reverse
        return other

    def _pack(self, array, shape):
        batch, rows, steps = shape
        strides = [rows * steps, 1, rows] if self.rows_innermost else [rows * steps, steps, 1]
        address = array.address
        if self.reverse:
            address += (steps - 1) * strides[2] * array.dtype.itemsize
            strides[2] = -strides[2]
        return struct.pack("<Qqqq", address, *strides)

    def input(self, x):
        if x is None:
            return struct.pack("<Qqqq", 0, 0, 0, 0)
        stored = x.transpose(0, 2, 1) if self.rows_innermost else x
        return self._pack(self.gpu.array(encode(stored, self.dtype)), x.shape)

    def output(self, shape):
        """(struct, read): read() gives the (batch, row, step) values after the launch."""
        batch, rows, steps = shape
        stored = (batch, steps, rows) if self.rows_innermost else shape
        array = self.gpu.empty(stored, DTYPES[self.dtype])

        def read():
            x = decode(array.get(), self.dtype)
            return x.transpose(0, 2, 1) if self.rows_innermost else x
        return self._pack(array, shape), read

    def floats(self, x):
        """(array, address) of a float parameter, 0 for None."""
        return 0 if x is None else self.gpu.array(np.ascontiguousarray(x, np.float32)).address

    def workspace(self, shape):
        return self.gpu.empty(shape, np.float32)


def problems(args):
    """(count, Problems struct) of one problem's argument struct or a list of two."""
    args = [args] if isinstance(args, bytes) else list(args)
    return len(args), args[0] + args[-1]


def blocks(batch, dim, lanes=LANES):
    """Blocks of a scan in which this many lanes share a channel."""
    return batch * -(-dim // (THREADS // lanes))


def forward_lanes(shape, multiprocessors):
    """What scan_forward.cu decides: the lanes that share a channel."""
    batch, dim, _, state = shape
    return STATES if state <= STATES and blocks(batch, dim, STATES) <= 3 * multiprocessors else LANES


class Scan:
    """One selective scan, forward and then backward, from a reference file's tensors."""

    def __init__(self, device, case, softplus, kernels, backwards=False):
        """`backwards` runs the blocks of every launch in the opposite order."""
        self.device, self.case, self.kernels, self.backwards = device, case, kernels, backwards
        self.batch, self.dim, self.length = case["u"].shape
        self.state = case["A"].shape[1]
        self.padded = -(-self.state // STATES) * STATES
        self.tiles = -(-self.length // TILE)
        operands = b"".join(device.input(case.get(name)) for name in ("u", "delta", "z", "B", "C"))
        self.args = struct.pack("<qqqq", self.batch, self.dim, self.length, self.state) + operands
        self.args += struct.pack("<QQQq", device.floats(case["A"]), device.floats(case.get("D")), device.floats(case.get("delta_bias")), softplus)
        self.states = None
        self.slot = self.batch * self.dim * self.padded

    def _launch(self, name, args, lanes=LANES, variant=""):
        """Launches the kernel for one problem's argument struct, or for a list of two."""
        kernel = find(self.kernels, name, self.device.dtype, f"{variant}Lb{int(self.state <= STATES)}E")
        count, packed = problems(args)
        return self.device.gpu.launch(kernel, (blocks(self.batch, self.dim, lanes), count), (THREADS,), [packed], backwards=self.backwards)

    def _forward_args(self, keep_states=True):
        """(argument struct, read)"""
        out, read = self.device.output(self.case["u"].shape)
        states, stride = 0, 0
        if keep_states:
            self.states = self.device.workspace((self.tiles, self.batch, self.dim, self.padded))
            states, stride = self.states.address, self.slot
        elif self.state > STATES:
            states = self.device.workspace((self.batch, self.dim, self.padded)).address
        return self.args + out + struct.pack("<Qq", states, stride), read

    def forward(self, keep_states=True, lanes=LANES):
        """(out, counts)"""
        args, read = self._forward_args(keep_states)
        stats = self._launch("scan_forward_kernel", args, lanes, f"Li{lanes}E")
        return read(), stats

    def forward_with(self, other, lanes=LANES):
        """The results of forward for this scan and another of the same sizes on the same device, in one launch."""
        args, reads = zip(*(scan._forward_args() for scan in (self, other)))
        self._launch("scan_forward_kernel", args, lanes, f"Li{lanes}E")
        return [read() for read in reads]

    def last_state(self):
        return self.states.get()[-1][:, :, :self.state]

    def _backward_args(self):
        """(argument struct, results): results(counts) gives {name: gradient} after the launch, and adds to the counts."""
        device, case = self.device, self.case
        shape = case["u"].shape
        dout = device.input(case["dout"])
        outputs = {name: device.output(shape) for name in ("du", "ddelta")}
        if "z" in case:
            outputs["dz"] = device.output(shape)
        dA = device.workspace((self.batch, self.dim, self.padded))
        dD = device.workspace((self.batch, self.dim)) if "D" in case else None
        dbias = device.workspace((self.batch, self.dim)) if "delta_bias" in case else None
        channel_blocks = blocks(1, self.dim)
        dBC = device.workspace((self.batch, channel_blocks, self.length, self.padded // STATES, 2, STATES))
        adjoint = device.workspace((self.batch, self.dim, self.padded)) if self.state > STATES else None
        args = self.args + dout + struct.pack("<Qq", self.states.address, self.slot)
        args += outputs["du"][0] + outputs["ddelta"][0] + (outputs["dz"][0] if "z" in case else device.input(None))
        args += struct.pack("<QQQQ", *(x.address if x else 0 for x in (dA, dD, dbias, dBC)))
        args += struct.pack("<qQ", device.reverse, adjoint.address if adjoint else 0)

        def results(stats):
            gradients = {name: read() for name, (_, read) in outputs.items()}
            dA_sum, dD_sum, dbias_sum, both = sum_parts(
                device, self.kernels, stats, [(x, 1, self.batch) for x in (dA, dD, dbias)] + [(dBC, self.batch, channel_blocks)])
            gradients["dA"] = dA_sum.reshape(self.dim, self.padded)[:, :self.state]
            if dD:
                gradients["dD"] = dD_sum
            if dbias:
                gradients["ddelta_bias"] = dbias_sum
            both = both.reshape(self.batch, self.length, self.padded // STATES, 2, STATES)
            for index, name in enumerate(("dB", "dC")):
                gradients[name] = both[:, :, :, index].reshape(self.batch, self.length, self.padded).transpose(0, 2, 1)[:, :self.state]
            return gradients
        return args, results

    def backward(self):
        """({name: gradient}, counts): the counts include the kernels that add up the partial sums."""
        args, results = self._backward_args()
        stats = self._launch("scan_backward_kernel", args)
        return results(stats), stats

    def backward_with(self, other):
        """The gradients of this scan and of another, in one launch."""
        args, results = zip(*(scan._backward_args() for scan in (self, other)))
        stats = self._launch("scan_backward_kernel", args)
        return [read(stats) for read in results]


def sum_parts(device, kernels, stats, jobs):
    """The sums of (parts, outer, count), in one launch: parts is (outer, count, ...) in memory, or None. Adds to the counts."""
    outs = [parts if parts is None or count == 1 else device.workspace((int(np.prod(parts.shape)) // count,)) for parts, outer, count in jobs]
    packed, blocks = b"", 0
    for out, (parts, outer, count) in zip(outs, jobs):
        if out is not parts:
            packed += struct.pack("<QQqqq", parts.address, out.address, outer, count, out.shape[0] // outer)
            blocks += -(-out.shape[0] // THREADS)
    if packed:
        packed += bytes(MAX_SUMS * 40 - len(packed))
        stats.update(device.gpu.launch(find(kernels, "sum_parts_kernel"), (blocks,), (THREADS,), [packed]))
    return [out.get().reshape(-1) if out else None for out in outs]


def conv_chunks(batch, dim, length):
    """What conv_chunks of kernels.h gives."""
    return min(-(-512 // blocks(batch, dim)), -(-length // 32))


class Conv:
    """One causal conv1d with SiLU; x and dout (batch, dim, length), weight (dim, width), bias (dim) or None."""

    def __init__(self, device, x, weight, bias, kernels, chunks=None):
        """`chunks` of the length that blocks of backward share, if not what conv_chunks gives."""
        self.chunks = chunks or conv_chunks(*x.shape)
        self.device, self.kernels, self.shape, self.width, self.has_bias = device, kernels, x.shape, weight.shape[1], bias is not None
        self.args = struct.pack("<qqqq", *x.shape, self.width) + device.input(x) + struct.pack("<QQ", device.floats(weight), device.floats(bias))
        self.blocks, self.variant = x.shape[0] * -(-x.shape[1] // 32), f"Li{4 if self.width <= 4 else 8}E"

    def _launch(self, name, args, tiles):
        count, packed = problems(args)
        return self.device.gpu.launch(find(self.kernels, name, self.device.dtype, self.variant), (self.blocks, count, tiles), (128,), [packed])

    def _forward_args(self):
        out, read = self.device.output(self.shape)
        return self.args + out, read

    def forward(self):
        args, read = self._forward_args()
        stats = self._launch("conv_forward_kernel", args, -(-self.shape[2] // 32))
        return read(), stats

    def forward_with(self, other):
        args, reads = zip(*(conv._forward_args() for conv in (self, other)))
        self._launch("conv_forward_kernel", args, -(-self.shape[2] // 32))
        return [read() for read in reads]

    def _backward_args(self, dout):
        batch, dim, _ = self.shape
        dx, read = self.device.output(self.shape)
        parts = batch * self.chunks
        dweight = self.device.workspace((parts, dim, self.width))
        dbias = self.device.workspace((parts, dim)) if self.has_bias else None
        args = self.args + self.device.input(dout) + dx + struct.pack("<QQ", dweight.address, dbias.address if dbias else 0)

        def results(stats):
            dweight_sum, dbias_sum = sum_parts(self.device, self.kernels, stats, [(dweight, 1, parts), (dbias, 1, parts)])
            gradients = {"dx": read(), "dweight": dweight_sum.reshape(dim, self.width)}
            if dbias:
                gradients["dbias"] = dbias_sum
            return gradients
        return args, results

    def backward(self, dout):
        args, results = self._backward_args(dout)
        stats = self._launch("conv_backward_kernel", args, self.chunks)
        return results(stats), stats

    def backward_with(self, other, douts):
        args, results = zip(*(conv._backward_args(dout) for conv, dout in zip((self, other), douts)))
        stats = self._launch("conv_backward_kernel", args, self.chunks)
        return [read(stats) for read in results]
