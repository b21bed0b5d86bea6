"""The child process that observes: told of each phase over a pipe, it resets, snapshots, judges live and writes."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import gevent
from gevent.event import Event
from gevent.queue import Empty, Queue

from harness import CHECKOUT, load
from harness.errors import HarnessError, InputError, RunInvalid, StackError
from harness.services.process import die_with_parent

COMMAND = (sys.executable, "-m", "harness.observe")
_STDERR_LINES = 20

log = logging.getLogger("dairyperf")


class Observer:
    """The observing child: JSON lines to its stdin and from its stdout; its log is repeated in ours."""

    def __init__(self, run_dir: Path, on_abort: Callable[[str], None]) -> None:
        """on_abort: called with the limit that failed over the scenario's abort window."""
        self._on_abort = on_abort
        self.live: dict[str, Any] | None = None  # its last answer to a "live" message
        self._child = subprocess.Popen(
            [*COMMAND, str(run_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=CHECKOUT,
            start_new_session=True,  # Ctrl-C reaches it as the pipe's end, after the last sample was written
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        self._said: Queue[dict[str, Any]] = Queue()
        self._complaints: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self.ended = Event()
        self._readers = [gevent.spawn(self._listen), gevent.spawn(self._repeat)]

    def _listen(self) -> None:
        try:
            for line in cast(Any, self._child.stdout):
                self._hear(json.loads(line))
        finally:
            self.ended.set()

    def _hear(self, message: dict[str, Any]) -> None:
        match message["event"]:
            case "live":
                self.live = message
            case "abort":
                self._on_abort(message["limit"])
            case _:
                self._said.put(message)

    def _repeat(self) -> None:
        for line in cast(Any, self._child.stderr):
            text = line.decode(errors="replace").rstrip()
            self._complaints.append(text)
            log.info("observe: %s", text)

    def ready(self) -> dict[str, Any]:
        """Its first message: the stack is reset and warm. StackError when it ends or takes too long before that."""
        deadline = time.monotonic() + load.READY_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                message = self._said.get(timeout=0.1)
            except Empty:
                if self.ended.is_set() and self._said.empty():
                    raise self.failure() from None
                continue
            if message.get("event") == "ready":
                return cast(dict[str, Any], message)
        self.abandon()
        raise StackError(f"observe: the stack was not ready within {load.READY_TIMEOUT_S:.0f} s; {self._last_words()}")

    def send(self, message: Mapping[str, object]) -> None:
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")  # type: ignore[union-attr]
            self._child.stdin.flush()  # type: ignore[union-attr]
        except OSError:  # it has ended; whoever waits for it learns why
            log.warning("observe: gone before %r was sent", message["event"])

    def finish(self) -> int:
        """Wait for its end; its exit code. StackError when it takes too long."""
        code = self._reap(load.SNAPSHOT_TIMEOUT_S)
        if code is None:
            self.abandon()
            raise StackError(f"observe: no end within {load.SNAPSHOT_TIMEOUT_S:.0f} s; {self._last_words()}")
        return code

    def abandon(self) -> None:
        """End it without a result: its stdin's end is the sign; a signal when that does not help."""
        with contextlib.suppress(OSError):
            self._child.stdin.close()  # type: ignore[union-attr]
        if self._reap(15) is None:
            self._child.kill()
            self._reap(5)

    def failure(self) -> HarnessError:
        """Why it ended without a result, of the class whose exit code it gave."""
        code = self._reap(5)
        kind = {2: InputError, 4: RunInvalid}.get(code or 0, StackError)
        return kind(f"observe: ended with exit code {code}; {self._last_words()}")

    def _last_words(self) -> str:
        return "its last lines:\n" + "\n".join(self._complaints) if self._complaints else "it wrote nothing"

    def _reap(self, timeout_s: float) -> int | None:
        try:
            code = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        gevent.joinall(self._readers, timeout=5)
        return code
