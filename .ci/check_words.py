#!/usr/bin/env python3
"""Checks that code and docs say the field's words: each of these has a better one (style: timm, burn, torchtitan).

    python3 .ci/check_words.py            checks; exits with 1 where a word occurs more often than allowed
    python3 .ci/check_words.py WORD       lists the places of one
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ["src", "csrc", "tests", "docs", "README.md", "experiments", "configs", "examples", "scripts", "Makefile"]
ALLOWED = 20
INSTEAD = {
    "pictures?": "image", "colours?": "color", "grey\\w*": "gray", "\\w*normalis\\w*": "normalize",
    "centred?": "center", "drawn (?:faces?|data|anew)": "synthetic, sampled, re-initialized",
    "judge[ds]?": "evaluate, compare, rank", "learnt": "learned", "thawed": "unfrozen", "held still": "frozen",
    "anew": "again, re-initialized, randomized", "merit": "monitored metric", "left out": "skipped",
    "stands? (?:in|at)": "is in, is at", "(?:goes|go) on": "resumes, continues", "looks? at": "attends to, inspects",
    "worth knowing": "notes, warnings", "so (?:many|much)": "N, up to N", "average of the weights": "EMA weights",
    "beside": "compared with, next to", "has a PC of": "reaches PC",
}


def texts():
    names = subprocess.run(["git", "ls-files", *PLACES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split("\n"):
        path = ROOT / name
        if name and path.suffix not in (".safetensors", ".pth", ".png", ".jpg", ".xlsx") and path.is_file():
            yield name, path.read_text(errors="ignore")


def main():
    words = {word: re.compile(rf"(?<![A-Za-z]){word}(?![A-Za-z])", re.I) for word in INSTEAD}
    if len(sys.argv) > 1:
        word = re.compile(rf"(?<![A-Za-z]){sys.argv[1]}(?![A-Za-z])", re.I)
        for name, text in texts():
            for number, line in enumerate(text.split("\n"), 1):
                if word.search(line):
                    print(f"{name}:{number}: {line.strip()[:120]}")
        return 0
    counts = dict.fromkeys(words, 0)
    for _, text in texts():
        for word, pattern in words.items():
            counts[word] += len(pattern.findall(text))
    wrong = {word: count for word, count in counts.items() if count >= ALLOWED}
    for word, count in wrong.items():
        print(f"{word}: {count} times, fewer than {ALLOWED} are allowed: say {INSTEAD[word]}")
    print("words:", ", ".join(f"{count} {word}" for word, count in counts.items()))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
