"""Headless Chromium for the tests, driven through its DevTools protocol.

No driver package is needed: websocket-client, which JupyterLab brings along, talks to it.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
KEYS = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "Tab": 9}


def find():
    """The path of an installed Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a fresh headless Chromium: `with Browser() as page: page.open(url)`.

    `events` holds what the page reported by itself (requests, exceptions), oldest first.
    """

    def __init__(self, width=1280, height=900):
        self.profile = tempfile.TemporaryDirectory(prefix="chromium_", ignore_cleanup_errors=True)
        flags = [
            "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={self.profile.name}",
            f"--window-size={width},{height}", "--hide-scrollbars", "--no-first-run",
            "--disable-dev-shm-usage", "--disable-gpu",
            "--disable-features=IsolateSandboxedIframes",  # frames stay reachable from the page
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium refuses to start as root with it
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([find(), *flags, "about:blank"], stdout=quiet, stderr=quiet)
        self.events, self.count = [], 0
        try:
            self._connect(width, height)
        except BaseException:
            self.close()
            raise

    def _connect(self, width, height):
        port_file = Path(self.profile.name, "DevToolsActivePort")
        until(lambda: port_file.exists() and port_file.read_text().count("\n"), 60, "Chromium")
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        address = page["webSocketDebuggerUrl"]
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=60)
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        if hasattr(self, "socket"):
            self.socket.close()
        self.process.terminate()
        self.process.wait(30)
        self.profile.cleanup()

    def send(self, method, **parameters):
        """Call a method of the protocol; its result as a dict."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)
            if (
                message.get("method") == "Page.javascriptDialogOpening"
            ):  # "Leave the page?" blocks all
                accept = {"method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                self.socket.send(json.dumps({"id": 0, **accept}))

    def open(self, url):
        self.send("Page.navigate", url=str(url))
        self.wait("document.readyState == 'complete'", 60)

    def contexts(self):
        """What `run` takes as `context`: the page itself and each frame in it."""
        alive = []
        for event in self.events:
            if event.get("method") == "Runtime.executionContextCreated":
                alive.append(event["params"]["context"]["id"])
            elif event.get("method") == "Runtime.executionContextDestroyed":
                alive.remove(event["params"]["executionContextId"])
            elif event.get("method") == "Runtime.executionContextsCleared":
                alive.clear()
        return alive

    def run(self, script, context=None):
        """The value of a JavaScript expression (a promise is awaited) in the page or a frame."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        if context is not None:
            options["contextId"] = context
        answer = self.send("Runtime.evaluate", expression=script, **options)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {json.dumps(answer['exceptionDetails'])[:800]}")
        return answer["result"].get("value")

    def wait(self, script, seconds):
        """Wait until a JavaScript expression is true, and return its value."""
        return until(lambda: self.run(script), seconds, script)

    def mouse(self, kind, x, y, **more):
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def center(self, selector, text=None):
        """Where the first visible element of a CSS selector (that has this text) is: (x, y)."""
        script = f"""(() => {{
            for (const e of document.querySelectorAll({json.dumps(selector)})) {{
                const wanted = {json.dumps(text)}, box = e.getBoundingClientRect();
                if (box.width && (wanted === null || e.textContent.trim().startsWith(wanted)))
                    return [box.x + box.width / 2, box.y + box.height / 2];
            }}
        }})()"""
        return self.wait(script, 30)

    def hover(self, selector, text=None):
        self.mouse("mouseMoved", *self.center(selector, text))

    def click(self, selector, text=None):
        x, y = self.center(selector, text)
        self.mouse("mouseMoved", x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def press(self, key):
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        if key == "Enter":
            code["text"] = "\r"
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, **code)

    def screenshot(self, path):
        data = self.send("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))


def until(condition, seconds, what):
    """The first true value of `condition()`; TimeoutError if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.1)
    return value
