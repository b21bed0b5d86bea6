"""Growth against simulated farms whose truth is known: rows, cost, the date of a breach, disk and WAL."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.growth import (
    DAYS_PER_YEAR,
    Breach,
    CostPoint,
    Growth,
    Quantiles,
    Range,
    TableVolume,
    VolumePoint,
    WalRate,
    breach,
    first_breach,
    fit_cost,
    fit_volume,
    volumes,
)

HERDS = (255, 510, 1020, 2040)
STEADY = Growth(herd=255, users=50, herd_per_year=Range(0.10, 0.30), users_per_year=Range(0.0, 0.0))


def truth_ms(head: float) -> float:
    """Crosses 200 ms at 4,593 head (database notes' example)."""
    return 60 + 0.02 * head**1.05


def points(herds: tuple[int, ...], noise: float = 0.0, seed: int = 0) -> list[CostPoint]:
    random = np.random.default_rng(seed)
    found = []
    for head in herds:
        value = truth_ms(head) * (1 + noise * random.standard_normal())
        half = 1.96 * max(noise, 0.001) * value
        found.append(CostPoint(head, value, value - half, value + half))
    return found


def test_both_drivers_of_a_table_come_back() -> None:
    counted = [
        VolumePoint(head, head * days, round(40 + 1.5 * head + 3 * head * days))
        for head in (255, 510, 1020)
        for days in (365, 730)
    ]
    found = fit_volume("farm.health_event", counted, bytes_per_row=180)
    assert found.fixed_rows == pytest.approx(40, abs=15)
    assert found.rows_per_head == pytest.approx(1.5, rel=0.05)
    assert found.rows_per_head_day == pytest.approx(3, rel=1e-3)


def test_one_history_cannot_tell_the_drivers_apart() -> None:
    with pytest.raises(ValueError, match="several herds and years"):
        fit_volume("farm.animal", [VolumePoint(head, head * 365, head) for head in HERDS], bytes_per_row=100)


def test_an_exact_cost_comes_back_within_the_reach_and_nothing_beyond() -> None:
    found = fit_cost("api", points((*HERDS, 4080)))
    assert found.exponent == pytest.approx(1.05, abs=0.03)
    heads = np.array([300.0, 1500.0, 4000.0, 6000.0, 8160.0])
    assert found.cost(heads) == pytest.approx([truth_ms(head) for head in heads], rel=0.02)
    assert math.isnan(found.cost(np.array([8161.0]))[0])
    assert found.reach_head == 8160


@pytest.mark.parametrize(("scales", "exponent"), [(lambda _: 100.0, 0.0), (lambda head: head / 10, 1.0)])
def test_index_and_scan_are_told_apart(scales, exponent) -> None:  # type: ignore[no-untyped-def]
    cost = [CostPoint(head, scales(head), 0.99 * scales(head), 1.01 * scales(head)) for head in HERDS]
    found = fit_cost("statement", cost)
    grown = found.cost(np.array([4080.0]))[0] / found.cost(np.array([2040.0]))[0]
    assert grown == pytest.approx(2**exponent, rel=0.03)


def test_between_two_measured_herds_the_cost_stays_within_their_intervals() -> None:
    """A plan that flips makes a step, which no smooth curve follows."""
    stepped = [
        CostPoint(head, value, 0.95 * value, 1.05 * value)
        for head, value in zip(HERDS, (50, 50, 400, 400), strict=True)
    ]
    found = fit_cost("flip", stepped)
    assert np.all(found.cost(np.linspace(256, 509, 20)) <= 1.05 * 50)
    assert np.all(found.cost(np.linspace(1021, 2039, 20)) >= 0.95 * 400)


@pytest.mark.parametrize("bad", [points(HERDS[:3]), [replace(points(HERDS)[0], low=0.0), *points(HERDS)[1:]]])
def test_points_that_cannot_carry_a_fit_are_refused(bad: list[CostPoint]) -> None:
    with pytest.raises(ValueError, match=r"measure four herds|leave it out"):
        fit_cost("api", bad)


def test_the_date_lies_between_p10_and_p90_as_often_as_it_says() -> None:
    """60 farms, each with its own true growth rate and its own noise of 3 %, measured beyond the breach: P10 to P90
    holds the true date in about 80 % of them; at least 42 of 60 (70 %)."""
    random = np.random.default_rng(1)
    at_head = (140 / 0.02) ** (1 / 1.05)
    held = 0
    for seed in range(60):
        rate = random.uniform(0.10, 0.30)
        truth_days = DAYS_PER_YEAR * math.log(at_head / 255) / math.log1p(rate)
        cost = fit_cost("api", points((*HERDS, 4080, 8160), 0.03, seed))
        found = breach(cost, 200, STEADY, horizon_days=round(40 * DAYS_PER_YEAR), seed=seed)
        assert (found.passing_head, found.failing_head) in ((4080, 8160), (2040, 4080))
        assert found.days.p10 is not None
        assert found.days.p90 is not None
        held += found.days.p10 <= truth_days <= found.days.p90
    assert 42 <= held <= 57, held


def test_a_breach_beyond_twice_the_largest_herd_is_not_told() -> None:
    """The truth, 4,593 head, lies beyond 2 × 2,040."""
    found = breach(fit_cost("api", points(HERDS)), 200, STEADY, horizon_days=round(40 * DAYS_PER_YEAR))
    assert found.days == Quantiles(None, None, None)
    assert found.unbroken_ratio > 0.95
    fastest = DAYS_PER_YEAR * math.log(4080 / 255) / math.log(1.28)
    assert found.not_before_days == pytest.approx(fastest, rel=0.03)


def test_a_limit_that_holds_up_to_the_horizon_says_so() -> None:
    found = breach(fit_cost("api", points(HERDS)), 200, STEADY, horizon_days=365)
    assert found.days.p10 is None
    assert found.not_before_days == 365
    assert found.failing_head is None


def test_a_limit_that_is_crossed_today_is_crossed_on_day_0() -> None:
    found = breach(fit_cost("api", points(HERDS)), 50, STEADY, horizon_days=365)
    assert found.days == Quantiles(0, 0, 0)
    assert (found.passing_head, found.failing_head) == (None, 255)


def test_users_grow_into_the_limit_as_well() -> None:
    """A herd that stays, 80 users at most, 50 today, +20 % a year: in log(1.6) / log(1.2) years."""
    cost = fit_cost("users", [CostPoint(head, 1 / 80, 0.999 / 80, 1.001 / 80) for head in HERDS])
    growth = Growth(255, 50, Range(0, 0), Range(0.2, 0.2))
    found = breach(cost, 1, growth, horizon_days=3650, by_user=True)
    assert found.days.p50 == pytest.approx(DAYS_PER_YEAR * math.log(1.6) / math.log(1.2), abs=25)
    unbroken = breach(cost, 1, replace(growth, users_per_year=Range(0, 0)), horizon_days=3650, by_user=True)
    assert unbroken.days.p10 is None


def test_the_first_to_break_is_named() -> None:
    cost = fit_cost("slow", points((*HERDS, 4080, 8160)))
    late = breach(cost, 200, STEADY, horizon_days=14_000)
    early: Breach = breach(replace(cost, name="fast"), 100, STEADY, horizon_days=14_000)
    never = breach(cost, 10_000, STEADY, horizon_days=365)
    assert first_breach([never, late, early]) == early
    assert first_breach([never]) is None


def test_disk_and_wal_by_year() -> None:
    """255 head, +15 % a year, 3 events per head and day: 1.04 million event rows after three years."""
    growth = Growth(255, 50, Range(0.15, 0.15), Range(0, 0))
    events = TableVolume("events", 0, 0, 3, bytes_per_row=200)
    animals = TableVolume("animals", 10, 1, 0, bytes_per_row=500)
    found = volumes([events, animals], head_days=0, wal=WalRate(1000, 2000), growth=growth, years=3)
    assert found[3].rows["events"] == pytest.approx(1.04e6, rel=0.01)
    assert found[3].rows["animals"] == pytest.approx(10 + 255 * 1.15**3)
    assert found[3].disk_bytes.p50 == pytest.approx(found[3].rows["events"] * 200 + found[3].rows["animals"] * 500)
    assert found[0].wal_bytes.p50 == 0
    lived = sum(255 * 1.15 ** ((day + 0.5) / DAYS_PER_YEAR) for day in range(365)) + 0.25 * 255 * 1.15
    assert found[1].wal_bytes.p50 == pytest.approx(lived * 1000 + 50 * DAYS_PER_YEAR * 2000, rel=1e-3)


def test_a_herd_that_stays_lives_its_days() -> None:
    growth = Growth(100, 10, Range(0, 0), Range(-0.1, 0.1, 0.0))
    found = volumes([TableVolume("t", 0, 0, 1, 1)], head_days=50, wal=WalRate(0, 0), growth=growth, years=2)
    assert found[2].rows["t"] == pytest.approx(50 + 100 * 2 * DAYS_PER_YEAR)
    assert found[2].users.p10 is not None
    assert found[2].users.p10 < 10


@pytest.mark.parametrize("rates", [Range(0.3, 0.1), Range(-1.0, 0.1), Range(0.0, 0.1, 0.2)])
def test_growth_that_is_no_range_is_refused(rates: Range) -> None:
    with pytest.raises(ValueError, match="not a range"):
        volumes([], 0, WalRate(0, 0), replace(STEADY, herd_per_year=rates), years=1)
