"""The set-up script: what counts as whole, and what is refused. No network."""

import hashlib
import base64
import json
import os
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import setup  # noqa: E402


def record_sum(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def make_wheel(path, files, damage=None):
    """A wheel with a RECORD; `damage` names a file whose contents do not match it."""
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, b"other" if name == damage else data)
        rows = [f"{name},sha256={record_sum(data)},{len(data)}" for name, data in files.items()]
        wheel.writestr("torch-1.dist-info/RECORD", "\n".join(rows + ["torch-1.dist-info/RECORD,,"]))


class SetupTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.files = {"torch/include/torch/a.h": b"header", "torch/lib/libc10.so": b"library", "torch/nn/b.py": b"python"}

    def test_a_compiler_that_cannot_build_the_kernels_is_refused_with_the_remedy(self):
        clang = self.root / "c++"
        clang.write_text("#!/bin/sh\necho 'Some vendor clang version 17.0.6'\n")
        clang.chmod(0o755)
        with mock.patch.dict(os.environ, CXX=str(clang)), self.assertRaisesRegex(setup.SetupError, "is clang.*CXX=g"):
            setup.check_tools()

    def test_only_what_is_needed_is_unpacked(self):
        make_wheel(self.root / "torch.whl", self.files)
        setup.unpack(self.root / "torch.whl", self.root / "out")
        found = {str(p.relative_to(self.root / "out")) for p in (self.root / "out").rglob("*") if p.is_file()}
        self.assertEqual(found, {"include/torch/a.h", "lib/libc10.so"})

    def test_a_file_that_does_not_match_its_checksum_is_refused_by_name(self):
        make_wheel(self.root / "torch.whl", self.files, damage="torch/lib/libc10.so")
        with self.assertRaisesRegex(setup.SetupError, "libc10.so does not match"):
            setup.unpack(self.root / "torch.whl", self.root / "out")

    def test_an_interrupted_set_up_leaves_nothing_under_the_final_name(self):
        final = self.root / "libtorch"
        with self.assertRaises(KeyboardInterrupt), setup.building(final) as folder:
            (folder / "half").write_text("x")
            raise KeyboardInterrupt
        self.assertFalse(final.exists())
        self.assertEqual(list(self.root.iterdir()), [])

    def test_a_folder_is_whole_only_with_every_file_at_its_size(self):
        final = self.root / "libtorch"
        with setup.building(final) as folder:
            (folder / "lib.so").write_text("library")
        self.assertTrue(setup.is_whole(final))
        (final / "lib.so").write_text("lib")
        self.assertFalse(setup.is_whole(final))
        (final / "lib.so").unlink()
        self.assertFalse(setup.is_whole(final))

    def test_a_folder_without_a_manifest_is_not_whole(self):
        (self.root / "libtorch").mkdir()
        self.assertFalse(setup.is_whole(self.root / "libtorch"))
        (self.root / "libtorch/complete.json").write_text("[")
        self.assertFalse(setup.is_whole(self.root / "libtorch"))
        (self.root / "libtorch/complete.json").write_text(json.dumps({}))
        self.assertFalse(setup.is_whole(self.root / "libtorch"))

    def test_later_builds_compile_the_kernels_for_the_same_gpus(self):
        nvcc = self.root / "nvidia/cu13/bin/nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.touch()
        config = self.root / ".cargo/config.toml"
        with mock.patch.object(setup, "PROJECT", self.root):
            with mock.patch.dict(os.environ, VMB_CUDA_ARCHITECTURES="90"):
                setup.write_cargo_config(setup.cargo_settings(self.root / "torch"))
            self.assertIn('VMB_CUDA_ARCHITECTURES = "90"', config.read_text())
            with mock.patch.dict(os.environ, VMB_CUDA_ARCHITECTURES=""):
                setup.write_cargo_config(setup.cargo_settings(self.root / "torch"))
            self.assertNotIn("VMB_CUDA_ARCHITECTURES", config.read_text())

    def test_the_gpu_tests_need_a_gpu_and_a_libtorch_with_cuda(self):
        settings = mock.patch.dict(os.environ, {"LIBTORCH": "", "LIBTORCH_USE_PYTORCH": ""})
        with settings, mock.patch.object(setup, "PROJECT", self.root):
            with self.assertRaisesRegex(setup.SetupError, "no GPU.*make test-kernels"):
                setup.require_gpu(self.root, dev=self.root)
            (self.root / "nvidia0").touch()
            with self.assertRaisesRegex(setup.SetupError, "for the CPU: run `make cuda`"):
                setup.require_gpu(self.root, dev=self.root)
            (self.root / "lib").mkdir()
            os.environ["LIBTORCH"] = str(self.root)
            with self.assertRaisesRegex(setup.SetupError, "has no CUDA"):
                setup.require_gpu(self.root, dev=self.root)
            (self.root / "lib/libtorch_cuda.so").touch()
            setup.require_gpu(self.root, dev=self.root)


if __name__ == "__main__":
    unittest.main()
