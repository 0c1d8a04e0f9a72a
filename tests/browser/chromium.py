"""Headless Chromium over its debugging pipe, with Python's standard library only."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
WIDTHS = [390, 1280]
# The beginning of a script that lists the faults of a page: its width, and the contrast of a color with the paper.
FAULTS = """
    const faults = [], width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth > width) faults.push('the page is ' + document.documentElement.scrollWidth + ' px wide');
    const levels = color => color.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = color => levels(color).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const paper = light(getComputedStyle(document.body).backgroundColor);
    const contrast = color => { const own = light(color); return (Math.max(own, paper) + 0.05) / (Math.min(own, paper) + 0.05); };
"""


def find_or_skip():
    """Returns the path of Chromium; without one, says so and ends the check."""
    named = os.environ.get("CHROMIUM")
    program = next(filter(None, map(shutil.which, [named] if named else NAMES)), None)
    if program is None:
        message = "no Chromium: apt install chromium, or name one in CHROMIUM"
        if os.environ.get("VMB_REQUIRE_CHROMIUM") == "1":
            sys.exit(f"error: {message}")
        print(f"skipped: {message} (VMB_REQUIRE_CHROMIUM=1 makes that an error)")
        sys.exit(0)
    return program


def end(faults, success):
    """Prints the faults and fails, or says that pages have none."""
    for fault in faults:
        print(fault)
    if faults:
        sys.exit(f"error: {len(faults)} faults")
    print(f"{success} at {' and '.join(map(str, WIDTHS))} px, light and dark")


class Browser:
    """A page of a Chromium process, which ends with it."""

    def __init__(self, program):
        self.profile = tempfile.TemporaryDirectory()
        (theirs_in, self.to), (self.back, theirs_out) = os.pipe(), os.pipe()

        def pipes():
            # Chromium reads from 3 and writes to 4.
            reading, writing = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"],
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.rest, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=20)
        self.profile.cleanup()

    def read(self):
        while b"\0" not in self.rest:
            chunk = os.read(self.back, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium has ended")
            self.rest += chunk
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to, data) :]
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, url, width, scheme):
        """Opens a page at a width, in light or dark mode; console and network events are in `events`."""
        self.events = []
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def views(self, page):
        """Opens a page at each width in light and dark mode, and yields these."""
        for width in WIDTHS:
            for scheme in ["light", "dark"]:
                self.open(page.resolve().as_uri(), width, scheme)
                yield width, scheme

    def event_faults(self, allowed):
        """Faults among the events since `open`: what the console says, dialogs, and requests other than to `allowed`."""
        faults = []
        for event in self.events:
            method, said = event.get("method"), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                faults.append(f"console: {json.dumps(said)[:300]}")
            if method == "Page.javascriptDialogOpening":
                faults.append("a name was executed as a script")
            if method == "Network.requestWillBeSent" and not said["request"]["url"].startswith(allowed):
                faults.append(f"fetches {said['request']['url']}")
        return faults

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
