"""A headless Chromium over the WebDriver protocol, which is JSON over HTTP and needs no package, for tests of pages.

Where there is no Chromium or no driver for it, `needs_chromium` says so and skips.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver on the path"
)


class Browser:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options = {"binary": CHROMIUM, "args": arguments}
        wanted = {
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"}, "unhandledPromptBehavior": "ignore",
        }  # fmt: skip
        self._url += "/" + self._post("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _post(self, path: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
        sent, kind = None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, sent, kind, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"].splitlines()[0]) from None

    def open(self, path: Path, width: int = 400, height: int = 800, *, anchor: str = "") -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._post("/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
        self._post("/url", {"url": path.as_uri() + anchor})

    def run(self, script: str) -> Any:
        return self._post("/execute/sync", {"script": script, "args": []})

    def complaints(self) -> list[str]:
        """What the console said since it was last asked: errors of scripts, and what the policy refused."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def _do(self, css: str, what: str, **how: str) -> None:
        found = self._post("/element", {"using": "css selector", "value": css})
        self._post(f"/element/{next(iter(found.values()))}/{what}", how)

    def click(self, css: str) -> None:
        """In the middle of the window, where nothing that sticks to its edge covers it."""
        self.run(f"document.querySelector({json.dumps(css)}).scrollIntoView({{block: 'center'}})")
        self._do(css, "click")

    def write(self, css: str, text: str) -> None:
        self._do(css, "value", text=text)

    def empty(self, css: str) -> None:
        self._do(css, "clear")

    def wait(self, script: str, expected: Any) -> None:
        """Until the script returns what is expected, five seconds at most."""
        seen, until = self.run(script), time.monotonic() + 5
        while seen != expected and time.monotonic() < until:
            seen = self.run(script)
        assert seen == expected

    def cards(self, expected: list[str]) -> None:
        """Wait until these features are listed, in this order."""
        self.wait("return [...document.querySelectorAll('#cards article')].map(card => card.id)", expected)

    def screenshot(self, to: Path) -> None:
        to.write_bytes(base64.b64decode(self._post("/screenshot", None, "GET")))

    def close(self) -> None:
        self._post("", {}, "DELETE")


@contextmanager
def chromium() -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([str(CHROMEDRIVER), f"--port={port}", "--silent"], stdout=subprocess.DEVNULL) as driver:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            window = Browser(port)
            yield window
            window.close()
        finally:
            driver.terminate()
