"""Writes one process's samples while load runs, and counts them. Computes nothing, imports neither numpy nor Locust.

Several processes of one run may record into the same directory: each has its own sample file, all share the names.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections import Counter
from pathlib import Path
from types import TracebackType

from harness.errors import RunInvalid, StackError
from harness.model import OUTCOME_OK, SAMPLE
from harness.rundir import RunDir

_MOST_NAMES = 2**16


class Recorder:
    """Context manager around a run's recording; leaving it flushes.

    sent: requests per endpoint index, counted before the socket write. recorded: samples taken. failure: why samples
    were lost (the disk is full), else None; such a run is invalid.
    """

    def __init__(self, run_dir_path: Path, origin_monotonic_us: int) -> None:
        self._run_dir = RunDir(run_dir_path)
        self._origin_us = origin_monotonic_us
        self._buffer = bytearray()
        self._descriptor = -1
        self._endpoints: dict[str, int] = {}
        self._outcomes: dict[str, int] = {"ok": OUTCOME_OK}
        self.sent: Counter[int] = Counter()
        self.recorded: Counter[int] = Counter()
        self.failure: str | None = None

    def __enter__(self) -> Recorder:
        path = self._run_dir.samples_path(os.getpid())
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as fault:
            raise StackError(f"{path}: {fault.strerror}; record into a new, writable run directory") from fault
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.flush()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def now_us(self) -> int:
        """Microseconds from the run's origin, by CLOCK_MONOTONIC."""
        return time.monotonic_ns() // 1000 - self._origin_us

    def endpoint_id(self, name: str) -> int:
        """The index that samples use for endpoint `name`; on disk before it is returned."""
        index = self._endpoints.get(name)
        return self._learn(endpoint=name) if index is None else index

    def outcome_id(self, name: str) -> int:
        """The index that samples use for outcome `name`; "ok" is 0."""
        index = self._outcomes.get(name)
        return self._learn(outcome=name) if index is None else index

    def count_sent(self, endpoint: int) -> None:
        """Call it right before the socket write."""
        self.sent[endpoint] += 1

    def record(
        self,
        scheduled_us: int,
        start_us: int,
        service_us: int,
        endpoint: int,
        outcome: int,
        bytes_in: int,
        user: int,
    ) -> None:
        """Takes one finished request; times in µs from the origin. Raises RunInvalid for a number that has no place
        in the record: clamped, it would pass for a measurement."""
        try:
            packed = SAMPLE.pack(scheduled_us, start_us, service_us, endpoint, outcome, bytes_in, user)
        except struct.error as fault:
            raise RunInvalid(
                f"sample {(scheduled_us, start_us, service_us, endpoint, outcome, bytes_in, user)}: {fault}; "
                "give integers, and requests time-outs below 71 minutes"
            ) from None
        self.recorded[endpoint] += 1
        if self.failure is None:
            self._buffer += packed

    def flush(self) -> None:
        """Appends what was recorded to the sample file. Raises StackError the first time this fails; from then on
        samples are counted but not kept."""
        while self._buffer:
            try:
                written = os.write(self._descriptor, self._buffer)
            except OSError as fault:
                self.failure = (
                    f"{self._run_dir.samples_path(os.getpid())}: {fault.strerror}, {len(self._buffer) // SAMPLE.size}"
                    " samples or more are lost; free space and run again"
                )
                self._buffer.clear()
                raise StackError(self.failure) from fault
            del self._buffer[:written]

    def counts(self) -> dict[str, dict[str, int]]:
        """{"sent": {endpoint: n}, "recorded": {endpoint: n}} of this process, every endpoint it knows in both."""
        return {
            "sent": {name: self.sent[index] for name, index in self._endpoints.items()},
            "recorded": {name: self.recorded[index] for name, index in self._endpoints.items()},
        }

    def _learn(self, endpoint: str | None = None, outcome: str | None = None) -> int:
        """Looks a new name up in the shared list, or appends it there; the directory's lock keeps processes apart."""
        lock = os.open(self._run_dir.path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            endpoints, outcomes = self._run_dir.read_names()
            if endpoint is not None and endpoint not in endpoints:
                endpoints = (*endpoints, endpoint)
                self._run_dir.write_names(endpoints, outcomes)
            if outcome is not None and outcome not in outcomes:
                outcomes = (*outcomes, outcome)
                self._run_dir.write_names(endpoints, outcomes)
        finally:
            # gevent puts off the closing of a directory, and lets others run meanwhile: they would wait for us forever
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)
        if max(len(endpoints), len(outcomes)) > _MOST_NAMES:
            raise RunInvalid(
                f"{self._run_dir.path}: more than {_MOST_NAMES} names; name requests by template, not by id"
            )
        if endpoint is not None:
            return self._endpoints.setdefault(endpoint, endpoints.index(endpoint))
        return self._outcomes.setdefault(str(outcome), outcomes.index(str(outcome)))
