"""Headless Chromium over its DevTools protocol, as far as the page tests need it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)
PATIENCE = 20.0


def chromium() -> str | None:
    """Path of a Chromium, or ``None``."""
    chosen = os.environ.get("ENHANCE_TEST_CHROMIUM")
    return chosen or next((found for name in NAMES if (found := shutil.which(name))), None)


class ScriptError(AssertionError):
    """A script raised in the page."""


class Tab:
    """One tab.

    Attributes:
        console: errors and warnings of the console, uncaught exceptions and violations of the content policy.
        addresses: every address that the page asked for.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.console: list[str] = []
        self.addresses: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and wait for its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.console.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.addresses.append(params["request"]["url"])

    def open(self, url: str) -> None:
        """Go to ``url`` and wait until its scripts have started."""
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression; promises are awaited."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise ScriptError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = PATIENCE) -> Any:
        """Wait until a JavaScript expression is true; its value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = self.run(f"((value) => value instanceof Node ? true : value)({condition})")
            if value:
                return value
            time.sleep(0.05)
        notice = self.run("document.getElementById('notice')?.textContent")
        raise AssertionError(f"never became true: {condition}; console: {self.console}; notice: {notice}")

    def text(self, selector: str) -> str:
        """What a person reads in the first element that fits."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key: ``Tab``, ``Enter``, ``Escape`` or a character."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        event: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        event["modifiers"] = 8 if shift else 0
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else None)
        self.send("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)

    def tab_to(self, selector: str, limit: int = 80) -> None:
        """Press Tab until the element has the focus: what a person without a mouse does."""
        for _ in range(limit):
            if self.run(f"document.activeElement?.matches({json.dumps(selector)}) ?? false"):
                return
            self.press("Tab")
        raise AssertionError(f"{selector} cannot be reached with the Tab key")

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the window (CSS pixels) and the colour scheme."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def open_tab() -> Iterator[Tab]:
    """A tab of a fresh Chromium with a profile of its own, gone afterwards."""
    binary = chromium()
    assert binary is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            port = _port(process, log)
            with httpx.Client(trust_env=False) as http:
                targets = http.get(f"http://127.0.0.1:{port}/json", timeout=PATIENCE).json()
            address = next(each["webSocketDebuggerUrl"] for each in targets if each["type"] == "page")
            with connect(address, max_size=None, proxy=None) as socket:
                yield Tab(socket)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], log: Any) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        log.seek(0)
        said = re.search(rb"DevTools listening on ws://127\.0\.0\.1:(\d+)/", log.read())
        if said:
            return int(said.group(1))
        time.sleep(0.05)
    log.seek(0)
    raise AssertionError(f"Chromium did not start: {log.read()[-800:].decode(errors='replace')}")
