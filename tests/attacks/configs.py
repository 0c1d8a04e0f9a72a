"""Hostile configs, sweep files, values after --set, and command lines."""

import os

from attack import Attack

SMALL_SWEEP = b"name: s\nbase: small.yaml\naxes: {seed: [1, 2]}\n"


def texts():
    """Names and contents of hostile configs."""
    yield "brackets", b"[" * 200_000
    yield "braces", b"{a: " * 50_000
    yield "dashes", b"- " * 200_000
    yield "indentation", b"".join(b" " * at + b"a:\n" for at in range(2000))
    yield "unknown_keys", b"".join(b"key%d: 1\n" % at for at in range(20_000))
    yield "near_keys", b"train:\n" + b"".join(b"  epoch%d: 1\n" % at for at in range(20_000))
    yield "laughs", b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (at, at, b", ".join([b"*a%d" % (at - 1)] * 9)) for at in range(1, 12)
    )
    yield "self_alias", b"a: &a [*a]\n"
    yield "merge_loop", b"data: &d {<<: *d}\n"
    yield "long_line", b"name: " + b"x" * (20 << 20)
    yield "long_key", b"x" * (20 << 20) + b": 1\n"
    yield "comment", b"#" + b"x" * (50 << 20)
    yield "empty", b""
    yield "null", b"null\n"
    yield "list", b"- 1\n- 2\n"
    yield "text", b"hello\n"
    yield "two_documents", b"name: a\n---\nname: b\n"
    yield "tabs", b"data:\n\tdataset: synthetic\n"
    yield "nul", b"name: a\0b\n"
    yield "binary", bytes(range(256)) * 100
    yield "latin1", b"name: M\xfcller\n"
    yield "utf16", "name: a\n".encode("utf-16")
    yield "escape", b'name: "a\\e[2Jb"\n'
    yield "climbing_name", b"name: ../../../tmp/x\n"
    yield "tag", b"name: !!python/object/apply:os.system [touch executed]\n"
    yield "duplicate", b"seed: 1\nseed: 2\n"
    yield "csv", b"image,score\n" + b"a.png,1\n" * 100_000
    yield "json", b'{"nam": "a"}'


# Values that no machine can honor, or that are none.
VALUES = [
    f"{key}={value}"
    for key, values in {
        "data.image_size": ("0", "-1", "100000", "1e18", "9223372036854775807", "nan", "64.5"),
        "data.synthetic.train": ("0", "-1", "100000000000000", "nan"),
        "data.workers": ("-1", "100000", "1e18"),
        "data.cache": ("yes", "1"),
        "train.threads": ("0", "-1", "100000", "1e18"),
        "train.batch_size": ("0", "-1", "1000000000000000000", "nan"),
        "train.epochs": ("-1", "nan", "1e400", "99999999999999999999"),
        "train.accumulate": ("0", "-1", "9223372036854775807"),
        "train.optimizer.lr": ("nan", "inf", "-1", "1e400", "abc", ""),
        "train.ema_decay": ("1", "-1", "nan", "2"),
        "train.precision": ("fp8", "1", ""),
        "train.checkpoint_minutes": ("-1", "nan"),
        "model.vit.depth": ("0", "-1", "1000000", "1e18"),
        "model.vit.embed_dim": ("0", "-1", "7", "1000000", "9223372036854775807"),
        "model.vit.num_heads": ("0", "5", "-1"),
        "model.vit.patch_size": ("0", "-1", "7", "100000"),
        "model.mamba.d_state": ("0", "-1", "1000000"),
        "model.mamba.depth": ("1000000",),
        "model.fusion.dim": ("0", "-1", "100000000"),
        "model.head.hidden": ("[0]", "[-1]", "[1000000000000]", "[[[[1]]]]", "abc"),
        "model.head.dropout": ("1", "2", "-1", "nan"),
        "seed": ("-1", "nan", "99999999999999999999", "abc"),
        "device": ("cuda", "cuda:99", "tpu", ""),
    }.items()
    for value in values
]

COMMANDS = [
    [],
    [""],
    ["--set"],
    ["train"],
    ["train", ""],
    ["train", "small.yaml", "--set", ""],
    ["train", "small.yaml", "--set", "="],
    ["train", "small.yaml", "--set", "seed"],
    ["train", "small.yaml", "epochs=3"],
    ["train", "small.yaml", "--output", ""],
    ["train", "small.yaml", "--output", "/proc/x"],
    ["train", "small.yaml", "--output", "/dev/null/x"],
    ["train", "small.yaml", "--output", "small.yaml"],
    ["train", "small.yaml", "--output", "x" * 5000],
    ["train", "run", "--output", "y"],
    ["evaluate", "nowhere"],
    ["evaluate", "/"],
    ["evaluate", "/dev/null"],
    ["predict", "run"],
    ["predict", "run", ""],
    ["predict", "run", "nowhere"],
    ["predict", "small.yaml", "p.png"],
    ["report"],
    ["report", "/dev"],
    ["report", "run", "--output", "/dev/full"],
    ["export", "run", "--output", "/dev/null"],
    ["explain", "run", "p.png", "--method", "x"],
    ["sweep", "small.yaml"],
    ["sweep", "/dev/zero"],
    ["completions", "x"],
    ["summary", "x" * (100 << 10)],
    ["benchmark", "scan", "--runs", "0"],
    ["data", "check", "small.yaml", "--set", "x" * 10_000 + "=1"],
    ["train", "small.yaml", "--set", "data.root=a #b", "--output", "z"],
    ["train", b"\xff\xfe.yaml"],
    ["predict", "run", b"\xff.png"],
]


def attacks(place):
    def config(name, codes, command=("summary",)):
        return Attack(
            "configs and command lines",
            " ".join([*command, name]),
            place.command(*command, name),
            codes=codes,
        )

    for name, data in texts():
        valid = name in ("comment", "empty", "null", "escape")
        yield config(place.write(f"configs/{name}.yaml", data), (0, 2) if valid else (2,))
        if name in ("brackets", "unknown_keys", "laughs", "binary", "long_line", "empty"):
            yield config(f"configs/{name}.yaml", (2,), ("sweep", "--dry-run", "--output", "s"))
    for at, axis in enumerate(
        (
            b"{seed: []}",
            b"{seed: 1}",
            b"{}",
            b"{see: [1]}",
            b"{seed: [%s]}" % b", ".join(b"%d" % at for at in range(100_000)),
            b"{%s}" % b", ".join(b"a%d: [1, 2, 3]" % at for at in range(1000)),
            b"{name: [../../x, /etc]}",
            b"{train.epochs: [1, 2], train.epochs: [3]}",
        )
    ):
        name = place.write(
            f"sweeps/{at}.yaml",
            SMALL_SWEEP.replace(b"{seed: [1, 2]}", axis).replace(b"small.yaml", b"../small.yaml"),
        )
        yield config(name, (0, 1, 2), ("sweep", "--dry-run", "--output", "s"))
    for name in (
        "/dev/zero",
        "/dev/urandom",
        "/dev/tty",
        "/dev/null",
        "/proc/self/mem",
        "/proc/kmsg",
        "odd/fifo.png",
        "odd/sparse.png",
        "run",
        "nowhere.yaml",
        "p.png",
    ):
        # Files of /proc say that they are empty, and an empty config is valid.
        yield config(name, (0, 1, 2) if name.startswith("/proc") else (1, 2))
    for at, value in enumerate(VALUES):
        yield Attack(
            "configs and command lines",
            f"--set {value}",
            place.command("train", "small.yaml", "--quiet", "--output", f"set/{at}", "--set", value),
            codes=(1, 2),
        )
    for at, arguments in enumerate(COMMANDS):
        yield Attack(
            "configs and command lines", f"command line {at}", [place.program, *arguments], codes=(1, 2)
        )
    environment = {
        **os.environ,
        "LANG": "xx",
        "TERM": "\x1b[31m",
        "COLUMNS": "-1",
        "HOME": "/nowhere",
        "TMPDIR": "/nowhere",
        "RAYON_NUM_THREADS": "100000",
        "OMP_NUM_THREADS": "-5",
    }
    yield Attack(
        "configs and command lines",
        "an odd environment",
        place.command("predict", "run", "p.png"),
        codes=(0, 1, 2),
        options={"environment": environment},
    )
