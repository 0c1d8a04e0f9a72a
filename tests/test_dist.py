"""The script that packs the program: what it keeps of RUNPATH, and whose licenses it collects."""

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import dist  # noqa: E402


class DistTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def link(self, runpath):
        compiler = shutil.which("c++") or shutil.which("g++")
        program = self.root / "program"
        source = ["-x", "c++", "-", "-o", str(program), f"-Wl,--enable-new-dtags,-rpath,{runpath}"]
        subprocess.run([compiler, *source], input=b"#include <iostream>\nint main() { std::cout << 1; }", check=True)
        return program

    def test_the_build_machines_folder_is_cut_off(self):
        program = self.link("$ORIGIN/../lib:/home/anna/.cache/vm-beautynet/lib")
        dist.cut_runpath(program)
        self.assertIn("[$ORIGIN/../lib]", dist.output("readelf", "--dynamic", program))
        self.assertNotIn(b"anna", program.read_bytes())
        subprocess.run([program], check=True, stdout=subprocess.DEVNULL)

    def test_a_program_that_needs_the_build_machine_is_refused(self):
        with self.assertRaisesRegex(SystemExit, "run `make build`"):
            dist.cut_runpath(self.link("/home/anna/.cache/vm-beautynet/lib"))

    def test_licenses_are_those_of_linked_crates(self):
        def package(name, text=None):
            folder = self.root / name
            folder.mkdir()
            if text:
                (folder / "LICENSE-MIT").write_text(text)
            return {"id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": "registry", "authors": ["Anna"],
                    "repository": "https://example.org", "manifest_path": str(folder / "Cargo.toml")}

        def node(name, *deps):
            return {"id": name, "deps": [{"pkg": pkg, "dep_kinds": [{"kind": kind}]} for pkg, kind in deps]}

        packages = [package("own"), package("a", "the text\n"), package("b", "the text  \n"), package("c"), package("cc"), package("test")]
        packages[0]["source"] = None
        nodes = [node("own", ("a", None), ("cc", "build"), ("test", "dev")), node("a", ("b", None), ("c", None))]
        nodes += [node(name) for name in ("b", "c", "cc", "test")]
        text, crates, declared = dist.crate_licenses({"packages": packages, "resolve": {"root": "own", "nodes": nodes}})
        self.assertEqual((crates, declared), (3, 1))
        self.assertIn("a 1.0.0 (MIT)\nb 1.0.0 (MIT)\n\nthe text\n", text)
        self.assertIn("c 1.0.0 (MIT), Anna, https://example.org", text)
        self.assertEqual((text.count("the text"), text.count("cc "), text.count("test ")), (1, 0, 0))

    def test_the_needed_glibc_is_the_newest_version_and_glibc_is_not_packed(self):
        program = self.link("$ORIGIN/../lib")
        self.assertRegex(dist.newest_glibc([program]), r"^2\.\d+$")
        self.assertNotIn("libc.so.6", dist.linked(program))
        self.assertIn("libstdc++.so.6", dist.linked(program))


if __name__ == "__main__":
    unittest.main()
