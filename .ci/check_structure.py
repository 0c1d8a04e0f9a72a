#!/usr/bin/env python3
"""Checks the structure of the code: rooms import downward, no circle, short files and functions.

    python3 .ci/check_structure.py          checks; exits with 1 and a list where something is wrong
    python3 .ci/check_structure.py --lines  prints the product's lines by room (src without tests, csrc)
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
# Lowest first: a room imports itself and the rooms before it.
ROOMS = ["files", "config", "data", "ops", "models", "faces", "features", "eval", "run", "explain", "train", "sweep",
         "report", "tensorboard", "export", "benchmark", "cli"]
MAX_FILE, MAX_FUNCTION, MAX_WIDTH = 450, 70, 100


def product(text):
    """The part of a Rust file before its tests."""
    return re.split(r"^#\[cfg\(test\)\]\n(?:#\[.*\]\n)?mod \w+ \{", text, flags=re.M)[0]


def module_of(path):
    parts = list(path.relative_to(SRC).with_suffix("").parts)
    return tuple(parts[:-1] if parts[-1] in ("mod", "lib", "main") else parts)


def expand(tree, prefix=()):
    """The paths of a `use` tree: `a::{b, c::D as E}` gives (a, b) and (a, c, D)."""
    tree = tree.strip()
    if not tree:
        return
    if "{" in tree:
        head, inner = tree.split("{", 1)
        inner = inner.rsplit("}", 1)[0]
        prefix += tuple(p for p in head.split("::") if p.strip())
        depth, start = 0, 0
        for i, c in enumerate(inner + ","):
            depth += (c == "{") - (c == "}")
            if c == "," and depth == 0:
                yield from expand(inner[start:i], prefix)
                start = i + 1
    else:
        path = tuple(p.strip() for p in tree.split(" as ")[0].split("::") if p.strip())
        yield prefix + path


def absolute(path, module):
    """A path from the crate's root, or None for another crate's."""
    path = list(path)
    if path[0] == "crate":
        return tuple(path[1:])
    base = list(module)
    if path[0] == "self":
        return tuple(base + path[1:])
    if path[0] == "super":
        while path and path[0] == "super":
            base, path = base[:-1], path[1:]
        return tuple(base + path)
    child = tuple(base + path)
    return child if child[: len(base) + 1] in MODULES else None


def uses(text):
    for match in re.finditer(r"^\s*(?:pub(?:\([^)]*\))? )?use ([^;]+);", text, flags=re.M):
        yield from expand(re.sub(r"\s+", " ", match[1]))
    for match in re.finditer(r"\b(crate(?:::\w+)+)", re.sub(r"^\s*(pub )?use [^;]+;", "", text, flags=re.M)):
        yield tuple(match[1].split("::"))


def resolve(path, seen=()):
    """The file that defines what a path names, through re-exports."""
    for length in range(len(path), -1, -1):
        module = path[:length]
        if module not in MODULES:
            continue
        rest = path[length:]
        target = REEXPORTS.get(module, {}).get(rest[0]) if rest else None
        if target and target not in seen:
            return resolve(target + rest[1:], (*seen, target))
        return module
    return None


def read_sources():
    """The modules: their files, their code without comments and tests, and their re-exports."""
    global MODULES, REEXPORTS
    MODULES, REEXPORTS = {}, {}
    for path in sorted(SRC.rglob("*.rs")):
        if path.name not in ("main.rs", "tests.rs"):
            MODULES[module_of(path)] = path
    code = {m: re.sub(r"//[^\n]*", "", product(p.read_text())) for m, p in MODULES.items()}
    for module, text in code.items():
        for match in re.finditer(r"^pub(?:\([^)]*\))? use ([^;]+);", text, flags=re.M):
            for path in expand(re.sub(r"\s+", " ", match[1])):
                target = absolute(path, module)
                if target:
                    REEXPORTS.setdefault(module, {})[path[-1]] = target
    return code


def imports(code):
    """Which module takes something that another module's file defines."""
    graph = {}
    for module, text in code.items():
        reexported = set(REEXPORTS.get(module, {}).values())
        for path in uses(text):
            target = absolute(path, module)
            if target is None or target in reexported:
                continue
            found = resolve(target)
            # A module and the one that contains it may know each other.
            nested = found is not None and (found[: len(module)] == module or module[: len(found)] == found)
            if found is not None and not nested:
                graph.setdefault(module, set()).add(found)
    return graph


def circles(graph):
    """Groups of modules that import each other (Tarjan's strongly connected components)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def long_functions(path):
    lines = path.read_text().split("\n")
    for at, line in enumerate(lines):
        match = re.match(r"(\s*)(?:pub(?:\([^)]*\))? )?(?:const |unsafe |async )*fn (\w+)", line)
        body = next((other for other in lines[at:] if re.search(r"[;{]\s*$", other)), ";")
        if match and body.rstrip().endswith("{"):
            end = next((i for i in range(at, len(lines)) if lines[i] == match[1] + "}"), at)
            if end - at + 1 > MAX_FUNCTION:
                yield match[2], end - at + 1


def problems():
    code = read_sources()
    graph = imports(code)
    for module, targets in sorted(graph.items()):
        for target in sorted(targets):
            if module[0] == target[0]:
                continue
            if module[0] not in ROOMS or target[0] not in ROOMS:
                yield f"{MODULES[module]}: the room {module[0]} or {target[0]} is not in the list of rooms"
            elif ROOMS.index(target[0]) > ROOMS.index(module[0]):
                yield f"{MODULES[module]}: {module[0]} imports {'::'.join(target)}, which is above it"
    for group in circles(graph):
        yield "a circle: " + ", ".join(str(MODULES[module]) for module in group)
    for path in sorted([*SRC.rglob("*.rs"), *(ROOT / "csrc").rglob("*.*")]):
        if path.suffix in (".rs", ".cpp", ".h", ".cu", ".cuh"):
            lines = path.read_text().split("\n")
            if len(lines) > MAX_FILE + 1:
                yield f"{path}: {len(lines) - 1} lines, more than {MAX_FILE}"
            for number, line in enumerate(lines, 1):
                if len(line) > MAX_WIDTH:
                    yield f"{path}:{number}: {len(line)} columns, more than {MAX_WIDTH}"
        if path.suffix == ".rs":
            for name, length in long_functions(path):
                yield f"{path}: fn {name} has {length} lines, more than {MAX_FUNCTION}"


def count_lines():
    rooms = {}
    for path in [*SRC.rglob("*.rs"), *(ROOT / "csrc").rglob("*.*")]:
        if path.name != "tests.rs" and path.suffix in (".rs", ".cpp", ".h", ".cu", ".cuh"):
            parts = path.relative_to(ROOT).parts
            room = Path(parts[1]).stem if parts[0] == "src" else "csrc"
            text = product(path.read_text()) if path.suffix == ".rs" else path.read_text()
            rooms[room] = rooms.get(room, 0) + text.count("\n")
    for room, lines in sorted(rooms.items(), key=lambda item: -item[1]):
        print(f"{lines:7} {room}")
    print(f"{sum(rooms.values()):7} product lines")


if __name__ == "__main__":
    if "--lines" in sys.argv:
        count_lines()
    else:
        found = [line.replace(f"{ROOT}/", "") for line in problems()]
        print("\n".join(found) or "structure: rooms import downward, no circle, files and functions are short")
        sys.exit(bool(found))
