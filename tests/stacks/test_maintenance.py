"""Maintenance on a real PostgreSQL: every table once, whatever its name and owner; the statistics are the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from harness import maintenance, seed
from harness.model import Profile, StackAddresses

DATABASE = "test_maintenance"
ODD = {'Odd "quoted" name', "Capital Letters"}


def quiet(text: str) -> None:
    pass


@pytest.fixture
def dsn(stacks: dict[Profile, StackAddresses]) -> Iterator[str]:
    server = stacks["day40"].admin_dsn
    with psycopg.connect(server, dbname="postgres", autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        admin.execute(f"ALTER DATABASE {DATABASE} SET app.as_of = '2026-12-01'")
        with psycopg.connect(server, dbname=DATABASE, autocommit=True) as connection:
            seed.create_schema(connection, date(2026, 2, 3))
            connection.execute('CREATE TABLE farm."Odd ""quoted"" name" AS SELECT generate_series(1, 100) AS n')
            connection.execute('CREATE TABLE iot."Capital Letters" AS SELECT 1 AS n')
            connection.execute('ALTER TABLE farm."Odd ""quoted"" name" OWNER TO farm_owner')
        yield make_conninfo(server, dbname=DATABASE)
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def test_every_table_is_vacuumed_and_analyzed_exactly_once_whatever_its_name(dsn):
    done = maintenance.run(dsn, quiet)
    assert done.partitions_made == 1  # the first quarter of 2027
    assert [one for one in done.tables if one.problem] == []
    assert {*ODD, "order", "milk_production_2027_q1"} <= {one.table for one in done.tables}
    assert "milk_production" not in {one.table for one in done.tables}
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT relname, vacuum_count, analyze_count FROM pg_stat_user_tables WHERE schemaname = ANY(%s)",
            [list(seed.SCHEMAS)],
        ).fetchall()
    counted = {name: counts for name, *counts in rows}
    assert counted.pop("milk_production") == [0, 1]  # holds no row, but has statistics of its own
    assert set(map(tuple, counted.values())) == {(1, 1)}
    assert len(counted) == len(done.tables)
    assert maintenance.run(dsn, quiet).partitions_made == 0


def test_a_table_that_the_role_may_not_vacuum_is_a_problem(dsn):
    done = maintenance.run(make_conninfo(dsn, options="-c role=farm_owner"), quiet)
    (theirs,) = [one for one in done.tables if one.problem]
    assert theirs.table == "Capital Letters"
    assert theirs.problem.startswith("not vacuumed and not analyzed: permission denied to ")


def test_dead_rows_that_an_old_transaction_keeps_are_reported(dsn):
    with psycopg.connect(dsn) as old, psycopg.connect(dsn, autocommit=True) as writer:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT FROM core.section")
        writer.execute('DELETE FROM farm."Odd ""quoted"" name" WHERE n <= 60')
        kept = next(one for one in maintenance.run(dsn, quiet, dead_rows_limit=50).tables if one.table in ODD)
        assert (kept.dead_after, kept.dead_after_pct) == (60, 60.0)
        assert kept.problem.startswith("60 dead rows are left, over the limit of 50")
        old.rollback()
    assert [one for one in maintenance.run(dsn, quiet, dead_rows_limit=50).tables if one.problem] == []
