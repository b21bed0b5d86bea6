"""effects: exact test, interval and correction against their definitions; verdicts by cases; pairs and floors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import built_results as built
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness import effects, report_effects, rundir
from harness.effects import ALL_ENDPOINTS
from harness.model import PROFILES, Benchmark, Effect, EndpointComparison, NoiseFloor, RunResult

TAG, CREATE = built.TAG, built.CREATE
EMPTY = {profile: built.without_data(profile) for profile in PROFILES}
# wide apart for float arithmetic, near enough for exp
differences = st.lists(st.floats(-2, 2).filter(lambda d: abs(d) > 1e-6), min_size=6, max_size=11)
tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=10)


# --- the test, the interval, the correction --------------------------------------------------------------------------


@given(tied)
def test_the_p_value_is_the_share_of_sign_flips_as_extreme(values):
    nonzero = np.array([value for value in values if value])
    ranks = stats.rankdata(np.abs(nonzero))
    centre = ranks.sum() / 2
    seen = abs(ranks[nonzero > 0].sum() - centre)
    flips = [abs(np.dot(taken, ranks) - centre) for taken in itertools.product((0, 1), repeat=len(nonzero))]
    assert effects.signed_rank_p(values) == pytest.approx(np.mean([flip >= seen for flip in flips]), abs=1e-12)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=12, unique=True), st.integers(0, 2**12 - 1))
def test_without_ties_it_is_scipys_exact_test(sizes, signs):
    values = [size if signs >> bit & 1 else -size for bit, size in enumerate(sizes)]
    assert effects.signed_rank_p(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue, abs=1e-12)


def test_ten_pairs_of_one_sign_reach_the_smallest_p_with_ties_too():
    assert effects.signed_rank_p([0.2] * 10) == 2 / 1024
    assert effects.signed_rank_p([0.0] * 10) == 1.0
    assert effects.signed_rank_p([0.2] * 9 + [0.0]) == 2 / 512


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25))
def test_holm_is_its_definition(p_values):
    count = len(p_values)
    adjusted = effects.holm(p_values)
    ordered = sorted(range(count), key=lambda number: p_values[number])
    for place, number in enumerate(ordered):
        steps = [(count - step) * p_values[ordered[step]] for step in range(place + 1)]
        assert adjusted[number] == min(1.0, max(steps))
    assert all(one >= raw for one, raw in zip(adjusted, p_values, strict=True))
    assert [adjusted[number] for number in ordered] == sorted(adjusted)


def test_the_fewest_pairs_are_those_that_holm_can_reject_by():
    for family in range(1, 60):
        least = effects.least_pairs(family)
        assert 2 / 2**least * family <= effects.ALPHA < 2 / 2 ** (least - 1) * family
    assert effects.least_pairs(20) == 10


@given(differences)
def test_the_interval_holds_the_estimate(values):
    change, low, high = effects.hodges_lehmann(values)
    assert low <= change <= high


@pytest.mark.parametrize("pairs", [6, 10, 13])
def test_the_interval_is_what_the_test_does_not_reject(pairs):
    rng = np.random.default_rng(pairs)
    for values in rng.normal(0.1, 1, (20, pairs)):
        _, low, high = effects.hodges_lehmann(values)
        for bound, inward in ((low, 1e-9), (high, -1e-9)):
            assert effects.signed_rank_p(values - bound - inward) > effects.ALPHA
            assert effects.signed_rank_p(values - bound + inward) <= effects.ALPHA


@given(differences, st.floats(-1, 1))
def test_estimate_and_interval_move_with_the_differences_and_turn_with_the_sides(values, shift):
    change, low, high = effects.hodges_lehmann(values)
    assert effects.hodges_lehmann([value + shift for value in values]) == pytest.approx(
        (change + shift, low + shift, high + shift), abs=1e-9
    )
    assert effects.hodges_lehmann([-value for value in values]) == pytest.approx((-change, -high, -low), abs=1e-12)


@pytest.mark.parametrize("pairs", range(6, 21))
def test_the_interval_is_the_narrowest_that_covers_95_percent_whatever_the_distribution(pairs):
    """P(T <= k) by enumerating the signed-rank distribution as a polynomial in whole numbers."""
    ways = [1]
    for rank in range(1, pairs + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    outside = effects.interval_rank(pairs)
    assert sum(ways[: outside + 1]) / 2**pairs <= 0.025 < sum(ways[: outside + 2]) / 2**pairs


def test_the_interval_covers_the_truth_in_95_of_100_simulated_benchmarks():
    """Skewed and heavy-tailed run effects: a difference of two sides of one distribution is symmetric about the truth.
    Standard error of 4,000 at 95.1 %: 0.34."""
    rng = np.random.default_rng(7)
    sides = rng.exponential(size=(2, 2000, 10)), rng.standard_t(2, size=(2, 2000, 10))
    found = [effects.hodges_lehmann(row.tolist()) for day31, day40 in sides for row in day40 - day31 + 0.1]
    covered = np.mean([low <= 0.1 <= high for _, low, high in found])
    assert covered >= 0.95


@pytest.mark.parametrize("pairs", range(1, 6))
def test_fewer_than_six_pairs_have_no_interval(pairs):
    assert effects.hodges_lehmann([1.0] * pairs) == (1.0, None, None)


# --- verdicts --------------------------------------------------------------------------------------------------------


def run(
    p50_ms: Mapping[str, float | None], failures: Mapping[str, float] | None = None, profile: str = "day31"
) -> RunResult:
    """A run of these endpoints: their p50, None = too few requests for one."""
    rows = []
    for name, value in p50_ms.items():
        stats_ = built.endpoint(name, 100, 0, value or 1.0)
        latency = replace(stats_.latency, p50_ms=stats_.latency.p50_ms if value is not None else None)
        rows.append(replace(stats_, latency=latency, failure_ratio=(failures or {}).get(name, 0.0)))
    empty = EMPTY[profile]
    return replace(empty, summary=replace(empty.summary, counted_s=60.0, endpoints=tuple(rows)))


def p50_effect(day31: Sequence[float | None], day40: Sequence[float | None], others: int = 0) -> Effect:
    """Of one endpoint among `others` that never change."""
    same = {f"api GET /{number}": 5.0 for number in range(others)}
    pairs = [
        (run({TAG: before, **same}), run({TAG: after, **same}, profile="day40"))
        for before, after in zip(day31, day40, strict=True)
    ]
    return effects.effects(pairs, None)[TAG]["p50_ms"]


JITTER = [1.0, 1.01, 0.99, 1.02, 0.98, 1.005, 0.995, 1.015, 0.985, 1.001]


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(0.5, "improved"), (1.2, "regressed"), (1.0, "equivalent"), (1.045, "inconclusive"), (0.955, "inconclusive")],
)
def test_the_four_verdicts(factor, verdict):
    effect = p50_effect([10.0] * 10, [10 * factor * jitter for jitter in JITTER], others=19)
    assert effect.verdict == verdict
    assert (effect.unit, effect.pairs, effect.floor, effect.note) == ("pct", 10, 5.0, "")
    assert effect.change == pytest.approx(100 * (factor - 1), abs=0.5)
    assert effect.low <= effect.change <= effect.high
    assert (effect.pairs_needed is not None) == (verdict == "inconclusive")


@given(st.lists(st.tuples(st.floats(1, 50), st.floats(1, 50)), min_size=10, max_size=10), st.floats(0.01, 100))
def test_sides_can_be_swapped_and_units_changed(figures, scale):
    day31, day40 = zip(*figures, strict=True)
    effect, swapped = p50_effect(day31, day40), p50_effect(day40, day31)
    for bound, mirrored in ((effect.change, swapped.change), (effect.low, swapped.high), (effect.high, swapped.low)):
        assert math.log1p(bound / 100) == pytest.approx(-math.log1p(mirrored / 100), abs=1e-9)
    assert effect.p_value == swapped.p_value
    scaled = p50_effect([value * scale for value in day31], [value * scale for value in day40])
    assert (scaled.change, scaled.low, scaled.high) == pytest.approx((effect.change, effect.low, effect.high), abs=1e-6)


@pytest.mark.parametrize(("pairs", "needed"), [(1, 10), (2, 10), (9, 10)])
def test_fewer_pairs_than_holm_can_reject_by_decide_nothing(pairs, needed):
    halved = p50_effect([10.0] * pairs, [5 * jitter for jitter in JITTER[:pairs]], others=19)
    same = p50_effect([10.0] * pairs, [10.0] * pairs, others=19)
    assert [(one.verdict, one.pairs_needed) for one in (halved, same)] == [("inconclusive", needed)] * 2
    assert halved.change == pytest.approx(-50, abs=1)
    assert (halved.low is None) == (pairs < 6)
    fewer = [(built.result("day31"), built.result("day40"))] * (effects.least_pairs(len(built.LOAD)) - 1)
    assert {one.verdict for of_name in effects.effects(fewer, None).values() for one in of_name.values()} == {
        "inconclusive"
    }


def test_one_difference_of_the_other_sign_takes_another_pair_at_least():
    day40 = [12 * jitter for jitter in JITTER]
    day40[3] = 9.99
    effect = p50_effect([10.0] * 10, day40, others=19)
    assert effect.verdict == "inconclusive"
    assert effect.p_value > 0.05
    assert 11 <= effect.pairs_needed <= 40


def test_pairs_needed_grow_with_the_spread_and_are_not_said_beyond_reason():
    def needed(spread: float) -> int | None:
        signs = [1, -1, 1, 1, -1, -1, 1, -1, 1, -1]
        return p50_effect([10.0] * 10, [10.2 * math.exp(spread * sign) for sign in signs], others=19).pairs_needed

    found = [needed(spread) for spread in (0.05, 0.07, 0.09)]
    assert found == sorted(found)
    assert 10 < found[0] < found[2] <= effects.MOST_PAIRS
    assert needed(1.0) is None


def test_what_a_side_lacks_is_left_out_and_counted():
    effect = p50_effect([10.0] * 10, [None, None, *(5 * jitter for jitter in JITTER[2:])])
    assert (effect.pairs, effect.note) == (8, "2 of 10 pairs lack it")
    assert effect.verdict == "improved"  # one endpoint alone takes six
    rare = p50_effect([10.0] * 10, [None, None, *(5 * jitter for jitter in JITTER[2:])], others=19)
    assert (rare.verdict, rare.pairs_needed) == ("inconclusive", 13)  # 10 with the figure, which 8 of 10 have
    nothing = p50_effect([None] * 10, [10.0] * 10)
    assert (nothing.change, nothing.p_value, nothing.pairs, nothing.verdict) == (None, None, 0, "inconclusive")
    assert nothing.note == "no pair of runs has this figure on both days"


def test_an_endpoint_that_one_day_does_not_call_is_not_equivalent():
    pairs = [(run({TAG: 10.0}), run({CREATE: 10.0}, profile="day40"))] * 10
    found = effects.effects(pairs, None)
    assert {effect.verdict for name in (TAG, CREATE) for effect in found[name].values()} == {"inconclusive"}


@pytest.mark.parametrize(
    ("day40", "verdict"),
    [(0.0, "equivalent"), (0.0005, "equivalent"), (0.02, "regressed")],
)
def test_failures_are_compared_by_difference(day40, verdict):
    pairs = [
        (run({TAG: 10.0}, {TAG: 0.0}), run({TAG: 10.0}, {TAG: day40 * jitter}, profile="day40")) for jitter in JITTER
    ]
    effect = effects.effects(pairs, None)[TAG]["failure_ratio"]
    assert (effect.unit, effect.verdict, effect.floor) == ("abs", verdict, effects.LEAST_FAILURE_FLOOR_RATIO)
    assert effect.change == pytest.approx(day40, rel=0.01)


def test_more_throughput_is_an_improvement():
    def rate(rps: float) -> RunResult:
        full = run({TAG: 10.0})
        rows = tuple(replace(row, throughput_rps=rps) for row in full.summary.endpoints)
        return replace(full, summary=replace(full.summary, endpoints=rows))

    found = effects.effects([(rate(10.0), rate(12.0 * jitter)) for jitter in JITTER], None)
    assert found[TAG]["throughput_rps"].verdict == "improved"


# --- database --------------------------------------------------------------------------------------------------------


def test_database_figures_are_of_the_method_and_of_all_together():
    """day40 answers five in six of TAG's requests from its cache, DAILY's statements run 0.4 times as long."""
    pairs = [(built.result("day31", 1), built.result("day40", 2))] * 10
    found = effects.effects(pairs, None)
    tag = found[TAG]["db_calls_per_request"]
    assert (tag.change, tag.verdict) == (pytest.approx(100 * (150 / 1700 - 1)), "improved")
    page = found[built.LIST]["db_ms_per_request"]
    assert page.note == "of all cases of this method together"
    assert page.change == pytest.approx(100 * ((1200 * 3.5 * 0.4 + 600) / (1200 * 3.5 + 600) - 1))
    calls = {day: sum(one.calls for one in built.servers(day).statements) for day in ("day31", "day40")}
    together = found[ALL_ENDPOINTS]["db_calls_per_request"]
    assert together.change == pytest.approx(100 * (calls["day40"] / calls["day31"] - 1))


def test_a_cache_that_answers_everything_is_compared_by_difference():
    day40 = built.result("day40")
    cached = tuple(one for one in day40.servers.statements if one.endpoint != TAG)
    pairs = [(built.result("day31"), replace(day40, servers=replace(day40.servers, statements=cached)))] * 10
    effect = effects.effects(pairs, None)[TAG]["db_calls_per_request"]
    assert (effect.unit, effect.verdict) == ("abs", "improved")


def test_lower_bounds_are_no_improvement():
    day40 = built.result("day40")
    first, *rest = day40.servers.statements
    evicted = replace(day40.servers, statements=(replace(first, lower_bound=True), *rest))
    found = effects.effects([(built.result("day31"), replace(day40, servers=evicted))] * 10, None)
    assert {found[name]["db_ms_per_request"].change for name in found} == {None}


# --- noise floor, pairs, conclusion ----------------------------------------------------------------------------------


def noise_floor(**floor_pct: float) -> NoiseFloor:
    meta = built.result("day31").meta
    return NoiseFloor("2026-02-01", meta.host, meta.versions, meta.herd, "day40", meta.scenario, 10, floor_pct)


def test_a_measured_floor_raises_what_counts_never_lowers_it():
    pairs = [(run({TAG: 10.0}), run({TAG: 11.0}, profile="day40"))] * 10
    verdicts = {
        measured: effects.effects(pairs, noise_floor(p50_ms=measured))[TAG]["p50_ms"] for measured in (1, 9, 12)
    }
    assert {measured: (one.verdict, one.floor) for measured, one in verdicts.items()} == {
        1: ("regressed", 5.0),
        9: ("regressed", 9),
        12: ("equivalent", 12),
    }


def test_the_floor_is_the_97th_percentile_of_effects_without_a_change():
    changes = {f"api GET /{number}": number / 10 for number in range(1, 101)}
    pairs = [
        (run(dict.fromkeys(changes, 10.0)), run({name: 10 * (1 + change / 100) for name, change in changes.items()}))
    ] * 10
    measured = effects.floor_pct(pairs)
    assert measured["p50_ms"] == pytest.approx(9.8)  # the 98th of 100
    assert "failure_ratio" not in measured  # no relative effect
    rare = [(before, run({**dict.fromkeys(changes, 10.0), "api GET /1": None})) for before, _ in pairs[:1]]
    assert effects.floor_pct(rare)["p50_ms"] == 0.0


def test_pairs_are_made_by_order_of_whole_runs():
    runs = [built.result(profile, number) for number, profile in enumerate(("day31", "day40", "day40", "day31"), 1)]
    runs.append(built.result("day31", 5))
    made = effects.paired(runs)
    assert made.pairs == ((runs[0], runs[1]), (runs[3], runs[2]))
    assert made.left_out == ("pair 3: only one of its runs was made",)
    runs[2] = replace(runs[2], meta=replace(runs[2].meta, state="invalid"))
    runs[0] = replace(runs[0], meta=replace(runs[0].meta, aborted="p95_ms < 200: 300 ms"))
    made = effects.paired(runs[:4])
    assert made.pairs == ()
    assert made.left_out == (
        "pair 1: day31's run was ended early by a limit",
        "pair 2: day40's run is invalid",
    )


def changed(factors: Sequence[float], pairs: int = 10) -> Benchmark:
    """Of endpoints whose p50 and p95 change by these factors."""
    names = [f"api GET /{number}" for number in range(len(factors))]
    made = [
        (
            run(dict.fromkeys(names, 10.0)),
            run({name: 10 * factor * jitter for name, factor in zip(names, factors, strict=True)}, profile="day40"),
        )
        for jitter in JITTER[:pairs]
    ]
    found = effects.effects(made, None)
    paired = effects.Paired(tuple(made), () if pairs == 10 else ("pair 3: day40's run is invalid",))
    return replace(
        built.quick_benchmark(),
        endpoints=tuple(EndpointComparison(name, None, None, None, None, found[name]) for name in names),
        pooled=EndpointComparison(ALL_ENDPOINTS, None, None, None, None, found[ALL_ENDPOINTS]),
        conclusion=report_effects.conclusion(paired, len(factors)),
    )


def test_the_first_lines_count_verdicts_and_name_what_regressed():
    lines = report_effects.effect_lines(changed([0.5] * 15 + [1.0] * 3 + [1.055, 1.3]))
    assert lines[0] == "p95: of 20 endpoints 15 improved, 3 equivalent, 2 regressed."
    assert lines[1].startswith("p50: of 20 endpoints ")
    assert lines[2].startswith("Most improved: api GET /0, p50 −50 % [")
    assert lines[3].startswith("Regressed: api GET /18, p50 ")


def test_the_first_lines_name_a_few_that_regressed():
    assert report_effects.effect_lines(changed([1.5] * 20))[-1].endswith("; and 18 more.")


def test_what_counts_is_the_measured_floor_and_at_least_five_percent():
    assert "beyond 6.1 % in p95, 5.0 % in p50 count" in report_effects.floor_text(noise_floor(p95_ms=6.1, p50_ms=2))
    assert "no fitting noise floor was measured" in report_effects.floor_text(None)


def test_the_conclusion_of_few_pairs_says_that_they_are_few():
    few = changed([0.5] * 20, pairs=9)
    assert "cannot be said from 9 pairs of runs: 10 are needed" in few.conclusion
    assert "Left out: pair 3: day40's run is invalid." in few.conclusion
    assert "over 10 pairs of runs, corrected for 20 endpoints" in changed([0.5] * 20).conclusion


def test_effects_come_back_from_the_benchmarks_file(tmp_path):
    made = built.quick_benchmark()
    directory = rundir.BenchmarkDir(tmp_path)
    directory.write(replace(made, noise_floor=noise_floor(p95_ms=6.1)))
    read = directory.read()
    assert [row.effects for row in read.endpoints] == [row.effects for row in made.endpoints]
    assert read.pooled == made.pooled
    assert read.noise_floor.floor_pct == {"p95_ms": 6.1}
