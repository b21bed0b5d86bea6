"""Schema, loader and checksum against a real PostgreSQL: in databases of their own, beside the stack's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import tuple_row

from fixtures.herd import generate
from harness import seed
from harness.errors import InputError, StackError
from harness.model import StackAddresses

AS_OF = date(2026, 2, 3)
HERD, SEED = 20, 42

Connection = psycopg.Connection[Any]


@pytest.fixture
def fresh(stack: StackAddresses) -> Iterator[Callable[[str], Connection]]:
    """Makes a database with the schema in it, and drops it when the test ends."""
    made: list[Connection] = []

    def make(name: str) -> Connection:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        made.append(psycopg.connect(stack.admin_dsn, dbname=name, autocommit=True, row_factory=tuple_row))
        seed.create_schema(made[-1], AS_OF)
        return made[-1]

    with psycopg.connect(stack.admin_dsn, dbname="postgres", autocommit=True) as admin:
        yield make
        for connection in made:
            name = connection.info.dbname
            connection.close()
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty(fresh: Callable[[str], Connection]) -> Connection:
    return fresh("test_seed")


@pytest.fixture
def seeded(empty: Connection) -> Connection:
    seed.load(empty, HERD, SEED, AS_OF)
    return empty


def value(connection: Connection, statement: str, *parameters: object) -> Any:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0]


def test_the_same_seed_gives_the_same_checksum_on_another_database(fresh, seeded):
    other = fresh("test_seed_other")
    seed.load(other, HERD, SEED, AS_OF)
    assert seed.checksum(other) == seed.checksum(seeded)
    another = fresh("test_seed_another")
    seed.load(another, HERD, SEED + 1, AS_OF)
    assert seed.checksum(another) != seed.checksum(seeded)


def test_every_generated_row_arrives_and_is_reported(empty):
    reported: dict[str, int] = {}
    seed.load(empty, HERD, SEED, AS_OF, reported.__setitem__)
    assert reported == {str(table): len(list(rows)) for table, rows in generate(HERD, SEED, AS_OF)}
    assert seed.counts(empty) == reported


def test_the_checksum_sees_a_changed_a_missing_and_a_doubled_row_and_no_session_settings(seeded):
    checksum = seed.checksum(seeded)
    for change in (
        "UPDATE farm.animal SET notes = 'changed' WHERE id = 1",
        "DELETE FROM farm.milk_production WHERE id = 1",
        "INSERT INTO analytics.daily_milk VALUES ('2000-01-01', 'noon', 1, 1, 1)",
    ):
        with seeded.transaction(force_rollback=True):
            seeded.execute(change)
            assert seed.checksum(seeded) != checksum
    seeded.execute("SET datestyle = 'German'")
    seeded.execute("SET timezone = 'Asia/Dhaka'")
    assert seed.checksum(seeded) == checksum


def test_day40_policies_come_and_go_and_hide_no_row_from_the_checksum(seeded):
    worker = "SET LOCAL ROLE ep_api_animals_worker; SET LOCAL app.current_user_id = '6'"

    def seen_by_a_worker() -> int:
        with seeded.transaction(force_rollback=True):
            seeded.execute(worker)
            return int(value(seeded, "SELECT count(*) FROM farm.animal"))

    checksum, everything = seed.checksum(seeded), seen_by_a_worker()
    for _ in range(2):
        seed.create_policies(seeded)
        assert 0 < seen_by_a_worker() < everything
        with seeded.transaction(force_rollback=True):
            seeded.execute("SET LOCAL ROLE harness")
            assert seed.checksum(seeded) == checksum
        with seeded.transaction(force_rollback=True):
            seeded.execute("SET LOCAL ROLE ep_api_animals_auditor")
            with pytest.raises(StackError, match="row-level security"):
                seed.checksum(seeded)
    seed.drop_policies(seeded)
    assert seen_by_a_worker() == everything
    assert value(seeded, "SELECT count(*) FROM pg_policy") == 0


def test_identities_go_on_after_the_last_row(seeded):
    last = value(seeded, "SELECT max(id) FROM farm.milk_production")
    new = value(
        seeded,
        "INSERT INTO farm.milk_production (animal_id, production_date, shift, quantity_litres)"
        " VALUES (1, %s, 'noon', 3) RETURNING id",
        AS_OF,
    )
    assert new == last + 1


def test_a_second_load_is_refused_and_changes_nothing(seeded):
    checksum = seed.checksum(seeded)
    with pytest.raises(StackError, match=r"core\.section: .*\(id\)=\(1\) already exists.*; .*fresh database"):
        seed.load(seeded, HERD, SEED, AS_OF)
    assert seed.checksum(seeded) == checksum


def test_a_day_without_partition_is_named(empty):
    with pytest.raises(StackError, match=r"farm\.milk_production: .*no partition.*\(2020-.*; .*same as_of"):
        seed.load(empty, HERD, SEED, date(2022, 2, 3))
    assert sum(seed.counts(empty).values()) == 0


def test_a_reference_to_nowhere_is_named(empty, monkeypatch):
    def without_the_last_animal(*arguments: Any) -> Iterator[Any]:
        for table, rows in generate(*arguments):
            yield table, list(rows)[:-1] if str(table) == "farm.animal" else rows

    monkeypatch.setattr(seed, "generate", without_the_last_animal)
    with pytest.raises(StackError, match=r"farm\.\w+\.animal_id: \d+ is not in farm\.animal"):
        seed.load(empty, HERD, SEED, AS_OF)
    assert sum(seed.counts(empty).values()) == 0


def test_a_full_disk_is_named(empty):
    empty.execute(
        "CREATE FUNCTION public.full() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$;"
        "CREATE TRIGGER full_disk BEFORE INSERT ON iot.sensor_reading EXECUTE FUNCTION public.full();"
        "ALTER TABLE iot.sensor_reading ENABLE ALWAYS TRIGGER full_disk"
    )
    with pytest.raises(StackError, match=r"iot\.sensor_reading: could not extend file; free space"):
        seed.load(empty, HERD, SEED, AS_OF)


def test_a_herd_that_cannot_be_is_bad_input(empty):
    with pytest.raises(InputError, match="herd: 3 head; give 20"):
        seed.load(empty, 3, SEED, AS_OF)


def test_the_schema_can_be_created_again(seeded):
    checksum = seed.checksum(seeded)
    seed.create_schema(seeded, AS_OF)
    assert seed.checksum(seeded) == checksum


def test_partitions_fill_gaps_and_reach_the_next_quarter(empty):
    def quarters() -> list[str]:
        statement = (
            "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE relkind = 'r'"
        )
        return sorted(row[0] for row in empty.execute(statement))

    expected = [f"farm.milk_production_{year}_q{quarter}" for year in (2024, 2025, 2026) for quarter in (1, 2, 3, 4)]
    assert quarters() == expected
    empty.execute("DROP TABLE farm.milk_production_2025_q3")
    assert value(empty, "SELECT farm.create_milk_production_partition('2027-01-05')") == 3
    assert quarters() == [*expected, "farm.milk_production_2027_q1", "farm.milk_production_2027_q2"]
    assert value(empty, "SELECT farm.create_milk_production_partition('2027-01-05')") == 0


@pytest.mark.parametrize(
    ("role", "statement", "allowed"),
    [
        ("api", "SELECT count(*) FROM farm.milk_production", False),
        ("ep_api_animals_worker", "SELECT count(*) FROM farm.milk_production", True),
        ("ep_api_animals_manager", "SELECT farm.create_milk_production_partition()", False),
        ("odoo", "CREATE VIEW public.v WITH (security_invoker = true) AS SELECT id FROM farm.animal", True),
        ("ep_odoo_other_manager", "CREATE TABLE public.mine ()", False),
        ("odoo", "CREATE TABLE farm.mine ()", False),
        ("odoo", "SELECT count(*) FROM farm.animal", False),
        ("harness", "SELECT count(*) FROM farm.milk_production_2026_q1", True),
        ("harness", "DELETE FROM farm.animal", False),
        ("harness", "SELECT count(*) FROM pg_stat_statements WHERE query = '<insufficient privilege>'", True),
    ],
)
def test_who_may_what(fresh, role, statement, allowed):
    connection = fresh("test_seed")
    with connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        if allowed:
            assert connection.execute(statement).statusmessage
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
