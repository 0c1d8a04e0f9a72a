"""Runs that are killed, stopped by signals, run out of disk, or whose files are damaged.

A run is lost if it does not end, after `--resume`, with the bytes of a run that nothing happened to.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
from pathlib import Path

from attack import MAX_SECONDS, Attack, run

# Everything that has a state, and a checkpoint after each step.
STATE = (
    "train.epochs=12",
    "train.ema_decay=0.9",
    "train.freeze={vit: all, epochs: 3}",
    "model.vit.drop_path=0.2",
    "train.checkpoint_minutes=0.00001",
)
FILES = (
    "best.safetensors",
    "last.safetensors",
    "predictions_val.csv",
    "predictions_test.csv",
    "metrics.jsonl",
    "vit.safetensors",
    "mamba.safetensors",
)


def without_times(data):
    """A file's bytes; of lines of JSON, all but what a clock says."""
    if not data.startswith(b"{"):
        return data
    lines = [json.loads(line) for line in data.splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_second", "data_wait")}
        for line in lines
    ]


def difference(found, expected):
    """Which of the run directories' files differ, or None."""
    runs = sorted(path.parent.relative_to(expected) for path in expected.rglob("last.safetensors")) or [
        Path(".")
    ]
    compared = 0
    for one in runs:
        for name in FILES:
            a, b = (root / one / name for root in (found, expected))
            if b.exists():
                compared += 1
                if not a.exists():
                    return f"{one / name} is missing"
                if without_times(a.read_bytes()) != without_times(b.read_bytes()):
                    return f"{one / name} differs"
    left = [path for path in found.rglob(".*") if path.is_file()]
    if left:
        return f"{left[0].name} is left"
    return None if compared else "nothing to compare"


class Job:
    """A command that can be interrupted and continued."""

    def __init__(self, place, name, arguments, resume):
        self.place, self.name, self.arguments, self.resume = place, name, arguments, resume
        self.lock, self.uninterrupted = threading.Lock(), None

    def command(self, output, resume=False):
        return self.place.command(
            *self.arguments, "--output", output, *((self.resume,) if resume and self.resume else ())
        )

    def whole(self):
        """The folder of the uninterrupted job, and its time."""
        with self.lock:
            if self.uninterrupted is None:
                outcome = run(self.command(f"whole/{self.name}"), self.place.folder)
                if outcome.code:
                    raise RuntimeError(f"{self.name} failed: {outcome.stderr}")
                self.uninterrupted = (self.place.folder / f"whole/{self.name}", outcome.seconds)
        return self.uninterrupted


class Interrupted(Attack):
    """A job that is interrupted by options of `run`, then continued: nothing may be lost."""

    job = None
    at = 0
    options_of = staticmethod(lambda seconds: {})

    def faults(self, folder):
        expected, seconds = self.job.whole()
        output = f"interrupted/{self.job.name}-{self.at}"
        self.command = self.job.command(output)
        self.options = self.options_of(seconds)
        outcome = run(self.command, folder, timeout=seconds + 2 * MAX_SECONDS, **self.options)
        found = list(self.of(outcome))
        root = self.job.place.folder / output
        begun = any((root / name).exists() for name in ("config.yaml", "pretrain.yaml", "runs"))
        rest = run(self.job.command(output, begun), folder, timeout=seconds + 3 * MAX_SECONDS)
        left = (
            f"it does not resume: {rest.stderr.strip()[-300:]}"
            if rest.code
            else difference(self.job.place.folder / output, expected)
        )
        if left:
            found.append(("lost", left))
        shutil.rmtree(self.job.place.folder / output, ignore_errors=True)
        return found, outcome


def interrupted(kind, name, job, at, options_of, codes):
    attack = Interrupted(kind, name, [], codes=codes)
    attack.job, attack.at, attack.options_of = job, at, options_of
    return attack


def full_disks(place, job):
    """A file system of a few kilobytes, which gets room when the run has failed."""
    probe = run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], place.folder
    )
    if probe.code:
        print("SKIPPED: full file systems: none can be mounted here", flush=True)
        return
    for at, size in enumerate((4, 16, 40, 80, 120, 160, 240, 320, 480, 640)):
        copy = f"full/{at}"
        place.path(f"{copy}/x")

        def lost(copy=copy):
            return difference(place.folder / copy / "run", job.whole()[0])

        job_command, resumed = (
            " ".join(f"'{word}'" for word in job.command(f"{copy}/run", resume)) for resume in (False, True)
        )
        script = (
            f"mount -t tmpfs -o size={size}k tmpfs {copy} && {job_command}; code=$?; mount -o remount,size=64m {copy}\n"
            f"if [ -e {copy}/run/config.yaml ]; then {resumed}; else {job_command}; fi >&2 || exit 99\n"
            f"mkdir {copy}.out && cp -r {copy}/run {copy}.out/ && exit $code"
        )
        attack = Attack(
            "full disks",
            f"a file system of {size} KB",
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
            codes=(0, 1),
            honest=(3, 500 << 20),
            lost=lambda at=at: difference(place.folder / f"full/{at}.out/run", job.whole()[0]),
        )
        yield attack


def damage(path, how, generator):
    data = path.read_bytes()
    path.unlink()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        at = generator.randrange(len(data) * 3 // 4, len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    elif how == "zeroed":
        path.write_bytes(bytes(len(data)))
    elif how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "device":
        path.symlink_to("/dev/zero")


def damaged(place):
    """Run directories with one damaged file, and the commands that read it."""
    readers = {
        "best.safetensors": ("evaluate", "predict"),
        "config.yaml": ("evaluate", "report", "resume"),
        "summary.json": ("report", "predict"),
        "metrics.jsonl": ("report", "resume"),
        "predictions_test.csv": ("report",),
        "state/checkpoint.safetensors": ("resume",),
    }
    generator, at = random.Random(4), 0
    for name, commands in readers.items():
        for how in ("gone", "empty", "cut", "flipped", "zeroed", "folder", "fifo", "device"):
            for command in commands:
                at += 1
                folder = f"damaged_runs/{at}"
                shutil.copytree(place.folder / "run", place.path(folder))
                damage(place.folder / folder / name, how, generator)
                arguments = {
                    "evaluate": ("evaluate", folder, "--data-root", "."),
                    "predict": ("predict", folder, "p.png"),
                    "report": ("report", folder, "--output", f"{folder}.report"),
                    "resume": ("train", "small.yaml", "--quiet", "--resume", "--output", folder),
                }[command]
                if command == "evaluate":
                    arguments = arguments[:2]
                noticed = how in ("flipped", "zeroed") and name == "best.safetensors"
                codes = (1, 2) if noticed else (0, 1, 2)
                yield Attack(
                    "damaged run directories",
                    f"{command}: {name} {how}",
                    place.command(*arguments),
                    codes=codes,
                )
    for name in (
        "state/lock",
        "train.log",
        "metrics.jsonl",
        "state/checkpoint.safetensors",
        "best.safetensors",
    ):
        folder, victim = f"linked/{name.replace('/', '_')}", place.path(f"victims/{name.replace('/', '_')}")
        shutil.copytree(place.folder / "run", place.path(folder))
        link = place.folder / folder / name
        link.unlink(missing_ok=True)
        victim.write_bytes(b"precious")
        link.symlink_to(victim)
        yield Attack(
            "damaged run directories",
            f"{name} is a link to another file",
            place.command("train", "small.yaml", "--quiet", "--resume", "--output", folder),
            codes=(0, 1, 2),
            lost=lambda victim=victim: (
                None if victim.read_bytes() == b"precious" else "the link's target is overwritten"
            ),
        )


def twice(place, job):
    """Two processes train in one folder: one is refused, and the other is whole."""

    def start():
        return subprocess.Popen(
            job.command("twice"),
            cwd=place.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    class Twice(Attack):
        def faults(self, folder):
            both = [start(), start()]
            errors = [process.communicate(timeout=60)[1] for process in both]
            codes = sorted(process.returncode for process in both)
            found = (
                [] if codes[0] == 0 and codes[1] in (1, 2) else [("wrong", f"exit codes {codes}: {errors}")]
            )
            left = difference(place.folder / "twice", job.whole()[0])
            return found + ([("lost", left)] if left else []), None

    return Twice("kills and signals", "two processes in one run directory", [])


def attacks(place):
    settings = [word for value in STATE for word in ("--set", value)]
    place.write("sweep.yaml", b"name: s\nbase: small.yaml\naxes: {train.optimizer.lr: [1.0e-3, 2.0e-3]}\n")
    train = Job(place, "train", ("train", "small.yaml", "--quiet", *settings), "--resume")
    jobs = [
        (train, 40),
        (
            Job(
                place,
                "pretrain",
                ("pretrain", "small.yaml", "--quiet", "--set", "pretrain.epochs=4", "--set", STATE[-1]),
                "--resume",
            ),
            12,
        ),
        (Job(place, "sweep", ("sweep", "sweep.yaml"), "--retry-failed"), 12),
        (Job(place, "cross-validate", ("cross-validate", "small.yaml", "--folds", "2"), None), 12),
    ]
    generator = random.Random(os.getpid())  # other moments each time
    for job, count in jobs:
        for at in range(count):
            fraction = generator.uniform(0.02, 1)
            yield interrupted(
                "kills and signals",
                f"{job.name} killed after {fraction:.2f} of its time",
                job,
                f"k{at}",
                lambda seconds, fraction=fraction: {"stop": (fraction * seconds, signal.SIGKILL)},
                (0,),
            )
    expected = {
        "INT": 130,
        "TERM": 143,
        "HUP": 129,
        "USR1": 0,
        "USR2": 140,
        "XCPU": 152,
        "QUIT": -3,
        "PIPE": 0,
    }
    for job, count in [(train, 2), (jobs[1][0], 1), (jobs[2][0], 1)]:
        for name, code in expected.items():
            for at in range(count):
                fraction = generator.uniform(0.3, 0.8)
                yield interrupted(
                    "kills and signals",
                    f"SIG{name} to {job.name} after {fraction:.2f} of its time",
                    job,
                    f"{name}{at}",
                    lambda seconds, fraction=fraction, name=name: {
                        "stop": (fraction * seconds, signal.Signals[f"SIG{name}"])
                    },
                    (0, code, 1),
                )
    yield twice(place, train)
    import resource

    for job, sizes in [
        (train, (1000, 2000, 5000, 20_000, 40_000, 60_000, 80_000, 100_000, 150_000, 200_000, 300_000)),
        (jobs[1][0], (1000, 40_000, 90_000)),
        (jobs[2][0], (1000, 3000, 50_000)),
        (jobs[3][0], (3000, 50_000)),
    ]:
        for size in sizes:
            yield interrupted(
                "full disks",
                f"{job.name}: no file may have more than {size} bytes",
                job,
                f"f{size}",
                lambda seconds, size=size: {"limits": [(resource.RLIMIT_FSIZE, size)]},
                (0, 1, 2),
            )
    yield from full_disks(place, train)
    yield from damaged(place)
