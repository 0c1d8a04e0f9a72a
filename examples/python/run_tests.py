#!/usr/bin/env python3
"""Builds the extension against the project's PyTorch, and runs its tests and those of tests/gpu on the CPU:
`make test-python`.

PyTorch is the one of `make cuda`, which is fetched where it is missing (2.6 GB, 4.8 GB on disk). A virtual
environment beside it in the cache uses it and holds the extension, which is built again where sources changed.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent

spec = importlib.util.spec_from_file_location("vmb_setup", PROJECT / "scripts/setup.py")
setup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup)


def sources():
    """The sum of everything that the extension is made of."""
    files = [HERE / "setup.py", HERE / "pyproject.toml", *(HERE / "src").rglob("*.py"), *(PROJECT / "csrc").rglob("*.[ch]*")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(PROJECT)).encode() + path.read_bytes())
    return digest.hexdigest()


def environment(root):
    """The Python of a virtual environment that has the project's PyTorch."""
    torch = setup.libtorch_cuda(root).parent
    folder = root / f"python-tests-{setup.TORCH_VERSION}-python{sys.version_info.major}.{sys.version_info.minor}"
    marker = folder / "pytorch"
    if not marker.exists() or marker.read_text() != str(torch):
        venv.create(folder, clear=True)
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "pytorch.pth").write_text(f"{torch}\n")
        marker.write_text(str(torch))
    return folder


def main():
    setup.check_platform()
    with setup.cache_alone() as root:
        folder = environment(root)
        python, built, now = folder / "bin/python", folder / "built", sources()
        if not built.exists() or built.read_text() != now:
            built.unlink(missing_ok=True)
            setup.say("building the PyTorch extension (under two minutes)")
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
            # PyTorch's folder has setuptools: nothing is fetched.
            install = ["install", "--quiet", "--no-build-isolation", "--no-deps", str(HERE)]
            setup.run([*pip, *install], "building the extension", env={**os.environ, "VMB_CUDA": "0"})
            built.write_text(now)
    quiet = ["-W", "ignore:Failed to initialize NumPy"]  # not needed
    tests = {HERE: ["test_operators"], PROJECT / "tests/gpu": ["test_numbers", "test_timing"]}
    runs = [subprocess.run([str(python), "-B", *quiet, "-m", "unittest", *names], cwd=folder) for folder, names in tests.items()]
    return max(run.returncode for run in runs)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except setup.SetupError as error:
        sys.exit(f"set-up: {error}")
