"""plan: what is read out of real EXPLAIN output (tests/data/plans, 255 head), findings, shapes and differences."""

from __future__ import annotations

import functools
from typing import Any

import built_plans as built
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import plan
from harness.model import PlanScan, QueryPlan
from harness.plan_text import node_label, plan_text

MILK = "farm.milk_production"


@functools.cache
def plans(profile: str) -> dict[str, QueryPlan]:
    return {one.name: one for one in plan.read(built.documents(profile)).critical}


# --- real plans ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "name", "kinds", "indexes", "partitions"),
    [
        ("day31", "animal by tag", {"farm.animal": ("Index Scan",)}, ("farm.animal_tag_number_key",), (0, 0)),
        ("day40", "animal by tag", {"farm.animal": ("Index Scan",)}, ("farm.animal_tag_number_key",), (0, 0)),
        ("day31", "daily milk report", {MILK: ("Seq Scan",)}, (), (1, 1)),
        ("day40", "daily milk report", {MILK: ("Index Scan",)}, ("farm.idx_farm_milk_prod_date",), (1, 1)),
        ("day31", "milk history", {MILK: ("Seq Scan",)}, (), (12, 12)),
        (
            "day40",
            "milk history",
            {MILK: ("Index Scan",)},
            ("farm.idx_farm_milk_prod_animal_date", "farm.idx_farm_milk_prod_date_shift"),
            (4, 12),
        ),
        (
            "day40",
            "sensor search",
            {"iot.sensor_reading": ("Bitmap Heap Scan",)},
            ("iot.idx_iot_sensor_payload_gin",),
            (0, 0),
        ),
    ],
)
def test_what_a_plan_reads_and_by_what(profile, name, kinds, indexes, partitions):
    found = plans(profile)[name]
    assert plan.scan_kinds(found) == kinds
    assert plan.indexes(found) == indexes
    assert (len(plan.touched_partitions(found)), len(plan.planned_partitions(found))) == partitions


def test_figures_are_those_of_explain():
    found = plans("day31")["milk history"]
    assert (found.blocks, found.rows) == (2468, 90)
    assert found.execution_ms == built.documents("day31")["milk_history"]["explain"][0]["Execution Time"]
    scan = next(scan for scan in found.scans if scan.relation.endswith("2026_q1"))
    assert scan == PlanScan("Seq Scan", f"{MILK}_2026_q1", MILK, (), 102, 102, 7548, 114)


def test_every_scan_of_a_large_table_is_found_and_what_it_keeps():
    assert {one.name: one.sequential for one in plans("day31").values() if one.sequential} == {
        "daily milk report": (MILK,),
        "milk history": (MILK,),
        "milk trend": (MILK,),
        "health search": ("farm.health_record",),
        "period ledger": ("accounting.journal_entry",),
        "sensor search": ("iot.sensor_reading",),
    }
    assert not any(one.sequential for one in plans("day40").values())
    history, trend = plans("day31")["milk history"], plans("day31")["milk trend"]
    assert history.findings == (
        f"reads {MILK} (9 partitions) sequentially: 164,475 rows, keeps 1,650 (1.0 %): no index serves it, or was "
        "dearer",
    )
    assert trend.findings[0] == (
        f"reads {MILK} (1 partition) sequentially: 7,650 rows, keeps 3,150 (41.2 %): too large a share for an index to "
        "help"
    )


def test_a_small_table_is_rightly_read_whole():
    found = plans("day40")["breeding schedule"]
    assert plan.scan_kinds(found)["farm.breeding_record"] == ("Seq Scan",)
    assert found.sequential == ()
    assert found.findings == ()


def test_an_estimate_far_off_is_named_where_it_begins():
    ledger = plans("day31")["period ledger"].findings
    assert ledger[1:] == ("Seq Scan on accounting.journal_entry j: 22 rows estimated, 296 found (off by 13 ×)",)
    # what a LIMIT cut short was not misjudged
    assert plans("day40")["milk history"].findings == ()


def test_the_top_statements_have_generic_plans_or_a_reason():
    statements = plan.read(built.documents("day40")).statements
    assert [one.role for one in statements] == ["api", "api", "odoo", "odoo", "odoo"]
    daily, create = statements[:2]
    assert daily.plan is not None
    assert daily.plan.execution_ms is daily.plan.rows is daily.plan.blocks is None
    # which partition is known when the parameter is
    assert len(plan.planned_partitions(daily.plan)) == 12
    assert plan.touched_partitions(daily.plan) == ()
    assert create.plan is not None
    assert create.plan.text.startswith("Insert on farm.milk_production")
    assert [one.reason for one in statements[3:]] == [
        "only SELECT, INSERT and UPDATE are explained",
        'relation "farm.gone" does not exist',
    ]


def test_a_document_that_is_damaged_or_was_refused_is_missing_and_the_others_are_not():
    documents = dict(built.documents("day40"))
    documents["milk_trend"] = {"number": 1, "error": "canceling statement due to statement timeout"}
    documents["sensor_search"] = {"number": 2, "explain": [{"Plan": {}}]}
    found = plan.read(documents)
    assert found.missing == {
        "milk trend": "canceling statement due to statement timeout",
        "sensor search": "its plan cannot be read (KeyError('Node Type'))",
    }
    assert {one.name for one in found.critical} == {*plans("day40")} - {*found.missing}
    assert plan.read({}).critical == ()


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT $1", None),
        ("WITH a AS (SELECT 1) UPDATE farm.animal SET name = $1", None),
        ("INSERT INTO farm.animal (name) VALUES ($1)", None),
        ("DELETE FROM farm.animal", "only SELECT, INSERT and UPDATE are explained"),
        ("SELECT 1; SELECT 2", "only SELECT, INSERT and UPDATE are explained"),
        ("<insufficient privilege>", "its text cannot be read: the server cut it off, or keeps it to itself"),
    ],
)
def test_what_cannot_be_explained_is_told_beforehand(query, reason):
    assert plan.unexplainable(query) == reason


# --- findings on made-up plans -------------------------------------------------------------------------------------


def node(kind: str, rows: float, estimated: float, *below: dict[str, Any], **more: Any) -> dict[str, Any]:
    fields = {"Node Type": kind, "Plan Rows": estimated, "Actual Rows": rows, "Actual Loops": 1, "Plans": list(below)}
    return (
        fields
        | {"Shared Hit Blocks": 1, "Shared Read Blocks": 0}
        | {name.replace("_", " "): v for name, v in more.items()}
    )


def findings(root: dict[str, Any], **relations: plan.Relation) -> tuple[str, ...]:
    known = {name.replace("__", "."): relation for name, relation in relations.items()}
    return plan.parse("made up", {"Plan": root, "Execution Time": 1.0}, known).findings


@pytest.mark.parametrize(
    ("root", "found"),
    [
        (node("Result", 1000, 100), 1),
        (node("Result", 999, 100), 0),
        (node("Result", 10, 1), 0),  # too few rows to matter
        (node("Result", 5, 900), 1),
        (node("Limit", 5, 5, node("Result", 5, 900)), 0),
        (node("Limit", 5, 5, node("Sort", 5, 5, node("Result", 5, 900))), 1),
        (node("Limit", 5, 5, node("Result", 900, 5)), 1),  # more than estimated is wrong under a LIMIT, too
        (node("Sort", 2000, 10, node("Result", 2000, 10)), 1),  # named once, where it begins
        (node("BitmapAnd", 0, 5000), 0),
        ({**node("Result", 0, 5000), "Actual Loops": 0}, 0),
    ],
)
def test_when_an_estimate_is_off(root, found):
    assert len(findings(root)) == found


def test_rows_read_for_nothing_and_sorts_that_spill():
    scan = {"Schema": "farm", "Relation_Name": "animal", "Index_Name": "animal_pkey"}
    wasteful = node("Index Scan", 3, 3, **scan, Rows_Removed_by_Filter=5000)
    assert findings(wasteful) == ("Index Scan on farm.animal throws away 5,000 of 5,003 rows that it reads",)
    assert findings(node("Index Scan", 501, 501, **scan, Rows_Removed_by_Filter=5000)) == ()
    spilled = node("Sort", 1, 1, Sort_Space_Type="Disk", Sort_Space_Used=2048)
    assert findings(spilled) == ("Sort spilled 2,048 kB to disk; work_mem is too small",)


def test_a_table_is_large_by_rows_and_pages():
    scan = node("Seq Scan", 1, 1, Schema="farm", Relation_Name="animal")
    large, few_pages, few_rows = (
        plan.Relation(None, 1000, 9),
        plan.Relation(None, 9000, 8),
        plan.Relation(None, 999, 90),
    )
    assert [len(findings(scan, farm__animal=one)) for one in (large, few_pages, few_rows)] == [1, 0, 0]
    assert findings(scan) == ()


# --- shapes --------------------------------------------------------------------------------------------------------

QUARTERS = {f"farm.milk_{number}": plan.Relation("farm.milk", 5000, 90) for number in range(9)} | {
    f"farm.milk_{number}_idx": plan.Relation("farm.idx", 5000, 9) for number in range(9)
}


def quarter(number: int, kind: str = "Index Scan") -> dict[str, Any]:
    return node(kind, 10, 10, Schema="farm", Relation_Name=f"milk_{number}", Index_Name=f"milk_{number}_idx")


@given(st.lists(st.integers(0, 8), min_size=1, max_size=9), st.floats(0.1, 1e6))
def test_a_shape_knows_neither_the_number_of_partitions_nor_times_and_rows(numbers, rows):
    def shape(root: dict[str, Any]) -> str:
        return plan.parse("made up", {"Plan": root}, QUARTERS).shape

    one = shape(node("Sort", 1, 1, quarter(0)))
    several = node("Append", rows, 2 * rows, *map(quarter, numbers))
    assert shape(node("Sort", rows, rows, several)) == one
    assert shape(node("Sort", 1, 1, quarter(0, "Seq Scan"))) != one
    mixed = node("Append", 1, 1, quarter(0), quarter(1, "Seq Scan"))
    assert shape(node("Sort", 1, 1, mixed)) != one


def bitmap(number: int) -> dict[str, Any]:
    index = node("Bitmap Index Scan", 10, 10, Index_Name=f"milk_{number}_idx")
    return node("Bitmap Heap Scan", 10, 10, index, Schema="farm", Relation_Name=f"milk_{number}")


def test_the_indexes_of_a_scan_are_its_own_and_its_bitmaps_but_no_subplans():
    both = node("BitmapOr", 0, 10, *(part for one in (0, 1) for part in bitmap(one)["Plans"]))
    subplan = quarter(2) | {"Parent Relationship": "SubPlan"}
    root = node("Bitmap Heap Scan", 10, 10, both, subplan, Schema="farm", Relation_Name="animal")
    found = plan.parse("made up", {"Plan": root}, {})
    assert [scan.indexes for scan in found.scans] == [("farm.milk_0_idx", "farm.milk_1_idx"), ("farm.milk_2_idx",)]
    shapes = [plan.parse("made up", {"Plan": bitmap(number)}, QUARTERS).shape for number in (0, 1)]
    assert shapes[0] == shapes[1]


# --- differences ---------------------------------------------------------------------------------------------------

TABLES = ("farm.animal", "farm.milk_production", "sales.order")
scans = st.builds(
    PlanScan,
    kind=st.sampled_from(("Seq Scan", "Index Scan", "Bitmap Heap Scan")),
    relation=st.sampled_from(TABLES),
    table=st.sampled_from(TABLES),
    indexes=st.lists(st.sampled_from(("farm.a", "farm.b", "sales.c")), max_size=2, unique=True).map(tuple),
    estimated_rows=st.floats(0, 1e6),
    rows=st.none() | st.floats(0, 1e6),
    removed=st.none() | st.floats(0, 1e6),
    blocks=st.none() | st.integers(0, 10**6),
)
query_plans = st.builds(
    QueryPlan,
    name=st.just("made up"),
    execution_ms=st.none() | st.floats(0.001, 1e6),
    planning_ms=st.none(),
    rows=st.none() | st.floats(0, 1e6),
    blocks=st.none() | st.integers(0, 10**6),
    scans=st.lists(scans, max_size=4).map(tuple),
    sequential=st.just(()),
    shape=st.sampled_from(("a", "b")),
    findings=st.just(()),
    text=st.just(""),
)


@given(query_plans)
def test_a_plan_differs_from_itself_in_nothing(one):
    found = plan.difference(one, one)
    assert found.scans == found.indexes_gained == found.indexes_lost == ()
    assert found.same_shape
    assert found.blocks_ratio in (None, 1)
    assert found.time_ratio in (None, 1)


@given(query_plans, query_plans)
def test_a_difference_read_backwards_is_that_of_the_other_way(before, after):
    there, back = plan.difference(before, after), plan.difference(after, before)
    assert (there.indexes_gained, there.indexes_lost) == (back.indexes_lost, back.indexes_gained)
    assert [(one.table, one.before, one.after) for one in there.scans] == [
        (one.table, one.after, one.before) for one in back.scans
    ]
    for ratio, inverse in ((there.blocks_ratio, back.blocks_ratio), (there.time_ratio, back.time_ratio)):
        assert (ratio is None) == (inverse is None)
        assert ratio is None or ratio * (inverse or 0) == pytest.approx(1)


@given(query_plans, query_plans)
def test_a_difference_turns_the_first_plan_into_the_second(before, after):
    found = plan.difference(before, after)
    kinds = plan.scan_kinds(before) | {one.table: one.after for one in found.scans}
    assert {table: one for table, one in kinds.items() if one} == plan.scan_kinds(after)
    used = {*plan.indexes(before)} - {*found.indexes_lost} | {*found.indexes_gained}
    assert used == {*plan.indexes(after)}


def test_what_changed_between_the_days():
    found = plan.difference(plans("day31")["milk history"], plans("day40")["milk history"])
    assert found.scans == (plan.ScanChange(MILK, ("Seq Scan",), ("Index Scan",)),)
    assert found.indexes_gained == ("farm.idx_farm_milk_prod_animal_date", "farm.idx_farm_milk_prod_date_shift")
    assert found.blocks_ratio == pytest.approx(97 / 2468)
    assert not found.same_shape
    same = plan.difference(plans("day31")["animal by tag"], plans("day40")["animal by tag"])
    assert same.same_shape
    assert not same.scans


# --- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["day31", "day40"])
@pytest.mark.parametrize("name", ["milk history", "health search", "milk trend"])
def test_the_text_has_a_line_for_each_node(profile, name):
    explained = built.documents(profile)[name.replace(" ", "_")]["explain"][0]
    text = plan_text(explained)
    root = plan.parse_node(explained["Plan"])
    lines = [line.strip().removeprefix("->").strip() for line in text.splitlines()]
    starts = [f"{node_label(one.fields)}  (cost=" for one in root.all()]
    assert [line.partition("(cost=")[0] + "(cost=" for line in lines if "(cost=" in line] == starts
    assert text == plans(profile)[name].text


def test_a_querys_document_is_a_page_for_people():
    document = built.documents("day40")["milk_history"]
    text = plan.document_text(document)
    assert text.startswith("-- What were one animal's latest milkings")
    assert "\n-- limit: 90\n" in text
    assert "\nLimit  (cost=" in text
    assert "(never executed)" in text
    refused = {"sql": "SELECT 1", "parameters": {}, "error": "permission denied"}
    assert plan.document_text(refused) == "SELECT 1\n\n-- permission denied\n"
    assert plan.document_text(built.documents("day40")[plan.RELATIONS]) == ""
