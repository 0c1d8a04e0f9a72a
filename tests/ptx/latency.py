"""How long the scan's kernels take, estimated from their machine code: `make kernel-latency` prints the table of csrc/README.md.

One multiprocessor executes the instructions of its warps (sass.py has their paths) as ptxas scheduled them: a warp issues in order, an
instruction waits for its barriers and for its pipe, the next follows after the stall count of its control code; each of four schedulers
issues one instruction per cycle, of the warp that is ready first. The busiest multiprocessor gives the time. The assumptions are the
constants below. Not modeled: the launch itself, instruction fetches, and how the memory's bandwidth is
shared; what it needs for the bytes alone is a lower bound of the result.
"""
import heapq
import struct
import subprocess
import tempfile
from collections import deque
from pathlib import Path

import kernels as k
import sass

MULTIPROCESSORS, CLOCK, BANDWIDTH = 132, 1.755e9, 3.35e12      # H100 SXM
REGISTERS, SHARED, SCHEDULERS = 65536, 227 * 1024, 4           # of a multiprocessor
# Cycles until the barrier of an instruction is released. A global load hits the L2 cache: the kernel before has just written its operands.
LATENCY = {"LDG": 270, "LDS": 29, "SHFL": 24, "MUFU": 20, "LDC": 30, "S2R": 25, "S2UR": 25, "I2F": 20, "F2I": 20}
OTHER_LATENCY, OPERANDS_READ, BARRIER, TAKEN_BRANCH = 20, 12, 20, 8
# Cycles that an instruction keeps a pipe of its scheduler busy: 32 lanes over 32 (float), 16 (integer) or 4 (special functions).
FLOAT, INTEGER, SPECIAL = 1, 2, 8
# For each (b, d, l) in float32 at state 16 and 384 channels: operands, results and stored states, of backward the sums of its blocks too.
BYTES = {"forward": 20.6, "backward": 36.6}
# What the model gave, with a block size chosen at run time, for one direction of the kernels that had a launch for each.
BEFORE = {"forward": {1: 43.6, 8: 34.2, 64: 51.5, 256: 199.2}, "backward": {1: 87.4, 8: 80.4, 64: 202.0, 256: 807.9}}
SHAPES = [(batch, 384, 197, 16) for batch in (1, 8, 64, 256)]


def cost(i, executed):
    """(pipe, cycles) of an instruction. The memory pipe is the multiprocessor's: a cycle for each 128 bytes of shared memory."""
    if i.op in ("LDS", "STS"):
        return "memory", 4 if "128" in i.mods else 2 if "64" in i.mods else 1
    if i.op in ("LDG", "STG", "SHFL"):
        return "memory", 4 if "128" in i.mods else 1
    if i.op in ("MUFU", "I2F", "F2I"):
        return "special", SPECIAL if executed else 1
    if i.op in ("FFMA", "FMUL", "FADD"):
        return "float", FLOAT
    if i.op.startswith(("IMAD", "HFMA2")):
        return "float", INTEGER
    if i.op.startswith("U") or i.op in ("LDC", "S2R", "BRA", "BSSY", "BSYNC", "NOP", "EXIT", "BAR", "CS2R"):
        return None, 0
    return "integer", INTEGER


def steps(path):
    """What the simulation needs of each instruction of a path, in a tuple."""
    result = []
    for n, (i, executed) in enumerate(path):
        pipe, cycles = cost(i, executed)
        latency = LATENCY.get(i.op, OTHER_LATENCY) + cycles - 1 if executed else 1
        stall = max(1, i.stall)
        if i.op == "BRA" and n + 1 < len(path) and path[n + 1][0] is not i.next:
            stall += TAKEN_BRANCH
        outstanding = int(i.args[1], 16) if i.op == "DEPBAR" else 0
        waits = [int(i.args[0][2:])] if i.op == "DEPBAR" else i.waits
        result.append((pipe, cycles, stall, i.write, i.read, waits, outstanding, latency, OPERANDS_READ if executed else 1, i.op == "BAR"))
    return result


class Multiprocessor:
    def __init__(self, block_paths, resident):
        """Executes the blocks of `block_paths`, lists of their warps' steps, `resident` at a time."""
        self.waiting, self.heap, self.serial, self.slot = deque(block_paths), [], 0, 0
        self.free = {}
        self.cycles = 0
        for _ in range(min(resident, len(block_paths))):
            self.start(0)
        while self.heap:
            self.issue(*heapq.heappop(self.heap)[::2])

    def push(self, time, warp):
        self.serial += 1
        heapq.heappush(self.heap, (time, self.serial, warp))

    def start(self, time):
        warps = self.waiting.popleft()
        block = {"running": len(warps), "arrived": []}
        for path in warps:
            self.push(time, {"path": path, "at": 0, "barriers": [[] for _ in range(6)], "block": block, "scheduler": self.slot % SCHEDULERS})
            self.slot += 1

    def issue(self, time, warp):
        """Issues the warp's next instruction at `time`, or later if its scheduler or pipe is busy."""
        pipe, cycles, stall, write, read, _, _, latency, operands, is_barrier = warp["path"][warp["at"]]
        scheduler = warp["scheduler"]
        unit = (pipe, None if pipe == "memory" else scheduler)
        earliest = max(time, self.free.get(scheduler, 0), self.free.get(unit, 0) if pipe else 0)
        if earliest > time:
            return self.push(earliest, warp)
        self.free[scheduler], self.free[unit] = time + 1, time + cycles
        if write is not None:
            warp["barriers"][write].append(time + latency)
        if read is not None:
            warp["barriers"][read].append(time + operands)
        warp["at"] += 1
        block = warp["block"]
        if warp["at"] == len(warp["path"]):
            self.cycles = max(self.cycles, time)
            block["running"] -= 1
            if block["running"] == 0 and self.waiting:
                self.start(time)
        elif is_barrier:
            block["arrived"].append((time + stall, warp))
            if len(block["arrived"]) == block["running"]:
                last = max(t for t, _ in block["arrived"])
                for _, other in block["arrived"]:
                    self.push(self.ready(last + BARRIER, other), other)
                block["arrived"] = []
        else:
            self.push(self.ready(time + stall, warp), warp)

    def ready(self, time, warp):
        """When the barriers that the warp's next instruction waits for are released."""
        _, _, _, _, _, waits, outstanding, *_ = warp["path"][warp["at"]]
        for b in waits:
            times = sorted(warp["barriers"][b])
            if len(times) > outstanding:
                time = max(time, times[len(times) - outstanding - 1])
            warp["barriers"][b] = times[len(times) - outstanding:] if outstanding else []
        return time


def operand(pointer, batch, rows, steps_, reverse=False):
    """An operand with its rows innermost, as the model stores them."""
    return struct.pack("<Qqqq", pointer + 4 * (steps_ - 1) * rows * reverse, rows * steps_, 1, -rows if reverse else rows)


def arguments(direction, shape, reverse=False):
    """The argument struct of a gated scan with softplus, D and bias; no pointer is ever followed."""
    batch, dim, length, state = shape
    pointer, wide, narrow = 1 << 20, operand(1 << 20, batch, dim, length, reverse), operand(1 << 20, batch, state, length, reverse)
    inputs = struct.pack("<qqqq", *shape) + wide * 3 + narrow * 2 + struct.pack("<QQQq", pointer, pointer, pointer, 1)
    states = struct.pack("<Qq", pointer, batch * dim * state)
    if direction == "forward":
        return inputs + wide + states
    return inputs + wide + states + wide * 3 + struct.pack("<QQQQ", *[pointer] * 4) + struct.pack("<qQ", reverse, 0)


class Kernels:
    """The float32 kernels for state sizes of one pass, compiled for sm_90."""

    def __init__(self, folder, sources=k.SOURCES):
        self.code, self.resources = {}, {}
        for direction in ("forward", "backward"):
            cubin = Path(folder) / f"scan_{direction}.cubin"
            command = [k.nvcc(), *k.FLAGS, "-arch=sm_90", "-cubin", "-Xptxas", "-v", "-o", str(cubin), str(Path(sources) / f"scan_{direction}.cu")]
            log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
            for name, kernel in sass.load(cubin).items():
                if "_kernel" in name and k.MANGLED["f32"] in name:
                    self.code[name] = kernel
            self.resources.update({entry["kernel"]: entry for entry in k.parse_resources(log)})

    def microseconds(self, direction, shape, count=1):
        """Of one launch with `count` problems, and at least what the memory needs for their operands."""
        batch, dim, length, state = shape
        lanes = k.forward_lanes(shape, MULTIPROCESSORS) if direction == "forward" else k.LANES
        variant = f"Li{lanes}ELb1E" if direction == "forward" else "Lb1E"
        name = next(n for n in self.code if f"scan_{direction}_kernel{k.MANGLED['f32']}{variant}" in n)
        params = b"".join(arguments(direction, shape, reverse) for reverse in (False, True))
        blocks = k.blocks(batch, dim, lanes)
        paths = [[steps(sass.Thread(self.code[name], params, (0, y, 0), thread, k.THREADS).path()) for thread in range(0, k.THREADS, 32)]
                 for y in range(count)]
        entry = self.resources[name]
        registers = -(-entry["registers"] // 8) * 8 * k.THREADS
        resident = min(REGISTERS // registers, SHARED // (entry["shared"] + 1024))
        busiest = -(-blocks * count // MULTIPROCESSORS)
        queue = [paths[min(count - 1, n * MULTIPROCESSORS // blocks)] for n in range(busiest)]
        return max(Multiprocessor(queue, resident).cycles / CLOCK, count * batch * dim * length * BYTES[direction] / BANDWIDTH) * 1e6


def markdown(kernels, shapes=SHAPES):
    """The lines of the table of csrc/README.md."""
    rows = ["| batch | forward, one direction | both | both before | backward, one direction | both | both before |",
            "| --- | --- | --- | --- | --- | --- | --- |"]
    for shape in shapes:
        values = []
        for direction in ("forward", "backward"):
            values += [kernels.microseconds(direction, shape, count) for count in (1, 2)] + [2 * BEFORE[direction][shape[0]]]
        rows.append(f"| {shape[0]} | " + " | ".join(f"{value:.0f}" for value in values) + " |")
    return rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(*markdown(Kernels(folder)), sep="\n")
