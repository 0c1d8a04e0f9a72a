"""The operators in Python: values, gradients, autocast, meta and fake tensors, and what is refused.

    python -m unittest test_operators        in this folder, with the package installed
"""

import json
import unittest
from itertools import product
from pathlib import Path

import torch
from torch._subclasses import FakeTensorMode

from benchmark import causal_conv1d_eager
from vm_beautynet_ops import causal_conv1d_fn, selective_scan_fn

GOLDEN = Path(__file__).resolve().parent.parent.parent / "tests/fixtures/golden"
OPERANDS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def read(path):
    """The float32 tensors and the metadata of a safetensors file."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})

    def tensor(entry):
        begin, end = entry["data_offsets"]
        return torch.frombuffer(data, dtype=torch.float32, offset=start + begin, count=(end - begin) // 4).view(entry["shape"])

    return {name: tensor(entry).clone() for name, entry in header.items()}, metadata


def tolerance(dtype):
    """Relative to the largest value; tests/golden/scan.rs says why."""
    return {torch.bfloat16: 16 / 512, torch.float16: 16 / 4096}.get(dtype, 1e-4)


def random_operands(dtype=torch.float32, batch=2, dim=5, length=7, state=3):
    generator = torch.Generator().manual_seed(1)
    def sample(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return {"u": sample(batch, dim, length), "delta": sample(batch, dim, length) - 1, "A": -sample(dim, state).exp(),
            "B": sample(batch, state, length), "C": sample(batch, state, length), "D": sample(dim),
            "z": sample(batch, dim, length), "delta_bias": sample(dim)}


def random_convolution(dtype=torch.float32, batch=2, dim=5, length=7, width=4):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for shape in ((batch, dim, length), (dim, width), (dim,))]


class Values(unittest.TestCase):
    def assert_close(self, what, found, expected, dtype):
        limit = tolerance(dtype) * max(expected.abs().max().item(), 1e-30)
        self.assertLessEqual((found.double() - expected.double()).abs().max().item(), limit, what)

    def check_golden(self, path, dtype, channels_last, grouped):
        case, metadata = read(path)
        leaves = {}
        for name in OPERANDS:
            if name not in case:
                continue
            value = case[name]
            if value.dim() == 3:
                value = value.to(dtype)
                value = value.transpose(1, 2).contiguous().transpose(1, 2) if channels_last else value
            elif dtype == torch.float64:
                value = value.double()
            leaves[name] = value.requires_grad_()
        given = dict(leaves)
        if grouped:
            given["B"], given["C"] = given["B"].unsqueeze(1), given["C"].unsqueeze(1)
        out = selective_scan_fn(**given, delta_softplus=metadata.get("delta_softplus") == "1")
        self.assertEqual(out.dtype, dtype)
        self.assert_close("out", out, case["out"], dtype)
        out.backward(case["dout"].to(dtype))
        for name, leaf in leaves.items():
            self.assertEqual(leaf.grad.dtype, leaf.dtype)
            self.assert_close(f"d{name}", leaf.grad, case[f"d{name}"], dtype)

    def test_the_scan_and_its_gradients_match_the_reference_files(self):
        paths = sorted(GOLDEN.glob("scan_*.safetensors"))
        self.assertGreaterEqual(len(paths), 8)
        types = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        for path, dtype, channels_last in product(paths, types, (False, True)):
            with self.subTest(path.stem, dtype=dtype, channels_last=channels_last):
                self.check_golden(path, dtype, channels_last, grouped=channels_last)

    def test_the_convolution_matches_pytorch_in_every_type(self):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            operands = [x.requires_grad_() for x in random_convolution(dtype, length=70)]
            exact = [x.detach().double().requires_grad_() for x in operands]
            out, expected = causal_conv1d_fn(*operands, activation="silu"), causal_conv1d_eager(*exact)
            self.assert_close("out", out, expected, dtype)
            out.backward(torch.ones_like(out))
            expected.backward(torch.ones_like(expected))
            for found, reference in zip(operands, exact):
                self.assert_close(f"gradient, {dtype}", found.grad, reference.grad, dtype)

    def test_every_instruction_set_of_the_processor_agrees(self):
        operands = list(random_operands(dim=70, length=100).values())
        expected = torch.ops.vm_beautynet.selective_scan(*operands, True)
        run = 0
        for path in ("portable", "avx2", "avx512"):
            try:
                found = torch.ops.vm_beautynet.selective_scan(*operands, True, path=path)
            except RuntimeError as error:
                self.assertIn("instructions that this processor does not have", str(error))
                continue
            self.assert_close(path, found, expected, torch.float32)
            run += 1
        self.assertGreaterEqual(run, 1)


class Gradients(unittest.TestCase):
    def test_the_scan_passes_gradcheck_in_float64_with_every_optional_operand_or_none(self):
        operands = random_operands(torch.float64)
        operands["delta"].abs_()  # as step sizes are; negative ones make the state grow
        operands = {name: x.requires_grad_() for name, x in operands.items()}
        for softplus, names in product((False, True), (OPERANDS, OPERANDS[:5])):
            inputs = [operands[name] for name in names]
            def run(*tensors):
                return selective_scan_fn(**dict(zip(names, tensors)), delta_softplus=softplus)
            self.assertTrue(torch.autograd.gradcheck(run, inputs))

    def test_the_convolution_passes_gradcheck_in_float64(self):
        operands = [x.requires_grad_() for x in random_convolution(torch.float64)]
        self.assertTrue(torch.autograd.gradcheck(lambda *x: causal_conv1d_fn(*x, activation="swish"), operands))

    def test_a_second_derivative_is_refused_and_not_wrong(self):
        operands = {name: x.requires_grad_() for name, x in random_operands().items()}
        out = selective_scan_fn(**operands)
        with self.assertRaisesRegex(NotImplementedError, "double backward"):
            torch.autograd.grad(out.sum(), operands["u"], create_graph=True)

    def test_gradients_do_not_depend_on_the_number_of_threads(self):
        def gradients(threads):
            torch.set_num_threads(threads)
            operands = {name: x.requires_grad_() for name, x in random_operands(dim=70, length=100).items()}
            selective_scan_fn(**operands, delta_softplus=True).sum().backward()
            return [x.grad for x in operands.values()]
        before = torch.get_num_threads()
        try:
            for one, three in zip(gradients(1), gradients(3)):
                self.assertTrue(torch.equal(one, three))
        finally:
            torch.set_num_threads(before)


class Modes(unittest.TestCase):
    def test_autocast_computes_in_bfloat16_and_keeps_gradients_in_the_operands_types(self):
        operands = {name: x.requires_grad_() for name, x in random_operands().items()}
        x, weight, bias = (t.requires_grad_() for t in random_convolution())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scanned = selective_scan_fn(**operands, delta_softplus=True)
            convolved = causal_conv1d_fn(x, weight, bias, activation="silu")
        self.assertEqual((scanned.dtype, convolved.dtype), (torch.bfloat16, torch.bfloat16))
        exact = selective_scan_fn(**operands, delta_softplus=True)
        self.assertLess((scanned - exact).abs().max().item(), tolerance(torch.bfloat16) * exact.abs().max().item())
        (scanned.sum() + convolved.sum()).backward()
        for leaf in (*operands.values(), x, weight, bias):
            self.assertEqual(leaf.grad.dtype, torch.float32)

    def test_meta_and_fake_tensors_have_the_shape_type_and_layout_of_the_result(self):
        def run(operands, convolution):
            return [selective_scan_fn(**operands), causal_conv1d_fn(*convolution, activation="silu")]
        operands, convolution = random_operands(torch.bfloat16), random_convolution(torch.bfloat16)
        operands["u"] = operands["u"].transpose(1, 2).contiguous().transpose(1, 2)
        expected = run(operands, convolution)
        meta = run({name: x.to("meta") for name, x in operands.items()}, [x.to("meta") for x in convolution])
        with FakeTensorMode() as mode, torch.no_grad():
            fake = run({name: mode.from_tensor(x) for name, x in operands.items()}, [mode.from_tensor(x) for x in convolution])
        for found, device in ((meta, "meta"), (fake, "cpu")):
            for a, b in zip(found, expected):
                self.assertEqual((a.shape, a.dtype, a.stride(), a.device.type), (b.shape, b.dtype, b.stride(), device))

    def test_the_schemas_and_fake_results_pass_opcheck(self):
        utilities = ("test_schema", "test_faketensor")
        torch.library.opcheck(torch.ops.vm_beautynet.selective_scan, tuple(random_operands().values()), test_utils=utilities)
        x, weight, bias = random_convolution()
        torch.library.opcheck(torch.ops.vm_beautynet.causal_conv1d_silu, (x, weight.unsqueeze(1), bias), test_utils=utilities)

    def test_fake_tensors_that_require_gradients_are_refused_and_get_no_wrong_one(self):
        with FakeTensorMode() as mode:
            operands = {name: mode.from_tensor(x).requires_grad_() for name, x in random_operands().items()}
            with self.assertRaisesRegex(NotImplementedError, "tensor subclasses"):
                selective_scan_fn(**operands)

    def test_a_compiled_function_calls_the_operators_between_its_graphs(self):
        def layer(x, weight, bias, delta, A, B, C):
            u = causal_conv1d_fn(x * 2, weight, bias, activation="silu")
            return selective_scan_fn(u, delta, A, B, C, delta_softplus=True) + 1
        operands = random_operands()
        inputs = [*random_convolution(), *(operands[name] for name in ("delta", "A", "B", "C"))]
        def gradients(run):
            leaves = [x.detach().requires_grad_() for x in inputs]
            out = run(*leaves)
            out.sum().backward()
            return [out, *(x.grad for x in leaves)]
        compiled = torch.compile(layer, backend="aot_eager")
        for found, expected in zip(gradients(compiled), gradients(layer)):
            torch.testing.assert_close(found, expected)


class Refusals(unittest.TestCase):
    def test_what_mamba_ssm_offers_and_this_does_not_is_refused_by_name(self):
        operands = random_operands()
        constant = {**operands, "B": torch.ones(5, 3)}
        groups = {**operands, "C": torch.ones(2, 2, 3, 7)}
        complex_A = {**operands, "A": operands["A"].to(torch.complex64)}
        for given, more, name in ((operands, {"return_last_state": True}, "return_last_state"), (constant, {}, "B must"),
                                  (groups, {}, "C must"), (complex_A, {}, "complex_A")):
            with self.assertRaisesRegex(NotImplementedError, name):
                selective_scan_fn(**given, **more)
        with self.assertRaisesRegex(NotImplementedError, "activation must be"):
            causal_conv1d_fn(*random_convolution())
        with self.assertRaisesRegex(NotImplementedError, "seq_idx"):
            causal_conv1d_fn(*random_convolution(), seq_idx=torch.zeros(2, 7), activation="silu")

    def test_an_operand_that_does_not_fit_is_named(self):
        with self.assertRaisesRegex(ValueError, r"delta must have shape u's \(batch, dim, length\) = \[2, 5, 7\], has \[2, 5, 6\]"):
            selective_scan_fn(**{**random_operands(), "delta": torch.ones(2, 5, 6)})


if __name__ == "__main__":
    unittest.main()
