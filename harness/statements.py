"""Turns two snapshots into what the servers did in between, and that into metrics and the Day 31 CSV files.

Pure: no I/O. Statements of two runs are joined by role and text fingerprint, never by queryid, which hashes table
OIDs and so changes with every restore.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import pglast
from pglast.parser import ParseError

from harness.errors import InputError, StackError
from harness.model import (
    CacheDelta,
    Estimate,
    IndexDelta,
    Metrics,
    PoolDelta,
    Profile,
    ServerDelta,
    Snapshot,
    StatementDelta,
    TableDelta,
)

# The harness's own reads and the administrator's are no part of what the application did.
NOT_THE_APPLICATION = ("harness", "postgres")

# The specification's eight schemas (Day 31, "Table-level sequential scan analysis").
SPECIFICATION_SCHEMAS = ("core", "farm", "sales", "inventory", "accounting", "analytics", "audit", "iot")

# The planner rightly reads a table of up to 8 pages sequentially even for one row, and scanning fewer than 1,000
# rows costs nothing worth an index: such tables say nothing about missing indexes.
SMALL_TABLE_ROWS = 1_000
SMALL_TABLE_PAGES = 8
OFFENDER_TUPLES_PER_SCAN = 1_000
OFFENDER_SCANS_PER_REQUEST = 0.01

# PostgreSQL evicts the least used 5 % once the view is full; from 90 % on the next run may well lose rows.
NEARLY_FULL = 0.9

PAGE_BYTES = 8192  # PostgreSQL's default block size

# Two-sided 95 % quantile of the normal distribution.
Z95 = 1.96

# Counters of the API's GET /metrics, whatever its prefix and further labels.
_CACHE_COUNTER = re.compile(r"\w*cache_(?P<what>hits|lookups|errors)_total(?:\{.*\})?")
_SQL_CALLS = re.compile(r'\w*sql_calls_total\{(?:.*,)?query="(?P<query>[^"]*)".*\}')

Row = Mapping[str, Any]
N = TypeVar("N", int, float)
V = TypeVar("V")


# --- fingerprints --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=20_000)
def fingerprint(query: str) -> str:
    """The shape of a statement: equal for texts that differ in constants, parameters, comments, white space and
    the length of IN and VALUES lists. PostgreSQL's own parser decides; a text that it cannot read (cut off,
    `<insufficient privilege>`) gets a hash of its normalised text, marked `text:`."""
    try:
        return pglast.fingerprint(query)
    except ParseError:
        text = re.sub(r"/\*.*?\*/|--[^\n]*", " ", query, flags=re.DOTALL)
        text = re.sub(r"'(?:[^']|'')*'|\$\d+|\b\d+(?:\.\d+)?\b", "?", text)
        text = re.sub(r"\(\s*\?(?:\s*,\s*\?)*\s*\)", "(?)", text)
        return "text:" + hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()[:16]


def named_fingerprints(files: Mapping[str, str]) -> dict[str, str]:
    """Fingerprint -> name, for the queries in fixtures/queries. files: file stem -> text with psycopg placeholders
    (`%(tag)s`, `%s`, `%%`). A name is the stem with spaces: `animal_by_tag` is "animal by tag".

    Raises InputError if two files cannot be told apart.
    """
    names: dict[str, str] = {}
    for stem, text in files.items():
        name = stem.replace("_", " ")
        key = fingerprint(_server_text(text))
        if key in names:
            raise InputError(
                f'query "{name}": same shape as "{names[key]}", the server\'s statistics cannot tell them apart; '
                "merge the two files or make their statements differ"
            )
        names[key] = name
    return names


def _server_text(query: str) -> str:
    """The text as psycopg sends it: `%(name)s` becomes $1, $2 … by first appearance, `%%` becomes %."""
    numbers: dict[str, int] = {}

    def server_form(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        return f"${numbers.setdefault(match['name'] or str(match.start()), len(numbers) + 1)}"

    return re.sub(r"%%|%(?:\((?P<name>[^)]+)\))?[sbt]", server_form, query)


# --- moments: number, sum and sum of squared deviations ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moments:
    """count, sum and M2 (sum of squared deviations from the mean): what pg_stat_statements keeps of timings."""

    count: int
    total: float
    m2: float

    def plus(self, other: Moments) -> Moments:
        """Chan's parallel form of Welford's update."""
        if not self.count or not other.count:
            return other if other.count else self
        gap = other.total / other.count - self.total / self.count
        count = self.count + other.count
        return Moments(
            count, self.total + other.total, self.m2 + other.m2 + gap * gap * self.count * other.count / count
        )

    def minus(self, earlier: Moments) -> Moments:
        """What was added since `earlier`; rounding may leave a tiny negative M2, which is clamped to 0."""
        count = self.count - earlier.count
        total = self.total - earlier.total
        if count <= 0:
            return Moments(0, 0.0, 0.0)
        if not earlier.count:
            return self
        gap = total / count - earlier.total / earlier.count
        m2 = self.m2 - earlier.m2 - gap * gap * earlier.count * count / self.count
        return Moments(count, total, max(m2, 0.0))


def _timings(row: Row) -> Moments:
    """The view's stddev is that of the population (Welford), so M2 = n * sd²."""
    calls = int(row["calls"])
    return Moments(calls, float(row["total_exec_time"]), calls * float(row["stddev_exec_time"]) ** 2)


# --- statements ----------------------------------------------------------------------------------------------------

_STATEMENT_COUNTERS = ("rows", "shared_blks_hit", "shared_blks_read", "temp_blks_written", "wal_bytes")


@dataclass(frozen=True, slots=True)
class _Activity:
    """What one row of pg_stat_statements did between two snapshots."""

    role: str
    queryid: int | None
    query: str
    timings: Moments
    counters: Mapping[str, int]
    lower_bound: bool


def _activities(before: Snapshot, after: Snapshot) -> tuple[list[_Activity], list[str]]:
    """Top-level rows of the snapshot's database that were called in between, and why they may be incomplete.

    The columns read here have one name from extension 1.9 (PostgreSQL 14) to 1.12 (18); 1.11 renamed blk_*_time
    only. Raises StackError for an older one, which cannot tell nested statements from top-level ones.
    """
    database = after.postgres["database"]["datname"]
    extension = str(after.postgres["extension_version"])
    if tuple(map(int, extension.split("."))) < (1, 9):
        raise StackError(
            f"pg_stat_statements {extension}: has no column toplevel; ALTER EXTENSION pg_stat_statements UPDATE"
        )

    def rows(snapshot: Snapshot) -> dict[tuple[int, int, int | None, bool], Row]:
        return {
            (row["userid"], row["dbid"], row["queryid"], row["toplevel"]): row
            for row in snapshot.postgres["statements"]
            if row["toplevel"] and row["database"] == database
        }

    old, new = rows(before), rows(after)
    warnings, was_reset, evicted = _validity(before, after)
    if was_reset:
        old = {}
    if gone := [row for key, row in old.items() if key not in new]:
        warnings.append(
            f"pg_stat_statements: {len(gone)} statements of the first snapshot are gone, what they did since is "
            f'unknown (such as "{_preview(gone[0]["query"], 60)}"); raise pg_stat_statements.max'
        )
    found = []
    reborn = {key for key, row in new.items() if key in old and _began_anew(old[key], row)}
    if reborn:
        warnings.append(
            f"pg_stat_statements: {len(reborn)} statements began to count anew between the snapshots, their counts are "
            "lower bounds; raise pg_stat_statements.max and keep other tools from resetting it"
        )
    for key, row in new.items():
        start = None if key in reborn else old.get(key)
        timings = _timings(row).minus(_timings(start)) if start else _timings(row)
        if timings.count == 0:
            continue
        # Since 1.11 the unchanged stats_since proves that a row was never evicted, whatever happened to others.
        proven = start is not None and row.get("stats_since") is not None
        found.append(
            _Activity(
                role=row["role"] or f"oid {row['userid']}",
                queryid=row["queryid"],
                query=row["query"] or "",
                timings=timings,
                counters={name: int(row[name]) - (int(start[name]) if start else 0) for name in _STATEMENT_COUNTERS},
                lower_bound=was_reset or key in reborn or (evicted and not proven),
            )
        )
    return found, warnings


def _began_anew(before: Row, after: Row) -> bool:
    """Evicted and back again. Up to 1.10 a row that has passed its old count by then cannot be told."""
    return bool(after["calls"] < before["calls"] or after.get("stats_since") != before.get("stats_since"))


def _validity(before: Snapshot, after: Snapshot) -> tuple[list[str], bool, bool]:
    """Warnings, each with its remedy; whether the view was reset in between; whether rows were evicted."""
    old, new = before.postgres["info"], after.postgres["info"]
    warnings = []
    was_reset = old["stats_reset"] != new["stats_reset"]
    if was_reset:
        warnings.append(
            f"pg_stat_statements: reset at {new['stats_reset']}, between the snapshots, so that all counts are lower "
            "bounds; keep other tools from calling pg_stat_statements_reset() during a run"
        )
    evictions = new["dealloc"] - (0 if was_reset else old["dealloc"])
    if evictions > 0:
        warnings.append(
            f"pg_stat_statements: rows were evicted {evictions} times between the snapshots, counts are lower bounds; "
            "raise pg_stat_statements.max, set track_utility = off"
        )
    entries, most = len(after.postgres["statements"]), after.postgres["settings"].get("pg_stat_statements.max")
    if most is not None and entries >= NEARLY_FULL * int(most):
        warnings.append(
            f"pg_stat_statements: {entries} of {most} entries are in use, evictions are near; "
            "raise pg_stat_statements.max"
        )
    return warnings, was_reset, evictions > 0


def _statements(
    activities: Iterable[_Activity], names: Mapping[str, str], exclude_roles: Collection[str]
) -> tuple[StatementDelta, ...]:
    grouped: dict[tuple[str, str], StatementDelta] = {}
    # The most called text represents its group, whatever order the server returned the rows in.
    for activity in sorted(activities, key=lambda one: (-one.timings.count, one.query)):
        if activity.role in exclude_roles:
            continue
        shape = fingerprint(activity.query)
        statement = StatementDelta(
            role=activity.role,
            fingerprint=shape,
            name=names.get(shape),
            query=activity.query,
            calls=activity.timings.count,
            total_ms=activity.timings.total,
            m2_ms2=activity.timings.m2,
            lower_bound=activity.lower_bound,
            **activity.counters,
        )
        key = (activity.role, shape)
        grouped[key] = _add_statements(grouped[key], statement) if key in grouped else statement
    return tuple(sorted(grouped.values(), key=lambda one: (-one.total_ms, one.role, one.fingerprint)))


def _moments(statement: StatementDelta) -> Moments:
    return Moments(statement.calls, statement.total_ms, statement.m2_ms2)


def _add_statements(a: StatementDelta, b: StatementDelta) -> StatementDelta:
    timings = _moments(a).plus(_moments(b))
    return replace(
        a,
        calls=timings.count,
        total_ms=timings.total,
        m2_ms2=timings.m2,
        lower_bound=a.lower_bound or b.lower_bound,
        **{name: getattr(a, name) + getattr(b, name) for name in _STATEMENT_COUNTERS},
    )


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
    activities, warnings = _activities(before, after)
    counters = _Counters()
    old_database, new_database = before.postgres["database"], after.postgres["database"]

    def database(name: str) -> int:
        return counters.delta("pg_stat_database", old_database.get(name), new_database[name])

    def application_blocks(name: str) -> int:
        """The database counts everyone: a snapshot reads thousands of catalog pages, always from shared buffers."""
        others = sum(one.counters[f"shared_{name}"] for one in activities if one.role in exclude_roles)
        return max(0, database(name) - others)

    api = _api_delta(before.api, after.api, counters)
    delta = ServerDelta(
        elapsed_s=_elapsed_us(before.monotonic_us, after.monotonic_us, load_ended_us) / 1e6,
        warnings=(),
        statements=_statements(activities, query_names, exclude_roles),
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
    app = {"hits": 0, "lookups": 0, "errors": 0}
    for name, count in api.items():
        if match := _CACHE_COUNTER.fullmatch(name):
            app[match["what"]] += count
    old, new = before["info"], after["info"]
    if old["run_id"] != new["run_id"]:
        counters.fell.add("redis")
        old = {}

    def server(name: str) -> int:
        return counters.delta("redis", old.get(name), new[name])

    return CacheDelta(
        **app,
        server_hits=server("keyspace_hits"),
        server_misses=server("keyspace_misses"),
        evicted_keys=server("evicted_keys"),
        expired_keys=server("expired_keys"),
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
        statements=_merge(a.statements, b.statements, lambda one: (one.role, one.fingerprint), _add_statements),
        tables=_merge(a.tables, b.tables, lambda one: (one.schema, one.table), _add_table_counters),
        indexes=_merge(
            a.indexes,
            b.indexes,
            lambda one: (one.schema, one.table, one.index),
            lambda one, other: replace(other, **_sums(one, other, "idx_scan")),
        ),
        pools=b.pools if a.pools is None else a.pools if b.pools is None else _add_pools(a.pools, b.pools),
        cache=b.cache if a.cache is None else a.cache if b.cache is None else _add_caches(a.cache, b.cache),
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
    return replace(b, **_sums(a, b, *(field.name for field in fields(CacheDelta))))


def _add_counts(a: Mapping[str, N], b: Mapping[str, N]) -> dict[str, N]:
    return {name: sum(part[name] for part in (a, b) if name in part) for name in {**a, **b}}


def _sums(a: object, b: object, *names: str) -> dict[str, Any]:
    return {name: getattr(a, name) + getattr(b, name) for name in names}


def _merge(a: Iterable[V], b: Iterable[V], key: Callable[[V], object], add: Callable[[V, V], V]) -> tuple[V, ...]:
    merged: dict[object, V] = {}
    for value in (*a, *b):
        merged[key(value)] = add(merged[key(value)], value) if key(value) in merged else value
    return tuple(merged.values())


# --- metrics -------------------------------------------------------------------------------------------------------


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
        by_scans_pct=_pct(seq_scans, scans),
        by_tuples_pct=_pct(seq_tuples, tuples),
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
    requests_by_endpoint: requests started between the snapshots.
    """
    requests = sum((requests_by_endpoint or {}).values())
    scans = seq_scan_shares(delta)
    pools = pool_use(delta) if profile == "day40" else []
    cache = delta.cache if profile == "day40" else None
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
        "db_calls_per_request": {None: _calls_per_request(delta, requests)},
    }


def _statement_means(delta: ServerDelta) -> Iterable[tuple[str, Estimate]]:
    named: dict[str, Moments] = defaultdict(lambda: Moments(0, 0.0, 0.0))
    for statement in delta.statements:
        if statement.name:
            named[statement.name] = named[statement.name].plus(_moments(statement))
    for name, timings in named.items():
        mean, half = timings.total / timings.count, None
        if timings.count >= 2:
            half = Z95 * math.sqrt(timings.m2 / (timings.count - 1) / timings.count)
        low, high = (None, None) if half is None else (max(0.0, mean - half), mean + half)
        yield name, Estimate(mean, low, high, timings.count)


def _calls_per_request(delta: ServerDelta, requests: int) -> Estimate | None:
    """Lower bounds would pass an upper limit undeservedly: then None."""
    if not requests or not delta.statements or any(one.lower_bound for one in delta.statements):
        return None
    return Estimate(sum(one.calls for one in delta.statements) / requests, None, None, requests)


def _pct(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _exact(value: float | None, count: int) -> Estimate | None:
    return None if value is None else Estimate(value, None, None, count)


def _share(part: int, whole: int) -> Estimate | None:
    return _exact(_pct(part, whole), whole)


# --- the Day 31 files ----------------------------------------------------------------------------------------------


def pg_stats_csv(
    spans: Iterable[tuple[Snapshot, Snapshot]], exclude_roles: Collection[str] = NOT_THE_APPLICATION
) -> str:
    """`day31_pg_stats.csv`: the columns of the specification's query and the role, summed over the spans between
    pairs of snapshots, every top-level statement that was called, slowest mean first."""
    summed: dict[tuple[str, str], _Activity] = {}
    for before, after in spans:
        for one in _activities(before, after)[0]:
            # by text, since the queryid changes when a reset makes the tables anew
            key = (one.role, one.query)
            summed[key] = _add_activities(summed[key], one) if key in summed else one
    called = [one for one in summed.values() if one.role not in exclude_roles]
    return _csv(
        ("queryid", "query_preview", "calls", "total_ms", "mean_ms", "stddev_ms", "rows", "cache_hit_pct", "role"),
        (_pg_stats_row(one) for one in sorted(called, key=lambda one: -one.timings.total / one.timings.count)),
    )


def _add_activities(a: _Activity, b: _Activity) -> _Activity:
    return replace(b, timings=a.timings.plus(b.timings), counters=_add_counts(a.counters, b.counters))


def _pg_stats_row(one: _Activity) -> tuple[object, ...]:
    timings, hit, read = one.timings, one.counters["shared_blks_hit"], one.counters["shared_blks_read"]
    return (
        one.queryid,
        _preview(one.query, 120),
        timings.count,
        round(timings.total, 2),
        round(timings.total / timings.count, 2),
        round(math.sqrt(timings.m2 / timings.count), 2),
        one.counters["rows"],
        _round(_pct(hit, hit + read)),
        one.role,
    )


def pg_scans_csv(delta: ServerDelta) -> str:
    """The specification's scan analysis of the eight schemas, most tuples read sequentially first. Columns of a table
    without index are empty, and so is the share of one that nobody scanned."""
    tables = [one for one in delta.tables if one.schema in SPECIFICATION_SCHEMAS]
    return _csv(
        ("schemaname", "relname", "seq_scan", "seq_tup_read", "idx_scan", "idx_tup_fetch", "idx_scan_pct"),
        (
            (
                one.schema,
                one.table,
                one.seq_scan,
                one.seq_tup_read,
                one.idx_scan,
                one.idx_tup_fetch,
                None if one.idx_scan is None else _round(_pct(one.idx_scan, one.seq_scan + one.idx_scan)),
            )
            for one in sorted(tables, key=lambda one: (-one.seq_tup_read, one.schema, one.table))
        ),
    )


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _preview(query: str, length: int) -> str:
    return " ".join(query.split())[:length]
