"""What the servers did, as metrics that limits are held against: sequential scans, pools, caches, statements.

Pure: no I/O.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness import attribution
from harness.model import Estimate, Metrics, PoolDelta, Profile, ServerDelta
from harness.statements import Moments, moments_of

# The planner rightly reads a table of up to 8 pages sequentially even for one row, and scanning fewer than 1,000
# rows costs nothing worth an index: such tables say nothing about missing indexes.
SMALL_TABLE_ROWS = 1_000
SMALL_TABLE_PAGES = 8
OFFENDER_TUPLES_PER_SCAN = 1_000
OFFENDER_SCANS_PER_REQUEST = 0.01

# Two-sided 95 % quantile of the normal distribution.
Z95 = 1.96


@dataclass(frozen=True, slots=True)
class SeqScanShares:
    """The three faces of sequential scanning; each misleads alone (a nested loop adds an index scan per outer row,
    an index-only scan fetches no tuple).

    scans: all scans of the judged tables. seq_bytes: heap bytes passed over, at full table size per scan.
    excluded: "schema.table" too small to judge. offenders: judged tables whose scans read 1,000 tuples or more and
    start more often than once in 100 requests.
    """

    scans: int
    by_scans_pct: float | None
    by_tuples_pct: float | None
    seq_bytes: int
    excluded: tuple[str, ...]
    offenders: tuple[str, ...]


def seq_scan_shares(delta: ServerDelta, requests: int | None = None, schema: str = "farm") -> SeqScanShares:
    """Over the tables of `schema` with at least 1,000 rows and more than 8 pages. requests: as counted in the same
    span; None = one scan is enough to offend."""
    tables = [table for table in delta.tables if table.schema == schema]
    judged = [one for one in tables if one.rows_estimate >= SMALL_TABLE_ROWS and one.pages > SMALL_TABLE_PAGES]
    seq_scans = sum(one.seq_scan for one in judged)
    scans = seq_scans + sum(one.idx_scan or 0 for one in judged)
    seq_tuples = sum(one.seq_tup_read for one in judged)
    tuples = seq_tuples + sum(one.idx_tup_fetch or 0 for one in judged)
    return SeqScanShares(
        scans=scans,
        by_scans_pct=share_pct(seq_scans, scans),
        by_tuples_pct=share_pct(seq_tuples, tuples),
        seq_bytes=sum(one.seq_scan * one.heap_bytes for one in judged),
        excluded=tuple(f"{one.schema}.{one.table}" for one in tables if one not in judged),
        offenders=tuple(
            f"{one.schema}.{one.table}"
            for one in judged
            if one.seq_scan
            and one.seq_tup_read / one.seq_scan >= OFFENDER_TUPLES_PER_SCAN
            and (not requests or one.seq_scan / requests > OFFENDER_SCANS_PER_REQUEST)
        ),
    )


@dataclass(frozen=True, slots=True)
class PoolUse:
    """One alias. mean_pct: share of its links that clients held, on average over the run, exact from counters.
    held_idle_pct: part of that time in which no query ran (the client computed inside its transaction).
    peak_pct: highest sample of links in use; ceiling_pct: what its clients could hold at most, one link each."""

    alias: str
    capacity: int
    xact_count: int
    mean_pct: float
    held_idle_pct: float | None
    mean_wait_ms: float
    peak_pct: float | None
    ceiling_pct: float | None


def pool_use(delta: ServerDelta, probes: Mapping[str, Sequence[tuple[float, float]]] | None = None) -> list[PoolUse]:
    """Aliases that carried traffic, the busiest first. probes: series name -> (s, value), for peak and ceiling.

    Mean = (Δxact_time - Δwait_time) / (elapsed * pool_size). pgBouncer starts a transaction's clock before it looks
    for a link, so that its times include the wait in the queue.
    """
    use = []
    for pool in delta.pools or ():
        if not (pool.xact_count and pool.elapsed_us > 0 and pool.capacity):
            continue
        held_us = pool.xact_time_us - pool.wait_time_us
        busy_us = pool.query_time_us - pool.wait_time_us

        def highest_pct(gauge: str, pool: PoolDelta = pool) -> float | None:
            samples = (probes or {}).get(f"pool.{pool.alias}.{gauge}")
            return min(100.0, 100 * max(value for _, value in samples) / pool.capacity) if samples else None

        use.append(
            PoolUse(
                alias=pool.alias,
                capacity=pool.capacity,
                xact_count=pool.xact_count,
                mean_pct=100 * held_us / (pool.elapsed_us * pool.capacity),
                held_idle_pct=100 * (1 - busy_us / held_us) if held_us > 0 else None,
                mean_wait_ms=pool.wait_time_us / pool.xact_count / 1000,
                peak_pct=highest_pct("sv_active"),
                ceiling_pct=highest_pct("clients"),
            )
        )
    return sorted(use, key=lambda one: -one.mean_pct)


def metrics(delta: ServerDelta, profile: Profile, requests_by_endpoint: Mapping[str, int] | None = None) -> Metrics:
    """The servers' part of a run's metrics: metric -> selector (None = pooled) -> estimate; None = cannot say.

    Counters give exact values without an interval. `statement_mean_ms` has one by its query's name: mean ± 1.96
    standard errors, which takes calls as independent and so is the narrowest that can be claimed. Day 31 connects
    directly and has no cache: its pool and cache metrics are None whatever runs beside it.
    requests_by_endpoint: requests answered between the snapshots.
    """
    scans = seq_scan_shares(delta)
    pools = pool_use(delta) if profile == "day40" else []
    cache = delta.cache if profile == "day40" else None
    archive = delta.archive
    utilisation: dict[str | None, Estimate | None] = {one.alias: _exact(one.mean_pct, one.xact_count) for one in pools}
    return {
        "statement_mean_ms": dict(_statement_means(delta)),
        "buffer_hit_pct": {None: _share(delta.blks_hit, delta.blks_hit + delta.blks_read)},
        "seq_scan_pct": {None: _exact(scans.by_scans_pct, scans.scans)},
        "pool_utilisation_pct": {None: next(iter(utilisation.values()), None), **utilisation},
        "redis_hit_pct": {None: _share(cache.hits, cache.lookups) if cache else None},
        "redis_server_hit_pct": {
            None: _share(cache.server_hits, cache.server_hits + cache.server_misses) if cache else None
        },
        "wal_archive_lag_s": {None: _exact(archive.lag_s, archive.lag_samples) if archive else None},
        "wal_archive_failures": {
            None: _exact(archive.failures, archive.segments + archive.failures) if archive else None
        },
        # what was evicted is missing from the sums, and an upper limit would pass for that
        **attribution.per_request(() if delta.statements_lost else delta.statements, requests_by_endpoint or {}),
    }


def _statement_means(delta: ServerDelta) -> Iterable[tuple[str, Estimate]]:
    named: dict[str, Moments] = defaultdict(lambda: Moments(0, 0.0, 0.0))
    for statement in delta.statements:
        if statement.name:
            named[statement.name] = named[statement.name].plus(moments_of(statement))
    for name, timings in named.items():
        mean, half = timings.total / timings.count, None
        if timings.count >= 2:
            half = Z95 * math.sqrt(timings.m2 / (timings.count - 1) / timings.count)
        low, high = (None, None) if half is None else (max(0.0, mean - half), mean + half)
        yield name, Estimate(mean, low, high, timings.count)


def share_pct(part: int, whole: int) -> float | None:
    """part / whole in percent; None of nothing."""
    return 100 * part / whole if whole else None


def _exact(value: float | None, count: int) -> Estimate | None:
    return None if value is None else Estimate(value, None, None, count)


def _share(part: int, whole: int) -> Estimate | None:
    return _exact(share_pct(part, whole), whole)
