"""What the seeded state answers, against the rows that are seeded; and the checks, against answers that were spoilt.

The replies are put together here from `generate`'s rows, so that they do not come from what they are held against.
"""

from __future__ import annotations

import copy
import functools
import json
import operator
from collections.abc import Iterator
from datetime import date, timedelta
from functools import cache
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.answers import api_checks, odoo_checks, written
from fixtures.answers.comparison import Between, Check, differences
from fixtures.answers.seeded import Answers
from fixtures.herd import DEFAULT_AS_OF, generate, inputs

HERD, SEED = 120, 42  # the smallest round herd that gives more than 100 milkings a day
TODAY = DEFAULT_AS_OF.isoformat()
BEFORE = (DEFAULT_AS_OF - timedelta(days=6)).isoformat()
IN_A_WEEK = (DEFAULT_AS_OF + timedelta(days=7)).isoformat()

Reply = tuple[Check, dict[str, Any], Any]
Rows = list[dict[str, Any]]


@cache
def tables() -> dict[str, Rows]:
    """table -> rows, numbers as floats and documents parsed."""

    def value(column: str, text: Any) -> Any:
        if text is None or isinstance(text, int):
            return text
        if column in ("weight_kg", "quantity_litres", "fat_percentage", "snf_percentage", "quantity"):
            return float(text)
        return json.loads(text) if column in ("metadata", "details") else text

    wanted = takewhile(lambda part: str(part[0]) != "accounting.journal_entry", generate(HERD, SEED))
    return {
        str(table): [
            {column: value(column, text) for column, text in zip(table.columns, row, strict=True)} for row in rows
        ]
        for table, rows in wanted
    }


@pytest.fixture(scope="module")
def answers() -> Answers:
    made = Answers(HERD, SEED, DEFAULT_AS_OF)
    made.prepare()
    return made


# --- look-ups ------------------------------------------------------------------------------------------------------


def test_animals(answers: Answers) -> None:
    seeded = tables()["farm.animal"]
    assert list(answers.animals) == seeded
    for row in seeded:
        assert answers.animal(row["tag_number"]) == answers.animal_by_id(row["id"]) == row
    assert answers.active_ids == set(inputs(HERD, SEED).active_ids)
    for nobody in (0, -1, len(seeded) + 1, True, "1", None):
        assert answers.animal_by_id(nobody) is None
    assert answers.animal("SD-9999") is None
    assert answers.sections == {row["id"]: row["name"] for row in tables()["core.section"]}


def test_milk(answers: Answers) -> None:
    seeded = tables()["farm.milk_production"]
    shown = ("id", "animal_id", "production_date", "shift", "quantity_litres", "fat_percentage", "snf_percentage")
    rows = [{column: row[column] for column in shown} for row in seeded]
    days = sorted({row["production_date"] for row in rows})
    assert [row for day in days for row in answers.milk_of_day(date.fromisoformat(day))] == rows
    assert answers.last_milking_id == rows[-1]["id"]
    for day in (DEFAULT_AS_OF + timedelta(days=1), DEFAULT_AS_OF - timedelta(days=731)):
        assert answers.milk_of_day(day) == []
        assert answers.shifts_of_day(day) == []
    for animal_id in (1, *answers.lactating_ids):
        own = [row for row in reversed(rows) if row["animal_id"] == animal_id]
        own.sort(key=lambda row: (row["production_date"], row["id"]), reverse=True)
        assert answers.milkings(animal_id, 90) == own[:90]
    assert answers.milkings(100_000, 90) == []
    assert answers.lactating_ids == set(inputs(HERD, SEED).lactating_ids)


@pytest.mark.parametrize("sections", [{1, 5}, {4}, set()])
def test_what_an_account_of_some_sections_is_answered(answers: Answers, sections: set[int]) -> None:
    animals = [r for r in tables()["farm.animal"] if r["status"] == "active" and r["section_id"] in sections]
    ids = frozenset(row["id"] for row in animals)
    seen = answers.seen_by(ids)
    seen.prepare()
    before = set(vars(seen))

    def of_these(table: str) -> Rows:
        return [row for row in tables()[table] if row["animal_id"] in ids]

    assert list(seen.animals) == animals
    assert seen.active_ids == ids
    for row in tables()["farm.animal"]:
        expected = row if row["id"] in ids else None
        assert seen.animal(row["tag_number"]) == seen.animal_by_id(row["id"]) == expected
    assert seen.animal_by_id([min(answers.active_ids)]) is None
    milk_ids = [row["id"] for row in of_these("farm.milk_production") if row["production_date"] == TODAY]
    assert [row["id"] for row in seen.milk_of_day(DEFAULT_AS_OF)] == milk_ids
    for shift in seen.shifts_of_day(DEFAULT_AS_OF):
        rows = [
            r for r in of_these("farm.milk_production") if (r["production_date"], r["shift"]) == (TODAY, shift.shift)
        ]
        assert (shift.records, shift.animals) == (len(rows), len({row["animal_id"] for row in rows}))
        assert shift.centilitres == round(100 * sum(row["quantity_litres"] for row in rows))
        assert shift.fat_analysed == sum(row["fat_percentage"] is not None for row in rows)
    assert sum(shift.records for shift in seen.shifts_of_day(DEFAULT_AS_OF)) == len(milk_ids)
    assert seen.lactating_ids == answers.lactating_ids & ids
    for animal_id in answers.lactating_ids:
        assert seen.milkings(animal_id, 9) == (answers.milkings(animal_id, 9) if animal_id in ids else [])
    assert list(seen.health_records) == of_these("farm.health_record")
    assert seen.last_health_id == answers.last_health_id == len(tables()["farm.health_record"])
    assert {row["id"] for row in seen.pending_treatments} == {
        row["id"] for row in of_these("farm.health_record") if row["treatment_status"] == "pending"
    }
    assert {row["animal_id"] for row in seen.expected_calvings} <= ids
    assert seen.open_orders is answers.open_orders
    assert set(vars(seen)) == before


def test_a_shift_in_which_nothing_was_analysed_has_no_mean(answers: Answers) -> None:
    for animal_id in sorted(answers.lactating_ids):
        for shift in written.shifts(answers.seen_by(frozenset({animal_id})), DEFAULT_AS_OF, None):
            (row,) = [
                row
                for row in tables()["farm.milk_production"]
                if (row["animal_id"], row["production_date"], row["shift"]) == (animal_id, TODAY, shift.shift)
            ]
            assert shift.snf_percentage == (
                None if row["snf_percentage"] is None else Between(row["snf_percentage"], row["snf_percentage"])
            )


def test_what_is_prepared_is_all_there_is(answers: Answers) -> None:
    before = set(vars(answers))
    for check, values, reply in replies().values():
        check(answers, values, reply)
    assert set(vars(answers)) == before


# --- faithful replies ----------------------------------------------------------------------------------------------


def pick(row: dict[str, Any], names: str, **more: Any) -> dict[str, Any]:
    return {name: row[name] for name in names.split()} | more


def odoo(row: dict[str, Any], names: str) -> dict[str, Any]:
    """As Odoo gives it: references with names, no null."""

    def value(name: str) -> Any:
        if name == "animal_id":
            return [row[name], tables()["farm.animal"][row[name] - 1]["name"]]
        if name == "section_id":
            return [row[name], tables()["core.section"][row[name] - 1]["name"]]
        if row[name] is None:
            return 0.0 if name in ("weight_kg", "fat_percentage") else False
        return row[name]

    return {name: value(name) for name in ("id", *names.split())}


def latest(rows: Rows, by: str, limit: int) -> Rows:
    return sorted(rows, key=lambda row: (row[by], row["id"]), reverse=True)[:limit]


def next_due(rows: Rows, by: str, limit: int) -> Rows:
    return sorted(rows, key=lambda row: (row[by], row["id"]))[:limit]


def shift_totals(day: str) -> Rows:
    """By shift of the day: records, animals, litres, fat_percentage, snf_percentage."""
    totals = []
    for shift in ("morning", "noon", "evening"):
        rows = [r for r in milk() if r["production_date"] == day and r["shift"] == shift]
        fat, snf = ([r[part] for r in rows if r[part] is not None] for part in ("fat_percentage", "snf_percentage"))
        totals.append(
            {
                "shift": shift,
                "records": len(rows),
                "animals": len({r["animal_id"] for r in rows}),
                "litres": round(sum(r["quantity_litres"] for r in rows), 2),
                "fat_percentage": sum(fat) / len(fat),
                "snf_percentage": sum(snf) / len(snf),
            }
        )
    return totals


@cache
def milk(added: int = 0) -> Rows:
    """Seeded milkings and `added` ones of today, as the load writes them."""
    seeded = tables()["farm.milk_production"]
    lactating = inputs(HERD, SEED).lactating_ids
    new = [
        {
            "id": seeded[-1]["id"] + 1 + number,
            "animal_id": lactating[0],
            "production_date": TODAY,
            "shift": "noon",
            "quantity_litres": 2.0 + number,
            "fat_percentage": 3.2,
            "snf_percentage": None,
        }
        for number in range(added)
    ]
    return [*seeded, *new]


@cache
def health(added: int = 0) -> Rows:
    """Seeded health records and `added` ones of today, as the load writes them."""
    seeded = tables()["farm.health_record"]
    new = [
        {
            "id": seeded[-1]["id"] + 1 + number,
            "animal_id": inputs(HERD, SEED).active_ids[number],
            "record_date": TODAY,
            "details": {"diagnosis": "mastitis", "severity": "mild"},
            "scheduled_date": IN_A_WEEK,
            "treatment_status": "pending",
        }
        for number in range(added)
    ]
    return [*seeded, *new]


@cache
def replies(added: int = 0) -> dict[str, Reply]:
    """A faithful reply of every call, with what `added` milkings and treatments of today change in it."""
    of_odoo = {f"odoo {name}": reply for name, reply in odoo_replies(added).items()}
    return of_odoo | {f"api {name}": reply for name, reply in api_replies(added).items()}


def odoo_replies(added: int) -> dict[str, Reply]:
    animals = tables()["farm.animal"]
    cow = animals[inputs(HERD, SEED).lactating_ids[0] - 1]
    active = [row for row in animals if row["status"] == "active"]
    today = [row for row in milk(added) if row["production_date"] == TODAY]
    own = [row for row in milk(added) if row["animal_id"] == cow["id"]]
    pending = [row for row in health(added) if row["treatment_status"] == "pending"]

    def report(day: str) -> dict[str, Any]:
        shifts = [pick(row, "shift litres records animals") for row in shift_totals(day)]
        if day == TODAY:
            shifts[1]["records"] += added
            shifts[1]["litres"] += sum(row["quantity_litres"] for row in milk(added)[len(milk()) :])
        totals = {name: sum(row[name] for row in shifts) for name in ("litres", "records")}
        return {"date": day, "animals": len({row["animal_id"] for row in today}), "shifts": shifts, **totals}

    groups = [
        {
            "shift": row["shift"],
            "__extra_domain": [["shift", "=", row["shift"]]],
            "quantity_litres:sum": row["litres"],
            "__count": row["records"],
        }
        for row in sorted(report(TODAY)["shifts"], key=lambda row: row["shift"])
    ]
    history = "production_date shift quantity_litres fat_percentage"
    one = "name tag_number breed status weight_kg section_id"
    checks = odoo_checks
    return {
        "milk_of_the_day": (
            checks.milk_of_the_day,
            {"day": TODAY},
            [odoo(row, "animal_id quantity_litres shift") for row in latest(today, "production_date", 100)],
        ),
        "active_animals": (checks.active_animals, {}, [odoo(row, "name tag_number breed") for row in active]),
        "active_count": (checks.active_count, {}, len(active)),
        "animal_by_tag": (checks.animal_by_tag, {"tag": cow["tag_number"]}, [odoo(cow, one)]),
        "no animal_by_tag": (checks.animal_by_tag, {"tag": "SD-9999"}, []),
        "daily_report": (checks.daily_report, {"date": TODAY}, report(TODAY)),
        "earlier daily_report": (checks.daily_report, {"date": BEFORE}, report(BEFORE)),
        "milk_by_shift": (checks.milk_by_shift, {}, groups),
        "milk_history": (
            checks.milk_history,
            {"animal_id": cow["id"]},
            [odoo(row, history) for row in latest(own, "production_date", 90)],
        ),
        "pending_treatments": (
            checks.pending_treatments,
            {},
            [odoo(row, "animal_id scheduled_date details") for row in next_due(pending, "scheduled_date", 20)],
        ),
        "enter_milk": (checks.enter_milk, {}, [milk(1)[-1]["id"]]),
        "enter_treatment": (checks.enter_treatment, {}, health(1)[-1]["id"]),
        "enter_weight": (checks.enter_weight, {}, True),
    }


def api_replies(added: int) -> dict[str, Reply]:
    animals = tables()["farm.animal"]
    cow = animals[inputs(HERD, SEED).lactating_ids[0] - 1]
    summary = "id name tag_number breed status section_id"
    milking = "id animal_id production_date shift quantity_litres fat_percentage snf_percentage"
    own = [row for row in milk(added) if row["animal_id"] == cow["id"]]
    record = "id animal_id record_date details scheduled_date treatment_status"

    def treated(rows: Rows) -> Rows:
        return [pick(row, record, tag_number=animals[row["animal_id"] - 1]["tag_number"]) for row in rows]

    def report(day: str) -> dict[str, Any]:
        shifts = shift_totals(day)
        if day == TODAY:
            noon, new = shifts[1], milk(added)[len(milk()) :]
            analysed = sum(r["fat_percentage"] is not None for r in milk()[-noon["records"] * 2 : -noon["records"]])
            fat = noon["fat_percentage"] * analysed + sum(row["fat_percentage"] for row in new)
            noon |= {"records": noon["records"] + added, "fat_percentage": fat / (analysed + added)}
            noon["litres"] += sum(row["quantity_litres"] for row in new)
        totals = {name: sum(row[name] for row in shifts) for name in ("litres", "records")}
        return {"production_date": day, "shifts": shifts, **totals}

    due_by, month_ago, spring = ((DEFAULT_AS_OF + timedelta(days)).isoformat() for days in (14, -30, 60))
    pending = [r for r in health(added) if r["treatment_status"] == "pending" and r["scheduled_date"] <= due_by]
    mastitis = [row for row in health(added) if row["details"]["diagnosis"] == "mastitis"]
    pregnant = [
        pick(row, "id animal_id breeding_status breeding_date expected_calving_date sire_tag")
        | pick(animals[row["animal_id"] - 1], "tag_number name")
        for row in tables()["farm.breeding_record"]
        if row["breeding_status"] == "pregnant" and TODAY <= row["expected_calving_date"] <= spring
    ]
    moves = [
        pick(row, "id product_id quantity direction reference", move_date=row["move_date"].replace(" ", "T"))
        for row in tables()["inventory.stock_move"]
        if row["product_id"] == 1 and row["move_date"] >= month_ago
    ]
    orders = [
        pick(row, "id customer_id order_date state total_amount")
        | {"customer": tables()["core.customer"][row["customer_id"] - 1]["name"]}
        for row in tables()["sales.order"]
        if row["state"] in ("draft", "confirmed", "processing")
    ]
    found = "id name tag_number breed status notes"
    calm = [pick(row, found, rank=0.1) for row in animals if "alm" in str(row["notes"])]
    metrics = {
        "query_latency_p95_ms": None,
        "cache_hit_ratio": 99.5,
        "active_connections": 7,
        "redis_hit_rate": None,
        "daily_milk_litres": report(TODAY)["litres"],
        "dead_tuples_top5": [{"table_name": "farm.animal", "n_dead_tup": 3, "dead_ratio": 0.5}],
    }
    sent = {"animal_id": cow["id"], "shift": "noon", "quantity_litres": 4.5, "fat_percentage": 3.5}
    checks = api_checks
    return {
        "animal_by_tag": (
            checks.animal_by_tag,
            {"tag_number": cow["tag_number"]},
            pick(cow, f"{summary} date_of_birth gender weight_kg parity dam_id metadata notes"),
        ),
        "animals": (
            checks.animals,
            {"offset": 50},
            {"items": [pick(row, summary) for row in animals[50:100]], "limit": 50, "offset": 50},
        ),
        "search": (checks.search, {"q": "calm"}, {"items": calm[:20]}),
        "daily_report": (checks.daily_report, {"date": TODAY}, report(TODAY)),
        "earlier daily_report": (checks.daily_report, {"date": BEFORE}, report(BEFORE)),
        "milk_history": (
            checks.milk_history,
            {"animal_id": cow["id"]},
            {"animal_id": cow["id"], "items": [pick(row, milking) for row in latest(own, "production_date", 90)]},
        ),
        "enter_milk": (
            checks.enter_milk,
            {**sent, "day": TODAY},
            {"id": milk(1)[-1]["id"], "production_date": TODAY, "snf_percentage": None, **sent},
        ),
        "health_search": (
            checks.health_search,
            {"diagnosis": "mastitis"},
            {"items": treated(latest(mastitis, "record_date", 50))},
        ),
        "pending_treatments": (
            checks.pending_treatments,
            {},
            {"due_by": due_by, "items": treated(next_due(pending, "scheduled_date", 100))},
        ),
        "breeding_schedule": (
            checks.breeding_schedule,
            {},
            {"from_date": TODAY, "until": spring, "items": next_due(pregnant, "expected_calving_date", 100)},
        ),
        "stock_movements": (
            checks.stock_movements,
            {"product_id": 1},
            {"product_id": 1, "from_date": month_ago, "until": TODAY, "items": latest(moves, "move_date", 100)},
        ),
        "open_orders": (checks.open_orders, {}, {"items": next_due(orders, "order_date", 100)}),
        "db_metrics": (checks.db_metrics, {}, metrics),
    }


NAMES = sorted(replies())


def key_of(reply: dict[str, Any]) -> str:
    return "items" if "items" in reply else "shifts"


def rows_of(reply: Any) -> Rows:
    """The reply's list of rows, not a copy; a list of its own where it has none."""
    if isinstance(reply, dict):
        return reply.get(key_of(reply), [])
    return reply if isinstance(reply, list) else []


@pytest.mark.parametrize("added", [0, 1, 3])
def test_faithful_replies_pass(answers: Answers, added: int) -> None:
    complaints = {name: check(answers, values, reply) for name, (check, values, reply) in replies(added).items()}
    assert not any(complaints.values()), complaints


# --- spoilt replies ------------------------------------------------------------------------------------------------

LISTS = [name for name in NAMES if len(rows_of(replies()[name][2])) > 1]
# What the seed does not determine: another value of the same kind is as good.
FREE = {"weight_kg", "rank"}
# Nothing in them is as seeded but a lower bound; each has a test of its own.
BOUNDED = {"odoo enter_milk", "odoo enter_treatment", "api db_metrics"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "items", "shift"]), inner),
    max_leaves=6,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of each part, outermost first."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*path, key))


def part_of(value: Any, path: tuple[Any, ...]) -> Any:
    return functools.reduce(operator.getitem, path, value)


def replaced(reply: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    reply = copy.deepcopy(reply)
    part_of(reply, path[:-1])[path[-1]] = by
    return reply


def another(value: Any) -> Any:
    """One of the same type; null becomes a text."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return "x" if value is None else value + "x"


@pytest.mark.parametrize("name", sorted(set(NAMES) - BOUNDED - {"odoo no animal_by_tag"}))
@settings(max_examples=20)
@given(data=st.data())
def test_a_changed_value_is_told(answers: Answers, name: str, data: st.DataObject) -> None:
    check, values, reply = replies()[name]
    free = FREE | ({"id"} if name == "api enter_milk" else set())
    scalars = [p for p in paths(reply) if not isinstance(part_of(reply, p), dict | list) and not free.intersection(p)]
    path = data.draw(st.sampled_from(scalars))
    complaint = check(answers, values, replaced(reply, path, another(part_of(reply, path))))
    assert complaint is not None
    assert len(complaint) < 300


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(data=st.data())
def test_rubbish_is_told_and_breaks_nothing(answers: Answers, name: str, data: st.DataObject) -> None:
    check, values, reply = replies(added=1)[name]
    path, rubbish = data.draw(st.sampled_from([(), *paths(reply)])), data.draw(JSON)
    complaint = check(answers, values, replaced(reply, path, rubbish))
    if name not in BOUNDED and type(rubbish) not in (int, float, type(None)):
        assert complaint is not None or rubbish == part_of(reply, path)


@pytest.mark.parametrize("name", LISTS)
def test_a_row_missing_foreign_or_twice_is_told(answers: Answers, name: str) -> None:
    check, values, reply = replies()[name]
    count = len(rows_of(reply))
    for number in {0, 1, count // 2, count - 1}:
        row = rows_of(reply)[number]
        for others in ([], [row, row], [row, {**row, "id": 1}], [row, {**row, "id": 10_000_000}]):
            spoilt = copy.deepcopy(reply)
            rows_of(spoilt)[number : number + 1] = others
            if spoilt != reply:
                assert check(answers, values, spoilt) is not None, f"row {number} of {count}: {others}"


@pytest.mark.parametrize("name", LISTS)
def test_another_order_is_told(answers: Answers, name: str) -> None:
    check, values, reply = replies()[name]
    rows = rows_of(copy.deepcopy(reply))
    rows.reverse()
    assert check(answers, values, rows if isinstance(reply, list) else {**reply, key_of(reply): rows}) is not None


def test_odoo_leaves_the_order_within_a_day_to_the_database(answers: Answers) -> None:
    check, values, reply = replies()["odoo milk_history"]
    assert reply[0]["production_date"] == reply[1]["production_date"]
    assert check(answers, values, [reply[1], reply[0], *reply[2:]]) is None
    assert check(answers, values, [reply[3], *reply[1:3], reply[0], *reply[4:]]) is not None


@pytest.mark.parametrize("name", ["odoo animal_by_tag", "odoo milk_history", "api animal_by_tag", "api milk_history"])
def test_another_animals_reply_is_told(answers: Answers, name: str) -> None:
    check, values, reply = replies()[name]
    other = inputs(HERD, SEED).lactating_ids[1]
    asked = {slot: other if slot == "animal_id" else f"SD-{other:04d}" for slot in values}
    assert check(answers, asked, reply) is not None


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("odoo milk_of_the_day", "animal_id", [1, "Bela 1"]),
        ("odoo milk_of_the_day", "quantity_litres", 1.99),
        ("odoo milk_of_the_day", "shift", "night"),
        ("odoo milk_history", "production_date", BEFORE),
        ("odoo milk_history", "fat_percentage", 4.81),
        ("odoo pending_treatments", "scheduled_date", TODAY),
        ("odoo pending_treatments", "details", {"diagnosis": "mastitis"}),
        ("api milk_history", "quantity_litres", 9.01),
        ("api milk_history", "snf_percentage", 8.5),
        ("api health_search", "tag_number", "SD-0001"),
        ("api health_search", "details", {"diagnosis": "bloat", "severity": "mild"}),
        ("api health_search", "record_date", BEFORE),
        ("api pending_treatments", "treatment_status", "completed"),
    ],
)
def test_a_new_row_that_no_user_writes_is_told(answers: Answers, name: str, column: str, value: Any) -> None:
    check, values, reply = replies(added=1)[name]
    spoilt = copy.deepcopy(reply)
    new_ids = {rows[-1]["id"] for rows in (milk(added=1), health(added=1))}
    (new,) = (row for row in rows_of(spoilt) if row["id"] in new_ids)
    assert check(answers, values, reply) is None
    assert new[column] != value
    new[column] = value
    assert check(answers, values, spoilt) is not None


def test_only_today_grows(answers: Answers) -> None:
    """The same additions to an earlier day are told."""
    for name in ("odoo daily_report", "api daily_report"):
        check, _values, today = replies(added=1)[name]
        _check, values, earlier = replies()[name.replace(" ", " earlier ")]
        noon = [{**row, "records": row["records"] + 1, "litres": row["litres"] + 2} for row in earlier["shifts"]]
        grown = {**earlier, "records": earlier["records"] + 3, "litres": earlier["litres"] + 6, "shifts": noon}
        assert today["records"] == earlier["records"] + 1
        assert check(answers, values, grown) is not None


@pytest.mark.parametrize("name", ["odoo daily_report", "odoo milk_by_shift", "api daily_report"])
@pytest.mark.parametrize(("litres", "told"), [(1.9, True), (2.0, False), (9.0, False), (9.1, True)])
def test_a_days_milk_grows_as_its_records_do(answers: Answers, name: str, litres: float, told: bool) -> None:
    check, values, reply = replies(added=1)[name]
    reply = copy.deepcopy(reply)
    (noon,) = (row for row in rows_of(reply) if row["shift"] == "noon")
    for part in [noon] if isinstance(reply, list) else [noon, reply]:
        part["quantity_litres:sum" if isinstance(reply, list) else "litres"] += litres - 2.0  # 2.0 were added
    assert (check(answers, values, reply) is not None) is told


@pytest.mark.parametrize("name", ["odoo animal_by_tag", "api animal_by_tag"])
@pytest.mark.parametrize(("weight_kg", "told"), [(249.9, True), (250.0, False), (600.0, False), (600.1, True)])
def test_a_weight_is_the_seeds_or_a_users(answers: Answers, name: str, weight_kg: float, told: bool) -> None:
    check, values, reply = replies()[name]
    weighed = [{**reply[0], "weight_kg": weight_kg}] if isinstance(reply, list) else {**reply, "weight_kg": weight_kg}
    assert (check(answers, values, weighed) is not None) is told


def test_a_new_id_comes_after_the_seeds(answers: Answers) -> None:
    for check, last in (
        (odoo_checks.enter_milk, milk()[-1]["id"]),
        (odoo_checks.enter_treatment, health()[-1]["id"]),
    ):
        assert [check(answers, {}, found) for found in (last + 1, [last + 1])] == [None, None]
        assert None not in [check(answers, {}, found) for found in (last, [last], [], [last + 1] * 2, True, "1")]


@pytest.mark.parametrize(
    ("metric", "value"),
    [("daily_milk_litres", 1.0), ("cache_hit_ratio", 100.1), ("active_connections", 0), ("redis_hit_rate", "no data")],
)
def test_metrics_have_bounds(answers: Answers, metric: str, value: object) -> None:
    check, values, reply = replies()["api db_metrics"]
    assert check(answers, values, {**reply, metric: value}) is not None


def test_search_tells_an_animal_of_whom_nothing_of_the_kind_is_said(answers: Answers) -> None:
    check, values, reply = replies()["api search"]
    stranger = next(row for row in tables()["farm.animal"] if "alm" not in str(row["notes"]))
    row = pick(stranger, "id name tag_number breed status notes", rank=0.05)
    assert "animal" in str(check(answers, values, {"items": [*reply["items"][:19], row]}))


@pytest.mark.parametrize(
    ("found", "expected", "complaint"),
    [
        (1, 1, None),
        (1, 1.0, None),
        (0.1 + 0.2, 0.3, None),
        (True, 1, "result: expected 1, found True"),
        (0, False, "result: expected False, found 0"),
        (float("nan"), 1.0, "result: expected 1.0, found nan"),
        (10**400, 1.0, "result: expected 1.0, found 1000"),
        ({"a": [1, {"b": "x"}]}, {"a": [1, {"b": "y"}]}, "result.a[1].b: expected 'y', found 'x'"),
        ([1], [1, 2], "result, how many: expected 2, found 1"),
        ({"a": 1}, {"b": 1}, "result, its columns: expected ['b'], found ['a']"),
        ("x" * 1000, "y", "result: expected 'y', found 'xxx"),
        (5, Between(1, 4, None), "result: expected 1 to 4 or None, found 5"),
        (2.5, Between(1, 4), "result: expected 1 to 4, found 2.5"),
        (2.5, Between(1.0, 4.0), None),
        (None, Between(1, 4, None), None),
        ([], frozenset({1}), "result: expected one of 1 values, found []"),
    ],
)
def test_complaints_name_place_expected_and_found(found: Any, expected: Any, complaint: str | None) -> None:
    first = next(differences(found, expected), None)
    assert first == complaint if complaint is None else str(first).startswith(complaint)
    assert len(first or "") < 200
