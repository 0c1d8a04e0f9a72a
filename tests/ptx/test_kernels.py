"""The CUDA kernels, executed by the PTX simulator: no GPU is needed. `make test-kernels` runs it; it takes some minutes.

What a simulator cannot show (timing, occupancy, blocks that run at once) is argued in csrc/README.md.
"""
import os
import re
import shutil
import tempfile
import unittest
from pathlib import Path

import counts
import kernels as k
import latency
import numpy as np
import ptxsim
import reference

GOLDEN = Path(os.environ.get("VMB_GOLDEN_DIR") or k.PROJECT / "tests/fixtures/golden")
# Of a kernel in float32, relative to the largest value of the reference.
TOLERANCE = 1e-4
# Half a unit in the last place of what is stored in the type, relative to the value; inputs are rounded before either side sees them.
ROUNDING = {"f32": 0.0, "f16": 2.0 ** -11, "bf16": 2.0 ** -8}
STORED_IN_TYPE = {"out", "du", "ddelta", "dz", "dx"}


def setUpModule():
    global KERNELS, FOLDER
    FOLDER = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(FOLDER.cleanup)
    KERNELS = {}
    for source in k.SOURCE_FILES:
        KERNELS.update(k.compile_ptx(FOLDER.name, source))


def flipped(case):
    """The case with every sequence reversed: a scan in reverse of it is the scan of the case, reversed."""
    return {name: value[:, :, ::-1] if value.ndim == 3 and name != "last_state" else value for name, value in case.items()}


def rounded(case, dtype):
    """What the kernel sees: activations in the type, parameters in float32."""
    parameters = {"A", "D", "delta_bias"}
    return {name: value if name in parameters else k.decode(k.encode(value, dtype), dtype).reshape(value.shape) for name, value in case.items()}


class KernelTest(unittest.TestCase):
    def close(self, name, got, want, dtype="f32"):
        want = np.asarray(want, np.float64)
        self.assertEqual(got.shape, want.shape, name)
        self.assertTrue(np.isfinite(got).all(), f"{name} is not finite")
        bound = TOLERANCE * np.abs(want).max() + (ROUNDING[dtype] * np.abs(want) if name in STORED_IN_TYPE else 0)
        worst = np.abs(got - want) - bound
        self.assertLessEqual(worst.max(), 0, f"{name} is off by {np.abs(got - want).max():.3g}, largest value {np.abs(want).max():.3g}")

    def check_scan(self, case, softplus, want, dtype="f32", rows_innermost=False, reverse=False, **options):
        """Forward and backward against `want`, which belongs to the forward direction."""
        turn = flipped if reverse else (lambda tensors: tensors)
        scan = k.Scan(k.Device(dtype, rows_innermost, reverse), turn(case), softplus, KERNELS, **options)
        if scan.state <= k.STATES:
            self.close("out", turn({"out": scan.forward(lanes=k.STATES)[0]})["out"], want["out"], dtype)
            self.close("last_state", scan.last_state(), want["last_state"], dtype)
        out, _ = scan.forward()
        gradients, _ = scan.backward()
        results = turn({"out": out, **gradients})
        for name, got in results.items():
            self.close(name, got, want[name], dtype)
        self.close("last_state", scan.last_state(), want["last_state"], dtype)
        return results


class GoldenCases(KernelTest):
    def cases(self):
        files = sorted(GOLDEN.glob("scan_*.safetensors"))
        self.assertGreater(len(files), 0, f"no scan_*.safetensors in {GOLDEN}")
        for path in files:
            case, metadata = k.read_safetensors(path)
            yield path.stem, case, int(metadata["delta_softplus"])

    def layouts(self):
        return [(inner, reverse) for inner in (False, True) for reverse in (False, True)]

    def test_float32_agrees_with_the_reference_files_in_both_layouts_and_directions(self):
        for name, case, softplus in self.cases():
            for rows_innermost, reverse in self.layouts():
                with self.subTest(case=name, rows_innermost=rows_innermost, reverse=reverse):
                    self.check_scan(case, softplus, case, "f32", rows_innermost, reverse)

    def test_half_types_are_exact_for_their_rounded_inputs_up_to_one_rounding_of_the_result(self):
        for name, case, softplus in self.cases():
            for dtype in ("f16", "bf16"):
                inputs = rounded(case, dtype)
                want = reference.scan({n: v for n, v in inputs.items() if n in ("u", "delta", "z", "A", "B", "C", "D", "delta_bias", "dout")}, softplus)
                # The two layouts differ in loads alone, which float32 covers for the longest case.
                for rows_innermost, reverse in self.layouts() if case["u"].shape[2] < 1000 else [(False, True)]:
                    with self.subTest(case=name, dtype=dtype, rows_innermost=rows_innermost, reverse=reverse):
                        self.check_scan(inputs, softplus, want, dtype, rows_innermost, reverse)


class OtherSizes(KernelTest):
    def test_any_state_size_up_to_256(self):
        for state in (1, 3, 17, 40, 256):
            for gated in (False, True):
                with self.subTest(state=state, gated=gated):
                    case = reference.random_scan(state, 2, 9, 37, state, gated)
                    self.check_scan(case, 1, reference.scan(case, 1), rows_innermost=gated, reverse=gated)

    def test_forward_without_stored_states_is_the_same(self):
        for state, lanes in ((16, 4), (16, 16), (33, 4)):
            case = reference.random_scan(state, 1, 12, 40, state)
            scan = k.Scan(k.Device("f32"), case, 1, KERNELS)
            np.testing.assert_array_equal(scan.forward(keep_states=False, lanes=lanes)[0], scan.forward(lanes=lanes)[0])

    def test_stored_states_do_not_depend_on_the_number_of_lanes_of_a_channel(self):
        # Backward starts from them, whichever forward wrote them; only the sum over states is in another order.
        for dtype, gated in (("f32", True), ("bf16", False)):
            with self.subTest(dtype=dtype):
                case = reference.random_scan(7, 2, 40, 37, 16, gated)
                outs, states = [], []
                for lanes in (k.LANES, k.STATES):
                    scan = k.Scan(k.Device(dtype), case, 1, KERNELS)
                    outs.append(scan.forward(lanes=lanes)[0])
                    states.append(scan.states.get())
                np.testing.assert_array_equal(*states)
                self.close("out", *outs, dtype)

    def test_any_length(self):
        for length, state in ((1, 20), (5, 16), (15, 3), (16, 16), (17, 17), (32, 16), (33, 16)):
            with self.subTest(length=length, state=state):
                case = reference.random_scan(length, 2, 9, length, state)
                self.check_scan(case, 1, reference.scan(case, 1), rows_innermost=length % 2, reverse=length < 17)

    def test_any_number_of_channels(self):
        for dim in (1, 8, 31, 45):
            with self.subTest(dim=dim):
                case = reference.random_scan(dim, 2, dim, 21, 16)
                self.check_scan(case, 1, reference.scan(case, 1), rows_innermost=dim % 2)

    def test_results_do_not_depend_on_the_order_of_blocks(self):
        case = reference.random_scan(8, 3, 70, 19, 16)
        want = reference.scan(case, 1)
        first, second = (self.check_scan(case, 1, want, backwards=backwards) for backwards in (False, True))
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], name)

    def test_a_nan_stays_in_its_batch_item_and_channel(self):
        case = reference.random_scan(9, 2, 20, 24, 16)
        case["u"][1, 3, 5] = np.nan
        out, _ = k.Scan(k.Device("f32"), case, 1, KERNELS).forward()
        self.assertTrue(np.isnan(out[1, 3, 5:]).all())
        out[1, 3, 5:] = 0
        self.assertTrue(np.isfinite(out).all())


class CausalConv(KernelTest):
    def test_conv_agrees_with_float64_for_every_width_type_layout_and_direction(self):
        # Blocks of backward that take the length alone, one tile of it, several, and none.
        for width, chunks, (batch, dim, length) in ((1, 1, (1, 33, 65)), (2, None, (1, 5, 3)), (4, None, (2, 40, 70)), (4, 2, (1, 5, 130)),
                                                    (4, 4, (1, 3, 130)), (3, None, (2, 3, 1)), (7, None, (1, 9, 32)), (8, None, (1, 9, 50))):
            rng = np.random.default_rng(width)
            weight = rng.normal(size=(dim, width)).astype(np.float32)
            bias = rng.normal(size=dim).astype(np.float32) if width != 2 else None
            for dtype in k.DTYPES:
                x, dout = (rounded({"x": rng.normal(size=(batch, dim, length))}, dtype)["x"] for _ in range(2))
                want = reference.conv(x, weight, bias, dout)
                for rows_innermost in (False, True):
                    for reverse in (False, True):
                        with self.subTest(width=width, chunks=chunks, dtype=dtype, rows_innermost=rows_innermost, reverse=reverse):
                            turn = (lambda a: a[:, :, ::-1]) if reverse else (lambda a: a)
                            conv = k.Conv(k.Device(dtype, rows_innermost, reverse), turn(x), weight, bias, KERNELS, chunks)
                            out, _ = conv.forward()
                            gradients, _ = conv.backward(turn(dout))
                            self.close("out", turn(out), want["out"], dtype)
                            self.close("dx", turn(gradients.pop("dx")), want["dx"], dtype)
                            for name, got in gradients.items():
                                self.close(name, got, want[name], dtype)


class TwoDirections(unittest.TestCase):
    """A bidirectional mixer launches both directions at once."""

    def equal(self, together, apart):
        for name in apart:
            np.testing.assert_array_equal(together[name], apart[name], name)

    def test_both_directions_of_a_scan_in_one_launch_equal_two_launches_bit_for_bit(self):
        # One and several passes of states; blocks with and without missing channels.
        for dtype, lanes, batch, dim, length, state in (("f32", 4, 2, 40, 37, 16), ("f32", 16, 2, 12, 37, 16), ("bf16", 4, 1, 9, 21, 20),
                                                        ("f16", 4, 2, 32, 16, 16)):
            with self.subTest(dtype=dtype, lanes=lanes, state=state):
                cases = [reference.random_scan(seed, batch, dim, length, state, gated=dtype != "f16") for seed in (1, 2)]
                forward = k.Device(dtype, rows_innermost=True)
                scans = [k.Scan(device, case, 1, KERNELS) for device, case in zip((forward, forward.reversed()), cases)]
                apart = [{"out": scan.forward(lanes=lanes)[0], "states": scan.states.get(), **scan.backward()[0]} for scan in scans]
                outs = scans[0].forward_with(scans[1], lanes)
                states = [scan.states.get() for scan in scans]
                for out, stored, gradients, want in zip(outs, states, scans[0].backward_with(scans[1]), apart):
                    self.equal({"out": out, "states": stored, **gradients}, want)

    def test_both_directions_of_a_convolution_in_one_launch_equal_two_launches_bit_for_bit(self):
        rng = np.random.default_rng(0)
        for dtype, width in (("f32", 4), ("bf16", 6)):
            with self.subTest(dtype=dtype, width=width):
                forward = k.Device(dtype, rows_innermost=True)
                normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
                douts = [normal(2, 40, 70) for _ in range(2)]
                convs = [k.Conv(device, normal(2, 40, 70), normal(40, width), normal(40), KERNELS) for device in (forward, forward.reversed())]
                apart = [{"out": conv.forward()[0], **conv.backward(dout)[0]} for conv, dout in zip(convs, douts)]
                for out, gradients, want in zip(convs[0].forward_with(convs[1]), convs[0].backward_with(convs[1], douts), apart):
                    self.equal({"out": out, **gradients}, want)


class PlantedFaults(unittest.TestCase):
    """The simulator finds what these tests rely on it to find, in these kernels. (Not a missing __syncwarp: it treats the shuffles before
    it as one, like present hardware.)"""

    def fault(self, source, old, new, run, occurrence=0):
        """Compiles `source` with the given occurrence of `old` replaced, and expects run(kernels) to be stopped."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "cuda"
            shutil.copytree(k.SOURCES, copy)
            text = (copy / source).read_text()
            at = [m.start() for m in re.finditer(re.escape(old), text)][occurrence]
            (copy / source).write_text(text[:at] + new + text[at + len(old):])
            others = {name: kernel for name, kernel in KERNELS.items() if source.replace(".", "_") not in name}
            kernels = {**others, **k.compile_ptx(folder, source, sources=copy)}
            with self.assertRaises(ptxsim.Fault) as caught:
                run(kernels)
            return str(caught.exception)

    def scan(self, kernels, backward=False):
        case = reference.random_scan(1, 2, 40, 21, 16)
        scan = k.Scan(k.Device("f32"), case, 1, kernels)
        scan.forward()
        if backward:
            scan.backward()

    def conv(self, kernels, backward=False):
        x = np.ones((2, 40, 35), np.float32)
        conv = k.Conv(k.Device("f32"), x, np.ones((40, 4), np.float32), None, kernels)
        conv.forward()
        if backward:
            conv.backward(x)

    def test_a_missing_barrier_is_found(self):
        barrier, nothing = "__syncthreads();", ";"
        for source, run, barriers in (("scan_forward.cu", self.scan, 2), ("scan_backward.cu", lambda kernels: self.scan(kernels, True), 5)):
            for occurrence in range(barriers):
                with self.subTest(source=source, barrier=occurrence):
                    self.fault(source, barrier, nothing, run, occurrence)
        for occurrence, backward in ((0, False), (1, True), (2, True), (3, True), (4, True)):
            with self.subTest(source="conv.cu", barrier=occurrence):
                self.fault("conv.cu", barrier, nothing, lambda kernels: self.conv(kernels, backward), occurrence)

    def test_a_read_out_of_bounds_is_found(self):
        self.assertIn("out of bounds", self.fault("scan_forward.cu", "start < end[i] ? u_at.get(i) : T{}", "u_at.get(i)", self.scan))
        in_bounds = " && start + mine.step_of(i) < length;"
        self.assertIn("out of bounds", self.fault("scan_backward.cu", in_bounds, ";", lambda kernels: self.scan(kernels, True)))
        in_sequence = "static_cast<unsigned>(start + step) < static_cast<unsigned>(length)"
        for backward in (False, True):
            self.assertIn("out of bounds", self.fault("conv.cu", in_sequence, "length > 0", lambda kernels: self.conv(kernels, backward)))
        self.assertIn("out of bounds", self.fault("sum_parts.cu", "if (index >= job.outer * job.inner) return;", "", lambda kernels: self.scan(kernels, True)))


class Compilation(unittest.TestCase):
    def test_nothing_spills_on_any_architecture(self):
        for source in k.SOURCE_FILES:
            for entry in k.resources(FOLDER.name, source):
                with self.subTest(source=source, arch=entry["arch"], kernel=entry["kernel"]):
                    self.assertEqual((entry["spill_stores"], entry["spill_loads"], entry["stack"]), (0, 0, 0))


class Counts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.measured = counts.measure(KERNELS)

    def test_work_and_traffic_are_a_fraction_of_those_of_mamba_ssm(self):
        measured = self.measured[counts.SHAPES[0]]
        theirs = counts.MAMBA_SSM
        self.assertLessEqual(measured["forward"]["instructions"], theirs["forward"]["instructions"] / 4)
        self.assertLessEqual(measured["backward"]["instructions"], theirs["backward"]["instructions"] / 3)
        for direction, kind in (("forward", "load_bytes"), ("backward", "load_bytes"), ("backward", "store_bytes")):
            self.assertLess(measured[direction][kind], theirs[direction][kind] / 3, (direction, kind))
        self.assertEqual(measured["forward"]["atomics"] + measured["backward"]["atomics"], 0)

    def test_the_table_in_the_readme_is_what_the_command_prints(self):
        text = (k.PROJECT / "csrc/README.md").read_text()
        self.assertIn(counts.markdown(self.measured, FOLDER.name), text, "run `make kernel-table` and put its output into csrc/README.md")


class Latency(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kernels = latency.Kernels(FOLDER.name)

    def test_both_directions_take_half_of_two_launches_before_at_small_batches_and_no_longer_at_large_ones(self):
        for batch, bound in ((1, 0.5), (8, 0.5), (64, 1.0)):
            together = self.kernels.microseconds("forward", (batch, *latency.SHAPES[0][1:]), 2)
            self.assertLessEqual(together, bound * 2 * latency.BEFORE["forward"][batch], batch)

    def test_the_rows_of_small_batches_in_the_readme_are_what_the_command_prints(self):
        text = (k.PROJECT / "csrc/README.md").read_text()
        for line in latency.markdown(self.kernels, latency.SHAPES[:2]):
            self.assertIn(line, text, "run `make kernel-latency` and put its output into csrc/README.md")


if __name__ == "__main__":
    unittest.main()
