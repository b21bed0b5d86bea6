"""index_findings: what a run says against an index."""

from __future__ import annotations

from fixtures import queries
from fixtures.indexes import day32
from harness.index_findings import Finding, findings, is_prefix
from harness.model import IndexDelta


def test_one_index_of_day32_is_led_by_another() -> None:
    pairs = {(a.name, b.name) for a in day32() for b in day32() if is_prefix(a, b)}
    assert pairs == {("idx_farm_milk_prod_date", "idx_farm_milk_prod_date_shift")}


def test_an_unused_and_a_redundant_index_are_named_with_their_cost() -> None:
    deltas = (
        IndexDelta("farm", "animal", "idx_farm_animal_status", 0, 16_384),
        IndexDelta("farm", "animal", "animal_pkey", 0, 16_384),
        IndexDelta("farm", "milk_production", "idx_farm_milk_prod_date", 7, 2_097_152),
        IndexDelta("farm", "milk_production", "idx_farm_milk_prod_date_shift", 9, 2_097_152),
    )
    assert findings(deltas, day32(), {"farm.milk_production": 1675}) == (
        Finding(
            "idx_farm_animal_status",
            "not scanned once in this run; it takes 16.0 KiB, writes to its table not known",
        ),
        Finding(
            "idx_farm_milk_prod_date",
            "idx_farm_milk_prod_date_shift begins with the same columns and serves in its place; "
            "it takes 2.0 MiB, up to 1,675 entries written",
        ),
    )


def test_day32_is_sixteen_indexes_each_for_a_query_of_its_own() -> None:
    assert len({index.name for index in day32()}) == len({index.query for index in day32()}) == 16
    assert {"animal_list", "milk_history", "open_orders"} <= {i.query for i in day32()} & queries.texts().keys()
