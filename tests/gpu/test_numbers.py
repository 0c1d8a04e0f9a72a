"""The operators on a device, against float64 on the CPU and the reference files.

    VMB_DEVICE=cuda python -m unittest test_numbers          on a GPU
    python -m unittest test_numbers                          the same comparisons of the CPU kernels
    VMB_DEVICE=cuda python -m unittest test_numbers.Small    few and small launches, for compute-sanitizer
"""

import itertools
import unittest

import torch

import cases
from cases import DEVICE, LAYOUTS, bimamba, convolution, exact, golden, on_device, random_scan, scan

TYPES = (torch.float32, torch.float16, torch.bfloat16)
# In float32 arithmetic, relative to the largest value; what is stored in a half type is off by half its unit.
TOLERANCE = 1e-4
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0 ** -11, torch.bfloat16: 2.0 ** -8}
largest_errors = {}


def setUpModule():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU: PyTorch sees none")
    torch.backends.cuda.matmul.allow_tf32 = False


def tearDownModule():
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else "the CPU"
    print(f"\nlargest errors on {where}, relative to the largest value:")
    for dtype, errors in largest_errors.items():
        print(f"  {dtype}: " + ", ".join(f"{name} {error:.1e}" for name, error in sorted(errors.items())))


class Comparison(unittest.TestCase):
    def compare(self, found, expected, dtype, reverse=False, roundings=1):
        for name, value in found.items():
            value, want = value.double().cpu(), expected[name].double()
            if reverse and value.dim() == 3 and name != "dweight":
                value = value.flip(2)
            scale = max(want.abs().max().item(), 1e-30)
            bound = TOLERANCE * scale + roundings * ROUNDING[dtype] * (want.abs() if roundings == 1 else scale)
            error = (value - want).abs()
            largest = largest_errors.setdefault(dtype, {})
            largest[name] = max(largest.get(name, 0.0), error.max().item() / scale)
            worst = f"{name} is off by {error.max().item() / scale:.1e} of its largest value"
            self.assertTrue(bool((error <= bound).all()), worst)  # false for NaN

    def check_scan(self, case, softplus, dtype, reverse, layouts, expected=None):
        expected = expected or scan(exact(case, dtype), softplus)
        self.compare(scan(on_device(case, dtype, layouts, reverse), softplus, reverse), expected, dtype, reverse)

    def check_convolution(self, seed, width, shape, bias, dtype, reverse, layout):
        generator = torch.Generator().manual_seed(seed)
        def normal(*sizes):
            return torch.randn(sizes, generator=generator)
        case = {"x": normal(*shape), "weight": normal(shape[1], 1, width), "dout": normal(*shape)}
        if bias:
            case["bias"] = normal(shape[1])
        found = convolution(on_device(case, dtype, {"": layout}, reverse), reverse)
        self.compare(found, convolution(exact(case, dtype)), dtype, reverse)


class Small(Comparison):
    """Every kernel in every type, in launches that a sanitizer gets through."""

    def test_scans_of_one_and_of_several_passes_match_float64(self):
        shapes = [(2, 37, 35, 16), (1, 9, 18, 40), (1, 5, 3, 2)]
        for index, (shape, layout) in enumerate(itertools.product(shapes, ("bdl", "slice"))):
            dtype = TYPES[index % 3]
            with self.subTest(shape=shape, layout=layout, dtype=dtype):
                self.check_scan(random_scan(index, *shape), True, dtype, bool(index & 1), {"": layout})

    def test_convolutions_match_float64(self):
        for width, layout, dtype in ((4, "bdl", TYPES[0]), (4, "slice", TYPES[1]), (8, "bld", TYPES[2])):
            with self.subTest(width=width, layout=layout):
                self.check_convolution(width, width, (2, 40, 35), True, dtype, width == 8, layout)


class Scan(Comparison):
    def test_every_type_layout_and_direction_matches_the_reference_files(self):
        for name, case, softplus in golden():
            given = {n: x for n, x in case.items() if n in (*cases.SCAN, "dout")}
            for dtype, layout, reverse in itertools.product(TYPES, LAYOUTS, (False, True)):
                with self.subTest(name, dtype=dtype, layout=layout, reverse=reverse):
                    expected = case if dtype == torch.float32 else None
                    self.check_scan(given, softplus, dtype, reverse, {"": layout}, expected)

    def test_optional_operands_may_be_absent_and_layouts_mixed(self):
        mixed = [{"": "slice"}, {"": "rows"}, {"": "bld", "z": "slice", "B": "slice", "C": "slice"},
                 {"": "bdl", "z": "bld", "dout": "bld", "B": "rows", "C": "bld"}]
        chosen = itertools.product(itertools.product((False, True), repeat=3), (False, True))
        for index, (given, softplus) in enumerate(chosen):
            case = random_scan(index, 2, 21, 23, 16, list(itertools.compress(cases.OPTIONAL, given)))
            if not softplus:  # step sizes as softplus would give them
                case["delta"] = case["delta"].abs() * 0.1
                case |= {name: x.abs() for name, x in case.items() if name == "delta_bias"}
            for dtype in TYPES:
                with self.subTest(given=given, softplus=softplus, dtype=dtype):
                    self.check_scan(case, softplus, dtype, bool(index & 1), mixed[index % 4])

    def test_sizes_around_tiles_warps_and_blocks_match_float64(self):
        shapes = [(1, 1, 1, 1), (2, 7, 15, 3), (1, 8, 16, 16), (2, 9, 17, 17), (1, 31, 33, 40), (2, 33, 5, 256),
                  (1, 70, 64, 15), (3, 129, 50, 16), (1, 384, 197, 16), (64, 192, 65, 32), (8, 384, 197, 16)]
        for index, shape in enumerate(shapes):
            with self.subTest(shape):
                self.check_scan(random_scan(100 + index, *shape), True, torch.float32, bool(index & 1),
                                {"": ("bld", "bdl")[index % 2]})

    def test_errors_do_not_add_up_over_a_long_sequence_of_slow_decay(self):
        case = random_scan(7, 1, 64, 4097, 16)
        case["A"], case["delta"] = case["A"] / 80, case["delta"] - 3
        self.check_scan(case, True, torch.float32, False, {"": "bld"})

    def test_more_batch_items_and_channels_than_a_grid_has_rows_match_float64(self):
        for shape, reverse in (((70000, 8, 3, 2), False), ((1, 70001, 3, 2), True)):
            with self.subTest(shape):
                self.check_scan(random_scan(8, *shape), True, torch.float32, reverse, {"": "bld"})

    def test_inference_gives_the_output_of_training_bit_for_bit(self):
        for state in (16, 33):
            x = on_device(random_scan(state, 1, 12, 40, state), torch.float32, {"": "bld"})
            operands = {name: x[name] for name in cases.SCAN}
            inferred = torch.ops.vm_beautynet.selective_scan(**operands, delta_softplus=True)
            self.assertTrue(torch.equal(inferred, scan(x, True)["out"]))

    def test_runs_agree_bit_for_bit(self):
        x = on_device(random_scan(3, 8, 384, 197, 16), torch.float32, {"": "bld"})
        first = scan(x, True)
        for _ in range(4):
            self.assertTrue(all(torch.equal(first[name], value) for name, value in scan(x, True).items()))


class Convolution(Comparison):
    def test_every_width_type_layout_and_direction_matches_float64(self):
        sizes = ((1, (1, 33, 65)), (2, (1, 5, 3)), (4, (2, 40, 70)), (8, (1, 9, 50)), (4, (2, 384, 197)))
        for (width, shape), dtype, layout, reverse in itertools.product(sizes, TYPES, LAYOUTS, (False, True)):
            with self.subTest(width=width, shape=shape, dtype=dtype, layout=layout, reverse=reverse):
                self.check_convolution(width, width, shape, width != 2, dtype, reverse, layout)


class Mixer(Comparison):
    def test_the_bidirectional_mixer_matches_float64(self):
        generator = torch.Generator().manual_seed(5)
        batch, length, inner, rank, state = 2, 37, 48, 3, 16
        def normal(*shape):
            return torch.randn(shape, generator=generator)
        case = {"xz": normal(batch, length, 2 * inner), "dout": normal(batch, length, inner)}
        for suffix in ("", "_b"):
            case |= {f"conv_weight{suffix}": normal(inner, 1, 4), f"conv_bias{suffix}": normal(inner),
                     f"x_proj{suffix}": normal(rank + 2 * state, inner) / 7, f"dt_proj{suffix}": normal(inner, rank),
                     f"dt_bias{suffix}": normal(inner) - 2, f"A_log{suffix}": normal(inner, state),
                     f"D{suffix}": normal(inner)}
        for dtype in TYPES:
            with self.subTest(dtype):
                # Half types round u, the projections and the step sizes between the kernels.
                found = bimamba(on_device(case, dtype, {}))
                self.compare(found, bimamba(exact(case, dtype)), dtype, roundings=16)


@unittest.skipUnless(DEVICE == "cuda", "needs a GPU")
class Gpu(Comparison):
    def test_another_stream_and_a_replayed_graph_give_the_same_bit_for_bit(self):
        x = on_device(random_scan(1, 8, 384, 197, 16), torch.float32, {"": "bld"})
        first = scan(x, True)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            second = scan(x, True)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = scan(x, True)
        for value in captured.values():
            value.fill_(float("nan"))
        graph.replay()
        for name, value in first.items():
            self.assertTrue(torch.equal(value, second[name]), f"{name}, another stream")
            self.assertTrue(torch.equal(value, captured[name]), f"{name}, a graph")

    def test_offsets_near_32_bits_are_right_and_beyond_them_refused(self):
        if torch.cuda.mem_get_info()[0] < 16e9:
            self.skipTest("needs 16 GB of free GPU memory")
        batch, dim, length = 64, 8192, 4095  # 2,146,959,360 elements; one step more is over 2^31
        torch.utils.deterministic.fill_uninitialized_memory = False
        self.addCleanup(setattr, torch.utils.deterministic, "fill_uninitialized_memory", True)
        flat = torch.empty(batch * dim * (length + 2), dtype=torch.float16, device=DEVICE).normal_()
        few = random_scan(4, batch, dim, 1, 1)
        generator = torch.Generator().manual_seed(4)
        def operands(steps):
            u = flat[:batch * dim * steps].view(batch, steps, dim).transpose(1, 2)
            B, C = (torch.randn(batch, 1, steps, generator=generator).half().to(DEVICE) for _ in range(2))
            return [u, u, few["A"].to(DEVICE), B, C, few["D"].to(DEVICE), u, few["delta_bias"].to(DEVICE)]
        x = operands(length)
        out = torch.ops.vm_beautynet.selective_scan(*x, True)
        for item, channel in ((0, 0), (63, 8160), (32, 4000)):
            rows = slice(channel, channel + 32)
            u, A, D, bias = x[0][item:item + 1, rows], x[2][rows], x[5][rows], x[7][rows]
            some = [u, u, A, x[3][item:item + 1], x[4][item:item + 1], D, u, bias]
            expected = torch.ops.vm_beautynet.selective_scan(*(t.double().cpu() for t in some), True)
            self.compare({"out": out[item:item + 1, rows]}, {"out": expected}, torch.float16)
        with self.assertRaisesRegex(ValueError, "too large for the CUDA kernels"):
            torch.ops.vm_beautynet.selective_scan(*operands(length + 2), True)


if __name__ == "__main__":
    unittest.main()
