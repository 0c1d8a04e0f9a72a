#!/usr/bin/env python3
"""Fetches onnx and onnxruntime into the cache and runs the tests of exported ONNX files with them: `make test-onnx`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
PYTHON = ["onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6", "pillow==13.0.0"]

sys.path.insert(0, str(PROJECT / "scripts"))
import setup  # noqa: E402
NODE = [setup.WEB_RUNTIME, "sharp@0.35.5"]


def python_packages(root):
    """The folder of the Python packages, named after what is in it."""
    versions = "-".join(package.replace("==", "") for package in PYTHON[:2])
    final = root / f"onnx-tests-{versions}-python{sys.version_info.major}.{sys.version_info.minor}"
    fill = lambda folder: setup.pip_install(folder, PYTHON, ["--quiet"])
    return setup.fetched(final, f"{', '.join(PYTHON)} (60 MB, once)", fill, gigabytes=1)


def node_packages(root):
    """The folder whose node_modules has the packages; None where there is no Node."""
    if not shutil.which("node") or not shutil.which("npm"):
        setup.say("SKIPPED: predict.mjs needs Node and npm")
        return None

    def fill(folder):
        (folder / "package.json").write_text("{}")
        setup.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *NODE], "the installation by npm", cwd=folder)

    final = root / f"onnx-tests-{'-'.join(package.replace('@', '') for package in NODE)}"
    return setup.fetched(final, f"{', '.join(NODE)} (once)", fill, gigabytes=1)


def main():
    with setup.cache_alone() as root:
        packages, node = python_packages(root), node_packages(root)
    env = {**os.environ, "PYTHONPATH": str(packages)}
    if node:
        env["VMB_NODE_PACKAGES"] = str(node)
    return subprocess.run([sys.executable, "-B", "-m", "unittest", "-v", *(sys.argv[1:] or ["test_onnx"])], cwd=HERE, env=env).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except setup.SetupError as error:
        sys.exit(f"set-up: {error}")
