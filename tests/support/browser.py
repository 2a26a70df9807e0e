"""Chromium without a window, driven over a pipe by its own protocol; what it asks of networks and complains of is kept.

The pipe has messages of JSON that end with a NUL: file descriptor 3 of Chromium reads them, and 4 writes them.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The program; None: there is none."""

SECONDS = 60.0
"""The longest that an answer or a state is waited for."""


class Browser:
    """A Chromium with one tab at a time, and a folder for downloads."""

    def __init__(self, downloads: Path) -> None:
        """Start it, without a network."""
        assert CHROMIUM is not None
        self.downloads = downloads
        self.requests: list[str] = []
        """URLs that the page asked for, besides its own and data in itself."""
        self.complaints: list[str] = []
        """Messages on its console, errors and breaches of its policy."""
        self._profile = tempfile.TemporaryDirectory(prefix="e2v-chromium-", ignore_cleanup_errors=True)
        self._next, self._buffer = 0, b""
        read, self._write = os.pipe()
        self._read, write = os.pipe()

        def place_pipes() -> None:
            inherited = [os.dup(read), os.dup(write)]  # neither may be 3 or 4 before it is copied there
            for descriptor, number in zip(inherited, (3, 4), strict=True):
                os.dup2(descriptor, number)

        self._process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--no-first-run",
                "--disable-gpu",
                "--disable-background-networking",
                "--autoplay-policy=no-user-gesture-required",
                "--proxy-server=127.0.0.1:1",
                f"--user-data-dir={self._profile.name}",
            ],
            preexec_fn=place_pipes,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._target = self._session = ""
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def send(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the page, and return its result."""
        return self._call(method, self._session, **params)

    def open(self, path: Path, width: int = 1200, dark: bool = False) -> None:
        """Open a file in a tab of its own, and wait until it is loaded."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        if self._target:
            self._call("Target.closeTarget", targetId=self._target)
        self._target = target
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.requests.clear()
        self.complaints.clear()
        self.resize(width, dark)
        self.send("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def resize(self, width: int, dark: bool = False) -> None:
        """Set the width of the page, and light or dark colours."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true."""
        self._wait(lambda: bool(self.evaluate(expression)), expression)

    def wait_for_download(self, name: str) -> str:
        """Wait for a downloaded file, and return its text; the file is removed."""
        path = self.downloads / name
        self._wait(lambda: path.exists(), f"download of {name}")
        text = path.read_text(encoding="utf-8")
        path.unlink()
        return text

    def press(self, key: str, code: str = "") -> None:
        """Press a key, and release it."""
        text = {"text": key} if len(key) == 1 else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=code or key, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=code or key)

    def picture(self, path: Path, whole: bool = False) -> None:
        """Write a PNG of what is seen, or of the whole page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def _call(self, method: str, session: str = "", **params: object) -> dict[str, Any]:
        self._next += 1
        message = {"id": self._next, "method": method, "params": params}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._receive(method)
            if answer.get("id") == self._next:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _receive(self, waiting_for: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], SECONDS)[0], f"no answer to {waiting_for}"
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "Chromium has ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
            self.requests.append(params["request"]["url"])
        elif event == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(params["args"]))
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))

    def _wait(self, is_true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not is_true():
            assert time.monotonic() < deadline, what
            time.sleep(0.02)
