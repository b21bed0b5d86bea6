"""Hold Day 31 against Day 40, and a result against the specification's own tables (§5.2, §1.2).

Pure: values in, values out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from harness.effects import ALL_ENDPOINTS, Effects
from harness.model import (
    EndpointComparison,
    EndpointStats,
    Estimate,
    RunResult,
    Scenario,
    ServerDelta,
    StatementComparison,
    StatementDelta,
    StatementPlan,
    Summary,
    TargetRow,
    TargetStatus,
    Threshold,
)
from harness.server_metrics import pool_use, seq_scan_shares
from harness.statements import over_endpoints
from harness.threshold import METRICS, holds, parse
from harness.units import format_pct

# The load that the specification's limits are written for (§1.2: 50 virtual users, 5 minutes).
TARGET_USERS = 50
TARGET_DURATION_S = 300.0
ENDPOINT_P95_LIMIT_MS = 200.0
RPO_LIMIT_S = 900.0
QUERY_P95_LIMIT_MS = 50.0
# A statement of pg_stat_statements may lose its text when the server's file of texts grows too large.
NO_TEXT = "text not kept by the server"

# not_shown: the value keeps its limit, but not under the load that the criterion asks for.
CriterionStatus = Literal["pass", "fail", "no_data", "not_applicable", "not_shown", "not_measured"]


@dataclass(frozen=True, slots=True)
class CriterionRow:
    """One criterion of §1.2. note says how it was measured, or why it was not."""

    requirement: str
    criterion: str
    target: str
    unit: str
    actual: Estimate | None
    note: str
    status: CriterionStatus


@dataclass(frozen=True, slots=True)
class TimeChange:
    """Change of a statement's time per request, day31 to day40: total = by the number of calls + by their mean time."""

    total_ms: float
    calls_ms: float
    mean_ms: float


# --- Day 31 against Day 40 -----------------------------------------------------------------------------------------


def endpoints(day31: Summary, day40: Summary, effects: Effects) -> tuple[EndpointComparison, ...]:
    """Every endpoint of either day by name, with the change of p50 and p95 in percent (negative = faster), which is
    what these runs showed, and its effects, which is what can be said."""
    before = {stats.endpoint: stats for stats in day31.endpoints if stats.endpoint is not None}
    after = {stats.endpoint: stats for stats in day40.endpoints if stats.endpoint is not None}
    return tuple(
        _comparison(name, before.get(name), after.get(name), effects) for name in sorted(before.keys() | after.keys())
    )


def pooled(day31: Summary, day40: Summary, effects: Effects) -> EndpointComparison:
    """All endpoints together, in the shape of one."""
    return _comparison(ALL_ENDPOINTS, day31.pooled, day40.pooled, effects)


def _comparison(
    name: str, before: EndpointStats | None, after: EndpointStats | None, effects: Effects
) -> EndpointComparison:
    return EndpointComparison(
        endpoint=name,
        day31=before,
        day40=after,
        p50_change_pct=_change_pct(_percentile(before, "p50_ms"), _percentile(after, "p50_ms")),
        p95_change_pct=_change_pct(_percentile(before, "p95_ms"), _percentile(after, "p95_ms")),
        effects=effects.get(name, {}),
    )


def statements(
    day31: ServerDelta, day40: ServerDelta, requests31: int, requests40: int
) -> tuple[StatementComparison, ...]:
    """Every statement of either day, joined on role and fingerprint, those that took the most time on either day first.

    requests31, requests40: requests answered between the snapshots of each side, what calls are divided by.
    """
    before, after = _by_key(day31.statements), _by_key(day40.statements)
    rows = [_statement(before.get(key), after.get(key), requests31, requests40) for key in before.keys() | after.keys()]
    return tuple(sorted(rows, key=lambda row: (-_total_ms(row), row.role, row.query)))


def time_change(row: StatementComparison) -> TimeChange | None:
    """Split dT = (c1 - c0) t0 + c1 (t1 - t0), c calls per request and t mean time; None when a side has no calls."""
    if row.day31 is None or row.day40 is None or not row.day31.calls or not row.day40.calls:
        return None
    if row.day31_calls_per_request is None or row.day40_calls_per_request is None:
        return None
    mean31_ms, mean40_ms = row.day31.total_ms / row.day31.calls, row.day40.total_ms / row.day40.calls
    calls_ms = (row.day40_calls_per_request - row.day31_calls_per_request) * mean31_ms
    mean_ms = row.day40_calls_per_request * (mean40_ms - mean31_ms)
    return TimeChange(calls_ms + mean_ms, calls_ms, mean_ms)


def statement_label(row: StatementComparison | StatementPlan, chars: int) -> str:
    """A statement's name, else the start of its text without the column list (which says least); `chars` at most."""
    text = row.name or re.sub(r"^SELECT\s.*?\sFROM\s", "SELECT … FROM ", " ".join(row.query.split())) or NO_TEXT
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _percentile(stats: EndpointStats | None, name: Literal["p50_ms", "p95_ms"]) -> Estimate | None:
    if stats is None or stats.latency is None:
        return None
    return stats.latency.p50_ms if name == "p50_ms" else stats.latency.p95_ms


def _change_pct(before: Estimate | None, after: Estimate | None) -> float | None:
    if before is None or after is None or before.value <= 0:
        return None
    return 100 * (after.value / before.value - 1)


def _by_key(deltas: Iterable[StatementDelta]) -> dict[tuple[str, str], StatementDelta]:
    return {(delta.role, delta.fingerprint): delta for delta in over_endpoints(deltas)}


def _statement(
    before: StatementDelta | None, after: StatementDelta | None, requests31: int, requests40: int
) -> StatementComparison:
    known = after or before
    assert known is not None
    return StatementComparison(
        role=known.role,
        name=known.name,
        query=known.query,
        day31=before,
        day40=after,
        day31_calls_per_request=before.calls / requests31 if before and requests31 else None,
        day40_calls_per_request=after.calls / requests40 if after and requests40 else None,
    )


def _total_ms(row: StatementComparison) -> float:
    return max(delta.total_ms for delta in (row.day31, row.day40) if delta is not None)


# --- the specification's tables ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Target:
    """One row of §5.2. note: says what an estimate is; nothing: says why day40 has none although it should."""

    label: str
    limit: Threshold
    note: Callable[[Estimate, RunResult, ServerDelta], str]
    nothing: str
    absent_on_day31: str | None = None


def targets(day31: RunResult, day40: RunResult) -> tuple[TargetRow, ...]:
    """The specification's §5.2, all seven rows whatever was measured. Without data on day40 a target is not met."""
    rows = []
    for target in TARGETS:
        status: TargetStatus
        actual, note, status = _judge(target, day40)
        if target is REDIS and status in ("pass", "fail") and (why := _still_filling(day40)):
            note, status = f"{note}; {why}", "not_shown"
        rows.append(
            TargetRow(
                metric=target.label,
                unit=_unit(target),
                target=f"{target.limit.op} {target.limit.limit:g} {_unit(target)}",
                baseline=_metric(day31, target.limit.metric, target.limit.selector),
                baseline_note=_note(target, day31),
                actual=actual,
                actual_note=note,
                status=status,
            )
        )
    return tuple(rows)


def criteria(result: RunResult) -> tuple[CriterionRow, ...]:
    """The specification's §1.2, all eight rows: what load showed, and why the rest was not measured."""
    return tuple(
        row if (status := trusted(row.status, result)) == row.status else replace(row, status=status, note=_UNTRUSTED)
        for row in _criteria(result)
    )


_UNTRUSTED = "the run is invalid, or was ended early: its figures show nothing"


def trusted(status: CriterionStatus, result: RunResult) -> CriterionStatus:
    """What an invalid run, or one that was ended early, seems to meet is not shown."""
    meta = result.meta
    broken = meta.state != "complete" or bool(meta.reasons) or meta.aborted is not None
    return "not_shown" if broken and status == "pass" else status


def _criteria(result: RunResult) -> tuple[CriterionRow, ...]:
    drill = "no {} drill belongs to a load run"
    no_panel = "no Grafana runs beside the stack"
    return (
        _query_p95(result),
        _warm(_judged("C-009", "Redis cache hit ratio", "> 85 % after warm-up", REDIS, result), result),
        _archive_lag(result),
        CriterionRow("C-010", "Backup RTO", "< 30 min", "", None, drill.format("restore"), "not_measured"),
        _judged("C-001", "Connection pool utilisation", "< 70 % at 50 users", POOL, result),
        CriterionRow("C-010", "Failover without data loss", "pass", "", None, drill.format("failover"), "not_measured"),
        _endpoints_p95(result),
        CriterionRow("C-012", "Grafana dashboard", "all panels green", "", None, no_panel, "not_measured"),
    )


def _judge(target: _Target, result: RunResult) -> tuple[Estimate | None, str, Literal["pass", "fail", "no_data"]]:
    """The estimate, what it is, and whether it keeps the target: without data, or with too little load, never."""
    actual, note = _metric(result, target.limit.metric, target.limit.selector), _note(target, result)
    if actual is None:
        return None, note, "no_data"
    if not holds(target.limit, actual.value):
        return actual, note, "fail"
    asked = result.meta.scenario
    if target is POOL and (asked.users < TARGET_USERS or asked.load != "closed"):
        return (
            None,
            f"no data: {actual.value:.1f} {_unit(target)} says nothing about {TARGET_USERS} users; {note}",
            "no_data",
        )
    return actual, note, "pass"


def _judged(requirement: str, criterion: str, wanted: str, target: _Target, result: RunResult) -> CriterionRow:
    actual, note, outcome = _judge(target, result)
    status: CriterionStatus = "not_applicable" if note.startswith("n/a") else outcome
    return CriterionRow(requirement, criterion, wanted, _unit(target), actual, note, status)


def _metric(result: RunResult, name: str, selector: str | None = None) -> Estimate | None:
    return result.metrics.get(name, {}).get(selector)


def _unit(target: _Target) -> str:
    unit = METRICS[target.limit.metric].unit
    return "%" if unit == "pct" else unit


def _note(target: _Target, result: RunResult) -> str:
    """What the number is, or why there is none: "n/a: …" has nothing to measure, "no data: …" should have."""
    estimate = _metric(result, target.limit.metric, target.limit.selector)
    if result.meta.profile == "day31" and target.absent_on_day31:
        return f"n/a: {target.absent_on_day31}"
    if result.servers is None:
        return "no data: the servers' counters are missing"
    return f"no data: {target.nothing}" if estimate is None else target.note(estimate, result, result.servers)


def _mean_note(estimate: Estimate, result: RunResult, servers: ServerDelta, name: str) -> str:
    roles = ", ".join(sorted({statement.role for statement in servers.statements if statement.name == name}))
    return f"mean over {estimate.count:,} calls" + (f" of role {roles}" if roles else "")


def _tag_note(estimate: Estimate, result: RunResult, servers: ServerDelta) -> str:
    return f"{_mean_note(estimate, result, servers, 'animal by tag')}; served by the unique constraint on both days"


def _buffer_note(estimate: Estimate, result: RunResult, servers: ServerDelta) -> str:
    return f"found in shared buffers, of {estimate.count:,} blocks asked for"


def _redis_note(estimate: Estimate, result: RunResult, servers: ServerDelta) -> str:
    server_wide = _metric(result, "redis_server_hit_pct")
    return (
        f"hits of {estimate.count:,} look-ups in the application's result cache; "
        f"whole server {format_pct(server_wide.value) if server_wide else 'no data'}"
    )


def _scans_note(estimate: Estimate, result: RunResult, servers: ServerDelta) -> str:
    shares = seq_scan_shares(servers)
    by_rows = "no data" if shares.by_tuples_pct is None else format_pct(shares.by_tuples_pct)
    return (
        f"of {estimate.count:,} scans started ({by_rows} of rows read); small tables left out: {len(shares.excluded)}"
    )


def _pool_note(estimate: Estimate, result: RunResult, servers: ServerDelta) -> str:
    used = pool_use(servers)
    busiest = f"{used[0].alias}, {used[0].capacity} links" if used else "name not recorded"
    return f"busiest pool ({busiest}), mean of the steady state, {_users_text(result.meta.scenario)}"


NOT_CALLED = "the statement was not called"
REDIS = _Target(
    "Redis cache hit ratio", parse("redis_hit_pct > 85"), _redis_note, "no look-up in the result cache", "no cache"
)
POOL = _Target(
    "Connection pool utilisation at 50 users",
    parse("pool_utilisation_pct < 70"),
    _pool_note,
    "no counters of pgBouncer",
    "no pool",
)
TARGETS = (
    _Target("farm.animal lookup by tag (mean)", parse('statement_mean_ms["animal by tag"] < 5'), _tag_note, NOT_CALLED),
    _Target(
        "farm.milk_production daily report (mean)",
        parse('statement_mean_ms["daily milk report"] < 50'),
        functools.partial(_mean_note, name="daily milk report"),
        NOT_CALLED,
    ),
    _Target(
        "farm.health_record search (mean)",
        parse('statement_mean_ms["health search"] < 30'),
        functools.partial(_mean_note, name="health search"),
        NOT_CALLED,
    ),
    _Target("Buffer cache hit ratio", parse("buffer_hit_pct > 95"), _buffer_note, "no block was asked for"),
    REDIS,
    _Target(
        "Sequential scan ratio (farm schema)",
        parse("seq_scan_pct < 5"),
        _scans_note,
        "no table large enough to judge was scanned",
    ),
    POOL,
)


def _query_p95(result: RunResult) -> CriterionRow:
    actual = _metric(result, "query_p95_ms")
    status: CriterionStatus
    if actual is None:
        note = "pg_stat_statements keeps no percentiles, and no sampled statement log was read"
        status = "not_measured"
    elif actual.count < METRICS["query_p95_ms"].min_count:
        note, status = f"no data: only {actual.count:,} logged executions", "no_data"
    else:
        note = f"95th percentile over {actual.count:,} logged executions, weighted by their sampling"
        status = "pass" if actual.value < QUERY_P95_LIMIT_MS else "fail"
    return CriterionRow("C-009", "Query response time (95th percentile)", "< 50 ms", "ms", actual, note, status)


def _archive_lag(result: RunResult) -> CriterionRow:
    """What a crash would lose with the disk; that the archive restores, no load can show."""
    actual = _metric(result, "wal_archive_lag_s")
    status: CriterionStatus = "not_measured"
    note = "no WAL is archived, or its age was not sampled"
    if actual is not None:
        note = "age of the oldest WAL that the archive lacked, at the worst second under load; no restore was tried"
        status = "pass" if actual.value < RPO_LIMIT_S else "fail"
    return CriterionRow("C-010", "Backup RPO", "< 15 min", "s", actual, note, status)


def _warm(row: CriterionRow, result: RunResult) -> CriterionRow:
    why = _still_filling(result) if row.status in ("pass", "fail") else None
    return row if why is None else replace(row, status="not_shown", note=f"{row.note}; {why}")


def _still_filling(result: RunResult) -> str | None:
    """Entries live 300 s: what is counted in less shows the cache filling, neither kept nor missed after warm-up."""
    if _sustained_s(result) >= TARGET_DURATION_S:
        return None
    return f"{_sustained_s(result):.0f} s show a cache that fills, `sustained` judges it"


def _sustained_s(result: RunResult) -> float:
    """How long the scenario's users were held without a break: of several runs, in the shortest; a ramp holds none."""
    asked = result.meta.scenario
    held = asked.load != "stages" and result.meta.aborted is None
    return min(asked.duration_s, result.summary.counted_s) if held else 0.0


def _users_text(asked: Scenario) -> str:
    """An open load has no users who wait for their replies: `users` only bounds it."""
    return "an open load" if asked.load == "open" else f"{asked.users} users"


def _endpoints_p95(result: RunResult) -> CriterionRow:
    """Every endpoint and all pooled below 200 ms; kept limits count only at the load that the criterion asks for."""
    found = [(s.endpoint or "all endpoints pooled", _percentile(s, "p95_ms")) for s in result.summary.endpoints]
    found.append(("all endpoints pooled", _percentile(result.summary.pooled, "p95_ms")))
    known = [(name, p95) for name, p95 in found if p95 is not None]
    asked, duration_s = result.meta.scenario, _sustained_s(result)
    load = f"{_users_text(asked)} for {duration_s:.0f} s"
    status: CriterionStatus = "no_data"
    worst = None
    if not known:
        note = "no data: no endpoint has enough successes for a p95"
    else:
        name, worst = max(known, key=lambda item: item[1].value)
        note = f"highest p95: {name}, {load}"
        missing = [name for name, p95 in found if p95 is None]
        if worst.value >= ENDPOINT_P95_LIMIT_MS:
            status = "fail"
        elif missing:
            status = "not_shown"
            note += f"; too few requests for a p95 of {', '.join(missing)}"
        elif asked.users < TARGET_USERS or asked.load == "open" or duration_s < TARGET_DURATION_S:
            status = "not_shown"
            note += f", not {TARGET_USERS} users for {TARGET_DURATION_S:.0f} s"
        else:
            status = "pass"
    target = "all endpoints p95 < 200 ms"
    return CriterionRow("C-009", "50 users sustained for 5 min", target, "ms", worst, note, status)
