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


def test_a_fifth_slower_endpoint_is_found_by_its_median(nothing_changed):
    """In four of five benchmarks, where it is called 150 times in a run."""
    share = share_found(nothing_changed.first(200), 2, "p50_ms")
    print(f"p50 found in {share:.1%} at {COUNTS[2]} requests in a run")
    assert share >= 0.8


def test_its_p95_takes_600_requests_in_a_run(nothing_changed):
    """Runs of 90 s have so many of the busiest endpoint; the 200 of 30 s are too few for four of five."""
    long = share_found(simulate(200, pairs=10, run_sd=0.03, seed=1, seconds=90), 0, "p95_ms")
    short = share_found(nothing_changed.first(100), 0, "p95_ms")
    print(f"p95 found in {short:.1%} at {COUNTS[0]} requests in a run, in {long:.1%} at {3 * COUNTS[0]}")
    assert short < 0.8 <= long
