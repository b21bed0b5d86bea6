"""A report's tables of measured facts: one row per figure, one text per side. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.model import CacheDelta, RunResult, ServerDelta, StatementDelta
from harness.report_text import NO_DATA, figure
from harness.server_metrics import PoolUse, SeqScanShares, pool_use, seq_scan_shares
from harness.threshold import METRICS
from harness.units import format_bytes, format_count, format_ms, format_pct

# C-009 asks for queries below 100 ms.
SLOW_STATEMENT_MS = 100.0

# (profile, its result) in the order of the columns
Sides = Sequence[tuple[str, RunResult]]


@dataclass(frozen=True, slots=True)
class Fact:
    """One measured row: a text per side."""

    label: str
    texts: tuple[str, ...]


def database_facts(sides: Sides) -> tuple[Fact, ...]:
    """PostgreSQL's counters between the two snapshots."""

    def row(label: str, text: Callable[[ServerDelta], str]) -> Fact:
        return Fact(label, tuple(text(result.servers) if result.servers else NO_DATA for _, result in sides))

    return (
        Fact("Buffer cache hit ratio", tuple(_metric_text(result, "buffer_hit_pct") for _, result in sides)),
        row("Blocks asked for", lambda s: format_count(s.blks_hit + s.blks_read)),
        row("Blocks not found in shared buffers", lambda s: format_count(s.blks_read)),
        row("Transactions committed", lambda s: format_count(s.xact_commit)),
        row("Transactions rolled back", lambda s: format_count(s.xact_rollback)),
        row("Deadlocks", lambda s: format_count(s.deadlocks)),
        row("Temporary files", lambda s: format_bytes(s.temp_bytes)),
        row("WAL written", lambda s: format_bytes(s.wal_bytes)),
        row("Statements with a mean of 100 ms and more", lambda s: _slow_statements(s.statements)),
    )


def _slow_statements(statements: Sequence[StatementDelta]) -> str:
    slow = [s for s in statements if s.calls and s.total_ms / s.calls >= SLOW_STATEMENT_MS]
    return f"{len(slow)} of {len(statements)}"


def scan_facts(sides: Sides) -> tuple[Fact, ...]:
    """Sequential scans in schema farm, three ways, since each misleads alone."""
    shares = [
        seq_scan_shares(result.servers, result.summary.pooled.requests) if result.servers else None
        for _, result in sides
    ]

    def row(label: str, text: Callable[[SeqScanShares], str]) -> Fact:
        return Fact(label, tuple(text(share) if share else NO_DATA for share in shares))

    return (
        row("Share of scans started", lambda s: figure(s.by_scans_pct, "pct")),
        row("Share of rows read", lambda s: figure(s.by_tuples_pct, "pct")),
        row("Volume passed over", lambda s: format_bytes(s.seq_bytes)),
        row("Tables read whole again and again", lambda s: ", ".join(s.offenders) or "none"),
        row("Small tables left out", lambda s: ", ".join(s.excluded) or "none"),
    )


def cache_facts(sides: Sides) -> tuple[Fact, ...]:
    """The application's result cache and the Redis server that it shares."""

    def row(label: str, text: Callable[[CacheDelta], str]) -> Fact:
        return Fact(label, tuple(side(result, text) for _, result in sides))

    def side(result: RunResult, text: Callable[[CacheDelta], str]) -> str:
        if result.servers is None:
            return NO_DATA
        return "n/a: this day has no cache" if result.servers.cache is None else text(result.servers.cache)

    def whole_server(cache: CacheDelta) -> str:
        asked = cache.server_hits + cache.server_misses
        return f"{format_pct(100 * cache.server_hits / asked)} of {asked:,}" if asked else "no data: no look-up"

    def application(cache: CacheDelta) -> str:
        if not cache.lookups:
            return "no data: no look-up"
        return f"{format_pct(100 * cache.hits / cache.lookups)} of {cache.lookups:,} look-ups"

    return (
        row("Result cache of the application, hit ratio", application),
        row("Whole Redis server, hit ratio", whole_server),
        row("Errors", lambda c: format_count(c.errors)),
        row("Keys evicted", lambda c: format_count(c.evicted_keys)),
        row("Keys expired", lambda c: format_count(c.expired_keys)),
    )


def pool_facts(sides: Sides) -> tuple[Fact, ...]:
    """One row per pgBouncer alias that carried traffic on either side."""
    used = [
        {pool.alias: pool for pool in pool_use(result.servers, result.probes)} if result.servers else {}
        for _, result in sides
    ]

    def text(result: RunResult, pool: PoolUse | None) -> str:
        if result.servers is None:
            return NO_DATA
        if result.servers.pools is None:
            return "n/a: this day has no pool"
        if pool is None:
            return "no traffic"
        parts = [
            f"{format_pct(pool.mean_pct)} of {pool.capacity} links in use",
            f"{pool.xact_count:,} transactions",
            f"{format_ms(pool.mean_wait_ms)} mean wait for a link",
        ]
        for pct, meaning in (
            (pool.held_idle_pct, "of the use without a query running"),
            (pool.peak_pct, "at its highest sample"),
            (pool.ceiling_pct, "is the most that its clients could hold"),
        ):
            if pct is not None:
                parts.append(f"{format_pct(pct)} {meaning}")
        return "; ".join(parts)

    return tuple(
        Fact(
            f"Pool {alias}",
            tuple(text(result, pools.get(alias)) for (_, result), pools in zip(sides, used, strict=True)),
        )
        for alias in sorted(set().union(*used))
    )


def service_facts(sides: Sides) -> tuple[Fact, ...]:
    """CPU (mean cores in use) and resident memory per service."""
    names = sorted({name for _, result in sides if result.servers for name in result.servers.process_cpu_s})

    def text(result: RunResult, name: str) -> str:
        servers = result.servers
        if servers is None or servers.elapsed_s <= 0:
            return NO_DATA
        cpu_s, rss = servers.process_cpu_s.get(name), servers.process_rss_bytes.get(name)
        if cpu_s is None:
            return "n/a: not part of this day"
        memory = NO_DATA if rss is None else format_bytes(rss)
        return f"{cpu_s / servers.elapsed_s:.2f} cores, {memory}"

    return tuple(Fact(name, tuple(text(result, name) for _, result in sides)) for name in names)


def environment_facts(
    sides: Sides, attribute: Literal["host", "versions", "herd"], missing: str = NO_DATA
) -> tuple[Fact, ...]:
    """What a run recorded of its host, versions or herd; missing: the text where a side has no such entry."""
    found = [getattr(result.meta, attribute) for _, result in sides]
    names = sorted(set().union(*found))

    def text(values: Mapping[str, Any], name: str) -> str:
        value = values.get(name)
        if value is None:
            return missing
        return format_bytes(value) if name.endswith("_bytes") else str(value)

    return tuple(
        Fact(name.removesuffix("_bytes").replace("_", " "), tuple(text(values, name) for values in found))
        for name in names
    )


def _metric_text(result: RunResult, metric: str) -> str:
    estimate = result.metrics.get(metric, {}).get(None)
    return NO_DATA if estimate is None else figure(estimate.value, METRICS[metric].unit)
