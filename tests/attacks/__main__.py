"""Attacks the program and counts what goes wrong.

    make test-attacks

`python3 tests/attacks [--program FILE] [--only KIND] [--jobs N]` runs some of them. Prints what went wrong and a
table by kind; exits with 1 if anything did.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import attack
import configs
import images
import limits
import runs
import tables
import weights

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (images, weights, configs, tables, runs, limits)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", type=Path, default=os.environ.get("VMBEAUTY", ROOT / "target/release/vmbeauty"))
    parser.add_argument("--only", default="", help="run the attacks whose kind or name contains this")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = attack.Place(folder, arguments.program.resolve())
        place.write("p.png", images.png())
        attacks = [
            a for source in SOURCES for a in source.attacks(place) if arguments.only in f"{a.kind}: {a.name}"
        ]
        counts, slowest = attack.run_all(
            attacks, place.folder, arguments.jobs, lambda text: print(text, flush=True)
        )
    print(attack.table(counts))
    seconds, rss, name = max(slowest)
    largest = max(slowest, key=lambda row: row[1])
    print(
        f"{len(attacks)} attacks in {time.monotonic() - begun:.0f} s; the slowest took {seconds:.1f} s ({name}); "
        f"the most memory was {largest[1] >> 20} MB ({largest[2]})"
    )
    sys.exit(any(row[fault] for row in counts.values() for fault in attack.FAULTS))


if __name__ == "__main__":
    main()
