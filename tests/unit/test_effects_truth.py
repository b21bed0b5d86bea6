"""effects hold what they promise on simulated benchmarks: 10 ABBA pairs of 30 s, 20 endpoints called as often as in
`sustained`, log-normal latencies with autocorrelation, runs that vary by 3 %, a machine that drifts by 8 %; judged by
the noise floor of an A/A session before each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from simulated_benchmarks import COUNTS, ENDPOINTS, Simulated, found, noise_floors, simulate

from harness.effects import ALL_ENDPOINTS, Effects
from harness.model import NoiseFloor

BENCHMARKS = 400
CHANGED = ("improved", "regressed")


@pytest.fixture(scope="module")
def nothing_changed() -> Simulated:
    return simulate(BENCHMARKS, pairs=10, run_sd=0.03, seed=1)


@pytest.fixture(scope="module")
def floors(nothing_changed: Simulated) -> list[NoiseFloor]:
    """Each benchmark's session is the benchmark before it."""
    measured = noise_floors(nothing_changed)
    return [*measured[-1:], *measured[:-1]]


def false_alarms(of_all: Sequence[Effects]) -> tuple[int, Counter[str], Counter[str]]:
    """Benchmarks in which any figure of any endpoint changed; by figure; and by figure of all endpoints together."""
    benchmarks, by_metric, together = 0, Counter[str](), Counter[str]()
    for by_name in of_all:
        changed = {
            (name == ALL_ENDPOINTS, metric)
            for name, effects in by_name.items()
            for metric, effect in effects.items()
            if effect.verdict in CHANGED
        }
        benchmarks += any(not of_all_endpoints for of_all_endpoints, _ in changed)
        by_metric.update(metric for of_all_endpoints, metric in changed if not of_all_endpoints)
        together.update(metric for of_all_endpoints, metric in changed if of_all_endpoints)
    return benchmarks, by_metric, together


def share_found(simulated: Simulated, floors: Sequence[NoiseFloor], endpoint: int, metric: str) -> float:
    """Of benchmarks, with day40 20 % slower for this one endpoint."""
    of_all = [by_name[ENDPOINTS[endpoint]][metric] for by_name in found(simulated.slowed(endpoint, 1.2), floors)]
    return sum(effect.verdict == "regressed" for effect in of_all) / len(of_all)


def test_at_most_one_benchmark_in_twenty_finds_a_change_where_there_is_none(nothing_changed, floors):
    """Any endpoint in any figure. All endpoints together, which Holm does not correct, figure by figure."""
    benchmarks, by_metric, together = false_alarms(found(nothing_changed, floors))
    print(f"false alarms in {benchmarks} of {BENCHMARKS}: {dict(by_metric)}; all endpoints together: {dict(together)}")
    assert benchmarks / BENCHMARKS <= 0.05
    assert max(together.values(), default=0) / BENCHMARKS <= 0.05


def test_a_fifth_slower_endpoint_is_found_by_its_median(nothing_changed, floors):
    """In four of five benchmarks, where it is called 150 times in a run."""
    share = share_found(nothing_changed.first(200), floors, 2, "p50_ms")
    print(f"p50 found in {share:.1%} at {COUNTS[2]} requests in a run")
    assert share >= 0.8


def test_its_p95_takes_600_requests_in_a_run(nothing_changed, floors):
    """Runs of 90 s have so many of the busiest endpoint; the 200 of 30 s are too few for four of five."""
    long = share_found(simulate(100, pairs=10, run_sd=0.03, seed=1, seconds=90), floors, 0, "p95_ms")
    short = share_found(nothing_changed.first(100), floors, 0, "p95_ms")
    print(f"p95 found in {short:.1%} at {COUNTS[0]} requests in a run, in {long:.1%} at {3 * COUNTS[0]}")
    assert short < 0.8 <= long
