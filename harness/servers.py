"""What all servers did between two snapshots: PostgreSQL, pgBouncer, Redis, the API and the processes.

Pure: no I/O.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from harness import wal_archive
from harness.model import CacheDelta, IndexDelta, PoolDelta, ResultCacheDelta, ServerDelta, Snapshot, TableDelta
from harness.statements import (
    NOT_THE_APPLICATION,
    Row,
    activities_between,
    add_statements,
    statement_deltas,
    were_lost,
)

PAGE_BYTES = 8192  # PostgreSQL's default block size

# Counters of the API's GET /metrics, whatever its prefix and further labels.
_CACHE_COUNTER = re.compile(r"\w*cache_(?P<what>hits|lookups|errors|waited|refreshes)_total(?:\{.*\})?")
_SQL_CALLS = re.compile(r'\w*sql_calls_total\{(?:.*,)?query="(?P<query>[^"]*)".*\}')

N = TypeVar("N", int, float)
V = TypeVar("V")


# --- the difference of two snapshots -------------------------------------------------------------------------------


class _Counters:
    """Subtracts counters and remembers the places where one fell: that server restarted or was reset."""

    def __init__(self) -> None:
        self.fell: set[str] = set()

    def delta(self, place: str, before: Any, after: Any) -> int:
        if before is None or after >= before:
            return int(after - (before or 0))
        self.fell.add(place)
        return int(after)

    def warnings(self) -> list[str]:
        return [
            f"{place}: counters fell between the snapshots, what came before is lost and its figures are lower "
            "bounds; keep the server from restarting and its statistics from being reset during a run"
            for place in sorted(self.fell)
        ]


def diff(
    before: Snapshot,
    after: Snapshot,
    query_names: Mapping[str, str],
    exclude_roles: Collection[str] = NOT_THE_APPLICATION,
    load_ended_us: int | None = None,
) -> ServerDelta:
    """What the servers did between two snapshots of one stack.

    query_names: as `named_fingerprints` gives them. load_ended_us: CLOCK_MONOTONIC when the last request had been
    answered; the wait for late statistics that follows it is then no part of any elapsed time, which would dilute
    the pools' utilisation. Raises StackError if the extension is older than 1.9.
    """
    activities, warnings = activities_between(before, after)
    counters = _Counters()
    old_database, new_database = before.postgres["database"], after.postgres["database"]

    def database(name: str) -> int:
        return counters.delta("pg_stat_database", old_database.get(name), new_database[name])

    def application_blocks(name: str) -> int:
        """The database counts everyone: a snapshot reads thousands of catalog pages, always from shared buffers."""
        others = sum(one.counters[f"shared_{name}"] for one in activities if one.role in exclude_roles)
        return max(0, database(name) - others)

    def application_active_ms() -> float | None:
        """active_time has the execution of everyone, with parsing, planning and sending beside it."""
        old, new = old_database.get("active_time"), new_database.get("active_time")
        if old is None or new is None or new < old:
            return None
        others_ms = sum(one.timings.total for one in activities if one.role in exclude_roles)
        return max(0.0, float(new - old) - others_ms)

    api = _api_delta(before.api, after.api, counters)
    delta = ServerDelta(
        elapsed_s=_elapsed_us(before.monotonic_us, after.monotonic_us, load_ended_us) / 1e6,
        warnings=(),
        statements=statement_deltas(activities, query_names, exclude_roles),
        tables=_table_deltas(before.postgres["tables"], after.postgres["tables"], counters),
        indexes=_index_deltas(before.postgres["indexes"], after.postgres["indexes"], counters),
        blks_hit=application_blocks("blks_hit"),
        blks_read=application_blocks("blks_read"),
        xact_commit=database("xact_commit"),
        xact_rollback=database("xact_rollback"),
        deadlocks=database("deadlocks"),
        temp_bytes=database("temp_bytes"),
        wal_bytes=counters.delta(
            "pg_stat_wal", before.postgres["wal"].get("wal_bytes"), after.postgres["wal"]["wal_bytes"]
        ),
        pools=_pool_deltas(
            before.pgbouncer, after.pgbouncer, new_database["datname"], load_ended_us, counters, warnings
        ),
        cache=_cache_delta(before.redis, after.redis, api, counters),
        api_sql_calls={match["query"]: count for name, count in api.items() if (match := _SQL_CALLS.fullmatch(name))},
        process_cpu_s=_process_cpu_s(before.processes, after.processes),
        process_rss_bytes={service: int(figures["rss_bytes"]) for service, figures in after.processes.items()},
        archive=wal_archive.between(before, after, counters.delta),
        statements_lost=were_lost(before, after),
        active_ms=application_active_ms(),
    )
    return replace(delta, warnings=tuple(warnings + counters.warnings()))


def _elapsed_us(start_us: int, end_us: int, load_ended_us: int | None) -> int:
    return (end_us if load_ended_us is None else min(end_us, load_ended_us)) - start_us


def _by_owner(rows: Iterable[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows by the named columns of their partitioned parent, or of their own where there is none."""
    grouped = defaultdict(list)
    for row in rows:
        grouped[tuple(row[f"parent_{column}"] or row[column] for column in columns)].append(row)
    return grouped


def _table_deltas(before: Sequence[Row], after: Sequence[Row], counters: _Counters) -> tuple[TableDelta, ...]:
    """A partitioned table is the sum of its partitions: its own row counts no scan, but ANALYZE sets its reltuples."""
    old = {row["relid"]: row for row in before}

    def one(row: Row, schema: str, table: str) -> TableDelta:
        earlier = old.get(row["relid"], {})

        def count(column: str) -> int:
            return counters.delta("pg_stat_user_tables", earlier.get(column), row[column])

        def indexed(column: str) -> int | None:
            return None if row[column] is None else count(column)

        analysed = row["reltuples"] >= 0  # -1 until the first ANALYZE or VACUUM
        return TableDelta(
            schema=schema,
            table=table,
            seq_scan=count("seq_scan"),
            seq_tup_read=count("seq_tup_read"),
            idx_scan=indexed("idx_scan"),
            idx_tup_fetch=indexed("idx_tup_fetch"),
            rows_estimate=int(row["reltuples"] if analysed else row["n_live_tup"]),
            pages=int(row["relpages"] if analysed else row["heap_bytes"] // PAGE_BYTES),
            heap_bytes=int(row["heap_bytes"]),
            n_dead_tup=int(row["n_dead_tup"]),
            writes=count("n_tup_ins") + count("n_tup_upd") - count("n_tup_hot_upd") if "n_tup_ins" in row else None,
        )

    owners = _by_owner((row for row in after if row["relkind"] != "p"), "schemaname", "relname")
    return tuple(
        functools.reduce(_join_partitions, [one(row, *owner) for row in rows]) for owner, rows in sorted(owners.items())
    )


def _index_deltas(before: Sequence[Row], after: Sequence[Row], counters: _Counters) -> tuple[IndexDelta, ...]:
    """An index of a partition counts for the partitioned index that it is attached to."""
    old = {row["indexrelid"]: row for row in before}
    return tuple(
        IndexDelta(
            schema=schema,
            table=table,
            index=index,
            idx_scan=sum(
                counters.delta("pg_stat_user_indexes", old.get(row["indexrelid"], {}).get("idx_scan"), row["idx_scan"])
                for row in rows
            ),
            size_bytes=sum(int(row["size_bytes"]) for row in rows),
        )
        for (schema, table, index), rows in sorted(_by_owner(after, "schemaname", "relname", "indexrelname").items())
    )


def _sum_present(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b


def _add_table_counters(a: TableDelta, b: TableDelta) -> TableDelta:
    return replace(
        b,
        seq_scan=a.seq_scan + b.seq_scan,
        seq_tup_read=a.seq_tup_read + b.seq_tup_read,
        idx_scan=_sum_present(a.idx_scan, b.idx_scan),
        idx_tup_fetch=_sum_present(a.idx_tup_fetch, b.idx_tup_fetch),
        writes=_sum_present(a.writes, b.writes),
    )


def _join_partitions(a: TableDelta, b: TableDelta) -> TableDelta:
    return replace(
        _add_table_counters(a, b),
        rows_estimate=a.rows_estimate + b.rows_estimate,
        pages=a.pages + b.pages,
        heap_bytes=a.heap_bytes + b.heap_bytes,
        n_dead_tup=a.n_dead_tup + b.n_dead_tup,
    )


def _pool_deltas(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    database: str,
    load_ended_us: int | None,
    counters: _Counters,
    warnings: list[str],
) -> tuple[PoolDelta, ...] | None:
    """The aliases of `database`; capacity is one pool's, without reserve, for each service has an alias of its own."""
    if before is None or after is None:
        return None
    old = {row["database"]: row for row in before["stats"]}
    capacity = {
        row["name"]: min(row["pool_size"], row["max_connections"] or row["pool_size"])  # 0 = no limit
        for row in after["databases"]
        if row["database"] == database
    }
    elapsed_us = _elapsed_us(before["monotonic_us"], after["monotonic_us"], load_ended_us)
    for alias in capacity:
        users = sorted({row["user"] for row in after["pools"] if row["database"] == alias})
        if len(users) > 1:
            warnings.append(
                f'pgbouncer "{alias}": {", ".join(users)} each have a pool of it, so that its utilisation, taken over '
                "one pool, may exceed 100 %; give each user an alias"
            )

    def pool(alias: str, row: Row) -> PoolDelta:
        earlier = old.get(alias, {})

        def count(column: str) -> int:
            return counters.delta(f'pgbouncer "{alias}"', earlier.get(column), row[column])

        return PoolDelta(
            alias=alias,
            capacity=capacity[alias],
            elapsed_us=elapsed_us,
            xact_count=count("total_xact_count"),
            query_count=count("total_query_count"),
            xact_time_us=count("total_xact_time"),
            query_time_us=count("total_query_time"),
            wait_time_us=count("total_wait_time"),
        )

    rows = sorted(after["stats"], key=lambda row: str(row["database"]))
    return tuple(pool(row["database"], row) for row in rows if row["database"] in capacity)


def _api_delta(
    before: Mapping[str, float] | None, after: Mapping[str, float] | None, counters: _Counters
) -> dict[str, int]:
    return {
        name: counters.delta("api /metrics", (before or {}).get(name), value)
        for name, value in (after or {}).items()
        if name.partition("{")[0].endswith("_total")
    }


def _cache_delta(
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    api: Mapping[str, int],
    counters: _Counters,
) -> CacheDelta | None:
    if before is None or after is None:
        return None
    of_api = {"hits": 0, "lookups": 0, "errors": 0}
    for name, count in api.items():
        if match := _CACHE_COUNTER.fullmatch(name):
            of_api[match["what"]] = of_api.get(match["what"], 0) + count
    services = {"api": ResultCacheDelta(**of_api)}
    # where the API counts waiting, so do the others; a hash has no field for what never happened
    names = ("lookups", "misses", "errors", *(["waited"] if "waited" in of_api else []))
    earlier = before.get("result_caches", {})
    for service, totals in after.get("result_caches", {}).items():
        counted = {
            what: counters.delta(f"{service} result cache", earlier.get(service, {}).get(what), totals.get(what, 0))
            for what in names
        }
        hits = counted["lookups"] - counted.pop("misses")
        refreshes = 0 if "refreshes" in of_api else None  # only the API refreshes
        services[service] = ResultCacheDelta(hits=max(0, hits), refreshes=refreshes, **counted)
    old, new = before["info"], after["info"]
    if old["run_id"] != new["run_id"]:
        counters.fell.add("redis")
        old = {}

    def server(name: str) -> int:
        return counters.delta("redis", old.get(name), new[name])

    return CacheDelta(
        **{what: sum(getattr(one, what) for one in services.values()) for what in ("hits", "lookups", "errors")},
        server_hits=server("keyspace_hits"),
        server_misses=server("keyspace_misses"),
        evicted_keys=server("evicted_keys"),
        expired_keys=server("expired_keys"),
        by_service=services,
    )


def _process_cpu_s(
    before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """A service that restarted, so that its clock fell, counts from its restart."""
    spent = {}
    for service, figures in after.items():
        earlier = before.get(service, {}).get("cpu_s", 0.0)
        spent[service] = figures["cpu_s"] - (earlier if earlier <= figures["cpu_s"] else 0.0)
    return spent


# --- the sum of several differences --------------------------------------------------------------------------------


def combine(deltas: Sequence[ServerDelta]) -> ServerDelta:
    """The runs of one side as one: counters add up; of sizes and estimates the last run's hold, of resident memory
    the largest, of pool sizes the smallest. Raises ValueError if there is none."""
    if not deltas:
        raise ValueError("combine: no deltas; pass those of at least one run")
    return functools.reduce(_add, deltas)


def _add(a: ServerDelta, b: ServerDelta) -> ServerDelta:
    return replace(
        b,
        elapsed_s=a.elapsed_s + b.elapsed_s,
        warnings=tuple(dict.fromkeys(a.warnings + b.warnings)),
        statements=_merge(
            a.statements, b.statements, lambda one: (one.role, one.endpoint, one.fingerprint), add_statements
        ),
        tables=_merge(a.tables, b.tables, lambda one: (one.schema, one.table), _add_table_counters),
        indexes=_merge(
            a.indexes,
            b.indexes,
            lambda one: (one.schema, one.table, one.index),
            lambda one, other: replace(other, **_sums(one, other, "idx_scan")),
        ),
        pools=b.pools if a.pools is None else a.pools if b.pools is None else _add_pools(a.pools, b.pools),
        cache=b.cache if a.cache is None else a.cache if b.cache is None else _add_caches(a.cache, b.cache),
        archive=wal_archive.combine(a.archive, b.archive),
        statements_lost=a.statements_lost or b.statements_lost,
        active_ms=None if a.active_ms is None or b.active_ms is None else a.active_ms + b.active_ms,
        api_sql_calls=_add_counts(a.api_sql_calls, b.api_sql_calls),
        process_cpu_s=_add_counts(a.process_cpu_s, b.process_cpu_s),
        process_rss_bytes={
            service: max(a.process_rss_bytes.get(service, 0), b.process_rss_bytes.get(service, 0))
            for service in {**a.process_rss_bytes, **b.process_rss_bytes}
        },
        **_sums(a, b, "blks_hit", "blks_read", "xact_commit", "xact_rollback", "deadlocks", "temp_bytes", "wal_bytes"),
    )


def _add_pools(a: Iterable[PoolDelta], b: Iterable[PoolDelta]) -> tuple[PoolDelta, ...]:
    counts = ("elapsed_us", "xact_count", "query_count", "xact_time_us", "query_time_us", "wait_time_us")
    return _merge(
        a,
        b,
        lambda one: one.alias,
        lambda one, other: replace(other, capacity=min(one.capacity, other.capacity), **_sums(one, other, *counts)),
    )


def _add_caches(a: CacheDelta, b: CacheDelta) -> CacheDelta:
    sums = _sums(a, b, *(field.name for field in fields(CacheDelta) if field.name != "by_service"))
    by_service = {
        service: _add_result_caches([one.by_service[service] for one in (a, b) if service in one.by_service])
        for service in sorted({*a.by_service, *b.by_service})
    }
    return replace(b, **sums, by_service=by_service)


def _add_result_caches(parts: Sequence[ResultCacheDelta]) -> ResultCacheDelta:
    """A count that one of them lacks is unknown."""
    counts = {one.name: [getattr(part, one.name) for part in parts] for one in fields(ResultCacheDelta)}
    sums: dict[str, Any] = {name: None if None in values else sum(values) for name, values in counts.items()}
    return ResultCacheDelta(**sums)


def _add_counts(a: Mapping[str, N], b: Mapping[str, N]) -> dict[str, N]:
    return {name: sum(part[name] for part in (a, b) if name in part) for name in {**a, **b}}


def _sums(a: object, b: object, *names: str) -> dict[str, Any]:
    return {name: getattr(a, name) + getattr(b, name) for name in names}


def _merge(a: Iterable[V], b: Iterable[V], key: Callable[[V], object], add: Callable[[V, V], V]) -> tuple[V, ...]:
    merged: dict[object, V] = {}
    for value in (*a, *b):
        merged[key(value)] = add(merged[key(value)], value) if key(value) in merged else value
    return tuple(merged.values())
