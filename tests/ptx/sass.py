"""Machine code of a kernel as nvdisasm prints it: instructions with ptxas's control codes, and the path of one thread through them.

The path needs integers and predicates alone, because no branch of these kernels depends on a loaded value: sizes, strides and pointers
come from the argument structs, and everything else (floats, what memory holds) is unknown, `None`. A predicated instruction whose
predicate is unknown executes; a branch forward whose predicate is unknown is not taken.
"""
import itertools
import re
import struct
import subprocess

from toolchain import nvdisasm  # first: it finds numpy
import numpy as np

MASK = (1 << 32) - 1


class Instruction:
    """One instruction. stall: issue slots until the warp's next; write, read: the barrier that it sets when its result is there, or when it
    has read its operands (None without); waits: the barriers that it waits for first. Control codes are bits 105 to 125 of the encoding."""

    def __init__(self, text, high_word):
        m = re.match(r"(?:@(!?)(U?P\w+) +)?(\S+) *(.*)", text)
        self.text, self.inverted, self.predicate, opcode = text, bool(m[1]), m[2], m[3]
        self.op, *self.mods = opcode.split(".")
        self.args = [a.strip().replace(".reuse", "") for a in re.sub(r"desc\[\w+\]", "", m[4]).split(",")] if m[4] else []
        self.next = None      # behind it in memory
        control = high_word >> 41
        self.stall = control & 15
        self.write, self.read = (None if (control >> at & 7) == 7 else control >> at & 7 for at in (5, 8))
        self.waits = [b for b in range(6) if control >> 11 >> b & 1]


def load(cubin):
    """{mangled name: (instructions, {label: index})} of a cubin."""
    text = subprocess.run([nvdisasm(), "-c", "-hex", str(cubin)], check=True, capture_output=True, text=True).stdout
    kernels, code, labels, pending = {}, None, None, None
    for line in text.splitlines():
        if m := re.match(r"\.text\.(\w+):", line):
            code, labels = kernels[m[1]] = [], {}
        elif m := re.match(r"(\.L_x_\d+):", line):
            labels[m[1]] = len(code)
        elif m := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?) ;\s+/\* 0x", line):
            pending = m[1].strip()
        elif pending and (m := re.match(r"\s+/\* 0x([0-9a-f]{16}) \*/", line)):
            code.append(Instruction(pending, int(m[1], 16)))
            pending = None
            if len(code) > 1:
                code[-2].next = code[-1]
    return kernels


def signed(x):
    return x - (1 << 32) if x >> 31 else x


COMPARE = {"EQ": lambda a, b: a == b, "NE": lambda a, b: a != b, "LT": lambda a, b: a < b, "LE": lambda a, b: a <= b,
           "GT": lambda a, b: a > b, "GE": lambda a, b: a >= b}
NOT_INTERPRETED = re.compile(r"F(?!2I)|SHFL|LDS|LDG|HADD|HMUL|BAR|BSSY|BSYNC|NOP|WARPSYNC|ST[SG]|DEPBAR|PRMT|BREAK|CCTL|MEMBAR|ERRBAR")


class Thread:
    """Interprets integers and predicates of one thread; `path` lists (instruction, executed) in order."""

    def __init__(self, kernel, params, block_index, thread, threads):
        self.code, self.labels = kernel
        self.bank = bytearray(0x210) + params
        struct.pack_into("<I", self.bank, 0, threads)
        self.special = {"SR_TID.X": thread, "SR_CgaCtaId": 0, "SR_LANEID": thread % 32,
                        **{f"SR_CTAID.{axis}": i for axis, i in zip("XYZ", block_index)}}
        self.r, self.p = {"RZ": 0, "URZ": 0, "SRZ": 0}, {"PT": True, "UPT": True}

    # operands
    def get(self, a, high=False):
        """The value of an operand; its upper half for `high`."""
        negative, inverted, a = a[0] == "-", a[0] == "~", a.lstrip("-~").strip("|")
        if m := re.match(r"c\[0x0\]\[(?:(U?R\w+)\+?)?(0x\w+)?\]", a):
            base = self.get(m[1]) if m[1] else 0
            at = None if base is None else base + int(m[2] or "0", 16) + 4 * high
            x = None if at is None else struct.unpack_from("<I", self.bank, at)[0]
        elif a.startswith(("R", "UR", "SRZ")):
            name = re.match(r"\w+", a)[0]
            if high and not name.endswith("Z"):
                name = re.sub(r"\d+", lambda m: str(int(m[0]) + 1), name)
            x = self.r.get(name)
        else:
            try:
                x = 0 if high else int(a, 0) & MASK
            except ValueError:
                x = None
        if x is None:
            return None
        return -x & MASK if negative else ~x & MASK if inverted else x

    def wide(self, a):
        low, high = self.get(a), self.get(a, True)
        return None if low is None or high is None else low | high << 32

    def set(self, d, value, words=1):
        name, number = re.match(r"(U?R)(\w+)", d).groups()
        if number == "Z":
            return
        for i in range(words):
            self.r[f"{name}{int(number) + i}"] = None if value is None else value >> 32 * i & MASK

    def true(self, a):
        x = self.p.get(a.lstrip("!"))
        return None if x is None else x != a.startswith("!")

    def set_p(self, a, value):
        if a not in ("PT", "UPT"):
            self.p[a] = value

    # running
    def path(self, limit=1 << 20):
        at, path = 0, []
        while len(path) < limit:
            i = self.code[at]
            on = True if i.predicate is None else self.p.get(i.predicate)
            on = on if on is None else on != i.inverted
            path.append((i, on is not False))
            at += 1
            if i.op in ("BRA", "CALL"):
                taken = on
                if re.fullmatch(r"!?U?P\d", i.args[0]):      # @P BRA Q, target: where both are true
                    q = self.true(i.args[0])
                    taken = False if on is False or q is False else None if on is None or q is None else True
                target = self.labels.get((re.search(r"\.L_x_\d+", i.text) or [None])[0])
                if taken is None and target is not None and target < at:
                    raise ValueError(f"whether a loop goes round is unknown: {i.text}")
                if taken:
                    if target is None:
                        raise ValueError(f"unknown target: {i.text}")
                    at = target
            elif i.op == "EXIT" and on:
                return path
            elif on is not False and not NOT_INTERPRETED.match(i.op):
                self.execute(i)
            elif on is not False:
                self.forget(i)
        raise ValueError("the thread does not end")

    def forget(self, i):
        """The result of an instruction that is not interpreted is unknown."""
        for a in i.args[:2]:
            if re.fullmatch(r"U?P\d", a):
                self.set_p(a, None)
        if i.args and re.match(r"U?R\d", i.args[0]) and i.op not in ("STS", "STG"):
            self.set(i.args[0], None, 4 if "128" in i.mods else 2 if "64" in i.mods else 1)

    def execute(self, i):
        a = list(i.args)
        # Predicates in front of the sources, and behind them, are carries, conditions or further results.
        if i.op in ("ISETP", "UISETP"):
            return self.compare(i)
        if i.op in ("PLOP3", "UPLOP3"):
            return self.set_p(a[0], self.lut(int(a[5], 16), [self.true(x) for x in a[2:5]]))
        name = i.op.removeprefix("U")
        if i.op in ("P2R", "R2P"):
            return self.set(a[0], self.packed(int(a[-1], 16))) if i.op == "P2R" else None
        method = getattr(self, "do_" + name.lower(), None)
        if method is None:
            return self.forget(i)
        method(i, a)

    def packed(self, mask):
        bits = [self.p.get(f"P{n}", False) for n in range(7) if mask >> n & 1]
        return None if None in bits else sum(bit << n for bit, n in zip(bits, (n for n in range(7) if mask >> n & 1)))

    def compare(self, i):
        a = i.args
        x, y = self.get(a[2]), self.get(a[3])
        f = COMPARE[i.mods[0]]
        if x is None or y is None:
            result = None
        else:
            if "U32" not in i.mods:
                x, y = signed(x), signed(y)
            result = f(x, y)
            if "EX" in i.mods:      # the upper words; where they are equal, the comparison of the lower words decides
                lower = self.true(a[-1])
                result = lower if x == y else result
        combine = self.true(a[4])
        if "OR" in i.mods:
            result = True if True in (result, combine) else None if None in (result, combine) else False
        elif "AND" in i.mods:
            result = False if False in (result, combine) else None if None in (result, combine) else True
        self.set_p(a[0], result)

    def lut(self, table, bits):
        if None in bits:
            return None
        return bool(table >> (bits[0] << 2 | bits[1] << 1 | bits[2]) & 1)

    def add(self, i, a):
        """Sources, carries in and carries out of an addition of three."""
        outs, rest = [], a[1:]
        while rest and re.fullmatch(r"!?U?P[T\d]", rest[0]):
            outs.append(rest.pop(0))
        sources = [x for x in rest if not re.fullmatch(r"!?U?P[T\d]", x)]
        carries = [self.true(x) for x in rest if re.fullmatch(r"!?U?P[T\d]", x)] if "X" in i.mods else []
        values = [self.get(x) for x in sources]
        if None in values or None in carries:
            total = None
        else:
            # -x as two's complement carries like ~x + 1.
            total = sum((~self.get(x[1:]) & MASK) + 1 if x.startswith("-") else v for x, v in zip(sources, values)) + sum(carries)
        self.set(a[0], None if total is None else total & MASK)
        for out in outs[:1]:
            self.set_p(out, None if total is None else bool(total >> 32))
        for out in outs[1:]:
            self.set_p(out, None if total is None else bool(total >> 33))

    do_iadd3 = do_viadd = do_iadd = add

    def do_imad(self, i, a):
        if "IADD" in i.mods or "MOV" in i.mods or "U32" in i.mods and "WIDE" not in i.mods and "HI" not in i.mods or not i.mods or "SHL" in i.mods:
            x, y, z = (self.get(v) for v in a[1:4])
            zero = 0 in (x, y)
            product = 0 if zero else None if None in (x, y) else x * y
            return self.set(a[0], None if product is None or z is None else (product + z) & MASK)
        if "X" in i.mods:
            x, y, z = (self.get(v) for v in a[1:4])
            carry = self.true(a[4])
            return self.set(a[0], None if None in (x, y, z, carry) else (x * y + z + carry) & MASK)
        sources = [v for v in a[1:] if not re.fullmatch(r"!?U?P[T\d]", v)]
        x, y = self.get(sources[0]), self.get(sources[1])
        if "U32" not in i.mods and None not in (x, y):
            x, y = signed(x), signed(y)
        z = self.wide(sources[2])
        total = None if None in (x, y, z) else (x * y + z) & ((1 << 64) - 1)
        if "HI" in i.mods:
            return self.set(a[0], None if total is None else total >> 32)
        self.set(a[0], total, 2)

    def do_lea(self, i, a):
        outs = [v for v in a[1:] if re.fullmatch(r"!?U?P[T\d]", v)]
        sources = [v for v in a[1:] if not re.fullmatch(r"!?U?P[T\d]", v)]
        shift = int(sources[-1], 0)
        if "HI" in i.mods:
            low, add, high = (self.get(v) for v in sources[:3])
            if "SX32" in i.mods:
                high = None if low is None else (MASK if low >> 31 else 0)
                low, add = self.get(sources[0]), self.get(sources[1])
            carry = self.true(outs[-1]) if "X" in i.mods and outs else False
            value = None if None in (low, add, high, carry) else ((high << 32 | low) << shift >> 32) + add + carry
            return self.set(a[0], None if value is None else value & MASK)
        x, y = self.get(sources[0]), self.get(sources[1])
        total = None if None in (x, y) else (x << shift & MASK) + y
        self.set(a[0], None if total is None else total & MASK)
        if outs:
            self.set_p(outs[0], None if total is None else bool(total >> 32))

    def do_shf(self, i, a):
        low, shift, high = (self.get(v) for v in a[1:4])
        if None in (low, shift, high):
            return self.set(a[0], None)
        value = high << 32 | low
        if "R" in i.mods:
            if "S32" in i.mods and "HI" in i.mods:
                value = signed(high) >> min(shift, 31) if a[1] in ("RZ", "URZ") else value >> shift
            else:
                value = high >> shift if "HI" in i.mods and a[1] in ("RZ", "URZ") else value >> shift
        else:
            value = (value << shift) >> 32 if "HI" in i.mods or "U64" in i.mods else low << shift
        self.set(a[0], value & MASK)

    def do_lop3(self, i, a):
        out = a.pop(0) if re.fullmatch(r"U?P[T\d]", a[0]) else None
        values, table = [self.get(v) for v in a[1:4]], int(a[4], 16)
        # Known despite an unknown source where the others mask it.
        results = {self.bitwise(table, choice) for choice in itertools.product(*[[0, MASK] if v is None else [v] for v in values])}
        result = results.pop() if len(results) == 1 else None
        self.set(a[0], result)
        if out:
            self.set_p(out, None if result is None else result != 0)

    def bitwise(self, table, sources):
        result = 0
        for bit in (b for b in range(8) if table >> b & 1):
            term = MASK
            for source, position in zip(sources, (2, 1, 0)):
                term &= source if bit >> position & 1 else ~source & MASK
            result |= term
        return result

    def do_mov(self, i, a):
        self.set(a[0], self.get(a[1]))

    do_r2ur = do_mov

    def do_cs2r(self, i, a):
        self.set(a[0], 0 if a[1] == "SRZ" else None, 1 if "32" in i.mods else 2)

    def do_s2r(self, i, a):
        self.set(a[0], self.special.get(a[1]))

    do_s2ur = do_s2r

    def do_ldc(self, i, a):
        words = 2 if "64" in i.mods else 1
        self.set(a[0], self.wide(a[1]) if words == 2 else self.get(a[1]), words)

    def do_sel(self, i, a):
        on = self.true(a[3])
        self.set(a[0], None if on is None else self.get(a[1 if on else 2]))

    def do_iabs(self, i, a):
        x = self.get(a[1])
        self.set(a[0], None if x is None else abs(signed(x)) & MASK)

    def do_vimnmx(self, i, a):
        x, y, least = self.get(a[1]), self.get(a[2]), self.true(a[3])
        if None in (x, y, least):
            return self.set(a[0], None)
        key = (lambda v: v) if "U32" in i.mods else signed
        self.set(a[0], (min if least else max)(x, y, key=key))

    do_imnmx = do_vimnmx

    # The division of integers begins with a reciprocal in float, which later instructions correct.
    def do_i2f(self, i, a):
        x = self.get(a[1])
        self.set(a[0], None if x is None or "U64" in i.mods else int(np.float32(x).view(np.uint32)))

    def do_mufu(self, i, a):
        x = self.get(a[1]) if "RCP" in i.mods else None
        self.set(a[0], None if x is None else int((np.float32(1) / np.uint32(x).view(np.float32)).view(np.uint32)))

    def do_f2i(self, i, a):
        x = self.get(a[1])
        self.set(a[0], None if x is None or "U64" in i.mods else int(np.uint32(x).view(np.float32)) & MASK)

    def do_hfma2(self, i, a):
        """HFMA2.MMA R, -RZ, RZ, x, y loads the constant of two halves x and y."""
        if a[1:3] == ["-RZ", "RZ"]:
            high, low = (int(np.float16(float(v)).view(np.uint16)) for v in a[3:5])
            self.set(a[0], high << 16 | low)
        else:
            self.set(a[0], None)
