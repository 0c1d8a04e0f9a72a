"""Runs the program on an attack and says what went wrong: hangs, memory, backtraces, lost runs."""

import os
import re
import resource
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

# What an attack may take, beyond what the same command takes on honest input.
MAX_SECONDS = 10
MAX_BYTES = 1 << 30
BACKTRACE = re.compile(
    r"panicked at|stack backtrace|internal:|terminate called|core dumped|C\+\+ CapturedTraceback"
)
FAULTS = ("hangs", "memory", "backtraces", "lost", "wrong")


@dataclass
class Outcome:
    """What a command did."""

    code: int  # negative: the signal that ended it
    seconds: float
    rss: int  # peak, bytes
    stdout: str
    stderr: str
    timed_out: bool = False


def watch(process, peak):
    """Follows the process's peak memory; ends one that takes the machine's.

    The peak that wait4 reports begins at that of the process that started it: this one, which makes large files.
    """
    while process.returncode is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak[0] = max(peak[0], int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)
        except (OSError, TypeError):
            return
        if peak[0] > 4 * MAX_BYTES:
            process.kill()
        time.sleep(0.01)


def run(
    command,
    folder,
    timeout=60,
    stop=None,
    limits=(),
    stdout=None,
    stdin=subprocess.DEVNULL,
    files=(),
    environment=None,
):
    """Runs a command.

    `stop` is (seconds, signal), `limits` are pairs for resource.setrlimit. `stdout` and `files` name open
    files to write to and to inherit.
    """

    def prepare():
        for which, bound in limits:
            resource.setrlimit(which, (bound, resource.getrlimit(which)[1]))
        # A write beyond RLIMIT_FSIZE fails, as one on a full disk does.
        if any(which == resource.RLIMIT_FSIZE for which, _ in limits):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=stdin,
            stdout=out if stdout is None else stdout,
            stderr=err,
            pass_fds=files,
            preexec_fn=prepare if limits else None,
            restore_signals=not limits,
            env=environment,
        )
        timers = [threading.Timer(timeout, process.kill)]
        if stop:
            timers.append(threading.Timer(stop[0], lambda: os.kill(process.pid, stop[1])))
        for timer in timers:
            timer.start()
        peak = [0]
        threading.Thread(target=watch, args=(process, peak), daemon=True).start()
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for timer in timers:
            timer.cancel()
        seconds = time.monotonic() - begun
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(1 << 20).decode("utf-8", "replace"))
    return Outcome(process.returncode, seconds, peak[0], *texts, timed_out=seconds >= timeout)


@dataclass
class Attack:
    """A command on hostile input, and how it may end.

    `codes` are the exit codes that are right. Where it fails, stderr must mention `mentions`. `lost` looks at
    what is left and returns what was lost, or None.
    """

    kind: str
    name: str
    command: list
    codes: tuple = (1, 2)
    mentions: str = ""
    # What the command on honest input takes: seconds and bytes.
    honest: tuple = (1, 400 << 20)
    options: dict = field(default_factory=dict)
    # Lines of stderr that are right: a command on a folder reports each file.
    lines: int = 30
    lost: object = None

    def faults(self, folder):
        """Runs it and returns the faults: pairs of one of FAULTS and a text."""
        outcome = run(self.command, folder, timeout=self.honest[0] + 2 * MAX_SECONDS, **self.options)
        found = list(self.of(outcome))
        if self.lost:
            left = self.lost()
            if left:
                found.append(("lost", left))
        return found, outcome

    def of(self, outcome):
        if outcome.seconds > self.honest[0] + MAX_SECONDS:
            yield "hangs", f"{outcome.seconds:.1f} s"
        if outcome.rss > self.honest[1] + MAX_BYTES:
            yield "memory", f"{outcome.rss >> 20} MB"
        asked = self.options.get("stop", (0, 0))[1]
        crashed = (
            outcome.code < 0
            and not (outcome.timed_out or outcome.rss > 4 * MAX_BYTES)
            and -outcome.code not in (asked, signal.SIGPIPE)
        )
        if BACKTRACE.search(outcome.stderr) or crashed:
            yield "backtraces", f"exit code {outcome.code}: {outcome.stderr.strip()[-400:]}"
            return
        if outcome.timed_out or outcome.rss > 4 * MAX_BYTES or (asked and outcome.code == -asked):
            return
        if outcome.code not in self.codes:
            yield "wrong", f"exit code {outcome.code}, not one of {self.codes}: {outcome.stderr.strip()[-300:]}"
        elif outcome.code in (1, 2):
            text = outcome.stderr.strip()
            if not text:
                yield "wrong", "it failed without a word"
            elif len(text) > 150 * self.lines or text.count("\n") > self.lines:
                yield "wrong", f"{len(text)} characters of error: {text[:200]}"
            elif self.mentions not in text:
                yield "wrong", f"the error does not mention {self.mentions!r}: {text[-300:]}"
            elif "\x1b" in text:
                yield "wrong", f"an escape character reaches the terminal: {text[-200:]!r}"


def run_all(attacks, folder, jobs, log):
    """Runs the attacks on `jobs` threads and returns {kind: {"attacks": n, fault: n, ...}} and the slowest."""
    counts, waiting, lock, slowest = {}, list(reversed(attacks)), threading.Lock(), []

    def work():
        while True:
            with lock:
                if not waiting:
                    return
                attack = waiting.pop()
            try:
                found, outcome = attack.faults(folder)
            except Exception as error:  # a fault of the attack, which must not pass for success
                found, outcome = [("wrong", f"the attack itself failed: {error!r}")], None
            with lock:
                row = counts.setdefault(attack.kind, dict.fromkeys(("attacks", *FAULTS), 0))
                row["attacks"] += 1
                for fault in {fault for fault, _ in found}:
                    row[fault] += 1
                for fault, text in found:
                    log(f"{attack.kind}: {attack.name}: {fault}: {text}")
                if outcome:
                    slowest.append((outcome.seconds, outcome.rss, f"{attack.kind}: {attack.name}"))

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts, slowest


def table(counts):
    """The counts as a Markdown table."""
    head = ("attack", "number", "hangs", "over memory", "backtraces", "lost runs", "other wrong ends")
    rows = [(kind, *(row[name] for name in ("attacks", *FAULTS))) for kind, row in counts.items()]
    rows.append(("total", *(sum(row[at] for row in rows) for at in range(1, 7))))
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) + ("---:",) * 6, *rows)]
    return "\n".join(lines)


class Place:
    """A folder with a small config, an image, a run and its exported weights, all made by the program."""

    CONFIG = Path(__file__).resolve().parents[1] / "fixtures/small.yaml"

    def __init__(self, folder, program):
        self.folder, self.program = Path(folder), str(program)
        self.write("small.yaml", self.CONFIG.read_bytes())
        self.honest("train", "small.yaml", "--output", "run", "--quiet")
        self.honest("export", "run", "--output", "weights")

    def command(self, *arguments):
        return [self.program, *map(str, arguments)]

    def honest(self, *arguments):
        outcome = run(self.command(*arguments), self.folder)
        if outcome.code != 0:
            raise SystemExit(f"vmbeauty {' '.join(map(str, arguments))} failed: {outcome.stderr}")
        return outcome

    def path(self, name):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name, data):
        self.path(name).write_bytes(data)
        return name

    def sparse(self, name, length, data=b""):
        """A file of `length` bytes that takes no room on the disk."""
        with open(self.path(name), "wb") as file:
            file.write(data)
            file.truncate(length)
        return name
