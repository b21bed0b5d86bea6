"""Keeps a database in order while it is in use: the next quarter's partition, VACUUM and ANALYZE of every table.

Never VACUUM FULL, which the specification runs on its three high-churn tables: it rewrites the table under ACCESS
EXCLUSIVE, so that every reader and writer waits, and needs the table's size again on disk. A plain VACUUM makes the
room of dead rows usable again; what it could not remove is reported.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from harness import schema_change
from harness.index_plan import quoted
from harness.schema_change import Connection, Say, faults
from harness.seed import SCHEMAS

# Above it the specification's script runs VACUUM FULL.
DEAD_ROWS_LIMIT = 10_000

# Tables and materialized views; of a partitioned table the partitions, as the parent holds no row.
_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relispartition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
ORDER BY n.nspname, c.relname
"""
_PARENTS = """
SELECT n.nspname, c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind = 'p' AND NOT c.relispartition
ORDER BY n.nspname, c.relname
"""
_STATISTICS = """
SELECT pg_stat_get_live_tuples(c.oid), pg_stat_get_dead_tuples(c.oid), c.relpages,
       pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_analyze_time(c.oid)
FROM pg_class c WHERE c.oid = %s
"""


@dataclass(frozen=True, slots=True)
class TableCare:
    """What one table was given. problem: None = vacuumed and analyzed, as the server's statistics show.

    dead_before, dead_after, live: rows by the server's estimate; pages of 8 KiB. elapsed_s: VACUUM, and ANALYZE where
    it came with it.
    """

    schema: str
    table: str
    elapsed_s: float
    pages: int
    live: int
    dead_before: int
    dead_after: int
    problem: str | None

    @property
    def dead_before_pct(self) -> float | None:
        """Per cent of all rows; None for an empty table."""
        return _share_pct(self.dead_before, self.live)

    @property
    def dead_after_pct(self) -> float | None:
        return _share_pct(self.dead_after, self.live)


def _share_pct(dead: int, live: int) -> float | None:
    return 100 * dead / (dead + live) if dead + live else None


@dataclass(frozen=True, slots=True)
class _Statistics:
    live: int
    dead: int
    pages: int
    vacuumed_at: datetime | None
    analyzed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Maintenance:
    """partitions_made: of farm.milk_production."""

    partitions_made: int
    tables: tuple[TableCare, ...]


def run(dsn: str, say: Say, schemas: Sequence[str] = SCHEMAS, dead_rows_limit: int = DEAD_ROWS_LIMIT) -> Maintenance:
    """Makes the current and the next quarter's partition where they are missing, then vacuums and analyzes every table.

    Each exactly once: a partition's statistics are gathered with those of its parent, which autovacuum never gathers.
    A table that the role may not vacuum is skipped by the server with no more than a warning: what counts is that its
    last VACUUM and ANALYZE are of now. One that keeps more than `dead_rows_limit` dead rows has a problem as well.
    dsn: direct, as the tables' owner or a superuser. Raises StackError for what ends the whole.
    """
    with schema_change.session(dsn) as connection:
        made = make_partitions(connection, say)
        tables = connection.execute(_TABLES, [list(schemas)]).fetchall()
        parents = connection.execute(_PARENTS, [list(schemas)]).fetchall()
        before = {oid: _statistics(connection, oid) for oid, *_ in tables}
        treated: dict[int, tuple[float, tuple[str, ...]]] = {}
        for number, (oid, schema, name, partition) in enumerate(tables, 1):
            statement = f"VACUUM {'' if partition else '(ANALYZE) '}{quoted(schema, name)}"
            treated[oid] = _run(connection, statement, schema_change.prefixed(say, f"{number} of {len(tables)} "))
        for schema, name in parents:
            _run(connection, f"ANALYZE {quoted(schema, name)}", say)
        cares = []
        for oid, schema, name, _ in tables:
            old, new = before[oid], _statistics(connection, oid)
            if old is not None and new is not None:  # else it was dropped meanwhile
                cares.append(_care(schema, name, old, new, *treated[oid], dead_rows_limit))
    return Maintenance(made, tuple(cares))


def make_partitions(connection: Connection, say: Say) -> int:
    """Of farm.milk_production, up to the quarter after the data's day; returns how many were missing.

    Attaching one locks farm.animal, which its foreign key points to, against writers for a moment: the wait for that
    is bounded. Raises StackError.
    """
    count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'farm.milk_production'::regclass"
    with faults("farm.create_milk_production_partition"):
        before = schema_change.value(connection, count)
        schema_change.bounded(connection, "SELECT farm.create_milk_production_partition()", say)
        return int(schema_change.value(connection, count) - before)


def _run(connection: Connection, statement: str, say: Say) -> tuple[float, tuple[str, ...]]:
    """How long it took (seconds), and what the server said against it; only a lost connection ends the whole."""
    objections: list[str] = []

    def object_to(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING" and diagnostic.message_primary:
            objections.append(diagnostic.message_primary)

    say(statement)
    connection.add_notice_handler(object_to)
    started = time.monotonic()
    try:
        schema_change.concurrent(connection, statement, say)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        objections.append(schema_change.what(error))
    finally:
        connection.remove_notice_handler(object_to)
    return time.monotonic() - started, tuple(objections)


def _statistics(connection: Connection, oid: int) -> _Statistics | None:
    row = connection.execute(_STATISTICS, [oid]).fetchone()
    return None if row is None else _Statistics(*row)


def _care(
    schema: str,
    table: str,
    old: _Statistics,
    new: _Statistics,
    elapsed_s: float,
    objections: tuple[str, ...],
    dead_rows_limit: int,
) -> TableCare:
    left_out = [
        what
        for what, earlier, now in (
            ("vacuumed", old.vacuumed_at, new.vacuumed_at),
            ("analyzed", old.analyzed_at, new.analyzed_at),
        )
        if now is None or now == earlier
    ]
    problem = None
    if left_out:
        problem = f"not {' and not '.join(left_out)}: {'; '.join(objections) or 'the server did not say why'}"
    elif new.dead > dead_rows_limit:
        problem = (
            f"{new.dead:,} dead rows are left, over the limit of {dead_rows_limit:,}: "
            "a transaction that began before they died may still need them"
        )
    return TableCare(schema, table, elapsed_s, new.pages, new.live, old.dead, new.dead, problem)
