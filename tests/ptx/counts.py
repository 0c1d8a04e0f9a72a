"""Counts of work and traffic of the scan's kernels, compared with mamba-ssm's: `make kernel-table` prints the table of csrc/README.md."""
import tempfile

import kernels as k
import reference

SHAPES = [(1, 32, 197, 16), (1, 32, 1500, 16)]
# mamba-ssm's float32 kernels, nvcc 13.0, sm_90, gated, with softplus, D and bias, in the same simulator (it computes each channel alone, so
# their number does not matter): lane instructions and atomics for each (b, d, l, n), bytes of 32-byte sectors for each (b, d, l).
MAMBA_SSM_SHAPE = (1, 24, 197, 16)
MAMBA_SSM = {"forward": {"instructions": 68, "load_bytes": 178, "atomics": 0, "registers": 123},
             "backward": {"instructions": 135, "load_bytes": 193, "store_bytes": 175, "atomics": 2, "registers": 202}}


# Sixteen lanes for a channel.
SMALL = "forward of a small grid"


def measure(kernels):
    """{shape: {"forward" | SMALL | "backward": counts}}; backward includes the kernels that add partial sums."""
    result = {}
    for shape in SHAPES:
        batch, dim, length, state = shape
        scan = k.Scan(k.Device("f32", bytes_=1 << 25), reference.random_scan(0, *shape), 1, kernels)
        elements = batch * dim * length
        result[shape] = {}
        runs = {SMALL: scan.forward(lanes=k.STATES), "forward": scan.forward(), "backward": scan.backward()}
        for direction, (_, stats) in runs.items():
            result[shape][direction] = {
                "instructions": stats["warp instructions"] * 32 / (elements * state),
                "special": stats["  special"] * 32 / (elements * state),
                "load_bytes": stats["global load sectors"] * 32 / elements,
                "store_bytes": stats["global store sectors"] * 32 / elements,
                "atomics": stats["atomic operations"] / (elements * state),
                "conflicts": stats["shared bank conflicts"] / max(1, stats["shared wavefronts"]),
            }
    return result


def markdown(measured, folder):
    """The table; `folder` is for what the compiler writes."""
    rows = ["| kernel | shape (b, d, l, n) | lane instructions per (b,d,l,n) | of which special functions | bytes loaded per (b,d,l) | bytes stored per (b,d,l) "
            "| float atomics per (b,d,l,n) | shared wavefronts lost to bank conflicts | registers (sm_90) | shared memory |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    compiled = {}
    for direction in ("forward", "backward"):
        for entry in k.resources(folder, f"scan_{direction}.cu", archs=(90,)):
            for kind, variant in ((SMALL, "Li16ELb1E"), (direction, "Li4ELb1E" if direction == "forward" else "Lb1E")):
                if k.MANGLED["f32"] + variant in entry["kernel"]:
                    compiled[kind] = entry
    for shape, directions in measured.items():
        for direction, c in directions.items():
            entry = compiled[direction]
            rows.append(f"| ours, {direction} | {shape} | {c['instructions']:.1f} | {c['special']:.2f} | {c['load_bytes']:.0f} | {c['store_bytes']:.0f} | "
                        f"{c['atomics']:.0f} | {c['conflicts']:.0%} | {entry['registers']} | {entry['shared']} |")
        if shape == SHAPES[0]:
            for direction, c in MAMBA_SSM.items():
                stored = f"{c['store_bytes']}" if "store_bytes" in c else "not recorded"
                rows.append(f"| mamba-ssm, {direction} | {MAMBA_SSM_SHAPE} | {c['instructions']} | not recorded | {c['load_bytes']} | {stored} | {c['atomics']} | "
                            f"not recorded | {c['registers']} | not recorded |")
    return "\n".join(rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        kernels = {}
        for source in k.SOURCE_FILES:
            kernels.update(k.compile_ptx(folder, source))
        print(markdown(measure(kernels), folder))
