"""What joins two runs' statements, on a real server: tables restored anew have other OIDs, and so other queryids."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from harness.model import Profile, StackAddresses
from harness.statements import fingerprint

NAMES = ("test_identity_one", "test_identity_other")
BY_IDS = "SELECT weight FROM identity.animal WHERE id IN ({})"
ROWS = """
SELECT s.queryid, s.query, s.calls FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
WHERE d.datname = %s AND s.toplevel AND s.query ~ 'identity'
"""


@pytest.fixture
def databases(stacks: Mapping[Profile, StackAddresses]) -> Iterator[tuple[str, ...]]:
    """DSNs of two databases with one table each, made one after the other."""
    stack = stacks["day40"]
    with psycopg.connect(stack.admin_dsn, dbname="postgres", autocommit=True) as admin, contextlib.ExitStack() as made:
        for name in NAMES:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            admin.execute(sql.SQL("CREATE DATABASE {} STRATEGY file_copy").format(sql.Identifier(name)))
            made.callback(admin.execute, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        yield tuple(psycopg.conninfo.make_conninfo(stack.admin_dsn, dbname=name) for name in NAMES)


def test_a_statement_of_two_databases_is_one_by_its_shape_and_two_by_queryid(
    databases: tuple[str, ...], stacks: Mapping[Profile, StackAddresses]
) -> None:
    stack = stacks["day40"]
    seen: list[dict[str, Any]] = []
    for number, (dsn, name) in enumerate(zip(databases, NAMES, strict=True)):
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
            if number:
                # what was restored otherwise: OIDs differ from here on
                connection.execute("CREATE TABLE before_it (id int)")
            connection.execute("CREATE SCHEMA identity")
            connection.execute("CREATE TABLE identity.animal (id int PRIMARY KEY, weight numeric)")
            for count in (1, 2, 5 + number):
                connection.execute(BY_IDS.format(", ".join(map(str, range(count)))) + f" /* {name} */")
        with psycopg.connect(stack.admin_dsn, dbname=stack.database, row_factory=dict_row) as connection:
            found = connection.execute(ROWS, [name]).fetchall()
        seen += [row | {"database": name} for row in found if row["query"].startswith("SELECT weight")]
    by_database = {name: {row["queryid"] for row in seen if row["database"] == name} for name in NAMES}
    # PostgreSQL 16 tells lists of each length apart
    assert [len(by_database[name]) for name in NAMES] == [3, 3]
    assert by_database[NAMES[0]].isdisjoint(by_database[NAMES[1]])
    assert {fingerprint(row["query"]) for row in seen} == {fingerprint(BY_IDS.format("$1"))}
    assert sum(row["calls"] for row in seen) == 6


def test_no_two_tables_of_the_application_differ_in_their_schema_alone(stack: StackAddresses) -> None:
    """The shape of a statement does not hold the schemas of its tables."""
    assert fingerprint("SELECT a FROM farm.animal") == fingerprint("SELECT a FROM sales.animal")
    with psycopg.connect(stack.admin_dsn, dbname=stack.database) as connection:
        rows = connection.execute(
            "SELECT relname, array_agg(n.nspname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_|^information_schema$'"
            " GROUP BY relname HAVING count(*) > 1"
        ).fetchall()
    assert rows == []
