"""effects hold what they promise on simulated benchmarks: 10 ABBA pairs of 30 s, 20 endpoints called as often as in
`sustained`, log-normal latencies with autocorrelation, runs that vary by 3 %, a machine that drifts by 8 %."""

from __future__ import annotations

from collections import Counter

import pytest
from simulated_benchmarks import COUNTS, ENDPOINTS, Simulated, found, simulate

from harness.effects import ALL_ENDPOINTS

BENCHMARKS = 400
CHANGED = ("improved", "regressed")


@pytest.fixture(scope="module")
def nothing_changed() -> Simulated:
    return simulate(BENCHMARKS, pairs=10, run_sd=0.03, seed=1)


def share_found(simulated: Simulated, endpoint: int, metric: str) -> float:
    """Of benchmarks, with day40 20 % slower for this one endpoint."""
    of_all = [by_name[ENDPOINTS[endpoint]][metric] for by_name in found(simulated.slowed(endpoint, 1.2))]
    return sum(effect.verdict == "regressed" for effect in of_all) / len(of_all)


def test_at_most_one_benchmark_in_twenty_finds_a_change_where_there_is_none(nothing_changed):
    """Any endpoint in any figure. All endpoints together, which Holm does not correct, figure by figure."""
    false, together = 0, Counter()
    for by_name in found(nothing_changed):
        together.update(metric for metric, effect in by_name[ALL_ENDPOINTS].items() if effect.verdict in CHANGED)
        false += any(
            effect.verdict in CHANGED
            for name, by_metric in by_name.items()
            if name != ALL_ENDPOINTS
            for effect in by_metric.values()
        )
    print(f"false alarms in {false} of {BENCHMARKS} benchmarks; all endpoints together: {dict(together)}")
    assert false / BENCHMARKS <= 0.05
    assert max(together.values(), default=0) / BENCHMARKS <= 0.05


@pytest.mark.parametrize("endpoint", [0, 2])
def test_a_fifth_slower_endpoint_is_found_by_its_median(nothing_changed, endpoint):
    """One called 150 times in a run or more."""
    assert COUNTS[endpoint] >= 150
    share = share_found(nothing_changed.first(200), endpoint, "p50_ms")
    print(f"{COUNTS[endpoint]} requests in a run: p50 found in {share:.1%}")
    assert share >= 0.8
