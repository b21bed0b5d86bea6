"""Plans on the real servers: the 20 queries at 255 head and at ten times that; capturing them harms nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import tuple_row

from fixtures import herd, queries
from fixtures.indexes import day32
from fixtures.queries import critical
from harness import plan, plans
from harness.model import Profile, QueryPlan, StackAddresses
from harness.plan_text import plan_text
from harness.services.template import SEED_DATABASE

TIMES = 10
MILK = "farm.milk_production"
# What ten times the herd has ten times as much of, and which of its columns go with the copy. Of the milkings the last
# quarter's alone; stock, journal and sensors have as many rows as they need already.
GROWN = {
    "core.customer": "id",
    "farm.animal": "id tag_number",
    "farm.milk_production_2026_q1": "id animal_id",
    "farm.health_record": "id animal_id",
    "farm.breeding_record": "id animal_id",
    'sales."order"': "id customer_id",
}
# Query -> the index that was made for it. Two lead with production_date, and which of them serves a day is as good as a
# draw. At ten times the herd so many animals are dry that the primary key finds the first 50 sooner than their index.
SERVED_BY = {index.query.replace("_", " "): f"{index.schema}.{index.name}" for index in day32()} | {
    "daily milk report": "farm.idx_farm_milk_prod_date"
}
SERVED_AT_255 = "animal list"

Connection = psycopg.Connection[Any]


@pytest.fixture
def seeded(stack: StackAddresses) -> Iterator[Connection]:
    with psycopg.connect(stack.admin_dsn, dbname=stack.database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def grown(stacks: Mapping[Profile, StackAddresses]) -> Iterator[Connection]:
    """A copy of day40's seed beside the stack's database, with ten times the rows in the tables that need them."""
    stack, name = stacks["day40"], "test_plans"
    with psycopg.connect(stack.admin_dsn, dbname="postgres", autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(SEED_DATABASE)
            )
        )
        try:
            with psycopg.connect(stack.admin_dsn, dbname=name, autocommit=True, row_factory=tuple_row) as connection:
                # the foreign keys' triggers look up each row
                connection.execute("SET session_replication_role = replica")
                connection.execute("SET synchronous_commit = off")
                for table, moving in GROWN.items():
                    grow(connection, table, moving.split())
                yield connection
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def grow(connection: Connection, table: str, moving: list[str]) -> None:
    """Copies every row nine times; the columns of `moving` are told apart, the same way in every table."""
    columns = [
        row[0]
        for row in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
            " ORDER BY attnum",
            [table],
        )
    ]
    moved = {
        "id": "t.id + k * (SELECT max(id) FROM {table})",
        "animal_id": "t.animal_id + k * 339",
        "customer_id": "t.customer_id + k * 40",
        "tag_number": "t.tag_number || '-' || k",
    }
    values = [moved[name].format(table=table) if name in moving else f"t.{name}" for name in columns]
    statement = f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {table} t, "
    connection.execute(statement + f"generate_series(1, {TIMES - 1}) k")
    connection.execute(f"ANALYZE {table}")


def captured(connection: Connection) -> dict[str, QueryPlan]:
    found = plan.read(plans.capture(connection, critical.parameters(herd.inputs())))
    assert found.missing == {}
    assert len(found.critical) == 20
    return {one.name: one for one in found.critical}


def test_all_twenty_find_rows_by_indexes_on_day40_and_the_daily_report_touches_one_partition(
    seeded: Connection, stack: StackAddresses
) -> None:
    found = captured(seeded)
    reading = {name for name, one in found.items() if one.sequential}
    expected = {"milk history", "health history", "stock movement", "open orders", "sensor search"}
    assert reading >= expected if stack.profile == "day31" else reading == set()
    assert (SERVED_BY[SERVED_AT_255] in plan.indexes(found[SERVED_AT_255])) == (stack.profile == "day40")
    assert [name for name, one in found.items() if not one.rows] == []
    assert len(plan.planned_partitions(found["daily milk report"])) == 1


def test_at_ten_times_the_herd_every_query_uses_the_index_that_was_made_for_it(grown: Connection) -> None:
    assert grown.execute("SELECT max(id) FROM farm.animal").fetchone() == (3390,)
    found = captured(grown)
    assert plan.planned_partitions(found["daily milk report"]) == (f"{MILK}_2026_q1",)
    assert {name: one.sequential for name, one in found.items() if one.sequential} == {}
    used = {name: plan.indexes(found[name]) for name in SERVED_BY.keys() - {SERVED_AT_255}}
    assert {name: one for name, one in used.items() if not any(i.startswith(SERVED_BY[name]) for i in one)} == {}


def test_our_text_is_that_of_the_server(seeded: Connection) -> None:
    def explain(stem: str, values: critical.Parameters, form: str) -> list[Any]:
        statement = f"EXPLAIN (SETTINGS, FORMAT {form}) {queries.texts()[stem]}"
        return [line for (line,) in seeded.execute(statement, plans.bound(values)).fetchall()]

    for stem, values in critical.parameters(herd.inputs()).items():
        ((before,),), said, ((after,),) = (explain(stem, values, form) for form in ("JSON", "TEXT", "JSON"))
        while before != after:  # an ANALYZE came in between
            before = after
            said, ((after,),) = (explain(stem, values, form) for form in ("TEXT", "JSON"))
        assert plan_text(after).splitlines() == said


def test_capturing_changes_nothing_and_survives_what_cannot_be_explained(seeded: Connection) -> None:
    def settings() -> tuple[Any, ...] | None:
        return seeded.execute(
            "SELECT current_user, current_setting('statement_timeout'), (SELECT count(*) FROM farm.milk_production)"
        ).fetchone()

    before = settings()
    parameters = {"animal_by_tag": {"tag_number": "SD-0001"}, "milk_create": {}, "milk_trend": {"from_date": "never"}}
    writing = {
        "animal_id": 1,
        "production_date": date(2026, 2, 3),
        "shift": "noon",
        "quantity_litres": 1,
        "fat_percentage": 4,
        "snf_percentage": 8,
    }
    documents = plans.capture(seeded, parameters | {"milk_create": writing})
    assert settings() == before
    assert plan.read(documents).missing == {
        "milk create": "cannot execute INSERT in a read-only transaction",
        "milk trend": "query parameter missing: until",
    }
    late = plans.capture(seeded, parameters, budget_s=-1)
    assert set(plan.read(late).missing.values()) == {"left out: those before it took too long"}
