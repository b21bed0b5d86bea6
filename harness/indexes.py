"""The migration of Day 32's indexes on a database in use: forwards, backwards, and the check that they are there.

What each step is, `harness.index_plan` decides from what the server has: a migration that was killed goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fixtures.indexes import Index, day32
from harness import index_plan, schema_change
from harness.errors import StackError
from harness.index_plan import FoundIndex, FoundTable, Step
from harness.schema_change import Connection, Say, faults
from harness.seed import SCHEMAS

_TABLE = """
SELECT c.oid, c.relkind = 'p'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""
# One that is being detached is none any more.
_PARTITIONS = """
SELECT c.oid, c.relname, c.relkind = 'r' AND n.nspname = %s
FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE h.inhparent = %s AND NOT h.inhdetachpending
ORDER BY c.relname
"""
_INDEXES = """
SELECT c.relname, t.relname, CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || pg_get_indexdef(i.indexrelid),
       i.indisvalid AND i.indisready AND i.indislive, c.relkind = 'I', p.relname
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid
LEFT JOIN pg_class p ON p.oid = h.inhparent
WHERE i.indrelid = ANY(%s)
ORDER BY c.relname
"""
_INVALID = """
SELECT n.nspname, c.relname
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND n.nspname = ANY(%s)
ORDER BY n.nspname, c.relname
"""


@dataclass(frozen=True, slots=True)
class Done:
    """A statement that was run; attempts: how often it asked for its lock."""

    statement: str
    elapsed_s: float
    attempts: int


# --- migration -----------------------------------------------------------------------------------------------------


def create(dsn: str, say: Say, indexes: Sequence[Index] | None = None) -> tuple[Done, ...]:
    """Builds what is missing or invalid (default: Day 32's); returns what was done, nothing if all was there.

    Readers and writers go on: plain tables' indexes are built CONCURRENTLY, a partitioned table's partition by
    partition under a frame that is attached at the end. Partitions made later get theirs with the table. dsn: direct,
    the tables' owner or a superuser. Raises StackError; what is done stays done, and the next call goes on.
    """
    chosen = day32() if indexes is None else indexes
    with schema_change.session(dsn) as connection:
        expected = structures(connection, chosen)
        return _migrate(connection, say, chosen, lambda i, found: index_plan.create_step(i, expected[i.name], found))


def drop(dsn: str, say: Say, indexes: Sequence[Index] | None = None) -> tuple[Done, ...]:
    """Back to Day 31: drops every one of them and what killed builds left. As `create` otherwise."""
    chosen = day32() if indexes is None else indexes
    with schema_change.session(dsn) as connection:
        return _migrate(connection, say, chosen[::-1], index_plan.drop_step)


def _migrate(
    connection: Connection, say: Say, indexes: Sequence[Index], plan: Callable[[Index, FoundTable], Step | None]
) -> tuple[Done, ...]:
    done: list[Done] = []
    for number, index in enumerate(indexes, 1):
        say_so = schema_change.prefixed(say, f"{number} of {len(indexes)} {index.name}: ")
        with faults(f"{index.schema}.{index.name}"):
            done += [_run(connection, step, say_so) for step in _steps(connection, index, plan)]
    return tuple(done)


def _steps(connection: Connection, index: Index, plan: Callable[[Index, FoundTable], Step | None]) -> Iterator[Step]:
    """Each as the server's state asks for it, after the one before was run."""
    last = None
    while (step := plan(index, read(connection, index))) is not None:
        if step == last:
            raise StackError(f"{step.statement}: it changed nothing; look at this index by hand")
        yield step
        last = step


def _run(connection: Connection, step: Step, say: Say) -> Done:
    say(step.statement)
    started, attempts = time.monotonic(), 1
    if step.lock == "bounded":
        attempts = schema_change.bounded(connection, step.statement, say)
    else:
        schema_change.concurrent(connection, step.statement, say)
    return Done(step.statement, time.monotonic() - started, attempts)


# --- what the server has -------------------------------------------------------------------------------------------


def read(connection: Connection, index: Index) -> FoundTable:
    """The index's table, its partitions and all their indexes. StackError where the table is none we can index."""
    place = f"{index.schema}.{index.table}"
    table = connection.execute(_TABLE, [index.schema, index.table]).fetchone()
    if table is None:
        raise StackError(f"{place}: no such table; create the schema first")
    oid, partitioned = table
    partitions = connection.execute(_PARTITIONS, [index.schema, oid]).fetchall()
    for _, name, plain in partitions:
        if not plain:
            raise StackError(
                f"{place}: partition {name} is partitioned, foreign or in another schema; index it by hand"
            )
    found = connection.execute(_INDEXES, [[oid, *(row[0] for row in partitions)]]).fetchall()
    return FoundTable(
        partitioned=partitioned,
        partitions=tuple(row[1] for row in partitions),
        indexes=tuple(FoundIndex(n, t, _structure(text), *rest) for n, t, text, *rest in found),
    )


def _structure(definition: str) -> str:
    unique = "UNIQUE " if definition.startswith("UNIQUE ") else ""
    return f"{unique}USING {definition.split(' USING ', 1)[1]}"


def structures(connection: Connection, indexes: Sequence[Index]) -> dict[str, str]:
    """Name -> structure as the server writes it: built on empty copies of the tables, which are gone at once.

    The server's own form alone can be compared: `state IN ('a')` becomes `((state)::text = 'a'::text)` there.
    """
    found = {}
    with faults("fixtures/indexes"), connection.transaction(force_rollback=True):
        copies: dict[str, str] = {}
        for index in indexes:
            table = index_plan.quoted(index.schema, index.table)
            if table not in copies:
                copies[table] = index_plan.quoted("pg_temp", f"dairyperf_copy_{len(copies)}")
                connection.execute(f"CREATE TEMPORARY TABLE {copies[table]} (LIKE {table})".encode())
            name = index_plan.quoted(index.name)
            connection.execute(f"CREATE INDEX {name} ON {copies[table]} {index_plan.structure(index)}".encode())
            row = connection.execute("SELECT pg_get_indexdef(%s::regclass)", [f"pg_temp.{name}"]).fetchone()
            assert row is not None
            found[index.name] = _structure(row[0])
    return found


# --- check ---------------------------------------------------------------------------------------------------------


def check(dsn: str, indexes: Sequence[Index] | None = None) -> dict[str, tuple[str, ...]]:
    """Index -> what is wrong with it (default: Day 32's): missing, invalid, another one, or not on every partition.

    Then every other invalid index of the eight schemas: each costs its writes and serves nobody. Reads only, but for
    temporary tables; needs no more than to read the tables. Raises StackError.
    """
    chosen = day32() if indexes is None else indexes
    with schema_change.connect(dsn) as connection, faults("indexes"):
        expected = structures(connection, chosen)
        tables = {(i.schema, i.table): read(connection, i) for i in chosen}
        found = {i.name: index_plan.problems(i, expected[i.name], tables[i.schema, i.table]) for i in chosen}
        known = {(i.schema, i.name) for i in chosen}
        for schema, name in connection.execute(_INVALID, [list(SCHEMAS)]).fetchall():
            if (schema, name) not in known:
                found[f"{schema}.{name}"] = ("invalid: its build did not come to its end",)
    return found
