"""Checks the page of `vmbeauty export --format web` in headless Chromium, opened from disk: its scores are those
of `predict`, nothing is fetched, nothing is cut off.

    make test-web

`check_web.py FOLDER` writes screenshots to the folder.
"""

import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import chromium

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-3
# As in the quickstart, in a second.
BASE = ["--set", "data.synthetic={train: 200, val: 60, test: 20}", "--set", "train.epochs=2", "--set", "data.image_size=64"]
RUNS = {
    "squash": ["data.resize=squash", "data.interpolation=bicubic"],
    "crop": ["data.resize=crop", "data.interpolation=bilinear", "data.short_side=72"],
    "pad": ["data.resize=pad", "data.interpolation=bicubic", "model.fusion.strategy=vit_only"],
}
# Chromium blends what is translucent in premultiplied 8 bits, which rounds once more.
BLENDED, BLENDED_TOLERANCE = {"alpha.webp", "gray_alpha.png"}, 2e-2
# What Chromium cannot read.
UNREADABLE = {".tiff"}

FAULTS = "(() => {" + chromium.FAULTS + """
    for (const element of document.querySelectorAll('body *')) {
        const box = element.getBoundingClientRect();
        if (box.width > 1 && (box.right > width + 1 || box.left < -1)) faults.push('cut off: ' + element.className + element.textContent.slice(0, 40));
    }
    for (const image of document.images) if (image.complete && !image.naturalWidth && !image.closest('.card').querySelector('.error')) faults.push('no photo');
    for (const what of ['body', '.note', '.time', '.ends', '.error', '#status']) {
        const found = document.querySelector(what);
        if (found && contrast(getComputedStyle(found).color) < 4.5) faults.push('too little contrast: ' + what);
    }
    return JSON.stringify([...new Set(faults)]);
})()"""


def make_page(vmbeauty, folder, name, settings):
    """Trains a run and exports its page."""
    changes = [argument for setting in settings for argument in ("--set", setting)]
    vmbeauty("train", str(ROOT / "configs/quickstart.yaml"), *BASE, *changes, "--output", name)
    vmbeauty("export", name, "--format", "web", "--output", f"{name}-page")
    return folder / f"{name}-page/index.html"


def images(vmbeauty, folder):
    """Synthetic faces with a caption, larger and smaller than the model's input, and photos in many formats."""
    faces = []
    for size in [48, 160]:
        faces.append(folder / f"face-{size}.png")
        preview = ["--output", faces[-1].name, "--images", "1", "--epochs", "0", "--set", f"data.image_size={size}"]
        vmbeauty("data", "preview", str(ROOT / "configs/quickstart.yaml"), *preview)
    return faces + sorted((ROOT / "tests/fixtures/images").iterdir())


def scores(browser, files):
    """Gives files to the page as a user does; returns what is on their cards."""
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])
    read = """JSON.stringify([...document.querySelectorAll('.card')].reverse().map(card => ({
        done: 'done' in card.dataset, score: card.dataset.score, text: card.textContent})))"""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        cards = json.loads(browser.evaluate(read))
        if len(cards) == len(files) and all(card["done"] for card in cards):
            return cards
        time.sleep(0.2)
    sys.exit(f"error: the page has not scored {len(files)} images within two minutes: {cards}")


def check(browser, page, files, expected, shots):
    faults, largest = [], 0
    for width, scheme in browser.views(page):
        cards = scores(browser, files)
        here = json.loads(browser.evaluate(FAULTS))
        for file, card, row in zip(files, cards, expected):
            if file.suffix in UNREADABLE:
                here += [] if "cannot read it" in card["text"] else [f"{file.name}: {card['text']}"]
                continue
            shown = re.search(r"90\s% interval (-?[0-9]+[.][0-9]{2}) to (-?[0-9]+[.][0-9]{2})", card["text"]) or [0, "nan", "nan"]
            shown = [float(card["score"] or "nan"), float(shown[1]), float(shown[2])]
            differences = [abs(number - row[key]) for number, key in zip(shown, ["score", "lower", "upper"])]
            limit = BLENDED_TOLERANCE if file.name in BLENDED else TOLERANCE
            largest = max(largest, differences[0] if file.name not in BLENDED else 0)
            # The ends of the interval have two digits.
            if not all(d <= most for d, most in zip(differences, [limit, limit + 0.005, limit + 0.005])):
                here.append(f"{file.name}: {card['text']}, predict says {row}")
        here += browser.event_faults(("file:", "data:", "blob:"))
        # In doubles 380 * (224 / 190) is below 448, as in src/data/image/transform.rs.
        top = browser.evaluate("visibleFrame(190, 380, { resize: 'crop', image_size: 224, short_side: 224 }).top")
        here += [] if math.isclose(top, 112 * 380 / 447) else [f"a crop begins at {top}"]
        sent = browser.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
        here += [] if sent == "refused" else ["the page can send"]
        if shots:
            browser.screenshot(shots / f"web-{page.parent.name}-{width}-{scheme}.png")
        faults += [f"{page.parent.name}, {width} px, {scheme}: {fault}" for fault in here]
    print(f"{page.parent.name}: largest difference from predict {largest:.1e}")
    return faults


def check_without_model(browser, page, file):
    """A model that cannot be started is an error on the card of a photo."""
    script = page.with_name("model.js")
    script.write_text(script.read_text().split("MODEL.push")[0])
    browser.open(page.resolve().as_uri(), chromium.WIDTHS[0], "light")
    [card] = scores(browser, [file])
    status = browser.evaluate("document.getElementById('status').textContent")
    reason = status.removeprefix("The model cannot be started: ")
    return [] if reason != status and card["text"].endswith(reason) else [f"without a model: {status}, {card['text']}"]


def main():
    program = chromium.find_or_skip()
    beauty = os.environ.get("VMBEAUTY", str(ROOT / "target/release/vmbeauty"))
    shots = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, chromium.Browser(program) as browser:
        folder = pathlib.Path(temporary)

        def vmbeauty(*arguments):
            done = subprocess.run([beauty, *arguments], cwd=folder, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"error: {' '.join(arguments[:2])}: {done.stderr.strip()[-1000:]}")
            return done.stdout

        files, faults = images(vmbeauty, folder), []
        for name, settings in RUNS.items():
            page = make_page(vmbeauty, folder, name, settings)
            rows = json.loads(vmbeauty("predict", name, *map(str, files), "--interval", "0.9", "--format", "json"))
            faults += check(browser, page, files, rows["predictions"], shots)
        faults += check_without_model(browser, page, files[0])
    chromium.end(faults, "the pages score as predict does and have no faults")


if __name__ == "__main__":
    main()
