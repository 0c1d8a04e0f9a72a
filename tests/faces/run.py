#!/usr/bin/env python3
"""Compares the face detector with facenet-pytorch, and crops faces out of scenes: `make test-faces`.

PyTorch is the one of `make cuda`, which is fetched where it is missing (2.6 GB, 4.8 GB on disk); a folder beside it in
the cache has facenet-pytorch and what it needs. VMB_FACENET_PYTHON names a Python that has them already.
"""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ["facenet-pytorch==2.6.0", "torchvision", "numpy", "pillow", "tqdm"]
PACKAGES += ["requests", "urllib3", "idna", "certifi", "charset-normalizer"]

sys.path.insert(0, str(PROJECT / "scripts"))
import setup  # noqa: E402


def packages(root):
    """The folders that Python finds facenet-pytorch and PyTorch in."""
    final = root / f"face-tests-python{sys.version_info.major}.{sys.version_info.minor}"
    # Of facenet-pytorch, the detector works with any PyTorch, whatever its metadata say.
    fill = lambda folder: setup.pip_install(folder, PACKAGES, ["--no-deps", "--quiet"])
    setup.fetched(final, "facenet-pytorch (20 MB, once)", fill)
    return [final, setup.libtorch_cuda(root).parent]


def main():
    setup.check_platform()
    environment = dict(os.environ)
    with setup.cache_alone() as root:
        setup.face_detector(root)
        if not environment.get("VMB_FACENET_PYTHON"):
            environment["VMB_FACENET_PYTHON"] = sys.executable
            environment["VMB_FACENET_PATH"] = os.pathsep.join(map(str, packages(root)))
    command = ["cargo", "test", "--release", "--test", "cli", "faces_in_scenes", "--", "--ignored", "--nocapture"]
    return subprocess.run(command, cwd=PROJECT, env=environment).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except setup.SetupError as error:
        sys.exit(f"set-up: {error}")
