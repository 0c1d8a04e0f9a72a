"""Builds the operators of ../../csrc as a PyTorch extension against the PyTorch that is installed.

VMB_CUDA=0 leaves out the CUDA kernels, which are built where PyTorch has CUDA and nvcc is found.
"""

import os
import platform
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup

try:
    import torch
except ImportError:
    # pip builds in an environment of its own, which hides the PyTorch that the operators will be used with.
    sys.path.append(sysconfig.get_path("platlib"))
    try:
        import torch
    except ImportError:
        sys.exit("PyTorch is not installed: install torch 2.9 or later first, then vm-beautynet-ops")
from torch.utils import cpp_extension

CSRC = Path(__file__).resolve().parent.parent.parent / "csrc"
FLAGS = ["-O3", "-g0", "-fopenmp", "-fPIC", "-Wno-psabi", "-Wno-ignored-attributes"]
# As in build.rs: compiled once per instruction set, and chosen at run time.
KERNELS = {"portable": []}
if platform.machine() == "x86_64":
    KERNELS["avx2"] = ["-mavx2", "-mfma"]
    KERNELS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"]
    KERNELS["avx512"] += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # of GCC 12's own avx512fintrin.h


class Build(cpp_extension.BuildExtension):
    """Adds the sources, which lie outside of this folder, and the CPU kernels, which have flags of their own."""

    def build_extensions(self):
        def compile_kernels(path):
            return self.compiler.compile([str(CSRC / f"cpu/kernels_{path}.cpp")], self.build_temp, include_dirs=[str(CSRC)],
                                         extra_postargs=["-std=c++17", *FLAGS, *KERNELS[path]])

        extension = self.extensions[0]
        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compile_kernels, KERNELS))
        extension.extra_objects += [str(Path(name).resolve()) for names in objects for name in names]
        self.force = True  # what is in build/ may be for another PyTorch
        extension.sources = [str(CSRC / "ops/all.cpp"), *(map(str, sorted(CSRC.glob("cuda/*.cu"))) if CUDA else [])]
        super().build_extensions()


if not CSRC.is_dir():
    sys.exit(f"{CSRC} is missing: install from a checkout of vm-beautynet, with pip 21.3 or later")
CUDA = torch.version.cuda and cpp_extension.CUDA_HOME and os.environ.get("VMB_CUDA") != "0"
kind = cpp_extension.CUDAExtension if CUDA else cpp_extension.CppExtension
operators = kind("vm_beautynet_ops._operators", [], include_dirs=[str(CSRC)],
                 define_macros=[("VMB_OPERATORS_ONLY", None), *([("VMB_CUDA", None)] if CUDA else [])],
                 extra_compile_args={"cxx": FLAGS, "nvcc": ["-O3", "--expt-relaxed-constexpr"]},
                 extra_link_args=["-fopenmp"], py_limited_api=True)
setup(ext_modules=[operators], cmdclass={"build_ext": Build})
