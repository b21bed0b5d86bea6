"""The index migration on a real PostgreSQL, in databases of its own: under load, killed, backwards, checked."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from fixtures.indexes import day32
from harness import CHECKOUT, indexes, schema_change, seed
from harness.errors import InputError, StackError
from harness.model import PROFILES, Profile, StackAddresses

AS_OF = date(2026, 2, 3)
DATABASE, SEEDED = "test_indexes", "test_indexes_seeded"
PATIENCE_S = 60

Connection = psycopg.Connection[Any]
DAY32 = {index.name: index for index in day32()}


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def server(stacks: dict[Profile, StackAddresses]) -> Iterator[str]:
    """DSN of a server that has a small seeded database to copy."""
    dsn = stacks["day40"].admin_dsn
    with psycopg.connect(dsn, dbname="postgres", autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {SEEDED} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {SEEDED} TEMPLATE template0")
        with psycopg.connect(dsn, dbname=SEEDED, autocommit=True) as connection:
            seed.create_schema(connection, AS_OF)
            seed.load(connection, 20, 42, AS_OF)
        yield dsn
        admin.execute(f"DROP DATABASE {SEEDED} WITH (FORCE)")


@pytest.fixture
def dsn(server: str) -> Iterator[str]:
    """A fresh copy of the seeded database, without the indexes."""
    with psycopg.connect(server, dbname="postgres", autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {DATABASE} TEMPLATE {SEEDED} STRATEGY file_copy")
        yield make_conninfo(server, dbname=DATABASE)
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@contextmanager
def connected(dsn: str, **options: Any) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True, **options) as connection:
        connection.execute(f"SET statement_timeout = '{PATIENCE_S}s'")
        yield connection


@pytest.fixture
def watcher(dsn: str) -> Iterator[Connection]:
    with connected(dsn) as connection:
        yield connection


def value(connection: Connection, statement: str, *parameters: object) -> Any:
    row = connection.execute(statement.encode(), parameters or None).fetchone()
    assert row is not None
    return row[0]


def until(condition: Callable[[], Any]) -> Any:
    """Waits for the condition; returns what it gave."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
    return found


def wrong(dsn: str) -> dict[str, tuple[str, ...]]:
    return {name: problems for name, problems in indexes.check(dsn).items() if problems}


def building(watcher: Connection) -> Any:
    """The backend whose build waits for writers."""
    return watcher.execute(
        "SELECT pid FROM pg_stat_progress_create_index"
        " WHERE datname = current_database() AND phase = 'waiting for writers before build'"
    ).fetchone()


@contextmanager
def migrating(dsn: str) -> Iterator[subprocess.Popen[str]]:
    """The command line's migration, as a process of its own."""
    command = [sys.executable, "-m", "harness", "indexes", "create", "--dsn", dsn]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# --- there and back ------------------------------------------------------------------------------------------------


def test_every_index_comes_is_there_the_second_time_and_goes_and_no_row_changes(dsn, watcher):
    checksum = seed.checksum(watcher)
    before = watcher.execute("SELECT indexrelid::regclass::text FROM pg_index ORDER BY 1").fetchall()
    said: list[str] = []
    done = indexes.create(dsn, said.append)
    assert len(wrong(dsn)) == 0
    assert len(indexes.check(dsn)) == 16
    statements = [one.statement for one in done]
    assert sum("ON ONLY" in text for text in statements) == 3
    # 13 of plain tables, 3 on each of 12 partitions
    assert sum(text.startswith("CREATE INDEX CONCURRENTLY") for text in statements) == 13 + 3 * 12
    assert any("16 of 16 idx_accounting_entry_period: CREATE INDEX" in text for text in said)
    repeated = "SELECT count(*) FROM pg_index GROUP BY indrelid, indkey::text, indpred, indexprs, indclass::text"
    assert value(watcher, f"SELECT max(count) FROM ({repeated}) i") == 1
    assert indexes.create(dsn, quiet) == ()
    indexes.drop(dsn, quiet)
    assert set(indexes.check(dsn).values()) == {("missing",)}
    assert watcher.execute("SELECT indexrelid::regclass::text FROM pg_index ORDER BY 1").fetchall() == before
    assert indexes.drop(dsn, quiet) == ()
    assert seed.checksum(watcher) == checksum


def test_a_partition_that_comes_later_gets_its_indexes_with_the_table(dsn, watcher):
    indexes.create(dsn, quiet)
    assert value(watcher, "SELECT farm.create_milk_production_partition('2027-01-05')") == 2
    assert wrong(dsn) == {}
    parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'farm.idx_farm_milk_prod_date'::regclass"
    assert value(watcher, parts) == 14
    indexes.drop(dsn, quiet)
    assert set(indexes.check(dsn).values()) == {("missing",)}


# --- under load ----------------------------------------------------------------------------------------------------


def test_under_writers_no_row_is_lost_to_table_or_index(dsn, watcher):
    stop, written = threading.Event(), []

    def write() -> None:
        milk = (
            "INSERT INTO farm.milk_production (animal_id, production_date, shift, quantity_litres)"
            " VALUES (1, '2026-02-03', 'noon', 1) RETURNING id"
        )
        with connected(dsn) as connection:
            while not stop.is_set():
                written.append(value(connection, milk))
                connection.execute("UPDATE farm.animal SET notes = 'written' WHERE id = 2")

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            until(lambda: len(written) > 5)
            started = len(written)
            indexes.create(dsn, quiet)
            assert len(written) > started
        finally:
            stop.set()
        writer.result()
    assert wrong(dsn) == {}
    found = watcher.execute("SELECT id FROM farm.milk_production WHERE animal_id = 1 AND shift = 'noon'").fetchall()
    assert set(written) <= {row[0] for row in found}
    watcher.execute("CREATE EXTENSION amcheck")
    # fails when a row of the table is not in the index
    entries = (
        "SELECT count(bt_index_check(c.oid, true)::text) FROM pg_class c JOIN pg_am a ON a.oid = c.relam"
        " WHERE c.relkind = 'i' AND a.amname = 'btree' AND c.relname ~ 'idx_'"
    )
    assert value(watcher, entries) == 9 + 3 * 12


@pytest.mark.parametrize(
    ("change", "passer"),
    [
        (
            indexes.create,
            "INSERT INTO farm.milk_production (animal_id, production_date, shift, quantity_litres)"
            " VALUES (1, '2026-02-03', 'noon', 1)",
        ),
        (indexes.drop, "SELECT count(*) FROM farm.milk_production"),
    ],
    ids=["create", "drop"],
)
def test_who_comes_behind_a_waiting_change_passes_it(dsn, watcher, change, passer):
    """A transaction stands in the change's way; whoever queues behind the change must come through before that ends."""
    chosen = [DAY32["idx_farm_milk_prod_date"]]
    if change is indexes.drop:
        indexes.create(dsn, quiet, chosen)
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'farm.milk_production'::regclass"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with connected(dsn) as holder, connected(dsn) as other, ThreadPoolExecutor(1) as pool:
        with holder.transaction():
            holder.execute("UPDATE farm.milk_production SET snf_percentage = 8 WHERE id = 1")
            changing = pool.submit(change, dsn, quiet, chosen)
            until(lambda: value(watcher, waiting))
            other.execute(passer)
            assert not changing.done()
        done = changing.result(PATIENCE_S)
    assert max(one.attempts for one in done) > 1
    assert set(indexes.check(dsn, chosen).values()) == {() if change is indexes.create else ("missing",)}


# --- killed half way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_the_way", "left"),
    [
        ("UPDATE farm.animal SET notes = notes WHERE id = 1", "idx_farm_animal_status"),
        ("UPDATE farm.milk_production_2026_q1 SET snf_percentage = 8", "idx_farm_milk_prod_animal_date"),
    ],
    ids=["table", "partition"],
)
def test_a_killed_migration_is_found_and_finished(dsn, watcher, in_the_way, left):
    with connected(dsn) as holder, holder.transaction():
        holder.execute(in_the_way.encode())
        with migrating(dsn) as process:
            (pid,) = until(lambda: building(watcher))
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
        until(lambda: not watcher.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone())
        assert any("invalid" in problem or "left of a build" in problem for problem in wrong(dsn)[left])
    indexes.create(dsn, quiet)
    assert wrong(dsn) == {}


def test_a_second_migration_is_refused_and_told_of_the_first(dsn, watcher, monkeypatch):
    monkeypatch.setattr(schema_change, "TAKE_OVER_S", 0.0)
    with connected(dsn) as holder, holder.transaction(), migrating(dsn) as process:
        holder.execute("UPDATE farm.animal SET notes = notes WHERE id = 1")
        (pid,) = until(lambda: building(watcher))
        with pytest.raises(StackError, match=rf"another change .* pid {pid} .*; wait for its end"):
            indexes.create(dsn, quiet)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        until(lambda: not watcher.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone())


@pytest.mark.parametrize(
    "invalid",
    [
        ["farm.idx_farm_animal_status"],
        ["farm.idx_farm_milk_prod_date"],
        ["farm.idx_farm_milk_prod_date", "farm.milk_production_2026_q1_idx_farm_milk_prod_date"],
    ],
    ids=["plain", "parent", "attached part"],
)
def test_an_invalid_index_is_rebuilt_or_finished(dsn, watcher, invalid):
    indexes.create(dsn, quiet)
    for name in invalid:
        watcher.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [name])
    assert wrong(dsn) != {}
    assert indexes.create(dsn, quiet)
    assert wrong(dsn) == {}


def test_another_index_of_that_name_is_refused_and_named(dsn, watcher):
    watcher.execute("CREATE INDEX idx_farm_animal_status ON farm.animal (breed)")
    with pytest.raises(StackError, match=r"idx_farm_animal_status: it is USING btree \(breed\), not .*status.*; drop"):
        indexes.create(dsn, quiet)
    assert "is USING btree (breed)" in wrong(dsn)["idx_farm_animal_status"][0]


# --- the stacks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_day31_has_none_of_them_and_day40_all(stacks, profile):
    addresses = stacks[profile]
    found = indexes.check(make_conninfo(addresses.admin_dsn, dbname=addresses.database))
    assert set(found.values()) == ({("missing",)} if profile == "day31" else {()})
    assert len(found) == 16


def test_a_password_in_a_dsn_is_bad_input():
    with pytest.raises(InputError, match="holds a password"):
        indexes.check("host=127.0.0.1 password=secret")
