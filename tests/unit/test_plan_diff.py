from __future__ import annotations

import built_plans
import pytest

from harness.plan_diff import compared, plain

BEFORE = """Limit  (cost=0.00..9.00 rows=50 width=8) (actual time=0.100..0.200 rows=50 loops=1)
  Buffers: shared hit=200
  ->  Seq Scan on farm.animal a  (cost=0.00..9.00 rows=50 width=8) (actual time=0.100..0.200 rows=50 loops=1)
        Filter: (a.id = 7)
        Rows Removed by Filter: 12654
Execution Time: 3.200 ms"""
AFTER = """Limit  (cost=0.00..1.00 rows=50 width=8) (actual time=0.010..0.020 rows=50 loops=1)
  Buffers: shared hit=3
  ->  Index Scan using animal_pkey on farm.animal a  (cost=0.00..1.00 rows=1 width=8) (actual rows=1 loops=1)
        Index Cond: (a.id = 7)
Execution Time: 0.120 ms"""


def own(before: str, after: str) -> tuple[list[str], list[str]]:
    old, new = ([line.text.strip() for line in lines if line.own] for lines in compared(before, after))
    return old, new


def test_lines_of_one_plan_alone_are_marked_and_costs_and_counts_are_not() -> None:
    old, new = own(BEFORE, AFTER)
    assert [line.split("  (")[0] for line in old] == [
        "->  Seq Scan on farm.animal a",
        "Filter: (a.id = 7)",
        "Rows Removed by Filter: 12654",
    ]
    assert [line.split("  (")[0] for line in new] == [
        "->  Index Scan using animal_pkey on farm.animal a",
        "Index Cond: (a.id = 7)",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        BEFORE.replace("12654", "1"),
        BEFORE.replace("cost=0.00..9.00", "cost=3.00..4.00"),
        BEFORE.replace("loops=1", "loops=7"),
        BEFORE.replace("hit=200", "read=1"),
    ],
)
def test_the_same_plan_at_another_price_has_no_line_of_its_own(changed: str) -> None:
    assert changed != BEFORE
    assert own(BEFORE, changed) == ([], [])


def test_every_line_of_real_plans_is_kept_in_order() -> None:
    for before, after in zip(built_plans.plans("day31").critical, built_plans.plans("day40").critical, strict=True):
        lines = compared(before.text, after.text)
        assert ["\n".join(line.text for line in side) for side in lines] == [before.text, after.text]
    assert plain("a\nb")[1].text == "b"
