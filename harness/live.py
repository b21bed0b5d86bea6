"""What a run has measured so far, judged while it goes on: from the same files, by the same functions as at its end.

Everything is told as of SETTLED_S ago: by then the samples are in the files, and what the servers counted since the
steady state began can be divided by the requests of the same time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import server_metrics, servers, summary, threshold, verdict_text, wal_archive
from harness.errors import HarnessError, StackError
from harness.model import SAMPLE, Metrics, Phases, RunMeta, ServerDelta, Snapshot, Verdict
from harness.rundir import RunDir
from harness.summary import SAMPLE_DTYPE, RunSamples, Samples

# A sample is in its file a second after its reply, one of a worker after that worker's report, every second, too; the
# third is for what comes late.
SETTLED_S = 3.0
# Of all time, what answers may take at most: the process that answers also takes the probes, once a second.
BUSY_RATIO = 0.1

NOT_COUNTING = "the steady state has not begun"
NOT_SETTLED = f"the steady state has just begun; figures come {SETTLED_S:g} s later"

_FIGURES = (
    "pool_utilisation_pct",
    "redis_hit_pct",
    "db_calls_per_request",
    "buffer_hit_pct",
    "throughput_rps",
    "p50_ms",
    "p95_ms",
)


class SampleTail:
    """A run's sample files as one array that grows: each record is read once, files may appear at any time."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._read_bytes: dict[Path, int] = {}
        self._rows: Samples = np.empty(1024, SAMPLE_DTYPE)
        self._count = 0

    def read(self) -> Samples:
        """All whole records so far, as they arrived: a view, outdated by the next call. The rest of a torn one is
        waited for. Raises StackError."""
        for path in sorted(self._run.path.glob(self._run.samples_path("*").name)):
            known = self._read_bytes.get(path, 0)
            try:
                with path.open("rb") as file:
                    file.seek(known)
                    new = file.read()
            except OSError as fault:
                raise StackError(f"{path}: {fault.strerror}; leave the run directory alone during a run") from fault
            whole = len(new) // SAMPLE.size
            self._append(np.frombuffer(new, SAMPLE_DTYPE, count=whole))
            self._read_bytes[path] = known + whole * SAMPLE.size
        return self._rows[: self._count]

    def _append(self, rows: Samples) -> None:
        needed = self._count + len(rows)
        if needed > len(self._rows):
            grown: Samples = np.empty(max(needed, 2 * len(self._rows)), SAMPLE_DTYPE)
            grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        self._rows[self._count : needed] = rows
        self._count = needed


@dataclass(frozen=True, slots=True)
class _Steady:
    """The counted phase, in µs from the run's origin; end_us None = not known. before: the snapshot at its start."""

    start_us: int
    end_us: int | None
    before: Snapshot


class Live:
    """The judge of one run that goes on. Its clock is the run's: microseconds from the origin."""

    def __init__(
        self,
        run: RunDir,
        meta: RunMeta,
        origin_monotonic_us: int,
        snapshot: Callable[[], Snapshot],
        clock_us: Callable[[], int],
    ) -> None:
        """snapshot: of all servers, now; raises StackError."""
        self._run = run
        self._meta = meta
        self._origin_us = origin_monotonic_us
        self._snapshot = snapshot
        self._clock_us = clock_us
        self._tail = SampleTail(run)
        self._steady: _Steady | None = None
        # what the servers did from the steady state's start to the first of the pair: one settled, then younger ones
        self._deltas: deque[tuple[int, ServerDelta]] = deque()
        self._answer: dict[str, Any] = {}
        self._rests_until_us = 0

    def count_from(self, start_us: int, end_us: int | None, before: Snapshot) -> None:
        """The steady state has begun; its end, where that is known. before: the snapshot of its start."""
        self._steady = _Steady(start_us, end_us, before)

    def answer(self, dropped: Mapping[str, int] | None = None) -> dict[str, Any]:
        """What the run comes to so far, in plain values; None = cannot say. Never raises HarnessError.

        dropped: of an open load, per endpoint the counted arrivals that never became a request; None = not known.
        at_us, servers_at_us: what samples and servers are as of. phase_s: steady state until at_us. samples: how many
        were read, of every phase. verdicts: {"text", "endpoint", "observed", "low", "high", "shown", "outcome"}, shown
        being the observed value with its unit. Then the figures a run is watched by. reason: why something cannot be
        said. When answers have taken more than BUSY_RATIO of the time, the last one is given again.
        """
        began_us = self._clock_us()
        if began_us >= self._rests_until_us:
            try:
                self._answer = self._judge(dropped)
            except HarnessError as error:
                self._answer = _told(reason=str(error))
            self._rests_until_us = began_us + round((self._clock_us() - began_us) / BUSY_RATIO)
        return self._answer

    def broken_limit(self) -> str | None:
        """The first limit on samples that failed over the scenario's abort window, in words; None: all hold, too
        little is known, or there is no such window. Only what clients see is judged: the servers' counts have no
        window. Raises HarnessError."""
        asked, steady = self._meta.scenario, self._steady
        if asked.abort_window_s is None or steady is None:
            return None
        end_us, window_us = self._settled_us(), round(asked.abort_window_s * 1e6)
        if end_us - window_us < steady.start_us or (steady.end_us is not None and end_us > steady.end_us):
            return None
        samples = self._samples(self._tail.read(), steady.start_us, steady.end_us)
        recent = summary.recent(samples, asked.load, end_us, window_us, summary.LATE_LIMIT_MS)
        limits = [limit for limit in asked.thresholds if threshold.on_samples(limit)]
        for verdict in threshold.evaluate(limits, recent, self._meta.profile):
            if verdict.outcome == "fail":
                where = f" ({verdict.endpoint})" if verdict.threshold.selector == "*" else ""
                shown = verdict_text.observed_text(verdict)
                return f"{verdict.threshold.text}{where} over the last {asked.abort_window_s:g} s: {shown}"
        return None

    def _settled_us(self) -> int:
        return self._clock_us() - round(SETTLED_S * 1e6)

    def _samples(
        self, rows: Samples, start_us: int, end_us: int | None, dropped: Mapping[str, int] | None = None
    ) -> RunSamples:
        """`rows`, read before: a name is on disk before the first record that refers to it."""
        phases = Phases("", self._origin_us, start_us, end_us, None)
        return RunSamples(rows, *self._run.read_names(), phases, dropped)

    def _judge(self, dropped: Mapping[str, int] | None) -> dict[str, Any]:
        settled_us, rows, steady = self._settled_us(), self._tail.read(), self._steady
        if steady is None:
            return _told(samples=len(rows), reason=NOT_COUNTING)
        fault = self._ask_servers(steady)
        at_us = settled_us if steady.end_us is None else min(settled_us, steady.end_us)
        if at_us <= steady.start_us:
            return _told(samples=len(rows), reason=fault or NOT_SETTLED)
        asked = self._meta.scenario
        samples = self._samples(rows[rows["scheduled_us"] < at_us], steady.start_us, at_us, dropped)
        measured = summary.combine([samples], asked.load, summary.LATE_LIMIT_MS, asked.seed, intervals=False)
        of_servers, servers_at_us = self._of_servers(steady, rows, samples.endpoints, settled_us)
        metrics: Metrics = {**summary.metrics(measured), **of_servers}
        # not strict: intervals, which it asks for, are worked out at the end only
        verdicts = threshold.evaluate(asked.thresholds, metrics, self._meta.profile)
        return _told(
            samples=len(rows),
            reason=fault,
            at_us=at_us,
            servers_at_us=servers_at_us,
            phase_s=(at_us - steady.start_us) / 1e6,
            verdicts=[_plain(verdict) for verdict in verdicts],
            requests=measured.pooled.requests,
            failures=measured.pooled.failures,
            **{name: _value(metrics, name) for name in _FIGURES},
        )

    def _ask_servers(self, steady: _Steady) -> str | None:
        """Takes a snapshot, for later: its requests are not all in the files yet. Why it could not, or None."""
        try:
            now = self._snapshot()
            delta = wal_archive.with_lag(
                servers.diff(steady.before, now, self._meta.queries), self._run.read_probes(self._origin_us)
            )
        except HarnessError as error:
            return str(error)
        self._deltas.append((now.monotonic_us - self._origin_us, delta))
        return None

    def _of_servers(
        self, steady: _Steady, rows: Samples, endpoints: tuple[str, ...], settled_us: int
    ) -> tuple[Metrics, int | None]:
        """The servers' metrics as of the last settled snapshot, and when that was; nothing without one."""
        while len(self._deltas) > 1 and self._deltas[1][0] <= settled_us:
            self._deltas.popleft()
        if not self._deltas or self._deltas[0][0] > settled_us:
            return {}, None
        at_us, delta = self._deltas[0]
        started_us = rows["start_us"]
        between = (started_us >= steady.before.monotonic_us - self._origin_us) & (started_us < at_us)
        numbers, counts = np.unique(rows["endpoint"][between], return_counts=True)
        requests = Counter({endpoints[number]: int(count) for number, count in zip(numbers, counts, strict=True)})
        return server_metrics.metrics(delta, self._meta.profile, requests), at_us


def _told(*, reason: str | None, **known: Any) -> dict[str, Any]:
    """An answer: what is not known is None."""
    absent = dict.fromkeys(("at_us", "servers_at_us", "phase_s", "samples", "requests", "failures", *_FIGURES))
    return {**absent, "verdicts": [], **known, "reason": reason}


def _value(metrics: Metrics, name: str) -> float | None:
    estimate = metrics.get(name, {}).get(None)
    return None if estimate is None else estimate.value


def _plain(verdict: Verdict) -> Mapping[str, object]:
    observed = verdict.observed
    return {
        "text": verdict.threshold.text,
        "endpoint": verdict.endpoint,
        "observed": None if observed is None else observed.value,
        "low": None if observed is None else observed.low,
        "high": None if observed is None else observed.high,
        "shown": verdict_text.observed_text(verdict),
        "outcome": verdict.outcome,
    }
