"""The specification's own CSV files: statements (pg_stats) and scans per table (pg_scans). Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from harness.csv_text import csv_text
from harness.model import ServerDelta, Snapshot
from harness.server_metrics import share_pct
from harness.statements import NOT_THE_APPLICATION, Activity, activities_between, preview

# The specification's eight schemas (Day 31, "Table-level sequential scan analysis").
SPECIFICATION_SCHEMAS = ("core", "farm", "sales", "inventory", "accounting", "analytics", "audit", "iot")


def pg_stats_csv(
    spans: Iterable[tuple[Snapshot, Snapshot]], exclude_roles: Collection[str] = NOT_THE_APPLICATION
) -> str:
    """`day31_pg_stats.csv`: the columns of the specification's query and the role, summed over the spans between
    pairs of snapshots, every top-level statement that was called, slowest mean first."""
    summed: dict[tuple[str, str], Activity] = {}
    for before, after in spans:
        for one in activities_between(before, after)[0]:
            # by text, since the queryid changes when a reset makes the tables anew
            key = (one.role, one.query)
            summed[key] = summed[key].plus(one) if key in summed else one
    called = [one for one in summed.values() if one.role not in exclude_roles]
    return csv_text(
        ("queryid", "query_preview", "calls", "total_ms", "mean_ms", "stddev_ms", "rows", "cache_hit_pct", "role"),
        (_pg_stats_row(one) for one in sorted(called, key=lambda one: -one.timings.total / one.timings.count)),
    )


def _pg_stats_row(one: Activity) -> tuple[object, ...]:
    timings, hit, read = one.timings, one.counters["shared_blks_hit"], one.counters["shared_blks_read"]
    return (
        one.queryid,
        preview(one.query, 120),
        timings.count,
        round(timings.total, 2),
        round(timings.total / timings.count, 2),
        round(math.sqrt(timings.m2 / timings.count), 2),
        one.counters["rows"],
        _round(share_pct(hit, hit + read)),
        one.role,
    )


def pg_scans_csv(delta: ServerDelta) -> str:
    """The specification's scan analysis of the eight schemas, most tuples read sequentially first. Columns of a table
    without index are empty, and so is the share of one that nobody scanned."""
    tables = [one for one in delta.tables if one.schema in SPECIFICATION_SCHEMAS]
    return csv_text(
        ("schemaname", "relname", "seq_scan", "seq_tup_read", "idx_scan", "idx_tup_fetch", "idx_scan_pct"),
        (
            (
                one.schema,
                one.table,
                one.seq_scan,
                one.seq_tup_read,
                one.idx_scan,
                one.idx_tup_fetch,
                None if one.idx_scan is None else _round(share_pct(one.idx_scan, one.seq_scan + one.idx_scan)),
            )
            for one in sorted(tables, key=lambda one: (-one.seq_tup_read, one.schema, one.table))
        ),
    )


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
