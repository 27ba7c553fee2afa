"""Headless Chromium, driven over its own protocol: what a page shows, what a click does, and a picture to look at."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from websocket import create_connection

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BINARY = next((found for name in NAMES if (found := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(BINARY is None, reason=f"none of {', '.join(NAMES)} is installed")
PHONE, DESKTOP = (390, 844), (1280, 900)


class Browser:
    """One tab. Every message of the console is kept: a page that complains there is broken."""

    def __init__(self, home: Path) -> None:
        assert BINARY is not None
        quiet = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")
        self._process = subprocess.Popen(
            [BINARY, "--headless=new", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={home}", *quiet],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        told = home / "DevToolsActivePort"
        self._until(told.exists, "Chromium listens")
        self._until(lambda: len(told.read_text().split()) == 2, "Chromium told its port")
        port, path = told.read_text().split()
        self._socket = create_connection(f"ws://127.0.0.1:{port}{path}", suppress_origin=True, timeout=60)
        self._number, self._session, self.complaints = 0, "", list[str]()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        try:
            self._socket.close()
        finally:
            self._process.kill()
            self._process.wait()

    def open(self, url: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> None:
        width, height = size
        phone = width < 600
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=url)

    def offline(self, on: bool) -> None:
        self._call(
            "Network.emulateNetworkConditions", offline=on, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    def value(self, script: str) -> Any:
        """What an expression is in the page. A promise is awaited."""
        told = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise AssertionError(told["exceptionDetails"]["exception"]["description"])
        return told["result"].get("value")

    def until(self, script: str, deadline_s: float = 60) -> None:
        self._until(lambda: bool(self.value(script)), script, deadline_s)

    def text(self, selector: str) -> str:
        return str(self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def fill(self, selector: str, text: str) -> None:
        self.value(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(text)}")

    def picture(self, path: Path, *, whole: bool = True) -> None:
        told = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def _call(self, method: str, **given: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            told = json.loads(self._socket.recv())
            self._note(told)
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result

    def _note(self, told: dict[str, Any]) -> None:
        if told.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(told["params"]["exceptionDetails"]))
        elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
            self.complaints.append(str(told["params"]["entry"]["text"]))

    @staticmethod
    def _until(holds: Any, what: str, deadline_s: float = 60) -> None:
        until = time.monotonic() + deadline_s
        while not holds():
            assert time.monotonic() < until, f"gave up waiting until {what}"
            time.sleep(0.05)
