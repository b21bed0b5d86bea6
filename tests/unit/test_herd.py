"""The synthetic herd: the specification's numbers, rows that agree with one another, the same rows everywhere."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import date, timedelta
from decimal import Decimal
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.herd import DEFAULT_AS_OF, generate, inputs
from fixtures.herd.lives import GESTATION_DAYS, LAST_DAY, live, share
from fixtures.herd.milk import WOOD, milkings, wood_curve

# Of every row of 20 head, seed 42; changes only when the herd is meant to change.
GOLDEN = "8e05ff74c437b23f7977339fb1ab025f4976eba427006e6b1938ecdabcb66879"

REFERENCES = {
    ("core.user_section_assignment", "section_id"): "core.section",
    ("farm.animal", "section_id"): "core.section",
    ("farm.animal", "dam_id"): "farm.animal",
    ("farm.milk_production", "animal_id"): "farm.animal",
    ("farm.health_record", "animal_id"): "farm.animal",
    ("farm.breeding_record", "animal_id"): "farm.animal",
    ("sales.order", "customer_id"): "core.customer",
    ("sales.order_line", "order_id"): "sales.order",
    ("sales.order_line", "product_id"): "inventory.product",
    ("inventory.stock_move", "product_id"): "inventory.product",
    ("iot.sensor_reading", "animal_id"): "farm.animal",
}


def digest(herd: int, seed: int) -> str:
    total = sha256()
    for table, rows in generate(herd, seed):
        total.update(f"{table} {table.columns}\n".encode())
        for row in rows:
            total.update(f"{row}\n".encode())
    return total.hexdigest()


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, object]]]:
    """The default herd, as {table: [{column: value}]}."""
    return {
        str(table): [dict(zip(table.columns, row, strict=True)) for row in table_rows]
        for table, table_rows in generate()
    }


def test_the_same_rows_on_every_machine():
    assert digest(20, 42) == GOLDEN


def test_another_seed_gives_another_herd():
    assert digest(20, 43) != digest(20, 42)


@pytest.mark.parametrize(("herd", "in_milk"), [(20, 6), (100, 29), (255, 75), (256, 75), (510, 150), (2550, 750)])
def test_head_and_cows_in_milk_follow_the_herd(herd, in_milk):
    lives = live(herd, 7, DEFAULT_AS_OF)
    statuses = Counter(animal.status for animal in lives.animals)
    assert statuses["active"] + statuses["dry"] == herd
    assert statuses["sold"] > 0
    assert statuses["culled"] + statuses["deceased"] > 0
    milked = [animal for animal in lives.animals if animal.milked_on(LAST_DAY)]
    assert len(milked) == in_milk
    assert {animal.status for animal in milked} == {"active"}


@pytest.mark.parametrize(
    ("herd", "seed", "named"), [(19, 42, "herd: 19"), (1_000_001, 42, "herd"), (255, -1, "seed: -1")]
)
def test_what_cannot_be_generated_is_named(herd, seed, named):
    with pytest.raises(ValueError, match=named):
        list(generate(herd, seed))


@settings(max_examples=15)
@given(
    herd=st.integers(20, 600),
    seed=st.integers(0, 2**63),
    as_of=st.dates(date(2000, 1, 1), date(2050, 12, 31)),
)
def test_every_day_gives_its_milk(herd, seed, as_of):
    milk = milkings(live(herd, seed, as_of))
    assert milk.animal_ids.shape == (LAST_DAY + 1, share(herd, 75))
    assert all(len(set(day)) == len(day) and min(day) > 0 for day in milk.animal_ids.tolist())
    litres = milk.centilitres.sum(axis=(1, 2)) / 100
    target = 12 * share(herd, 75)
    assert (np.abs(litres / target - 1) < 0.05).all()
    assert (milk.centilitres > 0).all()


def test_the_last_thirty_days_give_900_litres_from_75_cows_in_three_shifts(rows):
    by_day = defaultdict(list)
    for row in rows["farm.milk_production"]:
        by_day[row["production_date"]].append(row)
    days = sorted(by_day)
    assert days[-1] == DEFAULT_AS_OF.isoformat()
    assert date.fromisoformat(days[0]) == DEFAULT_AS_OF - timedelta(days=730)
    assert len(days) == 731
    for day in days[-30:]:
        assert 855 <= sum(Decimal(row["quantity_litres"]) for row in by_day[day]) <= 945
        assert Counter(row["shift"] for row in by_day[day]) == {"morning": 75, "noon": 75, "evening": 75}
        assert len({row["animal_id"] for row in by_day[day]}) == 75


@pytest.mark.parametrize("parity", WOOD)
def test_wood_peaks_at_b_over_c(parity):
    b, c, peak = WOOD[parity]
    curve = wood_curve()[parity - 1]
    assert abs(int(curve.argmax()) - b / c) <= 1
    assert curve.max() == pytest.approx(peak * 1000, abs=20)
    assert curve[5] < curve.max() > curve[300] > 0


def test_first_lactations_persist():
    curve = wood_curve()
    persistency = curve[:, 300] / curve.max(axis=1)
    assert persistency[0] > persistency[1] > persistency[2]


def test_a_cow_gives_less_late_in_lactation_than_at_its_peak():
    lives = live(255, 42, DEFAULT_AS_OF)
    daily = milkings(lives).centilitres.sum(axis=1)
    falls = [
        daily[lactation.calved + 250 : lactation.dry, lactation.place].mean()
        / daily[lactation.calved + 40 : lactation.calved + 80, lactation.place].mean()
        for animal in lives.animals
        for lactation in animal.lactations
        if lactation.parity > 1 and lactation.calved >= 0 and lactation.dry <= LAST_DAY
    ]
    assert len(falls) > 50
    assert max(falls) < 0.9


def test_keys_are_unique_and_references_exist(rows):
    ids = {table: {row["id"] for row in table_rows} for table, table_rows in rows.items() if "id" in table_rows[0]}
    for table, found in ids.items():
        assert found == set(range(1, len(rows[table]) + 1)), table
    for (table, column), parent in REFERENCES.items():
        assert {row[column] for row in rows[table]} - {None} <= ids[parent], (table, column)
    assert len({row["tag_number"] for row in rows["farm.animal"]}) == len(rows["farm.animal"])
    assert rows["farm.animal"][0]["tag_number"] == "SD-0001"


def test_breeding_agrees_with_the_lactations(rows):
    lives = live(255, 42, DEFAULT_AS_OF)
    calvings = {
        (animal.id, lives.day(lactation.calved).isoformat())
        for animal in lives.animals
        for lactation in animal.lactations
        if GESTATION_DAYS + 5 <= lactation.calved <= LAST_DAY
    }
    records = rows["farm.breeding_record"]
    calved = {(row["animal_id"], row["calved_on"]) for row in records if row["breeding_status"] == "calved"}
    assert calvings <= calved
    expected = [row for row in records if row["breeding_status"] in ("pregnant", "inseminated")]
    here = {row["id"] for row in rows["farm.animal"] if row["status"] in ("active", "dry")}
    assert len(expected) > 20
    assert {row["calved_on"] for row in expected} == {None}
    earliest = (DEFAULT_AS_OF - timedelta(days=5)).isoformat()  # a calving may be five days late
    assert min(row["expected_calving_date"] for row in expected) >= earliest
    assert {row["animal_id"] for row in expected} <= here
    assert {row["breeding_status"] for row in records} == {"inseminated", "pregnant", "open", "calved", "aborted"}


def test_no_cow_calves_again_without_a_dry_period_or_a_pregnancy():
    for animal in live(255, 42, DEFAULT_AS_OF).animals:
        for earlier, later in zip(animal.lactations, animal.lactations[1:], strict=False):
            assert 45 <= later.calved - earlier.dry <= 150
            assert later.calved - earlier.calved > GESTATION_DAYS + 45
            assert later.parity == earlier.parity + 1
        assert animal.dam is None or animal.dam.id < animal.id
        if animal.lactations:
            assert animal.lactations[0].calved - animal.born > 700


def test_pending_treatments_are_of_animals_still_here(rows):
    here = {row["id"] for row in rows["farm.animal"] if row["status"] in ("active", "dry")}
    pending = [row for row in rows["farm.health_record"] if row["treatment_status"] == "pending"]
    assert len(pending) > 20
    assert {row["animal_id"] for row in pending} <= here
    assert all(row["scheduled_date"] for row in pending)


def test_the_books_balance(rows):
    by_reference = defaultdict(Decimal)
    for row in rows["accounting.journal_entry"]:
        by_reference[row["reference"]] += Decimal(row["debit"]) - Decimal(row["credit"])
    assert set(by_reference.values()) == {Decimal(0)}
    totals = defaultdict(Decimal)
    for line in rows["sales.order_line"]:
        totals[line["order_id"]] += Decimal(line["quantity"]) * Decimal(line["unit_price"])
    assert {row["id"]: Decimal(row["total_amount"]) for row in rows["sales.order"]} == totals


def test_the_check_totals_are_the_milkings(rows):
    litres = defaultdict(Decimal)
    for row in rows["farm.milk_production"]:
        litres[row["production_date"], row["shift"]] += Decimal(row["quantity_litres"])
    daily = {(row["production_date"], row["shift"]): Decimal(row["litres"]) for row in rows["analytics.daily_milk"]}
    assert daily == litres


def test_audit_rows_name_milkings_that_exist(rows):
    milk = rows["farm.milk_production"]
    inserts = [row for row in rows["audit.log"] if row["action"] == "INSERT"]
    assert all(row["logged_at"] == milk[row["row_id"] - 1]["created_at"] for row in inserts)


def test_inputs_agree_with_the_rows(rows):
    asked = inputs()
    animals = rows["farm.animal"]
    active = [row for row in animals if row["status"] == "active"]
    head = [row for row in animals if row["status"] in ("active", "dry")]
    assert asked.active_ids == tuple(row["id"] for row in active)
    assert asked.active_tags == tuple(row["tag_number"] for row in active)
    assert asked.head_ids == tuple(row["id"] for row in head)
    assert asked.head_tags == tuple(row["tag_number"] for row in head)
    assert set(asked.departed_tags) == {row["tag_number"] for row in animals} - set(asked.head_tags)
    today = {row["animal_id"] for row in rows["farm.milk_production"] if row["production_date"] == "2026-02-03"}
    assert set(asked.lactating_ids) == today
    assert {day.isoformat() for day in asked.dates} == {row["production_date"] for row in rows["farm.milk_production"]}
    details = [json.loads(row["details"]) for row in rows["farm.health_record"]]
    assert set(asked.diagnoses) == {detail["diagnosis"] for detail in details}
    assert set(asked.severities) == {detail["severity"] for detail in details}
    assert set(asked.sources) == {json.loads(row["metadata"])["source"] for row in animals}
    notes = " ".join(row["notes"] or "" for row in animals).lower()
    assert [word for word in asked.search_words if word not in notes] == []
    assert set(asked.product_ids) == {row["product_id"] for row in rows["sales.order_line"]}
    assert set(asked.customer_ids) == {row["id"] for row in rows["core.customer"]}
    assert set(asked.section_ids) == {row["id"] for row in rows["core.section"]}
    assert set(asked.user_ids) == {row["user_id"] for row in rows["core.user_section_assignment"]}
    assert set(asked.sensor_ids) == {row["sensor_id"] for row in rows["iot.sensor_reading"]}
    assert asked.shifts == ("morning", "noon", "evening")
    periods = {(row["fiscal_year"], row["period"]) for row in rows["accounting.journal_entry"]}
    assert set(asked.periods) == periods
