"""How far the archive is behind, from hand-built samples, snapshots and a simulated server."""

from __future__ import annotations

from typing import Any

import pytest
from built_snapshots import delta, snapshot
from hypothesis import given
from hypothesis import strategies as st

from harness.model import ArchiveDelta, Snapshot
from harness.server_metrics import metrics
from harness.servers import combine
from harness.wal_archive import Series, lags_s, with_lag

SEGMENT = 100


def series(*rows: tuple[float, float, float | None, float | None]) -> Series:
    """rows: (at_s, written, archived, since_archived_s)."""
    named = zip(("written_bytes", "archived_bytes", "since_archived_s"), range(1, 4), strict=True)
    return {f"wal.{name}": [(row[0], row[i]) for row in rows if row[i] is not None] for name, i in named}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("rows", "lags"),
    [
        pytest.param([(0, 50, 50, 9), (1, 50, 50, 10)], [0, 0], id="all of it is archived"),
        pytest.param([(0, 50, 50, 9), (1, 60, 50, 10), (2, 70, 50, 11)], [0, 1, 2], id="from the last complete sample"),
        pytest.param([(0, 60, 50, 4), (1, 60, 50, 5)], [4, 5], id="before the first sample: since the last archiving"),
        pytest.param(
            [(0, 50, 50, 9), (1, 60, 50, 10), (2, 130, 50, 11), (3, 140, 100, 0), (4, 140, 140, 0)],
            [0, 1, 2, 2, 0],
            id="what was archived late leaves the rest as old as it is",
        ),
        pytest.param([(0, 90, 50, 4), (1, 120, 100, 0)], [4, 1], id="the first segment's rest is younger"),
        pytest.param([(0, 500, 50, None), (1, 500, 500, 0)], None, id="more than one segment waited at first"),
        pytest.param([(0, 50, None, None), (1, 60, None, None)], None, id="nothing was ever archived"),
        pytest.param([], None, id="no sample"),
    ],
)
def test_the_lag_is_the_age_of_the_oldest_that_is_not_archived(rows: Any, lags: list[float] | None) -> None:
    assert lags_s(series(*rows)) == lags


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 150)), min_size=1, max_size=60),
    st.integers(0, 20),
)
def test_no_lag_is_below_the_true_one(steps: list[tuple[float, int]], behind_s: int) -> None:
    """A server that writes at some moments and whose archiver sees each full segment `behind_s` later."""
    now, written, writes, full = 0.0, 0, [(0.0, 0)], [(0.0, 0)]
    rows, truth = [(0.0, 0, 0, 0.0)], [0.0]
    for pause_s, grown in steps:
        now += pause_s
        written += grown
        writes.append((now, written))
        if written // SEGMENT * SEGMENT > full[-1][1]:
            full.append((now, written // SEGMENT * SEGMENT))
        archived = max(end for at, end in full if at <= now - behind_s or end == 0)
        if now == rows[-1][0]:
            continue
        rows.append((now, written, archived, None))
        waiting = [at for at, end in writes if end > archived]
        truth.append(now - min(waiting) if waiting else 0.0)
    found = lags_s(series(*rows))
    assert found is not None
    assert all(lag >= true for lag, true in zip(found, truth, strict=True))


def archiver(count: int, failed: int, **columns: Any) -> Snapshot:
    row = {"archived_count": count, "failed_count": failed, "segment_bytes": SEGMENT} | columns
    return snapshot(archiver=row, settings={"archive_mode": "on"})


def test_what_the_archive_costs_and_refuses() -> None:
    change = delta(archiver(3, 1), archiver(7, 3))
    assert change.archive == ArchiveDelta(4, 400, 2, None, 0)
    judged = metrics(with_lag(change, series((0, 60, 50, 4), (1, 60, 50, 5))), "day40")
    lag, failures = judged["wal_archive_lag_s"][None], judged["wal_archive_failures"][None]
    assert lag is not None
    assert failures is not None
    assert (lag.value, lag.count, failures.value, failures.count) == (5, 2, 2, 6)


def test_without_archiving_or_samples_nothing_is_said() -> None:
    off = delta(snapshot(), snapshot(archiver={"archived_count": 0}, settings={"archive_mode": "off"}))
    assert off.archive is None
    assert with_lag(off, series((0, 60, 50, 4))).archive is None
    assert metrics(off, "day31")["wal_archive_failures"] == {None: None}
    assert metrics(with_lag(delta(archiver(1, 0), archiver(1, 0)), {}), "day40")["wal_archive_lag_s"] == {None: None}


def test_of_several_runs_the_worst_lag_holds_and_an_unknown_one_stays_unknown() -> None:
    change = delta(archiver(3, 0), archiver(4, 1))
    late, later = (with_lag(change, series((0, 60, 50, at_s))) for at_s in (5, 8))
    assert combine([late, later]).archive == ArchiveDelta(2, 200, 2, 8, 2)
    unknown = combine([late, change]).archive
    assert unknown is not None
    assert unknown.lag_s is None


def test_a_reset_of_the_counters_is_warned_of() -> None:
    assert "pg_stat_archiver" in delta(archiver(3, 0), archiver(1, 0)).warnings[0]
