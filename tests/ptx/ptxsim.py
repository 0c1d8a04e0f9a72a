#!/usr/bin/env python3
"""Run a CUDA kernel without a GPU: executes the PTX that nvcc wrote (nvcc -ptx -arch=sm_90 ...), one block at a time,
all threads of a block side by side in numpy. Needs numpy alone.

It checks as it runs: every access lies inside an allocation, nothing is read before it is written, two threads
never touch the same shared word without a barrier between them (bar.sync across warps, a warp-level sync within one),
a shuffle never reads a lane that is not there, barriers do not deadlock. It counts as it runs (warp-level
instructions by kind, global memory requests and 32-byte sectors, bytes that must move at least once, shared-memory
wavefronts beyond the ideal), so that two kernels that do the same work can be compared.

    import numpy as np, ptxsim
    gpu = ptxsim.Gpu()
    kernels = ptxsim.load("kernel.ptx")                 # {entry name: Kernel}
    x, y = gpu.array(np.ones(1024, np.float32)), gpu.empty(1024, np.float32)
    stats = gpu.launch(kernels["scale"], grid=(8,), block=(128,), args=[x, y, np.int32(1024)], shared=0)
    print(y.get(), stats.table())

Arguments: Array (its address), numpy scalars of the parameter's size, bytes for a struct passed by value.
What it can't see: timing, occupancy, memory ordering between blocks, registers (ask ptxas -v). An instruction it does
not know stops it with its text. cp.async copies at once. Approximate functions (ex2, rcp, ...) are exact here.
Source: PTX ISA 9.0.
"""
import re
import struct
from collections import Counter
from pathlib import Path

import numpy as np

np.seterr(all="ignore")
GLOBAL_BASE, SHARED_BASE, LOCAL_BASE = 1 << 32, 1 << 56, 1 << 57
SIZES = {"pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "b32": 4, "u32": 4, "s32": 4,
         "f32": 4, "f16x2": 4, "bf16x2": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8, "b128": 16}
RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
NATIVE = {"u8": np.uint8, "b8": np.uint8, "s8": np.int8, "u16": np.uint16, "b16": np.uint16, "s16": np.int16, "f16": np.float16,
          "u32": np.uint32, "b32": np.uint32, "s32": np.int32, "f32": np.float32, "u64": np.uint64, "b64": np.uint64,
          "s64": np.int64, "f64": np.float64}


class Fault(Exception):
    """A kernel did something that is wrong on a GPU."""


def bf16_to_f32(raw):
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    r = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), r).astype(np.uint16)


# ---------------------------------------------------------------- parsing
class Instr:
    __slots__ = ("op", "mods", "args", "pred", "neg", "text", "target", "fn")


class Kernel:
    def __init__(self, name):
        self.name, self.params, self.regs, self.shared, self.local = name, [], {}, {}, {}
        self.shared_size = self.local_size = 0
        self.dynamic, self.code, self.labels = set(), [], {}


def split_args(s):
    out, depth, cur = [], 0, ""
    for c in s:
        if c in "{[(":
            depth += 1
        if c in "}])":
            depth -= 1
        if c == "," and depth == 0:
            out.append(cur.strip())
            cur = ""
        else:
            cur += c
    if cur.strip():
        out.append(cur.strip())
    return out


def load(path):
    """Parse a .ptx file: {entry name: Kernel}."""
    text = re.sub(r"/\*.*?\*/", "", re.sub(r"//[^\n]*", "", Path(path).read_text()), flags=re.S)
    dynamic = set(re.findall(r"\.extern\s+\.shared\s+[^;]*?\.b8\s+([\w$]+)\[\]", text))
    outer_shared = re.findall(r"^\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d+)\]", text, flags=re.M)
    kernels = {}
    for m in re.finditer(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{", text):
        k = Kernel(m.group(1))
        k.dynamic = dynamic
        off = 0
        for p in split_args(m.group(2)):
            pm = re.match(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s*(?:\.ptr\s*(?:\.\w+\s*)*(?:\.align\s+\d+\s+)?)?([\w$]+)(?:\[(\d+)\])?", p)
            size = SIZES[pm.group(2)] * int(pm.group(4) or 1)
            align = int(pm.group(1) or SIZES[pm.group(2)])
            off = -(-off // align) * align
            k.params.append((pm.group(3), off, size))
            off += size
        depth, i = 1, m.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            i += 1
        for align, name, size in outer_shared:
            place(k, "shared", name, int(align), int(size))
        parse_body(k, text[m.end():i - 1])
        kernels[k.name] = k
    return kernels


def place(k, space, name, align, size):
    end = -(-getattr(k, space + "_size") // align) * align
    getattr(k, space)[name] = end
    setattr(k, space + "_size", end + size)


def parse_body(k, body):
    tokens, i, stmt, vec = [], 0, "", 0
    while i < len(body):   # statements; a brace that opens a scope is a token of its own
        c = body[i]
        if c == "{" and not stmt.strip():
            tokens.append("{")
        elif c == "}" and not stmt.strip():
            tokens.append("}")
        elif c == ";":
            tokens.append(stmt.strip())
            stmt = ""
        elif c == ":" and re.fullmatch(r"\s*[\w$%]+\s*", stmt) and body[i:i + 2] != "::":
            tokens.append(stmt.strip() + ":")
            stmt = ""
        elif c == ":" and body[i:i + 2] == "::":
            stmt += "::"
            i += 1
        else:
            stmt += c
        i += 1
    scopes, serial = [{}], 0
    def rename(s):
        return re.sub(r"[%\w$][\w$]*", lambda m: next((sc[m.group()] for sc in reversed(scopes) if m.group() in sc), m.group()), s)
    for t in tokens:
        if t == "{":
            serial += 1
            scopes.append({})
        elif t == "}":
            scopes.pop()
        elif t.endswith(":"):
            k.labels[rename(t[:-1])] = len(k.code)
        elif t.startswith(".reg"):
            ty, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", t, re.S).groups()
            for n in split_args(names):
                r = re.match(r"(%?[\w$]+)<(\d+)>", n)
                for nm in ([f"{r.group(1)}{j}" for j in range(int(r.group(2)))] if r else [n]):
                    new = nm if len(scopes) == 1 else f"{nm}__{serial}"
                    scopes[-1][nm] = new
                    k.regs[new] = ty
        elif t.startswith((".shared", ".local")):
            sp, align, ty, name, size = re.match(r"\.(shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", t).groups()
            place(k, sp, name, int(align or SIZES[ty]), SIZES[ty] * int(size or 1))
        elif t.startswith(".") or not t:
            continue
        else:
            ins = Instr()
            ins.text, ins.pred, ins.neg, ins.target = t, None, False, None
            m = re.match(r"@(!?)([%\w$]+)\s+(.*)", t, re.S)
            if m:
                ins.neg, ins.pred, t = bool(m.group(1)), rename(m.group(2)), m.group(3)
            head, _, rest = t.partition(" ") if not t[:20].partition("\t")[1] else t.partition("\t")
            head = head.strip()
            ins.op, *ins.mods = head.split(".")
            ins.args = [rename(a) for a in split_args(rest)]
            k.code.append(ins)
    for ins in k.code:
        if ins.op == "bra":
            ins.target = k.labels[ins.args[0]]


# ---------------------------------------------------------------- memory
class Array:
    """Device memory that holds a numpy array."""
    def __init__(self, gpu, host, initialized):
        self.gpu, self.dtype, self.shape, self.nbytes = gpu, host.dtype, host.shape, host.nbytes
        self.address = gpu._allocate(host, initialized)

    def get(self):
        o = self.address - GLOBAL_BASE
        if not self.gpu.init[o:o + self.nbytes].all():
            raise Fault(f"{np.count_nonzero(~self.gpu.init[o:o + self.nbytes])} of {self.nbytes} bytes were never written")
        return self.gpu.mem[o:o + self.nbytes].copy().view(self.dtype).reshape(self.shape)


class Stats(Counter):
    def table(self):
        return "\n".join(f"{k:28} {v:>14,}" for k, v in sorted(self.items()))


class Gpu:
    def __init__(self, bytes_=1 << 26):
        self.mem, self.init, self.owned = np.zeros(bytes_, np.uint8), np.zeros(bytes_, bool), np.zeros(bytes_, bool)
        self.top = 4096

    def _allocate(self, host, initialized):
        o = -(-self.top // 256) * 256
        self.top = o + host.nbytes + 512     # a red zone behind each
        if self.top > self.mem.size:
            raise MemoryError("give Gpu() more bytes")
        self.owned[o:o + host.nbytes] = True
        self.init[o:o + host.nbytes] = initialized
        self.mem[o:o + host.nbytes] = np.ascontiguousarray(host).reshape(-1).view(np.uint8) if initialized else 0xFF
        return GLOBAL_BASE + o

    def array(self, host):
        return Array(self, np.ascontiguousarray(host), True)

    def empty(self, shape, dtype):
        """Memory that counts as unwritten; it holds 0xFF bytes (NaN)."""
        return Array(self, np.empty(shape, dtype), False)

    def zeros(self, shape, dtype):
        return Array(self, np.zeros(shape, dtype), True)

    def launch(self, kernel, grid, block, args, shared=0, races=True, backwards=False):
        """Runs every block of the grid, one after the other; `backwards` takes the last one first."""
        grid, block = (tuple(grid) + (1, 1))[:3], (tuple(block) + (1, 1))[:3]
        end = max([o + s for _, o, s in kernel.params], default=0)
        params = bytearray(end)
        if len(args) != len(kernel.params):
            raise ValueError(f"{kernel.name} takes {len(kernel.params)} arguments, got {len(args)}")
        for a, (name, off, size) in zip(args, kernel.params):
            raw = struct.pack("<Q", a.address) if isinstance(a, Array) else (bytes(a) if isinstance(a, (bytes, bytearray)) else np.asarray(a).tobytes())
            if len(raw) != size:
                raise ValueError(f"parameter {name} has {size} bytes, got {len(raw)}")
            params[off:off + size] = raw
        stats, touched = Stats(), np.zeros(self.mem.size // 32 + 1, bool)
        order = [(x, y, z) for z in range(grid[2]) for y in range(grid[1]) for x in range(grid[0])]
        for index in reversed(order) if backwards else order:
            Block(self, kernel, index, grid, block, params, shared, stats, touched, races).run()
        stats["global bytes at least"] = int(touched.sum()) * 32
        return stats


# ---------------------------------------------------------------- execution
CATEGORY = {"ld": "load", "st": "store", "bra": "control", "bar": "barrier", "barrier": "barrier", "shfl": "shuffle", "ex2": "special", "lg2": "special", "rcp": "special",
            "rsqrt": "special", "sqrt": "special", "div": "special", "sin": "special", "cos": "special", "tanh": "special", "setp": "compare/select", "selp": "compare/select",
            "mov": "move/convert", "cvt": "move/convert", "cvta": "move/convert", "atom": "atomic", "red": "atomic", "ret": "control", "exit": "control"}


class Block:
    def __init__(self, gpu, k, ctaid, grid, block, params, dyn, stats, touched, races):
        self.gpu, self.k, self.params, self.stats, self.touched, self.races = gpu, k, params, stats, touched, races
        self.n = n = block[0] * block[1] * block[2]
        lin = np.arange(n)
        self.lin, self.warp, self.lane = lin, lin // 32, lin % 32
        u = lambda v: np.full(n, v, np.uint32)
        self.special = {"%tid.x": (lin % block[0]).astype(np.uint32), "%tid.y": (lin // block[0] % block[1]).astype(np.uint32),
                        "%tid.z": (lin // (block[0] * block[1])).astype(np.uint32), "%laneid": self.lane.astype(np.uint32), "%warpid": self.warp.astype(np.uint32),
                        "%lanemask_lt": ((np.uint64(1) << self.lane.astype(np.uint64)) - np.uint64(1)).astype(np.uint32), "%nwarpid": u(-(-n // 32)), "%dynamic_smem_size": u(dyn)}
        for a, i in (("x", 0), ("y", 1), ("z", 2)):
            self.special["%ctaid." + a], self.special["%ntid." + a], self.special["%nctaid." + a] = u(ctaid[i]), u(block[i]), u(grid[i])
        self.ctaid = ctaid
        self.regs = {r: np.zeros(n, bool if t == "pred" else RAW[SIZES[t]]) for r, t in k.regs.items()}
        base = -(-k.shared_size // 16) * 16
        self.sym = {name: off for name, off, _ in k.params}
        self.sym.update(k.shared)
        self.sym.update({d: base for d in k.dynamic})
        size = base + dyn
        self.smem, self.sinit = np.zeros(size, np.uint8), np.zeros(size, bool)
        words = -(-size // 4) + 1
        self.wt, self.wb, self.ws = np.full(words, -1), np.zeros(words, np.int64), np.zeros(words, np.int64)
        self.rt, self.rb, self.rs = np.full(words, -1), np.zeros(words, np.int64), np.zeros(words, np.int64)
        self.lmem, self.linit = np.zeros((n, k.local_size), np.uint8), np.zeros((n, k.local_size), bool)
        self.epoch, self.wsync = 0, np.zeros(-(-n // 32), np.int64)
        self.pc, self.waiting, self.done = np.zeros(n, np.int64), np.full(n, -1), np.zeros(n, bool)
        for ins in k.code:
            ins.fn = getattr(self, "op_" + ins.op, None)
            if ins.fn is None:
                raise Fault(f"unknown instruction: {ins.text}")

    def fault(self, ins, what, t=None):
        at = "" if t is None else f", thread {int(t)}"
        raise Fault(f"{self.k.name} block {self.ctaid}{at}: {what}\n    {ins.text}")

    def run(self):
        code, end = self.k.code, len(self.k.code)
        while True:
            ready = ~self.done & (self.waiting < 0)
            if not ready.any():
                if self.done.all():
                    return
                live = ~self.done
                if (self.waiting[live] >= 0).all() and len(set(self.waiting[live])) == 1:
                    self.waiting[:] = -1
                    self.epoch += 1
                    continue
                raise Fault(f"{self.k.name} block {self.ctaid}: threads wait at different barriers")
            pc = int(self.pc[ready].min())
            if pc >= end:
                self.done[ready & (self.pc == pc)] = True
                continue
            group = ready & (self.pc == pc)
            ins = code[pc]
            self.pc[group] = pc + 1
            on = group
            if ins.pred is not None:
                p = self.regs[ins.pred]
                on = group & (~p if ins.neg else p)
            issued = np.unique(self.warp[group]).size
            self.stats["warp instructions"] += issued
            self.stats["  " + CATEGORY.get(ins.op, "float arithmetic" if ins.mods and ins.mods[-1] in ("f32", "f16", "f16x2", "bf16x2", "f64") else "integer arithmetic")] += issued
            if on.any():
                sel = slice(None) if on.all() else np.nonzero(on)[0]
                ins.fn(ins, sel)

    # operands
    def raw(self, a, sel, size):
        if a[0] == "%":
            if a in self.regs:
                return self.regs[a][sel]
            if a in self.special:
                return self.special[a][sel]
            if a in ("%clock", "%clock64"):
                return np.zeros(self.n, RAW[size])[sel]
        if a in self.regs:
            return self.regs[a][sel]
        if a[:2] in ("0f", "0F"):
            v = int(a[2:], 16)
        elif a[:2] in ("0d", "0D"):
            v = int(a[2:], 16)
        elif a in self.sym:
            v = self.sym[a]
        elif a in self.k.local:
            v = self.k.local[a]
        else:
            v = int(a.rstrip("U"), 0)
        return np.full(self.lin[sel].size, v & ((1 << 8 * size) - 1), RAW[size])

    def val(self, a, sel, ty):
        neg = a[0] == "-" and a[1:2] == "%"
        r = self.raw(a[1:] if neg else a, sel, SIZES[ty])
        if ty == "bf16":
            return bf16_to_f32(r)
        if r.dtype == bool:
            return r
        if r.dtype.itemsize != SIZES[ty]:
            r = r.astype(RAW[SIZES[ty]])
        r = np.ascontiguousarray(r).view(NATIVE[ty])
        return -r if neg else r

    def put(self, d, sel, v, ty):
        if d == "_":
            return
        if ty == "bf16":
            v = f32_to_bf16(v)
        elif ty != "pred":
            v = np.ascontiguousarray(v, NATIVE[ty]).view(RAW[SIZES[ty]])
        r = self.regs[d]
        r[sel] = v if r.dtype == bool or v.dtype.itemsize == r.dtype.itemsize else v.view(NATIVE[ty]).astype(np.int64 if ty[0] == "s" else np.uint64).astype(r.dtype)

    def two(self, ins, sel, ty):
        return self.val(ins.args[1], sel, ty), self.val(ins.args[2], sel, ty)

    def finish(self, ins, sel, v, ty):
        if "sat" in ins.mods and ty in ("f32", "f16"):
            v = np.clip(v, 0, 1)
        if "ftz" in ins.mods and ty == "f32":
            v = np.where(np.abs(v) < np.float32(1.17549435e-38), np.copysign(np.float32(0), v), v)
        self.put(ins.args[0], sel, v, ty)

    def packed(self, ins, sel, f):
        """f16x2 / bf16x2 arithmetic."""
        ty = ins.mods[-1]
        parts = []
        for h in (0, 16):
            xs = []
            for a in ins.args[1:]:
                raw = ((self.raw(a, sel, 4) >> np.uint32(h)) & np.uint32(0xFFFF)).astype(np.uint16)
                xs.append(bf16_to_f32(raw) if ty == "bf16x2" else raw.view(np.float16).astype(np.float32))
            r = f(*xs)
            parts.append((f32_to_bf16(r) if ty == "bf16x2" else r.astype(np.float16).view(np.uint16)).astype(np.uint32))
        self.regs[ins.args[0]][sel] = parts[0] | (parts[1] << np.uint32(16))

    def arith(self, ins, sel, f):
        ty = ins.mods[-1]
        if ty.endswith("x2"):
            return self.packed(ins, sel, f)
        self.finish(ins, sel, f(*self.two(ins, sel, ty)), ty)

    def op_add(self, i, s): self.arith(i, s, lambda a, b: a + b)
    def op_sub(self, i, s): self.arith(i, s, lambda a, b: a - b)
    def op_min(self, i, s): self.arith(i, s, np.fmin if i.mods[-1][0] in "fb" else np.minimum)
    def op_max(self, i, s): self.arith(i, s, np.fmax if i.mods[-1][0] in "fb" else np.maximum)
    def op_and(self, i, s): self.logic(i, s, lambda a, b: a & b)
    def op_or(self, i, s): self.logic(i, s, lambda a, b: a | b)
    def op_xor(self, i, s): self.logic(i, s, lambda a, b: a ^ b)

    def logic(self, i, s, f):
        ty = i.mods[-1]
        if ty == "pred":
            self.regs[i.args[0]][s] = f(*(self.pred(a, s) for a in i.args[1:]))
        else:
            self.put(i.args[0], s, f(*self.two(i, s, ty)), ty)

    def pred(self, a, s):
        return ~self.regs[a[1:]][s] if a[0] == "!" else self.regs[a][s]

    def op_not(self, i, s):
        ty = i.mods[-1]
        if ty == "pred":
            self.regs[i.args[0]][s] = ~self.regs[i.args[1]][s]
        else:
            self.put(i.args[0], s, ~self.val(i.args[1], s, ty), ty)

    def op_neg(self, i, s):
        ty = i.mods[-1]
        if ty.endswith("x2"):
            return self.packed(i, s, lambda a: -a)
        self.put(i.args[0], s, -self.val(i.args[1], s, ty), ty)

    def op_abs(self, i, s):
        ty = i.mods[-1]
        self.put(i.args[0], s, np.abs(self.val(i.args[1], s, ty)), ty)

    def op_mul(self, i, s):
        ty = i.mods[-1]
        if ty[0] in "su" and "wide" in i.mods:
            a, b = self.two(i, s, ty)
            w = {"s32": "s64", "u32": "u64", "s16": "s32", "u16": "u32"}[ty]
            return self.put(i.args[0], s, a.astype(NATIVE[w]) * b.astype(NATIVE[w]), w)
        if ty[0] in "su" and "hi" in i.mods:
            a, b = self.two(i, s, ty)
            return self.put(i.args[0], s, np.array([(int(x) * int(y)) >> (8 * SIZES[ty]) for x, y in zip(a, b)], object).astype(NATIVE[ty]), ty)
        self.arith(i, s, lambda a, b: a * b)

    def op_mad(self, i, s):
        ty = i.mods[-1]
        if ty[0] == "f":
            return self.op_fma(i, s)
        a, b = self.two(i, s, ty)
        if "wide" in i.mods:
            w = {"s32": "s64", "u32": "u64", "s16": "s32", "u16": "u32"}[ty]
            return self.put(i.args[0], s, a.astype(NATIVE[w]) * b.astype(NATIVE[w]) + self.val(i.args[3], s, w), w)
        self.put(i.args[0], s, a * b + self.val(i.args[3], s, ty), ty)

    def op_fma(self, i, s):
        ty = i.mods[-1]
        f = lambda a, b, c: (a.astype(np.float64) * b + c)
        if ty.endswith("x2"):
            return self.packed(i, s, lambda a, b, c: f(a, b, c).astype(np.float32))
        a, b = self.two(i, s, ty)
        c = self.val(i.args[3], s, ty)
        self.finish(i, s, f(a, b, c).astype(a.dtype), ty)

    def op_div(self, i, s):
        ty = i.mods[-1]
        a, b = self.two(i, s, ty)
        if ty[0] == "f":
            return self.finish(i, s, a / b, ty)
        q = np.array([(abs(int(x)) // abs(int(y)) * (1 if (int(x) < 0) == (int(y) < 0) else -1)) if y else -1 for x, y in zip(a, b)], object)
        self.put(i.args[0], s, q.astype(NATIVE[ty]), ty)

    def op_rem(self, i, s):
        ty = i.mods[-1]
        a, b = self.two(i, s, ty)
        self.put(i.args[0], s, np.fmod(a, np.where(b == 0, 1, b)), ty)

    def unary(self, i, s, f):
        ty = i.mods[-1]
        self.finish(i, s, f(self.val(i.args[1], s, ty).astype(np.float64)).astype(NATIVE.get(ty, np.float32)), ty)

    def op_ex2(self, i, s):
        self.packed(i, s, np.exp2) if i.mods[-1].endswith("x2") else self.unary(i, s, np.exp2)
    def op_lg2(self, i, s): self.unary(i, s, np.log2)
    def op_rcp(self, i, s): self.unary(i, s, lambda x: 1 / x)
    def op_rsqrt(self, i, s): self.unary(i, s, lambda x: 1 / np.sqrt(x))
    def op_sqrt(self, i, s): self.unary(i, s, np.sqrt)
    def op_sin(self, i, s): self.unary(i, s, np.sin)
    def op_cos(self, i, s): self.unary(i, s, np.cos)
    def op_tanh(self, i, s): self.unary(i, s, np.tanh)

    def op_shl(self, i, s):
        ty = i.mods[-1]
        a, n = self.val(i.args[1], s, "u" + ty[1:]), self.val(i.args[2], s, "u32")
        bits = 8 * SIZES[ty]
        self.put(i.args[0], s, np.where(n >= bits, a.dtype.type(0), a << np.minimum(n, bits - 1).astype(a.dtype)), "u" + ty[1:])

    def op_shr(self, i, s):
        ty = i.mods[-1]
        ty = "u" + ty[1:] if ty[0] == "b" else ty
        a, n = self.val(i.args[1], s, ty), self.val(i.args[2], s, "u32")
        bits = 8 * SIZES[ty]
        v = a >> np.minimum(n, bits - 1).astype(a.dtype)
        self.put(i.args[0], s, v if ty[0] == "s" else np.where(n >= bits, a.dtype.type(0), v), ty)

    def op_shf(self, i, s):
        a, b = self.val(i.args[1], s, "u32").astype(np.uint64), self.val(i.args[2], s, "u32").astype(np.uint64)
        n = self.val(i.args[3], s, "u32")
        n = (np.minimum(n, 32) if "clamp" in i.mods else n & np.uint32(31)).astype(np.uint64)
        w = (b << np.uint64(32)) | a
        self.put(i.args[0], s, ((w << n) >> np.uint64(32) if i.mods[0] == "l" else w >> n).astype(np.uint32), "u32")

    def op_bfe(self, i, s):
        ty = i.mods[-1]
        a, p, n = self.val(i.args[1], s, "u" + ty[1:]), self.val(i.args[2], s, "u32"), self.val(i.args[3], s, "u32")
        bits = 8 * SIZES[ty]
        out = []
        for x, q, m in zip(a, p & 255, n & 255):
            v = (int(x) >> int(q)) & ((1 << int(m)) - 1)
            if ty[0] == "s" and m and (int(x) >> min(int(q) + int(m) - 1, bits - 1)) & 1:
                v |= -1 << int(m)
            out.append(v & ((1 << bits) - 1))
        self.put(i.args[0], s, np.array(out, np.uint64).astype(RAW[SIZES[ty]]), "u" + ty[1:])

    def op_bfi(self, i, s):
        ty = "u" + i.mods[-1][1:]
        a, b, p, n = self.val(i.args[1], s, ty), self.val(i.args[2], s, ty), self.val(i.args[3], s, "u32"), self.val(i.args[4], s, "u32")
        out = [(int(y) & ~(((1 << int(m)) - 1) << int(q)) | (int(x) & ((1 << int(m)) - 1)) << int(q)) & ((1 << 8 * SIZES[ty]) - 1) for x, y, q, m in zip(a, b, p, n)]
        self.put(i.args[0], s, np.array(out, np.uint64).astype(RAW[SIZES[ty]]), ty)

    def op_prmt(self, i, s):
        a, b, c = (self.val(x, s, "u32").astype(np.uint64) for x in i.args[1:4])
        w, out = (b << np.uint64(32)) | a, np.zeros(a.size, np.uint64)
        for j in range(4):
            nib = (c >> np.uint64(4 * j)) & np.uint64(15)
            byte = (w >> ((nib & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
            byte = np.where(nib & np.uint64(8), np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0)), byte)
            out |= byte << np.uint64(8 * j)
        self.put(i.args[0], s, out.astype(np.uint32), "u32")

    def op_lop3(self, i, s):
        a, b, c = (self.val(x, s, "u32") for x in i.args[1:4])
        lut, out = int(i.args[4], 0), np.zeros(a.size, np.uint32)
        for j in range(8):
            if lut >> j & 1:
                out |= (a if j & 4 else ~a) & (b if j & 2 else ~b) & (c if j & 1 else ~c)
        self.put(i.args[0], s, out, "u32")

    def op_popc(self, i, s):
        self.put(i.args[0], s, np.array([bin(int(x)).count("1") for x in self.val(i.args[1], s, "u" + i.mods[-1][1:])], np.uint32), "u32")

    def op_clz(self, i, s):
        bits = 8 * SIZES[i.mods[-1]]
        self.put(i.args[0], s, np.array([bits - int(x).bit_length() for x in self.val(i.args[1], s, "u" + i.mods[-1][1:])], np.uint32), "u32")

    def op_brev(self, i, s):
        self.put(i.args[0], s, np.array([int(f"{int(x):032b}"[::-1], 2) for x in self.val(i.args[1], s, "u32")], np.uint32), "u32")

    def compare(self, cmp, a, b):
        un = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(cmp, cmp)
        if un == "num":
            return ~(np.isnan(a) | np.isnan(b))
        if un == "nan":
            return np.isnan(a) | np.isnan(b)
        base = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
        if un in base:
            r = base[un](a, b)
            return r & ~(np.isnan(a) | np.isnan(b)) if un == "ne" and a.dtype.kind == "f" else r
        return base[un[:2]](a, b) | np.isnan(a) | np.isnan(b)

    def op_setp(self, i, s):
        ty = i.mods[-1]
        mods = [m for m in i.mods[:-1] if m != "ftz"]
        r = self.compare(mods[0], *self.two(i, s, ty))
        d = i.args[0].split("|")
        q = ~r
        if len(mods) > 1:
            c = self.pred(i.args[3], s)
            f = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[mods[1]]
            r, q = f(r, c), f(q, c)
        self.regs[d[0]][s] = r
        if len(d) > 1:
            self.regs[d[1]][s] = q

    def op_set(self, i, s):
        src = i.mods[-1]
        r = self.compare(i.mods[0], *self.two(i, s, src))
        dst = i.mods[-2]
        self.put(i.args[0], s, r.astype(np.float32) if dst == "f32" else np.where(r, np.uint32(0xFFFFFFFF), np.uint32(0)), dst if dst == "f32" else "u32")

    def op_selp(self, i, s):
        ty = i.mods[-1]
        a, b = self.raw(i.args[1], s, SIZES[ty]), self.raw(i.args[2], s, SIZES[ty])
        self.regs[i.args[0]][s] = np.where(self.pred(i.args[3], s), a, b)

    def op_mov(self, i, s):
        d, a, ty = i.args[0], i.args[1], i.mods[-1]
        if ty == "pred":
            self.regs[d][s] = self.regs[a][s] if a in self.regs else bool(int(a, 0))
        elif d[0] == "{":
            parts = split_args(d[1:-1])
            w = self.raw(a, s, SIZES[ty]).astype(np.uint64)
            bits = 8 * SIZES[ty] // len(parts)
            for j, p in enumerate(parts):
                if p != "_":
                    self.regs[p][s] = ((w >> np.uint64(j * bits)) & np.uint64((1 << bits) - 1)).astype(self.regs[p].dtype)
        elif a[0] == "{":
            parts = split_args(a[1:-1])
            bits = 8 * SIZES[ty] // len(parts)
            w = np.zeros(self.lin[s].size, np.uint64)
            for j, p in enumerate(parts):
                w |= self.raw(p, s, bits // 8).astype(np.uint64) << np.uint64(j * bits)
            self.regs[d][s] = w.astype(self.regs[d].dtype)
        else:
            self.regs[d][s] = self.raw(a, s, SIZES[ty]).astype(self.regs[d].dtype)

    def op_cvta(self, i, s):
        base = {"shared": SHARED_BASE, "local": LOCAL_BASE}.get(i.mods[-2], 0)
        a = self.raw(i.args[1], s, 8).astype(np.uint64)
        self.regs[i.args[0]][s] = a - np.uint64(base) if "to" in i.mods else a + np.uint64(base)

    def op_cvt(self, i, s):
        dst, src = i.mods[-2], i.mods[-1]
        if dst in ("f16x2", "bf16x2"):
            hi, lo = (self.val(a, s, "f32") for a in i.args[1:3])
            h = f32_to_bf16 if dst == "bf16x2" else (lambda x: x.astype(np.float16).view(np.uint16))
            self.regs[i.args[0]][s] = (h(hi).astype(np.uint32) << np.uint32(16)) | h(lo).astype(np.uint32)
            return
        v = self.val(i.args[1], s, src)
        if src[0] in "fb" and src != "b32" and dst[0] in "us":
            v = v.astype(np.float64)
            v = np.trunc(v) if "rzi" in i.mods else np.floor(v) if "rmi" in i.mods else np.ceil(v) if "rpi" in i.mods else np.rint(v)
            info = np.iinfo(NATIVE[dst])
            v = np.clip(np.nan_to_num(v), info.min, float(info.max) if SIZES[dst] < 8 else float(2 ** (63 if dst[0] == "s" else 64) - 1024)).astype(NATIVE[dst])
        elif dst[0] == "f" and src[0] in "fb":
            if any(m in ("rni", "rzi", "rmi", "rpi") for m in i.mods):
                v = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[next(m for m in i.mods if m in ("rni", "rzi", "rmi", "rpi"))](v)
            v = v.astype(NATIVE[dst])
        elif dst in NATIVE:
            v = v.astype(NATIVE[dst])
        d = self.regs[i.args[0]]
        if dst[0] in "us" and d.dtype.itemsize > SIZES[dst]:   # sign- or zero-extends into a wider register
            d[s] = v.astype(np.int64 if dst[0] == "s" else np.uint64).astype(d.dtype)
        else:
            self.finish(i, s, v, dst)

    # control
    def op_bra(self, i, s): self.pc[s] = i.target
    def op_ret(self, i, s): self.done[s] = True
    op_exit = op_ret
    def op_trap(self, i, s): self.fault(i, "trap", self.lin[s][0])
    def op_brkpt(self, i, s): pass
    def op_call(self, i, s): self.fault(i, "a call (printf, a failed assert, or a function that was not inlined)", self.lin[s][0])
    def op_membar(self, i, s): pass
    op_fence = op_membar
    def op_nanosleep(self, i, s): pass
    def op_prefetch(self, i, s): pass
    def op_prefetchu(self, i, s): pass

    def op_bar(self, i, s):
        if "warp" in i.mods:
            self.wsync[np.unique(self.warp[s])] += 1
            return
        self.waiting[s] = int(i.args[0], 0) if i.args else 0
        self.stats["barriers"] += 1

    def op_barrier(self, i, s):
        self.op_bar(i, s)

    def op_shfl(self, i, s):
        mode = next(m for m in i.mods if m in ("up", "down", "bfly", "idx"))
        d = i.args[0].split("|")
        idx = self.lin[s]
        lane = self.lane[s].astype(np.int64)
        b, c = self.val(i.args[2], s, "u32").astype(np.int64) & 31, self.val(i.args[3], s, "u32").astype(np.int64)
        seg, cv = (c >> 8) & 31, c & 31
        top, low = (lane & seg) | (cv & ~seg), lane & seg
        j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": low | (b & ~seg)}[mode]
        ok = j >= top if mode == "up" else j <= top
        src = idx - lane + np.where(ok, j, lane)
        active = np.zeros(self.n + 32, bool)
        active[idx] = True
        if not active[src].all():
            self.fault(i, "shuffle from a lane that does not take part", idx[~active[src]][0])
        full = self.regs[i.args[1]] if i.args[1] in self.regs else np.full(self.n, int(i.args[1], 0), np.uint32)
        v = full[src].copy()
        self.regs[d[0]][s] = v
        if len(d) > 1:
            self.regs[d[1]][s] = ok
        self.wsync[np.unique(self.warp[s])] += 1

    def op_activemask(self, i, s):
        m = np.zeros(-(-self.n // 32), np.uint64)
        np.bitwise_or.at(m, self.warp[s], np.uint64(1) << self.lane[s].astype(np.uint64))
        self.regs[i.args[0]][s] = m[self.warp[s]].astype(np.uint32)

    def op_vote(self, i, s):
        p = self.pred(i.args[1], s)
        m = np.zeros(-(-self.n // 32), np.uint64)
        np.bitwise_or.at(m, self.warp[s], np.where(p, np.uint64(1) << self.lane[s].astype(np.uint64), np.uint64(0)))
        n = np.zeros_like(m)
        np.bitwise_or.at(n, self.warp[s], np.uint64(1) << self.lane[s].astype(np.uint64))
        r, a = m[self.warp[s]], n[self.warp[s]]
        self.regs[i.args[0]][s] = r.astype(np.uint32) if "ballot" in i.mods else (r != 0 if "any" in i.mods else r == a)

    def op_redux(self, i, s):
        ty = i.mods[-1]
        f = next(m for m in i.mods if m in ("add", "min", "max", "and", "or", "xor"))
        v, w = self.val(i.args[1], s, ty), self.warp[s]
        ufunc = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[f]
        out = np.zeros_like(v)
        for q in np.unique(w):
            out[w == q] = ufunc.reduce(v[w == q])
        self.put(i.args[0], s, out, ty)

    # memory
    def address(self, a, s):
        m = re.match(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]", a)
        base = self.raw(m.group(1), s, 8).astype(np.int64)
        return base + (int(m.group(2), 0) if m.group(2) else 0)

    def space(self, i, addr):
        for m in i.mods:
            if m in ("global", "shared", "local", "param", "const") or m.startswith("shared"):
                return m.split("::")[0], addr
        if (addr >= LOCAL_BASE).all():
            return "local", addr - LOCAL_BASE
        if (addr >= SHARED_BASE).all():
            return "shared", addr - SHARED_BASE
        if (addr < SHARED_BASE).all():
            return "global", addr
        self.fault(i, "a generic access that is partly shared, partly global")

    def check(self, i, s, space, addr, size, write):
        """Bounds, alignment, first write, races, counters. addr: one per thread, size bytes each."""
        idx = self.lin[s]
        if (addr % size).any():
            self.fault(i, f"misaligned {size}-byte access at {int(addr[addr % size != 0][0]):#x}", idx[addr % size != 0][0])
        if space == "global":
            o = addr - GLOBAL_BASE
            bad = (o < 0) | (o + size > self.gpu.mem.size)
            if not bad.any():
                bad = ~self.gpu.owned[o] | ~self.gpu.owned[o + size - 1]
            if bad.any():
                self.fault(i, f"global access out of bounds at {int(addr[bad][0]):#x}", idx[bad][0])
            init = self.gpu.init
            keys = (self.warp[s].astype(np.int64) << 40) | (o >> 5)
            n = np.unique(keys).size if size <= 32 else 0
            kind = "global store" if write else "global load"
            self.stats[kind + " requests"] += np.unique(self.warp[s]).size
            self.stats[kind + " sectors"] += n
            self.touched[o >> 5] = True
        elif space == "shared":
            o = addr
            bad = (o < 0) | (o + size > self.smem.size)
            if bad.any():
                self.fault(i, f"shared access out of bounds at {int(o[bad][0])} of {self.smem.size}", idx[bad][0])
            init = self.sinit
            self.banks(s, o, size)
            if self.races:
                self.race(i, s, o, size, write)
        else:
            o = addr
            if ((o < 0) | (o + size > self.lmem.shape[1])).any():
                self.fault(i, "local access out of bounds", idx[0])
            self.stats["local accesses"] += np.unique(self.warp[s]).size
            init = None
        if init is not None and not write:
            seen = np.ones(o.size, bool)
            for b in range(size):
                seen &= init[o + b]
            if not seen.all():
                self.fault(i, f"{space} memory read before it was written", idx[~seen][0])
        return o

    def banks(self, s, o, size):
        """Wavefronts beyond the least that a conflict-free access of this width needs."""
        per = max(1, 32 // max(1, size // 4)) if size >= 4 else 32
        group = self.warp[s].astype(np.int64) * 32 + self.lane[s] // per
        words = np.unique((group << 32) | (o >> 2)) if size <= 4 else np.unique(np.concatenate([(group << 32) | ((o >> 2) + w) for w in range(size // 4)]))
        g, bank = words >> 32, words & 31
        _, inverse, counts = np.unique((g << 5) | bank, return_inverse=True, return_counts=True)
        groups, first = np.unique(g, return_inverse=True)
        worst = np.zeros(groups.size, np.int64)
        np.maximum.at(worst, first, counts[inverse])
        self.stats["shared wavefronts"] += int(worst.sum())
        self.stats["shared bank conflicts"] += int((worst - 1).sum())

    def race(self, i, s, o, size, write):
        idx = self.lin[s]
        for w in range(max(1, size // 4)):
            word = (o >> 2) + w
            for t, b, y in ((self.wt, self.wb, self.ws),) + (((self.rt, self.rb, self.rs),) if write else ()):
                other = t[word]
                same_epoch = (b[word] == self.epoch) & (other >= 0) & (other != idx)
                cross = same_epoch & (other // 32 != self.warp[s])
                within = same_epoch & (other // 32 == self.warp[s]) & (y[word] == self.wsync[self.warp[s]])
                bad = cross | within
                if bad.any():
                    self.fault(i, f"race on shared word {int(word[bad][0])} with thread {int(other[bad][0])} (no barrier between)", idx[bad][0])
            if write and size >= 4:
                u, c = np.unique(word, return_counts=True)
                if (c > 1).any():
                    self.fault(i, f"two threads write shared word {int(u[c > 1][0])} at once", idx[word == u[c > 1][0]][0])
            t, b, y = (self.wt, self.wb, self.ws) if write else (self.rt, self.rb, self.rs)
            t[word], b[word], y[word] = idx, self.epoch, self.wsync[self.warp[s]]

    def buffers(self, space):
        return (self.gpu.mem, self.gpu.init) if space == "global" else (self.smem, self.sinit)

    def load(self, space, o, s, size):
        if space == "local":
            cols = o[:, None] + np.arange(size)
            return np.ascontiguousarray(self.lmem[self.lin[s][:, None], cols]).view(RAW[size])[:, 0]
        mem, _ = self.buffers(space)
        return np.ascontiguousarray(mem[o[:, None] + np.arange(size)]).view(RAW[size])[:, 0]

    def store(self, space, o, s, v, size):
        b = np.ascontiguousarray(v.astype(RAW[size])).view(np.uint8).reshape(-1, size)
        cols = o[:, None] + np.arange(size)
        if space == "local":
            self.lmem[self.lin[s][:, None], cols] = b
            return
        mem, init = self.buffers(space)
        mem[cols], init[cols] = b, True

    def op_ld(self, i, s):
        ty = i.mods[-1]
        size = SIZES[ty]
        if "param" in i.mods:
            off = int(self.address(i.args[1], s)[0])
            for j, d in enumerate(split_args(i.args[0][1:-1]) if i.args[0][0] == "{" else [i.args[0]]):
                v = np.frombuffer(bytes(self.params[off + j * size:off + (j + 1) * size]), NATIVE[ty])[0]
                self.put(d, s, np.full(self.lin[s].size, v), ty)
            return
        dst = split_args(i.args[0][1:-1]) if i.args[0][0] == "{" else [i.args[0]]
        space, addr = self.space(i, self.address(i.args[1], s))
        o = self.check(i, s, space, addr, size * len(dst), False)
        for j, d in enumerate(dst):
            if d != "_":
                self.put(d, s, self.load(space, o + j * size, s, size).view(NATIVE[ty] if ty != "bf16" else np.uint16), ty)

    def op_ldu(self, i, s):
        self.op_ld(i, s)

    def op_st(self, i, s):
        ty = i.mods[-1]
        size = SIZES[ty]
        src = split_args(i.args[1][1:-1]) if i.args[1][0] == "{" else [i.args[1]]
        space, addr = self.space(i, self.address(i.args[0], s))
        o = self.check(i, s, space, addr, size * len(src), True)
        for j, a in enumerate(src):
            self.store(space, o + j * size, s, self.raw(a, s, size), size)

    def op_atom(self, i, s, returns=True):
        ty = i.mods[-1]
        size = SIZES[ty]
        a = i.args if returns else ["_"] + i.args
        space, addr = self.space(i, self.address(a[1], s))
        races, self.races = self.races, False
        o = self.check(i, s, space, addr, size, True)
        self.races = races
        f = next(m for m in i.mods if m in ("add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"))
        v = self.val(a[2], s, ty)
        w = self.val(a[3], s, ty) if f == "cas" else v
        old = np.zeros_like(v)
        one = slice(0, 1)
        for t in range(v.size):   # one after another
            oo, th = o[t:t + 1], self.lin[s][t:t + 1]
            cur = bf16_to_f32(self.load(space, oo, th, size)) if ty == "bf16" else self.load(space, oo, th, size).view(NATIVE[ty])
            old[t] = cur[0]
            new = {"add": lambda: cur + v[t], "min": lambda: np.minimum(cur, v[t]), "max": lambda: np.maximum(cur, v[t]), "exch": lambda: v[t:t + 1],
                   "cas": lambda: w[t:t + 1] if cur[0] == v[t] else cur, "and": lambda: cur & v[t], "or": lambda: cur | v[t], "xor": lambda: cur ^ v[t],
                   "inc": lambda: np.where(cur >= v[t], 0, cur + 1), "dec": lambda: np.where((cur == 0) | (cur > v[t]), v[t], cur - 1)}[f]()
            new = f32_to_bf16(new) if ty == "bf16" else np.ascontiguousarray(new.astype(NATIVE[ty])).view(RAW[size])
            self.store(space, oo, th, new, size)
        self.stats["atomic operations"] += v.size
        if returns:
            self.put(a[0], s, old, ty)

    def op_red(self, i, s):
        self.op_atom(i, s, returns=False)

    def op_cp(self, i, s):
        if "commit_group" in i.mods or "wait_group" in i.mods or "wait_all" in i.mods:
            return
        if i.mods[0] != "async" or "bulk" in i.mods:
            self.fault(i, "this copy instruction is not simulated")
        size = int(i.args[2], 0)
        dst, src = self.address(i.args[0], s), self.address(i.args[1], s)
        o = self.check(i, s, "global", src, size, False)
        d = self.check(i, s, "shared", dst, size, True)
        for b in range(0, size, 4):
            self.store("shared", d + b, s, self.load("global", o + b, s, 4), 4)
