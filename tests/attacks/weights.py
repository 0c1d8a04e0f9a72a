"""Hostile weights files: pickles that work without end, tensors larger than their files, damaged bytes."""

import io
import json
import os
import pickle
import random
import struct
import warnings
import zipfile

from attack import Attack

PROTO, STOP, MARK = b"\x80\x02", b".", b"("
INT, EMPTY_TUPLE, EMPTY_DICT, EMPTY_LIST = b"K\x01", b")", b"}", b"]"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def tensor(key, shape, stride, elements=16, offset=0, kind="FloatStorage"):
    """The opcodes of a tensor as torch.save writes them."""

    def numbers(values):
        return MARK + b"".join(map(number, values)) + b"t"

    storage = (
        MARK
        + text("storage")
        + b"ctorch\n"
        + kind.encode()
        + b"\n"
        + text(key)
        + text("cpu")
        + number(elements)
        + b"tQ"
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        + MARK
        + storage
        + number(offset)
        + numbers(shape)
        + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n"
        + EMPTY_TUPLE
        + b"Rt"
        + b"R"
    )


def state_dict(tensors):
    return (
        PROTO + EMPTY_DICT + b"".join(text(name) + opcodes + b"s" for name, opcodes in tensors.items()) + STOP
    )


def archive(opcodes, storages=(("0", bytes(64)),), folder="archive", method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two entries of one name
        file.writestr(f"{folder}/data.pkl", opcodes)
        file.writestr(f"{folder}/byteorder", "little")
        for key, data in storages:
            file.writestr(f"{folder}/data/{key}", data)
        file.writestr(f"{folder}/version", "3\n")
    return out.getvalue()


class Execute:
    def __reduce__(self):
        return os.system, ("touch executed",)


def pickles():
    """Names and opcodes of hostile pickles."""
    many = 3_000_000
    large = MARK + INT * 1_000_000 + b"tq\0"
    yield "persistent_ids", PROTO + large + b"Qh\0" * 1_000_000 + STOP
    yield "tuple_again", PROTO + large + b"h\x000" * 1_000_000 + STOP
    yield "large_storage", PROTO + large + MARK + text("storage") + b"ctorch\nFloatStorage\n" + text(
        "0"
    ) + text("cpu") + number(16) + b"h\0tq\1" + b"h\1Q0" * 1_000_000 + STOP
    yield "reduce_again", PROTO + large + b"ccollections\nOrderedDict\nq\2" + b"h\2h\0R0" * 1_000_000 + STOP
    storage = MARK + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(16) + b"t"
    yield "storages", PROTO + EMPTY_LIST + MARK + (storage + b"Q") * 100_000 + b"e" + STOP
    yield "tuples_of_tuples", PROTO + EMPTY_TUPLE + b"\x85" * many + STOP
    yield "doubled_tuples", PROTO + EMPTY_TUPLE + (b"q\0h\0\x86") * 5000 + STOP
    yield "doubled_lists", PROTO + EMPTY_LIST + b"q\0" + (
        EMPTY_LIST + b"q\1" + MARK + b"h\0h\0e" + b"q\0"
    ) * 5000 + STOP
    yield "marks", PROTO + MARK * many + STOP
    yield "pops", PROTO + INT * many + b"0" * many + STOP
    yield "dup", PROTO + INT + b"2" * many + STOP
    yield "memo", PROTO + INT + b"".join(
        b"r" + struct.pack("<I", at) for at in range(2**31, 2**31 + 1_000_000)
    ) + STOP
    yield "list_in_itself", PROTO + EMPTY_LIST + b"q\0h\0a" + STOP
    yield "long_text", PROTO + b"X" + struct.pack("<I", 2**32 - 1) + b"x" + STOP
    yield "long_text_8", PROTO + b"\x8d" + struct.pack("<Q", 2**63) + b"x" + STOP
    yield "long_number", PROTO + b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x" + STOP
    yield "code", pickle.dumps(Execute(), protocol=2)
    yield "system", b"cos\nsystem\n(S'touch executed'\ntR."
    yield "build", PROTO + b"ctorch\nTensor\n)\x81}b" + STOP
    yield "empty", b""
    yield "number", PROTO + INT + STOP
    yield "text", PROTO + text("weights") + STOP
    yield "deep_dicts", PROTO + (EMPTY_DICT + text("a")) * 200_000 + INT + b"s" * 200_000 + STOP
    yield "names", state_dict({f"n{at}": INT for at in range(300_000)})
    yield "parameters", state_dict({f"blocks.{at}.x": tensor("0", (4,), (1,)) for at in range(30_000)})
    yield "one_name", state_dict({"x" * (8 << 20): tensor("0", (4,), (1,))})
    yield "control_name", state_dict({"\x1b[2Jpos_embed\0": tensor("0", (4,), (1,))})
    for power in (6, 12, 13, 20, 31):
        yield f"stride_0_of_4^{power}", state_dict({"pos_embed": tensor("0", (1, 4**power, 24), (0, 0, 0))})
    for label, values in [
        ("offset", dict(offset=2**62)),
        ("negative_offset", dict(offset=-8)),
        ("elements", dict(elements=2**60)),
        ("negative_elements", dict(elements=-1)),
    ]:
        yield label, state_dict({"pos_embed": tensor("0", (1, 4), (4, 1), **values)})
    for label, shape, stride in [
        ("negative_shape", (-1, 4), (4, 1)),
        ("negative_stride", (2, 4), (-4, 1)),
        ("overflow", (2**32, 2**32), (2**32, 1)),
        ("dimensions", (1,) * 100_000, (1,) * 100_000),
        ("zero", (0, 2**62), (1, 1)),
        ("beyond", (1 << 20,), (1,)),
        ("far_stride", (2, 2), (2**61, 1)),
        ("uneven", (2, 2), (1,)),
    ]:
        yield label, state_dict({"pos_embed": tensor("0", shape, stride)})
    yield "storage_of_nothing", state_dict({"pos_embed": tensor("7", (4,), (1,))})
    yield "storage_path", state_dict({"pos_embed": tensor("../../../etc/passwd", (4,), (1,))})
    yield "storage_type", state_dict({"pos_embed": tensor("0", (4,), (1,), kind="QInt8Storage")})


def archives():
    plain = state_dict({"pos_embed": tensor("0", (1, 16), (16, 1))})
    zeros = (("0", bytes(256 << 20)),)
    yield "deflate_bomb.pth", archive(plain, zeros, method=zipfile.ZIP_DEFLATED)
    yield "pickle_bomb.pth", archive(bytes(512 << 20), method=zipfile.ZIP_DEFLATED)
    yield "many_entries.pth", archive(plain, [(str(at), b"1234") for at in range(60_000)])
    yield "twice.pth", archive(plain, [("0", bytes(64)), ("0", bytes(128))])
    yield "climbing.pth", archive(plain, folder="../..")
    good = archive(plain)
    for at, (label, pattern, new) in enumerate(
        [
            ("offset", struct.pack("<I", 0), struct.pack("<I", 2**31)),
            ("signature", b"PK\1\2", b"PK\1\3"),
            ("end", b"PK\5\6", b"PK\5\7"),
            ("method", b"PK\3\4\x14\0\0\0\0\0", b"PK\3\4\x14\0\0\0\x63\0"),
        ]
    ):
        yield f"zip_{label}.pth", good.replace(pattern, new, 1 + at)
    yield "only_end.pth", b"PK\5\6" + b"\xff" * 18
    yield "legacy.pth", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(
        {}, 2
    ) + pickle.dumps(Execute(), 2)
    generator = random.Random(2)
    for at in range(20):
        changed = bytearray(good)
        for _ in range(3):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        yield f"flipped{at}.pth", bytes(changed)
    for at in range(6):
        yield f"cut{at}.pth", good[: len(good) * (at + 1) // 7]


def safetensors(header, data=b"", length=None):
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def headers():
    def one(shape, begin, end, kind="F32"):
        return {"pos_embed": {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}}

    yield "length_max", safetensors(b"{}", length=2**64 - 1)
    yield "length_gb", safetensors(b"{}", length=1 << 30)
    yield "header_of_99_mb", safetensors(b"{" + b" " * (99 << 20) + b"}")
    yield "brackets", safetensors(b"[" * (8 << 20))
    yield "objects", safetensors(b'{"a":' * (2 << 20))
    yield "names", safetensors(
        {f"n{at}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for at in range(200_000)}
    )
    yield "metadata", safetensors({"__metadata__": {str(at): "x" * 100 for at in range(100_000)}})
    yield "overflow", safetensors(one([2**32, 2**32], 0, 0))
    yield "end_before_begin", safetensors(one([1], 4, 0), bytes(4))
    yield "beyond", safetensors(one([1 << 40], 0, 4 << 40), bytes(4))
    yield "hole", safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [400, 404]}}, bytes(404))
    yield "overlap", safetensors(
        {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, bytes(4)
    )
    yield "negative", safetensors(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4))
    yield "type", safetensors(one([4], 0, 4, "U128"), bytes(4))
    yield "wrong_size", safetensors(one([4], 0, 4), bytes(4))
    yield "dimensions", safetensors(one([1] * 100_000, 0, 4), bytes(4))
    yield "zero", safetensors(one([0, 2**63 - 1], 0, 0))
    yield "control_name", safetensors(
        {"\x1b[2Jpos\n_embed": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    )
    yield "empty", b""
    yield "seven_bytes", bytes(7)


def attacks(place):
    valid = place.path("weights/vit.safetensors").read_bytes()

    def executed():
        return "code in a file was executed" if (place.folder / "executed").exists() else None

    def of(name, codes=(1, 2), mentions=None):
        command = place.command(
            "features", "small.yaml", "p.png", "--output", f"{name}.out", "--set", f"model.vit.weights={name}"
        )
        return Attack(
            "weights files",
            name,
            command,
            codes=codes,
            mentions=name if mentions is None else mentions,
            lost=executed,
        )

    yield of("weights/vit.safetensors", (0,))
    for name, opcodes in pickles():
        yield of(place.write(f"pickles/{name}.pth", archive(opcodes)))
    for name, data in archives():
        yield of(place.write(f"archives/{name}", data), (0, 1, 2))
    for name, data in headers():
        yield of(place.write(f"headers/{name}.safetensors", data))
    length = struct.unpack("<Q", valid[:8])[0]
    header = json.loads(valid[8 : 8 + length])
    generator = random.Random(3)
    for at in range(20):
        changed = bytearray(valid)
        for _ in range(3):
            changed[generator.randrange(8 + length)] = generator.randrange(256)
        yield of(place.write(f"flipped/{at}.safetensors", bytes(changed)), (0, 1, 2))
    for at in range(5):
        yield of(place.write(f"cut/{at}.safetensors", valid[: len(valid) * (at + 1) // 6]))
    for label, value in [("nan", float("nan")), ("inf", float("inf"))]:
        begin = 8 + length + header["pos_embed"]["data_offsets"][0]
        yield of(
            place.write(
                f"values/{label}.safetensors", valid[:begin] + struct.pack("<f", value) + valid[begin + 4 :]
            )
        )
    huge = {
        "pos_embed": {
            "dtype": "F32",
            "shape": [1, 103_000_000_000 // 24, 24],
            "data_offsets": [0, 103_000_000_000 // 24 * 96],
        }
    }
    yield of(
        place.sparse(
            "sparse.safetensors",
            len(safetensors(huge)) + huge["pos_embed"]["data_offsets"][1],
            safetensors(huge),
        )
    )
    yield of(place.sparse("sparse.pth", 1 << 40, b"PK\3\4"))
    for name in (
        "/dev/zero",
        "/dev/stdin",
        "odd/fifo.png",
        "odd/kmsg.png",
        "bombs",
        "run",
        "",
        "nowhere.pth",
        "small.yaml",
        "p.png",
    ):
        yield of(name, mentions="")
