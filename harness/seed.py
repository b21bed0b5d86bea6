"""Fills a database: schema, synthetic herd by COPY, Day 40's policies; and proves by a checksum what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from fixtures import endpoints
from fixtures.herd import Table, generate
from harness.errors import InputError, StackError

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SCHEMAS = ("core", "farm", "sales", "inventory", "accounting", "analytics", "audit", "iot")

Connection = psycopg.Connection[Any]
Progress = Callable[[str, int], None]


def create_schema(connection: Connection, as_of: date) -> None:
    """Roles (one per endpoint among them), the eight schemas, tables, partitions for two years up to `as_of` and that
    year's rest, grants.

    The connection is a superuser's. What exists already is left as it is. Raises StackError.
    """
    with _faults("schema"), connection.transaction():
        connection.execute(
            "SELECT set_config('app.as_of', %s, true), set_config('app.endpoints', %s, true)",
            [as_of.isoformat(), ",".join(endpoints.SLUGS)],
        )
        for path in sorted((FIXTURES / "schema").glob("*.sql")):
            with _faults(f"fixtures/schema/{path.name}"):
                _run_file(connection, path)


def create_policies(connection: Connection) -> None:
    """Row-level security, which day40 has beyond day31. Raises StackError."""
    drop_policies(connection)
    with _faults("fixtures/security/policies.sql"), connection.transaction():
        _run_file(connection, FIXTURES / "security" / "policies.sql")


def drop_policies(connection: Connection) -> None:
    """Back to day31. Raises StackError."""
    with _faults("fixtures/security/policies_rollback.sql"), connection.transaction():
        _run_file(connection, FIXTURES / "security" / "policies_rollback.sql")


def load(connection: Connection, herd: int, seed: int, as_of: date, progress: Progress | None = None) -> None:
    """Writes the herd into the empty tables, all of it or nothing; identities go on after the last row.

    progress: called with the table and its row count when it is written. ANALYZE is the caller's.
    The connection is a superuser's. Raises InputError for a herd or seed that cannot be generated, StackError for
    everything the database refuses.
    """
    try:
        tables = list(generate(herd, seed, as_of))
    except ValueError as error:
        raise InputError(str(error)) from error
    with _faults("herd"), connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        # without the foreign keys' triggers: a look-up per row doubles the time, one join per key at the end does not
        cursor.execute("SET LOCAL session_replication_role = replica")
        for table, rows in tables:
            with _faults(str(table)):
                with cursor.copy(_copy(table)) as copy:
                    for row in rows:
                        copy.write_row(row)
                written = cursor.rowcount
                if table.identity is not None:
                    _advance_identity(cursor, table)
            if progress is not None:
                progress(str(table), written)
        cursor.execute("SET LOCAL session_replication_role = origin")
        _check_references(cursor)


def counts(connection: Connection) -> dict[str, int]:
    """Rows by table of the eight schemas, a partitioned table as one. Raises StackError."""
    return {table: count for table, count, _ in _contents(connection)}


def checksum(connection: Connection) -> str:
    """SHA-256 over the rows of the eight schemas, whatever their order; the same on day31 and day40. Raises StackError.

    Per table the server adds up a 64-bit hash of each row's text, exactly (numeric), beside the count: a row more,
    less, twice or changed shows.
    """
    lines = (f"{table} {count} {total}\n" for table, count, total in _contents(connection))
    return sha256("".join(lines).encode()).hexdigest()


def _contents(connection: Connection) -> list[tuple[str, int, str]]:
    """(table, rows, sum of the rows' hashes) by table name."""
    with _faults("checksum"), connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        # a row's text must not depend on the session, and a policy must fail the check instead of hiding rows from it
        cursor.execute(
            "SELECT set_config('datestyle', 'ISO, YMD', true), set_config('extra_float_digits', '1', true),"
            " set_config('bytea_output', 'hex', true), set_config('intervalstyle', 'postgres', true),"
            " set_config('timezone', 'UTC', true), set_config('row_security', 'off', true)"
        )
        cursor.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            ' ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"',
            [list(SCHEMAS)],
        )
        contents = []
        for schema, name in cursor.fetchall():
            statement = "SELECT count(*), coalesce(sum(hashtextextended(seeded::text, 0)), 0)::text FROM {} seeded"
            cursor.execute(sql.SQL(statement).format(sql.Identifier(schema, name)))
            count, total = cursor.fetchone() or (0, "0")
            contents.append((f"{schema}.{name}", count, total))
        return contents


def _run_file(connection: Connection, path: Path) -> None:
    connection.execute(path.read_text(encoding="utf-8"))


def _copy(table: Table) -> sql.Composed:
    columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    return sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.schema, table.name), columns)


def _advance_identity(cursor: psycopg.Cursor[Any], table: Table) -> None:
    assert table.identity is not None
    qualified, column = sql.Identifier(table.schema, table.name), sql.Identifier(table.identity)
    names = sql.Literal(qualified.as_string(cursor)), sql.Literal(table.identity)
    statement = sql.SQL("SELECT setval(pg_get_serial_sequence({}, {}), max({})) FROM {}")
    cursor.execute(statement.format(*names, column, qualified))


def _check_references(cursor: psycopg.Cursor[Any]) -> None:
    """Raises StackError for the first row whose (single-column) foreign key points nowhere."""
    cursor.execute(
        "SELECT f.conrelid::regclass::text, quote_ident(a.attname), f.confrelid::regclass::text, quote_ident(b.attname)"
        " FROM pg_constraint f"
        " JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]"
        " JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = f.confkey[1]"
        " WHERE f.contype = 'f' AND f.conparentid = 0 AND f.connamespace::regnamespace::text = ANY(%s)",
        [list(SCHEMAS)],
    )
    for child, column, parent, key in cursor.fetchall():
        orphans = (
            f"SELECT c.{column} FROM {child} c WHERE c.{column} IS NOT NULL"
            f" AND NOT EXISTS (SELECT FROM {parent} p WHERE p.{key} = c.{column}) LIMIT 1"
        )
        orphan = cursor.execute(orphans).fetchone()
        if orphan is not None:
            raise StackError(f"{child}.{column}: {orphan[0]} is not in {parent}; seed a fresh database")


@contextmanager
def _faults(place: str) -> Iterator[None]:
    """Says what the database refused as "place: value; remedy"."""
    try:
        yield
    except psycopg.errors.DiskFull as error:
        raise StackError(
            f"{place}: {_what(error)}; free space where PostgreSQL keeps its data, or seed a smaller herd"
        ) from error
    except psycopg.errors.UniqueViolation as error:
        raise StackError(f"{place}: {_what(error)}; the tables hold rows already, seed a fresh database") from error
    except psycopg.errors.IntegrityError as error:
        raise StackError(
            f"{place}: {_what(error)}; the schema does not fit the herd, create it for the same as_of"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise StackError(f"{place}: {_what(error)}; connect as a superuser") from error
    except psycopg.OperationalError as error:
        raise StackError(f"{place}: {_what(error)}; see PostgreSQL's log, then seed a fresh database") from error
    except psycopg.Error as error:
        raise StackError(f"{place}: {_what(error)}; create the schema anew in a fresh database") from error


def _what(error: psycopg.Error) -> str:
    primary = error.diag.message_primary or str(error).strip().replace("\n", " ")
    return f"{primary} ({error.diag.message_detail})" if error.diag.message_detail else primary
