"""Every table of a report as columns and rows, from the same values as the page. Pure.

Columns are the fields of the values' own types, with units in their names; an estimate has four: its value, both ends
of its 95 % interval (`_low`, `_high`) and the observations behind it (`_count`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, NamedTuple, cast, get_args, get_type_hints

from harness import attribution, compare
from harness.csv_text import csv_text
from harness.model import (
    PROFILES,
    ArchiveDelta,
    ArrivalStats,
    Benchmark,
    CacheDelta,
    Effect,
    EndpointComparison,
    EndpointStats,
    Estimate,
    IndexDelta,
    OdooUse,
    PlanScan,
    QueryPlan,
    ResultCacheDelta,
    RunMeta,
    RunResult,
    SlowStatement,
    StatementDelta,
    StatementPlan,
    TableDelta,
    TargetRow,
    TimeBucket,
    Verdict,
)
from harness.report_statements import statement_changes_of
from harness.server_metrics import PoolUse, pool_use
from harness.statement_changes import StatementChange

DATABASE_COUNTERS = (
    "elapsed_s",
    "blks_hit",
    "blks_read",
    "xact_commit",
    "xact_rollback",
    "deadlocks",
    "temp_bytes",
    "wal_bytes",
)


class Table(NamedTuple):
    """header: column names; rows: numbers, texts and None, one per column."""

    header: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


def run_tables(result: RunResult) -> dict[str, Table]:
    """Name -> table of one run, or of one side of a benchmark. A table without rows is there all the same."""
    servers, plans, measured = result.servers, result.plans, result.summary
    deltas = servers.statements if servers else ()
    cache = servers.cache if servers else None
    found = attribution.attribute(deltas, result.requests)
    return {
        "verdicts": _table(Verdict, result.verdicts),
        "criteria": _table(compare.CriterionRow, compare.criteria(result)),
        "endpoints": _table(
            EndpointStats, (measured.pooled, *measured.endpoints), leave_out={"outcomes", "distribution"}
        ),
        "outcomes": Table(
            ("endpoint", "outcome", "requests"),
            tuple((one.endpoint, name, n) for one in measured.endpoints for name, n in sorted(one.outcomes.items())),
        ),
        "timeline": _table(TimeBucket, measured.timeline),
        "arrivals": _table(ArrivalStats, [measured.arrivals] if measured.arrivals else []),
        "metrics": Table(
            ("metric", "selector", "value", "value_low", "value_high", "value_count"),
            tuple(
                (metric, selector, *(_at(estimate, (part,)) for part in ("value", "low", "high", "count")))
                for metric, estimates in sorted(result.metrics.items())
                for selector, estimate in sorted(estimates.items(), key=lambda item: item[0] or "")
            ),
        ),
        "statements": _table(StatementDelta, deltas),
        "endpoint_database_use": Table(
            (
                "endpoint",
                "requests",
                "calls_per_request",
                "rows_per_request",
                "blocks_per_request",
                "wal_bytes_per_request",
                "ms_per_request",
            ),
            tuple(_use_row(one) for one in found.endpoints),
        ),
        "endpoint_statements": Table(
            (
                "endpoint",
                "requests",
                "calls",
                "calls_per_request",
                "rows_per_call",
                "blocks_per_call",
                "mean_ms",
                "fingerprint",
                "name",
                "query",
            ),
            tuple(_endpoint_statement_row(use, one) for use in found.endpoints for one in use.statements),
        ),
        "slow_statements": _table(SlowStatement, result.slow.rows if result.slow else (), leave_out={"plan"}),
        "plans": _table(QueryPlan, plans.critical if plans else (), leave_out={"scans"}),
        "plan_scans": _with_names(
            ("plan",), PlanScan, [((one.name,), scan) for one in plans.critical for scan in one.scans] if plans else []
        ),
        "statement_plans": _table(StatementPlan, plans.statements if plans else (), leave_out={"scans"}),
        "tables": _table(TableDelta, servers.tables if servers else ()),
        "indexes": _table(IndexDelta, servers.indexes if servers else ()),
        "pools": _table(PoolUse, pool_use(servers, result.probes) if servers else ()),
        "cache": _table(CacheDelta, [cache] if cache else (), leave_out={"by_service"}),
        "cache_by_service": _with_names(
            ("service",),
            ResultCacheDelta,
            [((name,), one) for name, one in sorted(cache.by_service.items())] if cache else [],
        ),
        "archive": _table(ArchiveDelta, [servers.archive] if servers and servers.archive else ()),
        "services": Table(
            ("service", "cpu_s", "rss_bytes"),
            tuple(
                (name, servers.process_cpu_s.get(name), servers.process_rss_bytes.get(name))
                for name in sorted(servers.process_cpu_s.keys() | servers.process_rss_bytes.keys())
            )
            if servers
            else (),
        ),
        "database": Table(
            ("counter", "value"),
            tuple((name, getattr(servers, name)) for name in DATABASE_COUNTERS) if servers else (),
        ),
        "odoo_methods": _table(OdooUse, result.odoo or ()),
        "generator": Table(("counter", "value"), tuple(_leaves(result.meta.counts or {}))),
        "settings": Table(("setting", "value"), tuple(sorted(result.settings.items()))),
        "environment": Table(("kind", "name", "value"), tuple(_environment(result.meta))),
        "warnings": Table(
            ("kind", "text"),
            (
                *(("invalid", text) for text in result.meta.reasons),
                *(("warning", text) for text in dict.fromkeys((*result.warnings, *result.meta.warnings))),
            ),
        ),
    }


# what of a run's description is one cell
RUN_COLUMNS = ("run_id", "profile", "state", "started_at", "ended_at", "aborted", "warnings", "reasons")


def csv_texts(tables: Mapping[str, Table]) -> dict[str, str]:
    """Name -> the table as CSV."""
    return {name: csv_text(*table) for name, table in tables.items()}


def benchmark_tables(benchmark: Benchmark) -> dict[str, Table]:
    """Name -> table of a benchmark: those of both sides, told apart by a first column, and the comparison's own."""
    sides = {profile: run_tables(getattr(benchmark, profile)) for profile in PROFILES}
    pooled = () if benchmark.pooled is None else (benchmark.pooled,)
    return {
        **{
            name: Table(
                ("profile", *table.header),
                tuple((profile, *row) for profile, tables in sides.items() for row in tables[name].rows),
            )
            for name, table in sides[PROFILES[0]].items()
        },
        "targets": _table(TargetRow, benchmark.targets),
        "comparison": _table(
            EndpointComparison, (*benchmark.endpoints, *pooled), leave_out={"outcomes", "distribution", "effects"}
        ),
        "effects": _with_names(
            ("endpoint", "metric"),
            Effect,
            [
                ((one.endpoint, metric), effect)
                for one in (*benchmark.endpoints, *pooled)
                for metric, effect in one.effects.items()
            ],
        ),
        "statement_comparison": _table(
            StatementChange, statement_changes_of(benchmark.day31, benchmark.day40, benchmark.statements)
        ),
        "runs": Table(RUN_COLUMNS, tuple(_run_row(run.meta) for run in benchmark.runs)),
    }


def _run_row(meta: RunMeta) -> tuple[object, ...]:
    return tuple(_cell(getattr(meta, name)) for name in RUN_COLUMNS)


def _use_row(one: attribution.EndpointUse) -> tuple[object, ...]:
    use = one.use
    amounts = (None,) * 5 if use is None else (use.calls, use.rows, use.blocks, use.wal_bytes, use.total_ms)
    return (one.endpoint, one.requests, *(None if n is None else one.per_request(n) for n in amounts))


def _endpoint_statement_row(use: attribution.EndpointUse, one: StatementDelta) -> tuple[object, ...]:
    blocks = one.shared_blks_hit + one.shared_blks_read
    per_call = [amount / one.calls if one.calls else None for amount in (one.rows, blocks, one.total_ms)]
    return (
        use.endpoint,
        use.requests,
        one.calls,
        use.per_request(one.calls),
        *per_call,
        one.fingerprint,
        one.name,
        one.query,
    )


def _environment(meta: RunMeta) -> Iterator[tuple[object, ...]]:
    for kind, values in (("host", meta.host), ("version", meta.versions), ("data", meta.herd)):
        for name, value in _leaves(values):
            yield kind, name, value


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings as ("outer inner", value), in their order."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", _cell(value)


# --- values as rows ------------------------------------------------------------------------------------------------


def _table(kind: type, values: Iterable[Any], leave_out: Set[str] = frozenset()) -> Table:
    """The dataclasses `values`, a column for each field of `kind`; those of a field that is one itself begin with the
    field's name. leave_out: names of fields, at any depth."""
    names = tuple(_columns(kind, leave_out))
    return Table(
        tuple("_".join(path) for path in names), tuple(tuple(_at(value, path) for path in names) for value in values)
    )


def _with_names(header: tuple[str, ...], kind: type, values: Sequence[tuple[tuple[str, ...], Any]]) -> Table:
    """As `_table`, each row after the names that come with it."""
    table = _table(kind, [value for _, value in values])
    return Table(
        (*header, *table.header), tuple((*names, *row) for (names, _), row in zip(values, table.rows, strict=True))
    )


def _columns(kind: type, leave_out: Set[str], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.name in leave_out:
            continue
        hint = hints[field.name]
        inner = [one for one in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if is_dataclass(one)]
        if not inner:
            yield *prefix, field.name
        elif inner[0] is Estimate:
            yield *prefix, field.name
            yield from ((*prefix, field.name, part) for part in ("low", "high", "count"))
        else:
            yield from _columns(cast(type, inner[0]), leave_out, (*prefix, field.name))


def _at(value: object, path: tuple[str, ...]) -> object:
    for name in path:
        value = None if value is None else getattr(value, name)
    return _cell(value)


def _cell(value: object) -> object:
    if isinstance(value, Estimate):
        return value.value
    if isinstance(value, Mapping):
        return "; ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, tuple | list):
        return "; ".join(map(str, value))
    return value
