"""Where nvcc, nvdisasm and numpy are: what the environment has, else what `scripts/setup.py --kernel-tests` fetched."""
import importlib.util
import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))
sys.dont_write_bytecode = True
import setup  # noqa: E402  (the set-up script knows the layout of its cache)

FETCHED = setup.kernel_tests_folder(setup.cache_root())
if importlib.util.find_spec("numpy") is None:
    sys.path.append(str(FETCHED))


def nvcc():
    if os.environ.get("NVCC"):
        return os.environ["NVCC"]
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"] + "/bin/nvcc"
    return str(FETCHED / "nvidia/cu13/bin/nvcc")


def nvdisasm():
    if os.environ.get("NVDISASM"):
        return os.environ["NVDISASM"]
    if os.environ.get("CUDA_HOME") and (Path(os.environ["CUDA_HOME"]) / "bin/nvdisasm").exists():
        return os.environ["CUDA_HOME"] + "/bin/nvdisasm"
    return str(FETCHED / "nvidia/cu13/bin/nvdisasm")
