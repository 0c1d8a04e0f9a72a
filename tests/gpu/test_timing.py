"""The timing program, as far as it runs without a GPU."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import timing


def printed(run, *arguments):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        run(*arguments)
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.getvalue().splitlines() if line.startswith("|")]


class Timing(unittest.TestCase):
    def test_every_shape_type_and_pass_has_a_row_with_a_time(self):
        header, _, *rows = printed(timing.main, ["rehearse"])
        self.assertEqual(len(rows), 2 * 2 * 2)
        for row in rows:
            self.assertEqual(len(row), len(header))
            self.assertGreater(float(row[header.index("ours µs")]), 0)

    def test_the_metrics_of_a_profile_are_a_row_per_kernel_with_the_largest_stalls_first(self):
        stall = timing.STALL + "{}_per_issue_active.ratio"
        names = ["Kernel Name", timing.METRICS["µs"], timing.METRICS["registers"], stall.format("barrier"), stall.format("wait")]
        lines = [names, ["", "us", "", "", ""], ["scan_forward_kernel", "12.5", "80", "0.5", "2.0"]]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.csv"
            path.write_text("==PROF== a line of ncu\n" + "".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in lines))
            header, _, row = printed(timing.main, ["metrics", str(path)])
        self.assertEqual(row[:3], ["scan_forward_kernel", "12.5", "80"])
        self.assertEqual(row[-1], "wait 2.0, barrier 0.5")
        self.assertEqual(len(row), len(header))

    def test_without_a_gpu_nothing_is_timed(self):
        with mock.patch.object(timing, "DEVICE", "cpu"), self.assertRaisesRegex(SystemExit, "no GPU"):
            timing.main([])


if __name__ == "__main__":
    unittest.main()
