"""Hostile image files: damaged, lying about their size, bombs, and what is no file at all."""

import os
import random
import socket
import struct
import zlib
from pathlib import Path

from attack import Attack

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/images"


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def zeros(count):
    """`count` zeros, compressed, without holding them."""
    packer, out = zlib.compressobj(9), []
    for at in range(0, count, 1 << 20):
        out.append(packer.compress(bytes(min(1 << 20, count - at))))
    return b"".join([*out, packer.flush()])


def png(width=32, height=32, color=2, depth=8, chunks=(), data=None):
    if data is None:
        line = b"\0" + bytes(
            x * 5 % 256 for x in range(width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] * depth // 8)
        )
        data = zlib.compress(line * height)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunks)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def tiff(entries, data=b"", big=False):
    """A TIFF file of one directory: entries are (tag, type, count, value)."""
    if big:
        head = b"II" + struct.pack("<HHHQ", 43, 8, 0, 16)
        return (
            head
            + struct.pack("<Q", len(entries))
            + b"".join(struct.pack("<HHQQ", *e) for e in entries)
            + bytes(8)
            + data
        )
    head = b"II" + struct.pack("<HI", 42, 8)
    return (
        head
        + struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *e) for e in entries)
        + bytes(4)
        + data
    )


def bombs():
    """Names and contents of small files that ask for a lot."""
    big = zeros(1 << 30)
    yield "iccp.png", png(chunks=[chunk(b"iCCP", b"p\0\0" + big)])
    yield "ztxt.png", png(chunks=[chunk(b"zTXt", b"t\0\0" + big)] * 3)
    yield "itxt.png", png(chunks=[chunk(b"iTXt", b"t\0\1\0\0\0" + big)])
    yield "idat.png", png(data=big)
    for width, height in [
        (100_000, 100_000),
        (2**31 - 1, 2**31 - 1),
        (2**31 - 1, 1),
        (1, 2**31 - 1),
        (16_000, 16_000),
        (0, 0),
    ]:
        yield f"{width}x{height}.png", png(width, height, data=zlib.compress(bytes(1000)))
    yield "gray.png", png(16_384, 16_384, color=0, data=zeros(16_385 * 16_384))
    yield "deep.png", png(8_000, 8_000, color=6, depth=16, data=zeros(8_000 * 64_001))
    yield "many_chunks.png", png(chunks=[chunk(b"tEXt", b"a\0b")] * 300_000)
    yield "frames.png", png(chunks=[chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))])
    for width, height in [(65_535, 65_535), (65_535, 1)]:
        screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
        frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\0"
        yield f"{width}x{height}.gif", b"GIF89a" + screen + frame + b";"
    yield "frames.gif", b"GIF89a" + struct.pack("<HHBBB", 4000, 4000, 0x80, 0, 0) + bytes(6) + (
        b"," + struct.pack("<HHHHB", 0, 0, 4000, 4000, 0) + b"\x02\x02\x4c\x01\0"
    ) * 2000 + b";"
    for width, height, bits in [
        (2**31 - 1, 2**31 - 1, 24),
        (-5, 10, 24),
        (60_000, -60_000, 32),
        (30_000, 30_000, 1),
        (10, 10, 99),
    ]:
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 2**31 - 1, 0)
        yield f"{width}x{height}x{bits}.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info + bytes(300)
    rle = struct.pack("<IiiHHIIiiII", 40, 16_000, 16_000, 1, 8, 1, 0, 0, 0, 0, 0)
    yield "rle.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54 + 1024) + rle + bytes(
        1024
    ) + b"\xff\x01" * 5000
    for width, height in [(16_383, 16_383), (1, 1)]:
        packed = (width - 1) | (height - 1) << 14
        body = b"VP8L" + struct.pack("<IBI", 5 + 4, 0x2F, packed) + bytes(4)
        yield f"{width}x{height}.webp", b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + b"\xff" * 6
    yield "extended.webp", b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended
    for name, width, strip in [
        ("wide", 2**31 - 1, 2**31 - 1),
        ("strip", 64, 2**32 - 1),
        ("tile", 16_000, 100),
    ]:
        yield f"{name}.tiff", tiff(
            [
                (256, 4, 1, width),
                (257, 4, 1, 64),
                (258, 3, 1, 8),
                (259, 3, 1, 1),
                (262, 3, 1, 1),
                (273, 4, 1, 8),
                (277, 3, 1, 1),
                (278, 4, 1, 64),
                (279, 4, 1, strip),
            ]
        )
    yield "offsets.tiff", tiff([(256, 4, 1, 64), (257, 4, 1, 64), (273, 4, 2**31, 8), (279, 4, 2**31, 8)])
    yield "deflate.tiff", tiff(
        [
            (256, 4, 1, 4000),
            (257, 4, 1, 4000),
            (258, 3, 1, 8),
            (259, 3, 1, 8),
            (262, 3, 1, 1),
            (273, 4, 1, 122),
            (277, 3, 1, 1),
            (278, 4, 1, 4000),
            (279, 4, 1, len(big)),
        ],
        big,
    )
    yield "loop.tiff", b"II" + struct.pack("<HI", 42, 8) + struct.pack("<H", 0) + struct.pack("<I", 8)
    yield "big.tiff", tiff(
        [(256, 4, 1, 2**31 - 1), (257, 4, 1, 2**31 - 1), (273, 16, 2**60, 8), (279, 16, 2**60, 8)], big=True
    )
    head = b"\xff\xd8"
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65_535, 65_535, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    yield "huge.jpg", head + frame + b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0" + bytes(100) + b"\xff\xd9"
    yield "progressive.jpg", head + frame.replace(b"\xff\xc0", b"\xff\xc2") + (
        b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(20)
    ) * 5000 + b"\xff\xd9"
    yield "icc.jpg", head + (
        b"\xff\xe2" + struct.pack(">H", 65_535) + b"ICC_PROFILE\0\xff\xff" + bytes(65_519)
    ) * 255
    yield "zeros.jpg", bytes(1 << 20)
    yield "stuffing.jpg", head + b"\xff" * (4 << 20)
    exif = b"Exif\0\0" + tiff([(0x112, 3, 2**31, 8), (0x8769, 4, 1, 8)])
    yield "exif_loop.jpg", head + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + b"\xff\xd9"
    for brand in (b"heic", b"avif", b"mif1"):
        yield f"{brand.decode()}.jpg", struct.pack(">I", 24) + b"ftyp" + brand + bytes(
            4
        ) + b"mif1" + brand + bytes(100)
    yield "page.jpg", b"<html><body>403 Forbidden</body></html>"
    yield "svg.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9e9" height="9e9"/>'
    yield "empty.png", b""
    yield "one.png", b"\x89"


def damaged():
    """The fixtures cut, zeroed, with bytes flipped: read, or refused by name."""
    generator = random.Random(1)
    for file in sorted(FIXTURES.iterdir()):
        data = file.read_bytes()
        for kind, changed in [
            ("cut", data[: generator.randrange(10, len(data) - 5)]),
            ("zeroed", data[: len(data) // 2] + bytes(len(data) - len(data) // 2)),
            (
                "flipped",
                bytes(b ^ (1 << generator.randrange(8)) if generator.random() < 0.01 else b for b in data),
            ),
            ("doubled", data[: len(data) // 2] + data),
        ]:
            yield f"{kind}_{file.name}", changed


def not_files(place):
    """Names that are no regular file."""
    folder = place.path("odd/x").parent
    for name, target in [
        ("zero.png", "/dev/zero"),
        ("random.png", "/dev/urandom"),
        ("tty.png", "/dev/tty"),
        ("kmsg.png", "/proc/kmsg"),
        ("memory.png", "/proc/self/mem"),
        ("pagemap.png", "/proc/self/pagemap"),
        ("loop.png", "loop.png"),
        ("gone.png", "nowhere"),
    ]:
        (folder / name).symlink_to(target)
        yield f"odd/{name}"
    os.mkfifo(folder / "fifo.png")
    (folder / "linked_fifo.png").symlink_to("fifo.png")
    (folder / "folder.png").mkdir()
    unix = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(folder)  # a socket's path has at most 107 bytes
    unix.bind("socket.png")
    os.chdir(here)
    yield from ("odd/fifo.png", "odd/linked_fifo.png", "odd/folder.png", "odd/socket.png")
    yield place.sparse("odd/sparse.png", 1 << 40, png()[:40])


def attacks(place):
    def of(name, codes, label=None):
        label = label or name
        return Attack(
            "image files",
            label,
            place.command("predict", "run", name),
            codes=codes,
            mentions=Path(name).name if label == name else "",
        )

    for name, data in bombs():
        yield of(place.write(f"bombs/{name}", data), (0, 1))
    for name, data in damaged():
        yield of(place.write(f"damaged/{name}", data), (0, 1))
    for name in not_files(place):
        yield of(name, (1, 2))
    for label, name in [
        ("escape", "a\x1b[31mred.png"),
        ("newline", "a\nb.png"),
        ("formula", "=1+2.png"),
        ("long", "x" * 251 + ".png"),
        ("quotes", "'\"`$(id).png"),
        ("dash", "./-x.png"),
        ("hash", "a#b?c%00.png"),
    ]:
        yield of(place.write(f"names/{name}", png()), (0,), f"name with {label}")
    # All at once in a dataset: each is skipped by name, the others train.
    rows = [
        f"{name},{at % 5 + 1}"
        for at, name in enumerate(
            sorted(str(p.relative_to(place.folder)) for p in place.folder.glob("damaged/*"))
        )
    ]
    rows += [f"{place.write(f'good/{at}.png', png(40 + at, 50))},{at % 5 + 1}" for at in range(40)]
    rows += [f"odd/{name},3" for name in ("zero.png", "fifo.png", "kmsg.png", "folder.png", "sparse.png")]
    place.write("images.csv", "\n".join(["image,score", *rows]).encode())
    dataset = ("small.yaml", "--set", "data.dataset=csv", "--set", "data.root=images.csv")
    yield Attack(
        "image files", "data check of all damaged files", place.command("data", "check", *dataset), codes=(0,)
    )
    yield Attack(
        "image files",
        "training on all damaged files",
        place.command("train", *dataset, "--output", "on_damaged", "--quiet"),
        codes=(0,),
    )
    yield Attack(
        "image files",
        "predict a folder of bombs",
        place.command("predict", "run", "bombs"),
        lines=100,
        codes=(0, 1),
        honest=(10, 400 << 20),
    )
    yield Attack(
        "image files",
        "predict a folder of what is no file",
        place.command("predict", "run", "odd"),
        codes=(1,),
    )
