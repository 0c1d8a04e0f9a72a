#!/usr/bin/env python3
"""Pack target/release/vmbeauty with all that it needs except glibc into a tarball that runs wherever it is unpacked.

    make dist     builds and packs; after `make cuda`, with CUDA

The libraries are those that the loader finds for the program, and those that libtorch opens at run time. The program
is stripped, and finds them in ../lib.
"""

import gzip
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import setup

PROJECT = Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-gnu"
RUNPATH = "$ORIGIN/../lib"
# What belongs to the system: the parts of glibc, and those of the GPU's driver.
SYSTEM = re.compile(r"(ld-linux-x86-64|lib(c|m|dl|rt|util|pthread|resolv|cuda|nvidia-ml))\.so\.\d+$")
# Opened at run time, next to libtorch_cuda.
OPENED = ["libcaffe2_nvrtc.so", "libtorch_cuda_linalg.so"]
# Opened at run time, next to the library that opens them.
COMPANIONS = {"libcudnn.so": "libcudnn_*.so.*", "libnvrtc.so": "libnvrtc-builtins.so.*"}
LICENSE_NAMES = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.I)
COMPLETIONS = {
    "bash": "bash-completion/completions/vmbeauty",
    "zsh": "zsh/site-functions/_vmbeauty",
    "fish": "fish/vendor_completions.d/vmbeauty.fish",
}


def output(*command):
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"dist: {' '.join(map(str, command[:3]))} failed: {result.stderr.strip()}")
    return result.stdout


def linked(file):
    """The libraries that the loader finds for a program or library, by name, without the system's."""
    found = {}
    for line in output("ldd", file).splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow and not SYSTEM.match(name):
            path = path.rsplit(" (", 1)[0]
            if not path.startswith("/"):
                sys.exit(f"dist: {file} needs {name}, which the loader does not find: run `make build`")
            found[name] = Path(path)
    return found


def libraries(program):
    """All libraries of the program, by name."""
    found = linked(program)
    if cuda := found.get("libtorch_cuda.so"):
        for name in OPENED:
            found |= linked(cuda.with_name(name)) | {name: cuda.with_name(name)}
        # libcudnn itself is opened too, where it is not linked.
        for start, pattern in COMPANIONS.items():
            for library in [path for name, path in found.items() if name.startswith(start)]:
                for companion in library.resolve().parent.glob(pattern):
                    found |= linked(companion) | {companion.name: companion}
    return dict(sorted(found.items()))


def cut_runpath(program):
    """Keeps the folder next to the program of RUNPATH, without the build machine's, which build.rs put after it."""
    symbols = output("objdump", "--dynamic-syms", program)
    data = program.read_bytes()
    match = re.search(re.escape(RUNPATH.encode()) + rb"(:[^\0]*)\0", data)
    if not match:
        sys.exit(f"dist: {program} does not look for libraries in {RUNPATH}: run `make build`")
    start, end = match.span(1)
    program.write_bytes(data[:start] + bytes(end - start) + data[end:])
    path = re.search(r"RUNPATH\)\s+Library runpath: \[(.*)\]", output("readelf", "--dynamic", program))
    # The linker may let other names end where the path does.
    same = output("objdump", "--dynamic-syms", program) == symbols
    if not same or not path or path[1] != RUNPATH:
        sys.exit(f"dist: {program}: RUNPATH cannot be shortened to {RUNPATH}")


def newest_glibc(files):
    """The version of glibc that the files need."""
    text = "".join(output("objdump", "--dynamic-syms", file) for file in files)
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([0-9.]+)", text)}
    return ".".join(map(str, max(versions)))


def linked_crates(metadata):
    """The packages that become part of the program: no build scripts, no tests."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    seen, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        package = waiting.pop()
        if package not in seen:
            seen.add(package)
            for dependency in nodes[package]["deps"]:
                if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                    waiting.append(dependency["pkg"])
    packages = [package for package in metadata["packages"] if package["id"] in seen and package["source"]]
    return sorted(packages, key=lambda package: (package["name"], package["version"]))


def crate_licenses(metadata):
    """The license texts of the linked crates, each once, and the crates that have none with what they declare."""
    texts, declared, crates = {}, [], linked_crates(metadata)
    for package in crates:
        name = f"{package['name']} {package['version']} ({package['license'] or 'see its text'})"
        folder = Path(package["manifest_path"]).parent
        files = [path for path in sorted(folder.iterdir()) if path.is_file() and LICENSE_NAMES.match(path.name)]
        for path in files:
            text = "\n".join(line.rstrip() for line in path.read_text(errors="replace").strip().splitlines())
            texts.setdefault(text, []).append(name)
        if not files:
            declared.append(f"{name}, {', '.join(package['authors']) or 'its authors'}, {package['repository']}")
    parts = ["Rust crates that vmbeauty is linked with, and their licenses."]
    if declared:
        parts.append("Without a text of their own, under the licenses in parentheses:\n" + "\n".join(declared))
    parts += ["\n".join(names) + "\n\n" + text for text, names in texts.items()]
    return ("\n\n" + "=" * 80 + "\n\n").join(parts) + "\n", len(crates), len(declared)


def copy_licenses(libs, metadata, to):
    for name in ["LICENSE-MIT", "LICENSE-APACHE"]:
        copy(PROJECT / name, to / "vm-beautynet" / name)
    text, crates, declared = crate_licenses(metadata)
    (to / "rust-crates.txt").write_text(text)
    print(f"dist: licenses of {crates} crates, {declared} of them without a text of their own")
    rust = Path(output("rustc", "--print", "sysroot").strip()) / "share/doc/rust"
    for path in [*rust.glob("COPYRIGHT*"), *rust.glob("LICENSE*")]:
        copy(path, to / "rust-standard-library" / path.name)
    # The set-up's folder for the CPU has licenses/; a folder of wheels has those of each.
    lib = libs["libtorch_cpu.so"].resolve().parent
    folders = [*(lib.parent / "licenses").glob("*"), *lib.parent.parent.glob("*.dist-info")]
    folders = [folder for folder in sorted(folders) if folder.name.startswith(("torch", "nvidia"))]
    if not folders:
        sys.exit(f"dist: the licenses of libtorch are not in {lib.parent}: remove it, and `make setup` fetches it with them")
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and LICENSE_NAMES.match(path.name):
                copy(path, to / folder.name.removesuffix(".dist-info") / path.relative_to(folder))
    gcc = to / "gcc"
    gcc.mkdir()
    (gcc / "README").write_text(
        "libstdc++.so.6, libgcc_s.so.1 and libgomp.so.1 are GCC's run-time libraries: GNU GPL version 3 with the\n"
        "GCC Runtime Library Exception version 3.1. Their source is GCC's, from https://gcc.gnu.org.\n"
    )
    texts = {"libstdc++6/copyright": gcc, "zlib1g/copyright": to / "zlib", "../common-licenses/GPL-3": gcc}
    for name, folder in texts.items():
        path = Path("/usr/share/doc") / name
        if path.is_file() and (folder == gcc or "libz.so.1" in libs):
            copy(path, folder / path.name)


def copy(source, to):
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    shutil.copymode(source, to)


def copy_fetched(to):
    """Copies what the set-up fetches for some commands, and the program then finds there."""
    fetched = {setup.FACES_FOLDER: "data crop", setup.WEB_FOLDER: "export --format web"}
    for name, command in fetched.items():
        files = sorted((setup.cache_root() / name).glob("*"))
        for path in files:
            if path.name != "complete.json":
                copy(path, to / name / path.name)
        if not files:
            print(f"dist: without {name}, which `vmbeauty {command}` needs; scripts/setup.py --help says how to fetch it")


def fill(stage, metadata, program):
    """Lays out the folder; returns the version of glibc that it needs."""
    libs = libraries(program)
    for name, path in libs.items():
        copy(path, stage / "lib" / name)
    ours = stage / "bin/vmbeauty"
    ours.parent.mkdir()
    output("strip", "-o", ours, program)
    cut_runpath(ours)
    for name, path in linked(ours).items():
        if path.resolve() != (stage / "lib" / name).resolve():
            sys.exit(f"dist: {name} is found in {path.parent}, not in the folder that is packed")
    glibc = newest_glibc([ours, *(stage / "lib").iterdir()])
    for shell, place in COMPLETIONS.items():
        (stage / "share" / place).parent.mkdir(parents=True)
        (stage / "share" / place).write_text(output(ours, "completions", shell))
    output(ours, "man-pages", stage / "share/man/man1")
    for path in sorted((PROJECT / "configs").glob("*.yaml")):
        copy(path, stage / "configs" / path.name)
    copy_fetched(stage / "share")
    copy_licenses(libs, metadata, stage / "licenses")
    readme = (PROJECT / "scripts/dist_readme.md").read_text()
    names = ", ".join(f"{name} ({path.stat().st_size / 1e6:.1f} MB)" for name, path in libs.items())
    (stage / "README.md").write_text(readme.format(glibc=glibc, libraries=names))
    mb = ours.stat().st_size / 1e6
    print(f"dist: the program has {mb:.1f} MB, {program.stat().st_size / 1e6:.1f} before it is stripped")
    print(f"dist: lib has {names}")
    return glibc


def pack(stage, archive, time):
    """Writes the tarball: the same content gives the same bytes."""

    def plain(info):
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        info.mtime = time
        info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        return info

    partial = archive.with_name(archive.name + ".partial")
    with open(partial, "wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=time) as compressed:
        with tarfile.open(fileobj=compressed, mode="w") as tar:
            tar.add(stage, arcname=stage.name, filter=plain)
    partial.replace(archive)


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    metadata = json.loads(output(*command))
    target = Path(metadata["target_directory"])
    program = target / "release/vmbeauty"
    if not program.is_file():
        sys.exit(f"dist: {program} is missing: run `make dist`, which builds it")
    package = next(package for package in metadata["packages"] if package["id"] == metadata["resolve"]["root"])
    cuda = "-cuda" if "libtorch_cuda.so" in linked(program) else ""
    name = f"vm-beautynet-{package['version']}-x86_64-linux{cuda}"
    commit = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=PROJECT, capture_output=True, text=True)
    folder = target / "dist"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        stage = Path(temporary) / name
        stage.mkdir()
        glibc = fill(stage, metadata, program)
        size = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
        archive = folder / f"{name}.tar.gz"
        pack(stage, archive, int(commit.stdout or 0))
    print(f"dist: {size / 1e6:.0f} MB unpacked, needs glibc {glibc} or later")
    print(f"dist: wrote {archive} ({archive.stat().st_size / 1e6:.0f} MB)")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"dist: {error.filename or ''}: {error.strerror}")
