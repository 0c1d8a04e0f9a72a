"""Checks a report in headless Chromium, in light and dark mode: no errors, nothing fetched, charts
rendered, nothing cut off.

    make test-report

trains a small sweep and checks its report. `check_report.py PAGE.html [FOLDER]` checks another page;
screenshots are written to the folder.
"""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

import chromium

ROOT = pathlib.Path(__file__).resolve().parents[2]
GROUPS = ["female/asian", "male/asian", "female/black", "male/black"]
CONFIG = """
name: small
data: {dataset: csv, root: images, image_size: 32, seed: 1}
model:
  vit: {name: vit_micro_patch8_64, embed_dim: 24, depth: 1}
  mamba: {name: vim_micro_patch8_64, embed_dim: 24, depth: 1}
  fusion: {dim: 16}
  head: {hidden: [16]}
train: {epochs: 3, batch_size: 16, threads: 1, optimizer: {lr: 1.0e-3}, schedule: {warmup_epochs: 1}}
"""
SWEEP = """
name: strategies
base: small.yaml
axes: {model.fusion.strategy: [gated, score, vit_only]}
seeds: [1, 2]
"""
SECTIONS = ["models", "differences", "search", "compare", "curves", "predictions", "worst", "maps"]
MAX_BYTES = 5_000_000

# Lists the faults of the rendered page.
FAULTS = "(() => {" + chromium.FAULTS + """
    const name = element => element.tagName + ' "' + (element.textContent || '').trim().slice(0, 40) + '"';
    const charts = document.querySelectorAll('.chart svg');
    if (charts.length < LEAST) faults.push('only ' + charts.length + ' charts');
    document.querySelectorAll('details').forEach(element => element.open = true);
    for (const element of document.querySelectorAll('body *')) {
        if (element.closest('.scroll table, pre, svg, title, style')) continue;
        const box = element.getBoundingClientRect();
        if (box.width > 0 && (box.right > width + 1 || box.left < -1)) faults.push('cut off: ' + name(element));
    }
    for (const element of document.querySelectorAll('.scroll, pre'))
        if (element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== 'auto') faults.push('does not scroll: ' + name(element));
    for (const chart of charts) {
        const frame = chart.getBoundingClientRect();
        if (frame.width < 200 || !chart.querySelector('.d, .l')) faults.push('empty chart: ' + chart.getAttribute('aria-label'));
        for (const shape of chart.querySelectorAll('text, circle, path, rect')) {
            const box = shape.getBoundingClientRect();
            if (box.left < frame.left - 2 || box.right > frame.right + 2 || box.top < frame.top - 2 || box.bottom > frame.bottom + 2)
                faults.push('outside its chart "' + chart.getAttribute('aria-label') + '": ' + name(shape) + shape.outerHTML.slice(0, 80));
        }
        const text = chart.querySelector('text');
        const size = parseFloat(getComputedStyle(text).fontSize) * frame.width / chart.viewBox.baseVal.width;
        if (size < 9) faults.push('text of ' + size.toFixed(1) + ' px in ' + chart.getAttribute('aria-label'));
    }
    for (const cell of document.querySelectorAll('.w')) {
        const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), range = document.createRange();
        for (let text = texts.nextNode(); text; text = texts.nextNode())
            for (const word of text.data.matchAll(/[A-Za-z0-9]{1,24}/g)) {
                range.setStart(text, word.index);
                range.setEnd(text, word.index + word[0].length);
                if (range.getClientRects().length > 1) faults.push('broken inside a word: ' + name(cell));
            }
    }
    for (const image of document.images) if (!image.naturalWidth) faults.push('no image: ' + image.alt);
    for (const [what, key, least] of [['body', 'color', 4.5], ['.note', 'color', 4.5], ['a', 'color', 4.5], ['svg text', 'fill', 4.5]]) {
        const found = document.querySelector(what);
        if (found && contrast(getComputedStyle(found)[key]) < least) faults.push('too little contrast: ' + what);
    }
    for (const series of document.querySelectorAll('.legend .l'))
        if (contrast(getComputedStyle(series).color) < 3) faults.push('too little contrast: ' + series.getAttribute('class'));
    return JSON.stringify({faults: [...new Set(faults)], paper});
})()"""


def png(path, levels):
    """Writes a 32x32 PNG with one level per channel."""
    row = b"\0" + bytes(levels) * 32
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 32)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def make_report(folder):
    """Trains a small sweep on images of four groups, one with a hostile name, and writes its report."""
    program = os.environ.get("VMBEAUTY", str(ROOT / "target/release/vmbeauty"))

    def vmbeauty(*arguments):
        subprocess.run([program, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    images = folder / "images"
    images.mkdir()
    lines = ["image,score,split,group"]
    for at in range(120):
        split = ["train", "val", "test"][at % 3]
        name = "<img src=x onerror=alert(1)>&'.png" if at == 2 else f"{at:03}.png"
        png(images / name, [at * 2, (at * 37) % 256, (at * 91) % 256])
        lines.append(f"{name},{1 + at / 30 + (at * 7 % 5) / 10:.2f},{split},{GROUPS[at // 3 % 4]}")
    (images / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "small.yaml").write_text(CONFIG.replace("root: images", "root: images/labels.csv"))
    (folder / "sweep.yaml").write_text(SWEEP)
    vmbeauty("sweep", "sweep.yaml", "--output", "out")
    run = "out/runs/strategy=gated,seed=1"
    vmbeauty("explain", run, "images/005.png", "images/008.png", "--output", f"{run}/explain")
    vmbeauty("explain", run, "--evaluate", "test", "--limit", "4")
    vmbeauty("report", "out", "--output", "report.html", "--compare", "strategy=gated", "strategy=score")
    copies = sixty_runs(folder / "out/runs", folder / "sixty/runs")
    vmbeauty("report", "sixty", "--output", "sixty.html")
    size = (folder / "sixty.html").stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"error: the report of {copies} runs has {size} bytes, more than {MAX_BYTES}")
    return folder / "report.html"


def sixty_runs(trained, to):
    """Copies six runs ten times, each time with another learning rate in the config."""
    count = 0
    for run in sorted(trained.iterdir()):
        config = (run / "config.yaml").read_text()
        lines = [line for line in config.splitlines() if line.strip().startswith("lr: ")]
        for at in range(10):
            copy = to / f"lr={at + 1},{run.name}"
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("tensorboard", "state"))
            (copy / "config.yaml").write_text(config.replace(lines[0], lines[0].split("lr:")[0] + f"lr: 0.00{at + 1}", 1))
            count += 1
    return count


def check(browser, page, shots, made):
    faults, papers = [], {}
    text = page.read_text()
    script = FAULTS.replace("LEAST", "3" if "Learning curves" in text else "0")
    for width, scheme in browser.views(page):
        if shots:
            browser.screenshot(shots / f"report-{width}-{scheme}.png")
        found = json.loads(browser.evaluate(script))
        if shots:
            browser.screenshot(shots / f"report-{width}-{scheme}-open.png")
        papers[scheme] = found["paper"]
        here = found["faults"] + browser.event_faults(("file:", "data:", "about:"))
        faults += [f"{width} px, {scheme}: {fault}" for fault in here]
    if made:
        faults += [f"there is no section {name}" for name in SECTIONS if f'<section id="{name}"' not in text]
        for words in ["is selected among 3 models", "fewer than 3 seeds", "Largest disagreements", "mean of 2 runs"]:
            faults += [] if words in text else [f"the page does not say: {words}"]
    if not papers["dark"] < 0.1 < 0.8 < papers["light"]:
        faults.append(f"the luminance of the page is {papers}")
    return faults


def main():
    program = chromium.find_or_skip()
    with tempfile.TemporaryDirectory() as folder, chromium.Browser(program) as browser:
        page = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else make_report(pathlib.Path(folder))
        shots = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
        if shots:
            shots.mkdir(parents=True, exist_ok=True)
        faults = check(browser, page, shots, made=len(sys.argv) < 2)
    chromium.end(faults, "the report has no faults")


if __name__ == "__main__":
    main()
