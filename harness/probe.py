"""Reads what the servers of a running stack count and gauge: whole snapshots, and one sample a second between them.

Only reads. A snapshot that cannot be complete raises; a sample leaves out what it could not get.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import psutil
import psycopg
import redis
from psycopg.rows import dict_row

from fixtures.cache.keys import counts_key
from harness.errors import StackError
from harness.model import Snapshot, StackAddresses

# By this name the harness's own connections are told apart from the application's.
APPLICATION_NAME = "dairyperf"

# Services of several processes, whose result caches count in Redis; the API's single process shows its own counts.
RESULT_CACHES = ("odoo",)

# A server that does not answer within this time costs the sampler at most so much.
ANSWER_TIMEOUT_S = 2

# PostgreSQL 15+: an idle backend hands in its table statistics after 10 s (PGSTAT_IDLE_INTERVAL), a busy one at the
# end of the first transaction that ends 1 s after the last hand-in (PGSTAT_MIN_INTERVAL).
STATISTICS_IDLE_S = 11.0
STATISTICS_BUSY_S = 1.0

Row = dict[str, Any]

# What differs from the default, not by this session; and, even when default, what the specification sets on Day 31
# and what decides whether the statistics can be trusted. Connection strings are left out: they may hold passwords.
SETTINGS = """
SELECT name, current_setting(name) AS value FROM pg_settings
WHERE name NOT IN ('primary_conninfo', 'ssl_passphrase_command') AND (
    source NOT IN ('default', 'client', 'session', 'override') OR name IN (
        'shared_buffers', 'effective_cache_size', 'work_mem', 'maintenance_work_mem', 'wal_buffers',
        'max_connections', 'superuser_reserved_connections', 'wal_level', 'max_wal_size', 'min_wal_size',
        'checkpoint_completion_target', 'archive_mode', 'archive_command', 'archive_timeout',
        'random_page_cost', 'effective_io_concurrency', 'default_statistics_target',
        'log_min_duration_statement', 'log_checkpoints', 'log_connections', 'log_disconnections', 'log_lock_waits',
        'log_temp_files', 'autovacuum_max_workers', 'autovacuum_naptime', 'autovacuum_vacuum_cost_delay',
        'shared_preload_libraries', 'pg_stat_statements.max', 'pg_stat_statements.track',
        'pg_stat_statements.track_utility', 'auto_explain.log_min_duration', 'track_io_timing',
        'fsync', 'synchronous_commit', 'full_page_writes', 'jit'))
ORDER BY name
"""

# The partitioned parent comes along so that partitions, which alone are counted, can be summed into it.
TABLES = """
SELECT s.*, c.relkind::text, c.reltuples, c.relpages, pg_relation_size(c.oid) AS heap_bytes, c.relhasindex AS has_index,
       pn.nspname AS parent_schemaname, p.relname AS parent_relname
FROM pg_stat_user_tables s
JOIN pg_class c ON c.oid = s.relid
LEFT JOIN pg_class p ON c.relispartition AND p.oid = pg_partition_root(c.oid)
LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
"""
INDEXES = """
SELECT s.*, pg_relation_size(s.indexrelid) AS size_bytes,
       pn.nspname AS parent_schemaname, pt.relname AS parent_relname, p.relname AS parent_indexrelname
FROM pg_stat_user_indexes s
JOIN pg_class c ON c.oid = s.indexrelid
LEFT JOIN pg_class p ON c.relispartition AND p.oid = pg_partition_root(c.oid)
LEFT JOIN pg_index pi ON pi.indexrelid = p.oid
LEFT JOIN pg_class pt ON pt.oid = pi.indrelid
LEFT JOIN pg_namespace pn ON pn.oid = pt.relnamespace
"""
ARCHIVER = "SELECT *, pg_size_bytes(current_setting('wal_segment_size')) AS segment_bytes FROM pg_stat_archiver"
STATEMENTS = """
SELECT r.rolname AS role, d.datname AS database, s.*
FROM pg_stat_statements s
LEFT JOIN pg_roles r ON r.oid = s.userid
LEFT JOIN pg_database d ON d.oid = s.dbid
"""


# --- snapshots -----------------------------------------------------------------------------------------------------


def snapshot(addresses: StackAddresses, postgres: psycopg.Connection[Row] | None = None) -> Snapshot:
    """Every counter of every server of the stack, every row; values are what JSON can hold. postgres: a connection to
    read its counters by, which stays open; None = a new one.

    Raises StackError naming the server that did not answer.
    """
    taken_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    monotonic_us = time.monotonic_ns() // 1000
    return Snapshot(
        taken_at=taken_at,
        monotonic_us=monotonic_us,
        # The pools first: their utilisation divides by the time between the two readings.
        pgbouncer=_read("pgbouncer", lambda: _pgbouncer(addresses)) if addresses.pgbouncer_dsn else None,
        postgres=cast(Row, _read("postgres", lambda: _postgres(addresses, postgres))),
        redis=_read("redis", lambda: _redis(addresses)) if addresses.redis_url else None,
        api=_read("api", lambda: parse_metrics(_get(addresses.api_url.rstrip("/") + "/metrics"))),
        processes=processes(addresses.pids),
    )


def _read(place: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (psycopg.Error, redis.RedisError, OSError, ValueError) as error:
        raise StackError(
            f"{place}: no snapshot, {type(error).__name__}: {' '.join(str(error).split())}; "
            "see whether the server runs (dairyperf status) and what its log says"
        ) from error


def _connect(dsn: str, **options: Any) -> psycopg.Connection[Row]:
    return psycopg.connect(
        dsn,
        autocommit=True,
        row_factory=dict_row,
        application_name=APPLICATION_NAME,
        connect_timeout=ANSWER_TIMEOUT_S,
        **options,
    )


def _console(addresses: StackAddresses) -> psycopg.Connection[Row]:
    """pgBouncer's admin console speaks the simple query protocol only, hence the client-side cursor."""
    return _connect(cast(str, addresses.pgbouncer_dsn), cursor_factory=psycopg.ClientCursor, prepare_threshold=None)


def _rows(connection: psycopg.Connection[Row], query: str) -> list[Row]:
    return [
        {name: _json_value(value) for name, value in row.items()}
        for row in connection.execute(cast(Any, query)).fetchall()
    ]


def _json_value(value: Any) -> Any:
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case float() if not math.isfinite(value):
            return None
        case datetime() | date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_json_value(one) for one in value]
        case _:
            return str(value)


def _postgres(addresses: StackAddresses, kept: psycopg.Connection[Row] | None) -> Row:
    with contextlib.nullcontext(kept) if kept else _connect(addresses.postgres_dsn) as connection:
        return {
            # First what is counted at once; the statistics of tables are late anyway.
            "info": _rows(connection, "SELECT * FROM pg_stat_statements_info")[0],
            "statements": _rows(connection, STATEMENTS),
            "extension_version": _rows(
                connection, "SELECT extversion FROM pg_extension WHERE extname = 'pg_stat_statements'"
            )[0]["extversion"],
            "version": _rows(connection, "SHOW server_version")[0]["server_version"],
            "settings": {row["name"]: row["value"] for row in _rows(connection, SETTINGS)},
            "database": _rows(connection, "SELECT * FROM pg_stat_database WHERE datname = current_database()")[0],
            "tables": _rows(connection, TABLES),
            "indexes": _rows(connection, INDEXES),
            "wal": _rows(connection, "SELECT * FROM pg_stat_wal")[0],
            "bgwriter": _rows(connection, "SELECT * FROM pg_stat_bgwriter")[0],
            "archiver": _rows(connection, ARCHIVER)[0],
            "io": _rows(connection, "SELECT * FROM pg_stat_io"),
        }


def _pgbouncer(addresses: StackAddresses) -> Row:
    with _console(addresses) as console:
        return {
            # Counters and clock side by side: their ratio is the utilisation.
            "monotonic_us": time.monotonic_ns() // 1000,
            "stats": _without_console(_rows(console, "SHOW STATS"), "database"),
            "pools": _without_console(_rows(console, "SHOW POOLS"), "database"),
            "databases": _without_console(_rows(console, "SHOW DATABASES"), "name"),
            "config": _rows(console, "SHOW CONFIG"),
            "version": _rows(console, "SHOW VERSION")[0]["version"],
        }


def _without_console(rows: Iterable[Row], column: str) -> list[Row]:
    return [row for row in rows if row[column] != "pgbouncer"]


def _redis(addresses: StackAddresses) -> Row:
    with _redis_client(addresses) as client:
        counted = {service: client.hgetall(counts_key(service)) for service in RESULT_CACHES}
        return {
            "info": client.info(),
            "result_caches": {
                service: {name.decode(): int(total) for name, total in totals.items()}
                for service, totals in counted.items()
            },
        }


def _redis_client(addresses: StackAddresses) -> redis.Redis:
    secrets = json.loads(Path(addresses.secrets_file).read_text())
    return redis.Redis.from_url(
        cast(str, addresses.redis_url),
        password=secrets.get("redis"),
        client_name=APPLICATION_NAME,
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
    )


def _get(url: str) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the machine's proxy knows no loopback
    with direct.open(url, timeout=10) as response:
        return cast(bytes, response.read()).decode()


def parse_metrics(text: str) -> dict[str, float]:
    """Prometheus' text format -> "name" or 'name{label="value"}', as it stands there, -> value.

    NaN, the format's "no value", is left out. Raises ValueError for a line that is no sample.
    """
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z_:][\w:]*(?:\{.*\})?)\s+(\S+)(?:\s+-?\d+)?\s*", line)
        if not match:
            raise ValueError(f'/metrics: "{line[:80]}" is no sample of the Prometheus text format')
        if math.isfinite(value := float(match[2])):
            found[match[1]] = value
    return found


# --- Odoo's log ----------------------------------------------------------------------------------------------------


def odoo_log_bytes(addresses: StackAddresses) -> int | None:
    """How long Odoo's log is by now; None where it is not on this machine."""
    path = _odoo_log(addresses)
    return path.stat().st_size if path else None


def odoo_log_since(addresses: StackAddresses, start_bytes: int) -> str | None:
    """What Odoo logged after its first `start_bytes`; None where that is no more to be had."""
    path = _odoo_log(addresses)
    if path is None or path.stat().st_size < start_bytes:
        return None
    with path.open("rb") as log:
        log.seek(start_bytes)
        return log.read().decode(errors="replace")


def _odoo_log(addresses: StackAddresses) -> Path | None:
    path = Path(addresses.log_dir) / "odoo.log" if addresses.log_dir else None
    return path if path is not None and path.is_file() else None


# --- processes -----------------------------------------------------------------------------------------------------


def processes(pids: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Service -> cpu_s, rss_bytes and, where this user may read them, read_bytes and write_bytes of its process tree.

    pids: service -> root. Processor time and disk I/O include children that have ended. rss_bytes counts pages that
    processes share (PostgreSQL's shared_buffers) once per process. A service that is gone is absent.
    """
    found: dict[str, dict[str, float]] = {}
    for service, tree in _trees(pids).items():
        for process in tree:
            for name, value in _process_figures(process).items():
                figures = found.setdefault(service, {})
                figures[name] = figures.get(name, 0.0) + value
    return found


def _trees(pids: Mapping[str, int]) -> dict[str, list[psutil.Process]]:
    """One pass over the process table for all services: this runs every second on a busy machine."""
    service_of = {pid: service for service, pid in pids.items()}
    everyone = {}
    for process in psutil.process_iter():
        try:
            everyone[process.pid] = (process, process.ppid())
        except psutil.Error:
            continue
    trees: dict[str, list[psutil.Process]] = {}
    for pid, (process, _) in everyone.items():
        ancestor = pid
        while ancestor in everyone and ancestor not in service_of:
            ancestor = everyone[ancestor][1]
        if ancestor in service_of and ancestor in everyone:
            trees.setdefault(service_of[ancestor], []).append(process)
    return trees


def _process_figures(process: psutil.Process) -> dict[str, float]:
    try:
        with process.oneshot():
            times = process.cpu_times()
            figures = {
                "cpu_s": times.user + times.system + times.children_user + times.children_system,
                "rss_bytes": float(process.memory_info().rss),
            }
    except psutil.Error:
        return {}
    try:
        io = process.io_counters()
    except psutil.Error:
        return figures
    return figures | {"read_bytes": float(io.read_bytes), "write_bytes": float(io.write_bytes)}


# --- late statistics -----------------------------------------------------------------------------------------------


def wait_for_quiet_statistics(
    addresses: StackAddresses, quiet_s: float = STATISTICS_IDLE_S, timeout_s: float = 30.0
) -> bool:
    """After the load: waits until PostgreSQL's backends have handed in their table and database statistics.

    A backend has, if it has been idle for `quiet_s`, or finished something 1 s or more after this call (so that a
    poller that never rests does not hold it up). False = not reached within `timeout_s`: the counts of tables are
    lower bounds then. Raises StackError when the server does not answer.
    """
    query = (
        "SELECT count(*) AS late FROM pg_stat_activity WHERE backend_type = 'client backend' "
        "AND application_name <> %(harness)s AND (state IS DISTINCT FROM 'idle' OR state_change BETWEEN "
        "clock_timestamp() - make_interval(secs => %(quiet_s)s) AND %(began)s + make_interval(secs => %(busy_s)s))"
    )
    deadline = time.monotonic() + timeout_s

    def wait() -> bool:
        with _connect(addresses.postgres_dsn) as connection:
            began = connection.execute("SELECT clock_timestamp() AS now").fetchall()[0]["now"]
            values = {"harness": APPLICATION_NAME, "quiet_s": quiet_s, "began": began, "busy_s": STATISTICS_BUSY_S}
            while connection.execute(query, values).fetchall()[0]["late"]:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.25)
            return True

    return bool(_read("postgres", wait))


# --- samples -------------------------------------------------------------------------------------------------------

_STATES = ("active", "idle", "idle_in_transaction", "idle_in_transaction_aborted")
_WAITS = ("none", "Activity", "BufferPin", "Client", "Extension", "IO", "IPC", "Lock", "LWLock", "Timeout")

ACTIVITY = """
SELECT state, coalesce(wait_event_type, 'none') AS wait, count(*) AS backends,
       max(extract(epoch FROM clock_timestamp() - xact_start))::float8 AS oldest_s
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND application_name <> %s
GROUP BY 1, 2
"""

# A segment's name is a timeline and two numbers of its position, eight hexadecimal digits each; names of another form
# belong to other files of the archive.
WAL_ARCHIVE = """
WITH archiver AS (
    SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS written_bytes,
           pg_size_bytes(current_setting('wal_segment_size')) AS segment_bytes,
           extract(epoch FROM clock_timestamp() - last_archived_time) AS since_archived_s,
           (regexp_match(last_archived_wal, '^[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})$')) AS numbers
    FROM pg_stat_archiver
    WHERE current_setting('archive_mode') <> 'off'
), archived AS (
    SELECT *, pg_wal_lsn_diff((numbers[1] || '/0')::pg_lsn, '0/0')
              + (('x' || numbers[2])::bit(32)::bigint + 1) * segment_bytes AS archived_bytes
    FROM archiver
)
SELECT written_bytes::float8, archived_bytes::float8,
       CASE WHEN written_bytes - archived_bytes <= segment_bytes THEN since_archived_s::float8 END AS since_archived_s
FROM archived
"""


class Probes:
    """Samples of every server's gauges, taken about once a second: `with Probes(addresses) as probes: probes.sample()`.

    Connections stay open between samples. A source that fails gives no value in that sample, is connected anew for
    the next one, and is named once in `warnings`; it never ends the run. Shares and rates need two samples, so the
    first has none. load_generator: process ids of the load generator, whose series end in `.load_generator`.
    """

    def __init__(self, addresses: StackAddresses, load_generator: Sequence[int] = ()) -> None:
        self._addresses = addresses
        self._load_generator = load_generator
        self._open: dict[str, Any] = {}
        self._earlier: dict[str, float] = {}
        self._earlier_at: float | None = None
        self.warnings: list[str] = []

    def __enter__(self) -> Self:
        psutil.cpu_times_percent(interval=None)  # the first call only sets the mark that the next one counts from
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in list(self._open):
            self._close(source)

    def sample(self) -> dict[str, float]:
        """Series name -> value. Names carry their unit, e.g. `pool.smart_dairy_api.sv_active`, `cpu_pct.odoo`."""
        sources: dict[str, Callable[[], dict[str, float]]] = {"host": _host, "processes": self._processes}
        sources["postgres"] = self._postgres
        if self._addresses.pgbouncer_dsn:
            sources["pgbouncer"] = self._pools
        if self._addresses.redis_url:
            sources["redis"] = self._redis
        values: dict[str, float] = {}
        for source, read in sources.items():
            try:
                values |= read()
            except (psycopg.Error, redis.RedisError, psutil.Error, OSError, ValueError) as error:
                self._close(source)
                self._warn(f"{source}: samples are missing, {type(error).__name__}; see its log")
        return values

    def snapshot(self) -> Snapshot:
        """As the function, but by the connection that samples are read by: for a look in the middle of a run. A new
        connection reads about 1,700 catalog blocks, all of them hits, which the database counts and no statement does:
        whoever looks often would improve the application's buffer hits. Raises StackError."""
        try:
            return snapshot(self._addresses, cast(psycopg.Connection[Row], _read("postgres", self._to_postgres)))
        except StackError:
            self._close("postgres")
            raise

    def _to_postgres(self) -> psycopg.Connection[Row]:
        options = f"-c statement_timeout={ANSWER_TIMEOUT_S * 1000}"
        connection = self._connection("postgres", lambda: _connect(self._addresses.postgres_dsn, options=options))
        return cast(psycopg.Connection[Row], connection)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _close(self, source: str) -> None:
        connection = self._open.pop(source, None)
        if connection is not None:
            connection.close()

    def _connection(self, source: str, connect: Callable[[], Any]) -> Any:
        if source not in self._open:
            self._open[source] = connect()
        return self._open[source]

    def _postgres(self) -> dict[str, float]:
        connection = self._to_postgres()
        values = {f"postgres.state.{state}": 0.0 for state in _STATES}
        values |= {f"postgres.wait.{wait}": 0.0 for wait in _WAITS}
        oldest_s = 0.0
        for row in connection.execute(ACTIVITY, (APPLICATION_NAME,)).fetchall():
            state = "postgres.state." + re.sub(r"\W+", "_", row["state"] or "unknown").strip("_")
            values[state] = values.get(state, 0.0) + row["backends"]
            if row["state"] == "active":  # what an idle backend waits for is its client
                wait = f"postgres.wait.{row['wait']}"
                values[wait] = values.get(wait, 0.0) + row["backends"]
            oldest_s = max(oldest_s, row["oldest_s"] or 0.0)
        for row in connection.execute(WAL_ARCHIVE).fetchall():
            values |= {f"wal.{name}": value for name, value in row.items() if value is not None}
        return values | {"postgres.oldest_transaction_s": oldest_s}

    def _pools(self) -> dict[str, float]:
        console = self._connection("pgbouncer", lambda: _console(self._addresses))
        values: dict[str, float] = {}
        for row in _without_console(_rows(console, "SHOW POOLS"), "database"):
            prefix = f"pool.{row['database']}"
            gauges = {
                "sv_active": row["sv_active"],
                "sv_idle": row["sv_idle"] + row["sv_used"],
                "cl_waiting": row["cl_waiting"],
                "clients": row["cl_active"] + row["cl_waiting"],
            }
            for name, value in gauges.items():
                values[f"{prefix}.{name}"] = values.get(f"{prefix}.{name}", 0.0) + value
            waited_s = row["maxwait"] + row["maxwait_us"] / 1e6
            values[f"{prefix}.maxwait_s"] = max(values.get(f"{prefix}.maxwait_s", 0.0), waited_s)
        for row in _without_console(_rows(console, "SHOW STATS"), "database"):
            for name, total in (("xacts", row["total_xact_count"]), ("wait_ms", row["total_wait_time"] / 1000)):
                if (new := self._since(f"{row['database']}.{name}", total)) is not None:
                    values[f"pool.{row['database']}.{name}_per_sample"] = new
        return values

    def _redis(self) -> dict[str, float]:
        info = self._connection("redis", lambda: _redis_client(self._addresses)).info()
        hits, lookups = info["keyspace_hits"], info["keyspace_hits"] + info["keyspace_misses"]
        values = {
            "redis.ops_per_s": float(info["instantaneous_ops_per_sec"]),
            "redis.used_memory_bytes": float(info["used_memory"]),
        }
        new_hits, new_lookups = self._since("redis.hits", hits), self._since("redis.lookups", lookups)
        if new_hits is not None and new_lookups:
            values["redis.hit_pct"] = 100 * new_hits / new_lookups
        return values

    def _processes(self) -> dict[str, float]:
        now = time.monotonic()
        elapsed_s = None if self._earlier_at is None else now - self._earlier_at
        self._earlier_at = now
        generators = {f"{index} load_generator": pid for index, pid in enumerate(self._load_generator)}
        values: dict[str, float] = {}
        for place, figures in processes({**self._addresses.pids, **generators}).items():
            service = place.split()[-1]
            values[f"rss_bytes.{service}"] = values.get(f"rss_bytes.{service}", 0.0) + figures["rss_bytes"]
            spent_s = self._since(f"cpu_s.{place}", figures["cpu_s"])
            if spent_s is not None and elapsed_s:
                values[f"cpu_pct.{service}"] = values.get(f"cpu_pct.{service}", 0.0) + 100 * spent_s / elapsed_s
        return values

    def _since(self, counter: str, value: float) -> float | None:
        """What the counter grew since the last sample; None at first and after it fell (its server restarted)."""
        earlier = self._earlier.get(counter)
        self._earlier[counter] = value
        return None if earlier is None or value < earlier else value - earlier


def _host() -> dict[str, float]:
    times = psutil.cpu_times_percent(interval=None)
    return {
        "host.cpu_pct": max(0.0, 100 - times.idle - times.iowait),
        "host.iowait_pct": times.iowait,
        "host.steal_pct": times.steal,
        "host.load_1m": os.getloadavg()[0],
        "host.memory_available_bytes": float(psutil.virtual_memory().available),
    }
