"""Writes seed inputs for the targets checkpoints, safetensors and configs to fuzz/corpus/."""

import io
import json
import pathlib
import struct
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/fixtures/golden"


def write(target, name, content):
    folder = ROOT / "fuzz/corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def packed_again(entries):
    """The entries as Python's zipfile writes them compressed, with a comment."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.comment = b"packed again"
    return stream.getvalue()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integers(values):
    return b"(" + b"".join(b"K" + bytes([value]) for value in values) + b"t"


def tensor(shape, strides, key="0", length=16, sixth=b""):
    storage = text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    storage += b"K" + bytes([length]) + sixth
    arguments = b"((" + storage + b"tQK\0" + integers(shape) + integers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"\x89ccollections\nOrderedDict\n)RtR"


def checkpoints():
    state = {
        "x": tensor([4], [1]),
        "module.cls_token": tensor([1, 1, 4], [4, 4, 1]),
        "module.pos_embed": tensor([1, 10, 4], [0, 0, 1], "1", 64),
        "patch_embed.proj.weight": tensor([4, 3, 4, 4], [0, 0, 4, 1]),
        "typed": b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\n"
        b"ctorch\nTensor\n" + tensor([2], [1]).split(b"\n", 2)[2][:-1] + b"}tR",
    }
    items = b"".join(text(name) + value for name, value in state.items())
    pickle = b"\x80\x02}q\0(" + text("epoch") + b"K\x03" + text("model") + b"}(" + items + b"uu."
    write("checkpoints", "state_dict.pkl", pickle)
    write("checkpoints", "ema.pkl", pickle.replace(text("model"), text("model_ema")))
    storages = {"0": bytes(64), "1": bytes(range(256))}
    entries = {f"w/data/{key}": values for key, values in storages.items()}
    entries = {"w/data.pkl": pickle, "w/byteorder": b"big", **entries, "w/version": b"3\n"}
    write("checkpoints", "packed_again.pth", packed_again(entries))
    magic, keys = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02](" + text("0") + b"e."
    one = b"\x80\x02}" + text("x") + tensor([4], [1], sixth=b"N") + b"s."
    legacy = magic + b"\x80\x02M\xe9\x03.\x80\x02}." + one + keys + struct.pack("<q", 16) + bytes(64)
    write("checkpoints", "legacy.pth", legacy)
    for path in GOLDEN.glob("checkpoint_*.pth"):
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        pickle = next(content for name, content in entries.items() if name.endswith("data.pkl"))
        write("checkpoints", path.stem + ".pkl", pickle)
        if path.stat().st_size < 10_000:
            write("checkpoints", path.name, path.read_bytes())
            write("checkpoints", path.stem + "_packed_again.pth", packed_again(entries))


def safetensors():
    shapes = {
        "x": ("F32", [4]),
        "cls_token": ("F16", [1, 1, 4]),
        "model.pos_embed": ("BF16", [1, 10, 4]),
        "patch_embed.proj.weight": ("F64", [4, 3, 4, 4]),
    }
    header, end = {"__metadata__": {"format": "pt", "vmbeauty.blake3": "0"}}, 0
    for name, (kind, shape) in shapes.items():
        size = int(kind.strip("BF")) // 8
        for side in shape:
            size *= side
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    for name in ["checksum", "plain"]:
        content = json.dumps(header).encode()
        length = struct.pack("<Q", len(content))
        write("safetensors", f"{name}.safetensors", length + content + bytes(end))
        del header["__metadata__"]
        header = {"__metadata__": {"format": "pt"}, **header}
    for name in ["scan_length_one", "vit_pos_embed"]:
        write("safetensors", name, (GOLDEN / f"{name}.safetensors").read_bytes())


def configs():
    for path in [*ROOT.glob("configs/*.yaml"), *ROOT.glob("experiments/*/*.yaml")]:
        write("configs", path.name, path.read_bytes())
    merged = "a: &a {lr: 1e-4}\ntrain: {optimizer: {<<: *a, name: sgd}, epochs: 0x10}\n"
    write("configs", "merged.yaml", merged.encode())
    write("configs", "marked.yaml", "\ufeffdata: {root: ~/faces, split: 'official'}\n".encode())


if __name__ == "__main__":
    checkpoints()
    safetensors()
    configs()
