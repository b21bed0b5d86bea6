"""The load generator's own state: a busy one measures itself instead of the servers."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gevent
import psutil

from harness import load

_LAG_INTERVAL_S = 0.05


class Sampler:
    """Watches this process, from the moment it is made: loop lag 20 times a second, CPU (100 = one core) and open
    files once a second."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._cpu_pct: list[float] = []
        self._lag_ms: list[float] = []
        self._fds = self._process.num_fds()
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        self._greenlet.kill()

    def take(self) -> dict[str, Any]:
        """What was seen since the last call, as plain values."""
        seen = {
            "cpu_pct": self._cpu_pct,
            "lag_ms": self._lag_ms,
            "fds": self._fds,
            "fds_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }
        self._cpu_pct, self._lag_ms = [], []
        return seen

    def _run(self) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        while True:
            before = time.monotonic()
            gevent.sleep(_LAG_INTERVAL_S)
            now = time.monotonic()
            self._lag_ms.append((now - before - _LAG_INTERVAL_S) * 1000)
            if now - wall >= 1:
                used = time.process_time()
                self._cpu_pct.append((used - cpu) / (now - wall) * 100)
                self._fds = self._process.num_fds()
                wall, cpu = now, used


class Record:
    """What the `Sampler` of one process saw over the whole run."""

    def __init__(self) -> None:
        self._cpu_pct: list[float] = []
        self._lag_ms: list[float] = []
        self._fds: list[int] = []
        self._fds_limit: int | None = None

    def add(self, seen: Mapping[str, Any]) -> None:
        self._cpu_pct += seen["cpu_pct"]
        self._lag_ms += seen["lag_ms"]
        self._fds.append(seen["fds"])
        self._fds_limit = seen["fds_limit"]

    def summary(self, last: int | None = None) -> dict[str, float | None]:
        """Over the run, or over its last seconds."""
        cpu_pct = self._cpu_pct[-last:] if last else self._cpu_pct
        lag_ms = self._lag_ms[-round(last / _LAG_INTERVAL_S) :] if last else self._lag_ms
        return {
            "cpu_p95_pct": load.percentile(cpu_pct, 0.95),
            "cpu_max_pct": max(cpu_pct, default=None),
            "lag_p95_ms": load.percentile(lag_ms, 0.95),
            "lag_max_ms": max(lag_ms, default=None),
            "fds_max": max(self._fds, default=None),
            "fds_limit": self._fds_limit,
        }


def shown(summaries: Sequence[Mapping[str, float | None]]) -> str:
    """The busiest process in words, for the log."""

    def worst(name: str) -> float | None:
        return max((value for one in summaries if (value := one[name]) is not None), default=None)

    cpu, lag, fds = worst("cpu_p95_pct"), worst("lag_p95_ms"), worst("fds_max")
    if cpu is None or lag is None or fds is None:
        return "not known yet"
    return f"CPU {cpu:.0f} %, loop lag {lag:.1f} ms, {fds:.0f} open files"
