"""Runs the program of the tarball that `make dist` writes in a root directory of its own, in which there is
nothing but the tarball's content, glibc, /proc and /dev/urandom, with an empty environment.

    make test-dist
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
GLIBC = ["libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libutil.so.1", "libpthread.so.0"]
# The place that it is unpacked to, which no build knows.
PLACE = "some where"
# Mounts what the kernel provides, and runs the program with an empty environment.
ENTER = """
mount -t proc proc "$0/proc"
mount --bind /dev/urandom "$0/dev/urandom"
exec env -i "$(command -v unshare)" --root "$0" --wd /home "$@"
"""
TRAIN = ["data.synthetic.train=64", "data.synthetic.val=16", "data.synthetic.test=16", "train.epochs=1"]


def glibc_files():
    """The loader and the libraries of glibc on this machine."""
    cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for name in [*GLIBC, "ld-linux-x86-64.so.2"]:
        yield next(line.split(" => ")[1] for line in cache.splitlines() if line.startswith(f"\t{name} (libc6,x86-64"))
    yield "/lib64/ld-linux-x86-64.so.2"


def make_root(archive, root):
    """Unpacks the tarball into a root directory; returns the program's folder there."""
    for folder in ["proc", "tmp", "home", "dev"]:
        (root / folder).mkdir()
    (root / "dev/urandom").touch()
    for path in glibc_files():
        to = root / path[1:]
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        to.chmod(0o755)
    with tarfile.open(archive) as tar:
        tar.extractall(root / PLACE, filter="tar")
    return next((root / PLACE).iterdir())


def run(root, folder, *arguments):
    """Runs the program alone in the root directory; returns its output."""
    program = f"/{folder.relative_to(root)}/bin/vmbeauty"
    alone = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-c", ENTER, str(root), program]
    result = subprocess.run([*alone, *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"error: {arguments[0]} ended with {result.returncode}: {result.stderr.strip()[-2000:]}")
    print(f"{arguments[0]}: done")
    return result.stdout


def check(root, folder):
    faults = []
    doctor = run(root, folder, "doctor")
    run(root, folder, "train", f"/{folder.relative_to(root)}/configs/quickstart.yaml", "--output", "run",
        *(argument for setting in TRAIN for argument in ("--set", setting)))
    shutil.copyfile(ROOT / "tests/fixtures/images/rgb.png", root / "home/face.png")
    predicted = run(root, folder, "predict", "run", "face.png", "--format", "csv", "--interval", "0.5")
    if not re.search(r"^face\.png,[0-9.]+,", predicted, re.M):
        faults.append(f"predict prints {predicted!r}")
    if "vmbeauty" not in doctor:
        faults.append(f"doctor prints {doctor!r}")
    dynamic = subprocess.run(["readelf", "-d", folder / "bin/vmbeauty"], capture_output=True, text=True).stdout
    if "runpath: [$ORIGIN/../lib]" not in dynamic:
        faults.append(f"the program looks for libraries elsewhere: {dynamic}")
    for name in ["share/man/man1/vmbeauty-train.1", "share/bash-completion/completions/vmbeauty", "README.md",
                 "licenses/rust-crates.txt", "licenses/gcc/README", "licenses/vm-beautynet/LICENSE-MIT"]:
        if not (folder / name).stat().st_size:
            faults.append(f"{name} is empty")
    if not list(folder.glob("licenses/torch*/**/LICENSE")):
        faults.append("libtorch's license is missing")
    return faults


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    archive = max((target / "dist").glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        faults = check(root, make_root(archive, root))
    for fault in faults:
        print(fault)
    if faults:
        sys.exit(f"error: {len(faults)} faults")
    print(f"{archive.name} runs with nothing but glibc, /proc and /dev/urandom")


if __name__ == "__main__":
    main()
