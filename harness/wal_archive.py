"""How far the WAL archive is behind, and what it costs: from snapshots and samples to figures.

Pure: no I/O.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.model import ArchiveDelta, ServerDelta, Snapshot

# Of each sample: how far WAL was written and how far it is archived, in bytes from its beginning, and the age of the
# last archiving; that one is absent while more than one segment waits, when it says nothing about the oldest.
WRITTEN_BYTES = "wal.written_bytes"
ARCHIVED_BYTES = "wal.archived_bytes"
SINCE_ARCHIVED_S = "wal.since_archived_s"

Series = Mapping[str, Sequence[tuple[float, float]]]


def lags_s(probes: Series) -> list[float] | None:
    """Per sample the age of the oldest WAL that the archive lacks: what the loss of the server's disk would cost then.
    None where the archive's state before the first sample is not known, or there is no sample.

    probes: series -> (s, value) in time order. A record that became the oldest between two samples counts from the
    earlier one, so that each is an upper bound by a sampling interval. What the server writes for itself counts too.
    """
    written, archived = probes.get(WRITTEN_BYTES, ()), dict(probes.get(ARCHIVED_BYTES, ()))
    since_archived_s = dict(probes.get(SINCE_ARCHIVED_S, ()))
    at_s, positions = [at for at, _ in written], [position for _, position in written]
    lags: list[float] = []
    for number, (now_s, position) in enumerate(written):
        if now_s not in archived:
            continue
        if position <= archived[now_s]:
            lags.append(0.0)
            continue
        # the last sample up to this one in which all that was written is what is archived now
        earlier = bisect_right(positions, archived[now_s], hi=number)
        if earlier:
            complete_s = at_s[earlier - 1]
        elif at_s[0] in since_archived_s:
            complete_s = at_s[0] - since_archived_s[at_s[0]]
        else:
            return None
        lags.append(now_s - complete_s)
    return lags or None


def between(before: Snapshot, after: Snapshot, count: Callable[[str, Any, Any], int]) -> ArchiveDelta | None:
    """What was archived between two snapshots; None where archiving is off or the snapshots do not tell.

    count: the growth of a counter, of (place, before, after).
    """
    old, new = before.postgres.get("archiver", {}), after.postgres.get("archiver", {})
    settings = after.postgres["settings"]
    if settings.get("archive_mode", "off") == "off" or "segment_bytes" not in new:
        return None

    def grown(name: str) -> int:
        return count("pg_stat_archiver", old.get(name), new[name])

    segments = grown("archived_count")
    return ArchiveDelta(
        segments=segments,
        # a segment costs its whole length, however little of it was filled when archive_timeout closed it
        archived_bytes=segments * int(new["segment_bytes"]),
        failures=grown("failed_count"),
        lag_s=None,
        lag_samples=0,
    )


def with_lag(delta: ServerDelta, probes: Series) -> ServerDelta:
    """The delta with its archive's worst lag over all samples of the run."""
    lags = lags_s(probes)
    if delta.archive is None or lags is None:
        return delta
    return replace(delta, archive=replace(delta.archive, lag_s=max(lags), lag_samples=len(lags)))


def combine(a: ArchiveDelta | None, b: ArchiveDelta | None) -> ArchiveDelta | None:
    """Two runs as one: counts add up, of lags the worst holds; a run whose lag is unknown makes it unknown."""
    if a is None or b is None:
        return None
    return ArchiveDelta(
        segments=a.segments + b.segments,
        archived_bytes=a.archived_bytes + b.archived_bytes,
        failures=a.failures + b.failures,
        lag_s=None if a.lag_s is None or b.lag_s is None else max(a.lag_s, b.lag_s),
        lag_samples=a.lag_samples + b.lag_samples,
    )
