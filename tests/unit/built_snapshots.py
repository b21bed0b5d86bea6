"""Small hand-built snapshots for the tests of statements, servers, server_metrics and server_csv."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from harness.model import ServerDelta, Snapshot
from harness.servers import diff
from harness.statements import fingerprint

BY_TAG = "SELECT id FROM farm.animal WHERE tag_number = $1"
TIMINGS = st.lists(st.floats(0.001, 1000), min_size=2, max_size=40)


def statement(calls: int, mean: float = 2.0, sd: float = 0.5, **columns: Any) -> dict[str, Any]:
    row = {
        "role": "api",
        "database": "smart_dairy",
        "userid": 10,
        "dbid": 1,
        "queryid": 7,
        "toplevel": True,
        "query": BY_TAG,
        "calls": calls,
        "total_exec_time": calls * mean,
        "stddev_exec_time": sd,
        "rows": calls,
        "shared_blks_hit": 3 * calls,
        "shared_blks_read": calls,
        "temp_blks_written": 0,
        "wal_bytes": 0,
    }
    return row | columns


def table(name: str, relid: int, **columns: Any) -> dict[str, Any]:
    row = {
        "relid": relid,
        "relkind": "r",
        "schemaname": "farm",
        "relname": name,
        "parent_schemaname": None,
        "parent_relname": None,
        "seq_scan": 0,
        "seq_tup_read": 0,
        "idx_scan": 0,
        "idx_tup_fetch": 0,
        "reltuples": 5000.0,
        "relpages": 50,
        "heap_bytes": 409_600,
        "n_live_tup": 5000,
        "n_dead_tup": 1,
    }
    return row | columns


def snapshot(rows: Sequence[dict[str, Any]] = (), at_s: float = 0, **parts: Any) -> Snapshot:
    """parts: keys of Snapshot replace it, other keys replace parts of its `postgres`."""
    database = dict.fromkeys(
        ("blks_hit", "blks_read", "xact_commit", "xact_rollback", "deadlocks", "temp_bytes"), 0
    ) | {"datname": "smart_dairy"}
    postgres = {
        "version": "16.14",
        "extension_version": "1.10",
        "settings": {"pg_stat_statements.max": "1000"},
        "info": {"dealloc": 0, "stats_reset": "2026-02-03"},
        "statements": list(rows),
        "tables": [],
        "indexes": [],
        "database": database,
        "wal": {"wal_bytes": 0},
    }
    own = {name: parts.pop(name) for name in ("pgbouncer", "redis", "api", "processes") if name in parts}
    base = Snapshot("", int(at_s * 1e6), postgres | parts, None, None, None, {})
    return replace(base, **own)


def delta(before: Snapshot, after: Snapshot) -> ServerDelta:
    return diff(before, after, {fingerprint(BY_TAG): "animal by tag"})


def pg_row(timings: Sequence[float]) -> list[dict[str, Any]]:
    """The row as the server computes it of single timings."""
    if not timings:
        return []
    return [statement(len(timings), mean=statistics.fmean(timings), sd=statistics.pstdev(timings))]


def bouncer(at_s: float, xact_s: float, wait_s: float, count: int, query_s: float | None = None) -> dict[str, Any]:
    stats = {
        "total_xact_count": count,
        "total_query_count": 2 * count,
        "total_xact_time": xact_s * 1e6,
        "total_query_time": (xact_s if query_s is None else query_s) * 1e6,
        "total_wait_time": wait_s * 1e6,
    }
    return {
        "monotonic_us": int(at_s * 1e6),
        "stats": [stats | {"database": "smart_dairy"}, stats | {"database": "quiet", "total_xact_count": 0}],
        "pools": [{"database": "smart_dairy", "user": "odoo"}],
        "databases": [
            {"name": "smart_dairy", "database": "smart_dairy", "pool_size": 4, "max_connections": 0},
            {"name": "quiet", "database": "smart_dairy", "pool_size": 9, "max_connections": 3},
            {"name": "postgres", "database": "postgres", "pool_size": 9, "max_connections": 0},
        ],
    }


def redis_info(hits: int, misses: int, run_id: str = "r") -> dict[str, Any]:
    names = {"keyspace_hits": hits, "keyspace_misses": misses, "evicted_keys": 0, "expired_keys": 1}
    return {"info": names | {"run_id": run_id}}


def api_counts(lookups: int, hits: int) -> dict[str, float]:
    return {
        "dairy_api_cache_lookups_total": lookups,
        'dairy_api_cache_hits_total{cache="animal"}': hits,
        'dairy_api_cache_hits_total{cache="milk"}': hits,
        'dairy_api_sql_calls_total{query="animal by tag"}': lookups,
        'dairy_api_sql_seconds_total{query="animal by tag"}': 0.5,
    }
