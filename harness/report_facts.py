"""A report's tables of measured facts: one row per figure, one text per side. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.model import ArrivalStats, CacheDelta, Profile, ResultCacheDelta, RunResult, ServerDelta, StatementDelta
from harness.report_text import NO_DATA, figure
from harness.server_metrics import PoolUse, SeqScanShares, pool_use, seq_scan_shares
from harness.statements import over_endpoints
from harness.summary import LATE_AFTER_MS
from harness.threshold import METRICS
from harness.units import format_bytes, format_count, format_ms, format_pct

# C-009 asks for queries below 100 ms.
SLOW_STATEMENT_MS = 100.0

# (profile, its result) in the order of the columns
Sides = Sequence[tuple[Profile, RunResult]]


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
        Fact("WAL archived", tuple(_archive_text(result) for _, result in sides)),
        row("Statements with a mean of 100 ms and more", lambda s: _slow_statements(s.statements)),
    )


def _archive_text(result: RunResult) -> str:
    archive = result.servers.archive if result.servers else None
    if archive is None:
        return "none: archiving is off" if result.settings.get("archive_mode") == "off" else NO_DATA
    segments = f"{format_bytes(archive.archived_bytes)} on disk, {format_count(archive.segments)} segments"
    return segments + (f", {format_count(archive.failures)} failed attempts" if archive.failures else "")


def _slow_statements(statements: Sequence[StatementDelta]) -> str:
    known = over_endpoints(statements)
    slow = [s for s in known if s.calls and s.total_ms / s.calls >= SLOW_STATEMENT_MS]
    return f"{len(slow)} of {len(known)}"


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

    def application(cache: CacheDelta | ResultCacheDelta) -> str:
        if not cache.lookups:
            return "no data: no look-up"
        return f"{format_pct(100 * cache.hits / cache.lookups)} of {cache.lookups:,} look-ups"

    def by_service(service: str) -> Callable[[CacheDelta], str]:
        return lambda cache: application(cache.by_service.get(service, ResultCacheDelta(0, 0, 0)))

    caches = [result.servers.cache for _, result in sides if result.servers and result.servers.cache]
    services = dict.fromkeys(service for cache in caches for service in cache.by_service)

    def at_once(cache: CacheDelta) -> str:
        waited = [one.waited for one in cache.by_service.values()]
        if None in waited or not cache.lookups:
            return NO_DATA
        without = cache.hits - sum(filter(None, waited))
        return f"{format_pct(100 * without / cache.lookups)} of {cache.lookups:,} look-ups"

    def refreshes(cache: CacheDelta) -> str:
        counts = [one.refreshes for one in cache.by_service.values()]
        return NO_DATA if None in counts else format_count(sum(filter(None, counts)))

    counted = any(one.waited is not None for cache in caches for one in cache.by_service.values())
    ahead = (row("… without hits that waited for another's computation", at_once), row("Refreshes ahead", refreshes))
    return (
        row("Result cache of the application, hit ratio", application),
        *(ahead if counted else ()),
        *(row(f"Result cache of {service}, hit ratio", by_service(service)) for service in services),
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


def arrival_facts(sides: Sides) -> tuple[Fact, ...]:
    """What became of an open load's arrivals; empty when no side had one."""

    def row(label: str, text: Callable[[ArrivalStats], str]) -> Fact:
        return Fact(label, tuple(side(result, text) for _, result in sides))

    def side(result: RunResult, text: Callable[[ArrivalStats], str]) -> str:
        if result.meta.scenario.load != "open":
            return "n/a: no open load"
        return NO_DATA if result.summary.arrivals is None else text(result.summary.arrivals)

    if all(result.meta.scenario.load != "open" for _, result in sides):
        return ()
    return (
        row("Due", lambda a: format_count(a.due)),
        row(f"Started more than {LATE_AFTER_MS:g} ms late", lambda a: _part(a.late, a.due)),
        row("Dropped: never started", lambda a: _part(a.dropped, a.due)),
    )


def generator_facts(result: RunResult) -> tuple[Fact, ...]:
    """What the load generator counted of itself in one run: replies compared with the seed, connections, each of its
    processes. Older runs lack parts of it, which have no row."""
    counts = result.meta.counts or {}
    found: list[tuple[str, str]] = []
    if "checked" in counts:
        found.append(("Replies compared with the seed", _checked_text(counts, result.meta.scenario.check_one_in)))
    found += [(f"Connections, {kind}", _connections_text(one)) for kind, one in _named(counts, "connections")]
    found += [(f"Process {name}", _health_text(health)) for name, health in _named(counts, "generator")]
    found += [(f"Worker {name}", _worker_text(worker)) for name, worker in _named(counts, "workers")]
    return tuple(Fact(label, (text,)) for label, text in found)


def _named(counts: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    entries = counts.get(key) or {}
    # before there were workers, the one process had no name
    flat = bool(entries) and not any(isinstance(entry, Mapping) for entry in entries.values())
    return [("of the load", entries)] if flat else sorted(entries.items())


def _checked_text(counts: Mapping[str, Any], check_one_in: int) -> str:
    checked, wrong = counts["checked"], counts.get("wrong") or {}
    replies = sum((counts.get("recorded") or {}).values())
    text = f"{sum(checked.values()):,} of {replies:,}, about one in {check_one_in:,}; wrong: {sum(wrong.values()):,}"
    where = ", ".join(f"{endpoint} {number:,}" for endpoint, number in sorted(wrong.items()) if number)
    return f"{text} ({where})" if where else text


def _connections_text(one: Mapping[str, Any]) -> str:
    def text(name: str, form: Callable[[float | None], str]) -> str:
        return NO_DATA if one.get(name) is None else form(one[name])

    return (
        f"{text('connects', format_count)} opened, {text('reconnects', format_count)} of them to replace one that was "
        f"to be kept; {text('bytes_out', format_bytes)} sent, {text('bytes_in', format_bytes)} received"
    )


def _health_text(health: Mapping[str, Any]) -> str:
    """Percentages are of one core, which is all that such a process can use."""

    def both(p95: str, most: str, form: Callable[[float | None], str]) -> str:
        if health.get(p95) is None or health.get(most) is None:
            return NO_DATA
        return f"p95 {form(health[p95])}, at most {form(health[most])}"

    text = f"CPU {both('cpu_p95_pct', 'cpu_max_pct', format_pct)}; "
    text += f"loop lag {both('lag_p95_ms', 'lag_max_ms', format_ms)}"
    if health.get("fds_max") is not None:
        text += f"; {health['fds_max']:,.0f} open files"
        text += f" of {health['fds_limit']:,.0f}" if health.get("fds_limit") is not None else ""
    return text


def _worker_text(worker: Mapping[str, Any]) -> str:
    text = f"{format_count(worker.get('users'))} users, {format_count(worker.get('samples'))} samples"
    if not worker.get("lost"):
        return text
    most = worker.get("missing_at_most")
    return f"lost: {text}; " + ("how many are missing is not known" if most is None else f"at most {most:,} missing")


def _part(count: int, whole: int) -> str:
    return f"{count:,} ({format_pct(100 * count / whole)})" if whole else f"{count:,}"


def _metric_text(result: RunResult, metric: str) -> str:
    estimate = result.metrics.get(metric, {}).get(None)
    return NO_DATA if estimate is None else figure(estimate.value, METRICS[metric].unit)
