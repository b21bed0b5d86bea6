from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import benchmark_plan
from harness.benchmark_plan import PAIRS, SIDES, Made, Plan

A, B = SIDES["benchmark"]


def made(text: str) -> list[Made]:
    """Of `1 2 3!`: the runs' numbers, broken ones with an exclamation mark."""
    words = text.split()
    return [Made(int(word.rstrip("!")), "day40", not word.endswith("!")) for word in words]


def test_the_order_is_a_b_b_a() -> None:
    assert benchmark_plan.order(4, (A, B)) == ((A, B), (B, A), (A, B), (B, A))
    assert benchmark_plan.order(2, SIDES["noise"]) == (("day40", "day40"), ("day40", "day40"))


@given(st.integers(1, 40))
def test_both_sides_come_first_equally_often_and_are_found_again(pairs: int) -> None:
    order = benchmark_plan.order(pairs, (A, B))
    by_number = {
        number: profile
        for pair, profiles in enumerate(order)
        for number, profile in zip(benchmark_plan.numbers(pair), profiles, strict=True)
    }
    assert list(by_number) == list(range(1, 2 * pairs + 1))
    assert abs(sum(1 if first == A else -1 for first, _ in order)) <= 1
    for pair in range(pairs):
        assert tuple(by_number[number] for number in benchmark_plan.sides(pair)) == (A, B)


@pytest.mark.parametrize(
    ("runs", "whole", "broken", "left"),
    [
        ("", (), [], (0, 1, 2)),
        ("1!", (), [1], (0, 1, 2)),
        ("1", (), [1], (0, 1, 2)),  # its second run must follow at once
        ("1 2!", (), [1, 2], (0, 1, 2)),
        ("1 2", (0,), [], (1, 2)),
        ("1 2 3", (0,), [3], (1, 2)),
        ("1 2 3! 4", (0,), [3, 4], (1, 2)),
        ("1 2 3 4 5!", (0, 1), [5], (2,)),
        ("1 2 5 6", (0, 2), [], (1,)),  # somebody took a pair away
        ("1 2 4 5", (0,), [4, 5], (1, 2)),  # 4 and 5 are neighbours, not a pair
        ("1 2 3 4 5 6", (0, 1, 2), [], ()),
    ],
)
def test_what_is_resumed(runs: str, whole: tuple[int, ...], broken: list[int], left: tuple[int, ...]) -> None:
    plan = Plan(2, "benchmark", "embedded", benchmark_plan.order(3, (A, B)), {})
    assert benchmark_plan.whole_pairs(made(runs)) == whole
    assert [one.number for one in benchmark_plan.broken(made(runs))] == broken
    assert benchmark_plan.to_make(plan, made(runs)) == left


def test_a_full_benchmark_has_the_specification_s_five_minutes_a_side() -> None:
    from harness import load

    assert PAIRS * load.read_scenario("benchmark").duration_s == 300
