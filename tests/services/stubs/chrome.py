"""Chromium for the tests, driven by its own protocol."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any


class Refused(Exception):
    """What the browser says instead of a result."""


class Browser:
    """Chromium, driven over a pipe by its own protocol: JSON, each message ended by a NUL byte."""

    FLAGS = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--remote-debugging-pipe",
    )

    def __init__(self, chromium: Path, profile: Path) -> None:
        near, far = [os.pipe() for _ in range(2)], []
        for end in (near[0][0], near[1][1]):
            far.append(fcntl.fcntl(end, fcntl.F_DUPFD, 10))
            os.close(end)
        self._to, self._from = near[0][1], near[1][0]

        def as_3_and_4() -> None:
            os.dup2(far[0], 3)
            os.dup2(far[1], 4)

        self.process = subprocess.Popen(
            [chromium, *self.FLAGS, f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=as_3_and_4,
        )
        for end in far:
            os.close(end)
        self._number, self._buffer, self._session = 0, b"", None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def size(self, width: int, height: int = 800) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                if "error" in found:
                    raise Refused(f"{method}: {found['error']}")
                return found["result"]
            self.events.append(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], 60)[0], "the browser does not answer"
            chunk = os.read(self._from, 1 << 16)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def open(self, url: str, condition: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(condition)

    def wait(self, condition: str) -> None:
        """Until it is true in the page, which may still be on its way."""
        deadline = time.monotonic() + 30
        while not self.holds(condition):
            assert time.monotonic() < deadline, self.evaluate("document.body.innerText")
            time.sleep(0.05)

    def holds(self, condition: str) -> bool:
        with contextlib.suppress(Refused):  # the page was left while it was asked
            return bool(self.evaluate(f"document.readyState == 'complete' && Boolean({condition})"))
        return False

    def said(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self._to, self._from):
            os.close(end)
