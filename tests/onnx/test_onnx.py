"""Exported ONNX files against vmbeauty, in onnxruntime."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
from models import features, make_images, make_run, pixels_of, predictions, run_onnx, vmbeauty

STRATEGIES = ["concat", "sum", "weighted", "gated", "gmu", "bilinear", "cross_attention", "score", "vit_only", "mamba_only"]
WEIGHTED = ["weighted", "gated", "gmu", "cross_attention", "score"]
# Differences of scores in standard deviations of the training scores.
TOLERANCE = 1e-4


class Exported(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def export(self, run, name, *arguments):
        folder = self.folder / name
        vmbeauty(self.folder, "export", run, "--format", "onnx", "--output", folder, *arguments)
        onnx.checker.check_model(folder / "model.onnx", full_check=True)
        return folder, json.loads((folder / "preprocess.json").read_text())

    def compare(self, *overrides, size=32, forms=("loop", "unrolled"), dtype=np.uint8, count=5, weights_atol=1e-5):
        """Compares exports of a run with the program itself; returns the outputs of the last one."""
        run = make_run(self.folder, *overrides)
        files = make_images(self.folder / "images", count, (size, size))
        scores, weights = predictions(run, files)
        self.assertGreater(scores.std(), 0, "the scores of all images are the same")
        expected, pixels = features(run, files), pixels_of(files, dtype)
        for form in forms:
            kind = "uint8" if dtype == np.uint8 else "float"
            folder, about = self.export(run, form, "--scan", form, "--input", kind)
            for batch in (pixels, pixels[:1]):
                outputs = run_onnx(folder / "model.onnx", batch)
                self.assertEqual(list(outputs), about["outputs"])
                n, unit = len(batch), about["score"]["training_std"]
                self.assertEqual(outputs["score"].shape, (n,))
                self.assertLess(np.abs(outputs["score"] - scores[:n]).max() / unit, TOLERANCE)
                fused = expected["fused"][:n]
                np.testing.assert_allclose(outputs["features"], fused, atol=1e-4 * max(1, np.abs(fused).max()))
                self.assertEqual("branch_weights" in outputs, weights is not None)
                if weights is not None:
                    np.testing.assert_allclose(outputs["branch_weights"], weights[:n], atol=weights_atol)
        return outputs


class Strategies(Exported):
    """A test for each fusion strategy, by its name."""


def add_strategy(strategy):
    def test(self):
        outputs = self.compare(f"model.fusion.strategy={strategy}")
        self.assertEqual("branch_weights" in outputs, strategy in WEIGHTED)

    setattr(Strategies, f"test_{strategy}", test)


for name in STRATEGIES:
    add_strategy(name)


class Backbones(Exported):
    def test_convolutional_stems_and_features_of_patches(self):
        self.compare("model.vit={stem: conv, features: patches}", "model.mamba={stem: conv, features: mean}")

    def test_cross_attention_reads_the_means_of_class_tokens_and_patches(self):
        features = "model.vit.features=mean", "model.mamba.features=cls_mean"
        self.compare("model.fusion.strategy=cross_attention", *features)

    def test_several_class_tokens(self):
        self.compare("model.mamba={name: mambar_micro_patch8_64, features: cls_mean}")

    def test_the_neck_of_a_mamba_reg(self):
        self.compare("model.mamba={name: mambar_small_patch16_224, depth: 2}", size=64, forms=["loop"])

    def test_overlapping_patches(self):
        self.compare("model.mamba={name: vim_tiny_patch16_stride8_224, depth: 2}", size=64)

    def test_a_distilled_deit(self):
        self.compare("model.vit={name: deit_tiny_distilled_patch16_224, depth: 2}", size=64)

    def test_dinov2(self):
        self.compare("model.vit={name: vit_small_patch14_dinov2, depth: 2}", size=56, forms=["loop"])

    def test_dinov2_with_registers(self):
        self.compare("model.vit={name: vit_small_patch14_reg4_dinov2, depth: 2, features: cls_mean}", size=56, forms=["loop"])

    def test_clip(self):
        self.compare("model.vit={name: vit_base_patch16_clip_quickgelu_224, depth: 2}", size=64, forms=["loop"])

    def test_the_tiny_models(self):
        tiny = "model.vit={name: vit_tiny_patch16_224, depth: 12}", "model.mamba={name: vim_tiny_patch16_224, depth: 24}"
        # 24 layers of random weights amplify rounding: onnxruntime's own features differ by 6e-5 with and without its
        # optimization.
        self.compare(*tiny, size=224, weights_atol=1e-4)

    def compare(self, *overrides, size=32, **options):
        return super().compare(*overrides, f"data.image_size={size}", size=size, **options)


class Inputs(Exported):
    def test_mirror_images_are_computed_inside(self):
        self.compare("data.test_time_flip=true")

    def test_a_head_of_ratings(self):
        self.compare("train.loss=label_distribution", "train.label_distribution.bins=5")

    def test_float_images(self):
        self.compare(dtype=np.float32)

    def test_normalization_of_the_config(self):
        self.compare("data.normalize={mean: [0.1, 0.2, 0.3], std: [0.5, 0.4, 0.3]}")

    def test_the_reference_evaluator_of_onnx_gives_the_scores_of_an_unrolled_scan(self):
        run = make_run(self.folder)
        files = make_images(self.folder / "images", 2, (32, 32))
        folder, about = self.export(run, "reference", "--scan", "unrolled")
        reference = onnx.reference.ReferenceEvaluator(str(folder / "model.onnx"))
        [scores] = reference.run(["score"], {"images": pixels_of(files)})
        expected, _ = predictions(run, files)
        self.assertLess(np.abs(scores - expected).max() / about["score"]["training_std"], TOLERANCE)

    def test_the_files_metadata_name_the_run(self):
        run = make_run(self.folder)
        folder, about = self.export(run, "named")
        properties = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
        self.assertEqual(properties, {"run": "micro", "weights_blake3": about["weights_blake3"]})


class Programs(Exported):
    """The exported programs run as they are."""

    SIZES = [(61, 47), (40, 90), (32, 32), (20, 13), (33, 99)]
    RESIZE = ["squash", "crop", "pad"]

    def check(self, command, env=None):
        files = [file for at, size in enumerate(self.SIZES) for file in make_images(self.folder / f"images{at}", 1, size, at)]
        for at, resize in enumerate(self.RESIZE):
            folder = self.folder / resize
            folder.mkdir()
            short = ["data.short_side=37"] if resize == "crop" else []
            interpolation = ["bicubic", "bilinear", "bicubic"][at]
            run = make_run(folder, f"data.resize={resize}", f"data.interpolation={interpolation}", *short)
            expected, _ = predictions(run, files)
            for kind in ["uint8", "float"]:
                exported, about = self.export(run, f"{resize}_{kind}", "--input", kind)
                arguments = [*command(exported), *map(str, files)]
                result = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, **(env or {})})
                self.assertEqual(result.returncode, 0, result.stderr)
                lines = [line.split("\t") for line in result.stdout.splitlines()]
                self.assertEqual([line[0] for line in lines], [str(file) for file in files])
                scores = np.array([float(line[1]) for line in lines])
                # Resampling rounds otherwise here and there. A level on 1 % of the values changes a score of such
                # random weights by up to 0.01 standard deviations; another filter changes one of these by 0.1.
                difference = np.abs(scores - expected).max() / about["score"]["training_std"]
                self.assertLess(difference, 1e-2, (resize, kind, scores, expected))

    def test_python(self):
        self.check(lambda folder: [sys.executable, str(folder / "predict.py")])

    @unittest.skipUnless("VMB_NODE_PACKAGES" in os.environ, "SKIPPED: needs Node and npm")
    def test_javascript(self):
        def command(folder):
            (folder / "node_modules").symlink_to(Path(os.environ["VMB_NODE_PACKAGES"]) / "node_modules")
            return ["node", str(folder / "predict.mjs")]

        self.check(command)

    def test_they_are_short(self):
        folder, _ = self.export(make_run(self.folder), "short")
        for name, most in [("predict.py", 24), ("predict.mjs", 44)]:
            self.assertLessEqual(len((folder / name).read_text().splitlines()), most, name)


if __name__ == "__main__":
    unittest.main()
