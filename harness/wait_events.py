"""What PostgreSQL's active backends waited for over the counted phase, from the samples taken once a second. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.model import RunResult

PREFIX = "postgres.wait."
# PostgreSQL's wait_event_type; "none" is the probe's name for a backend that waits for nothing.
MEANINGS: Mapping[str, str] = {
    "none": "no wait: on a processor, or ready for one",
    "Activity": "a server process in its main loop",
    "BufferPin": "another backend that holds the page",
    "Client": "the client: to send, or to read what it was sent",
    "Extension": "an extension",
    "IO": "input or output of files",
    "IPC": "another process of the server",
    "Lock": "a lock on a table, a row or an object",
    "LWLock": "a lock on shared memory",
    "Timeout": "a delay that the server chose",
}


@dataclass(frozen=True, slots=True)
class WaitShare:
    """One class of wait. mean_backends: active backends in it on average over the samples; share_pct: of the active
    ones, None when none was ever active."""

    wait: str
    mean_backends: float
    share_pct: float | None


def wait_shares(runs: Sequence[RunResult]) -> tuple[WaitShare, ...]:
    """Over all samples of these runs (of one profile) taken in their counted phases, the largest first; classes that
    never occurred are left out. Empty without samples."""
    totals: dict[str, float] = {}
    samples: dict[str, int] = {}
    for run in runs:
        for series, points in run.probes.items():
            if series.startswith(PREFIX):
                counted = [value for at_s, value in points if _is_counted(run, at_s)]
                wait = series.removeprefix(PREFIX)
                totals[wait] = totals.get(wait, 0.0) + sum(counted)
                samples[wait] = samples.get(wait, 0) + len(counted)
    # a class that the first sample does not name has fewer; all are of the same moments
    taken = max(samples.values(), default=0)
    if not taken:
        return ()
    active = sum(totals.values())
    shares = [
        WaitShare(wait, total / taken, 100 * total / active if active else None)
        for wait, total in totals.items()
        if total or not active
    ]
    return tuple(sorted(shares, key=lambda share: (-share.mean_backends, share.wait)))


def _is_counted(run: RunResult, at_s: float) -> bool:
    phases = run.meta.phases
    if phases is None or phases.steady_start_us is None or phases.steady_end_us is None:
        return True
    return phases.steady_start_us / 1e6 <= at_s < phases.steady_end_us / 1e6
