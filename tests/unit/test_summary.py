from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness import bootstrap_limit, summary, threshold
from harness.errors import InputError
from harness.model import SAMPLE, ArrivalStats, Distribution, Estimate, Phases

STEADY = Phases("2026-02-03T00:00:00Z", 0, 10_000_000, 40_000_000, 41_000_000)
OUTCOMES = ("ok", "fault 2", "timeout")


def samples(rows):
    """rows: (scheduled_us, queued_us, service_us, endpoint, outcome)."""
    blob = b"".join(SAMPLE.pack(at, at + queued, service, e, o, 100, 1) for at, queued, service, e, o in rows)
    return summary.read_samples([blob])[0]


def steady(latencies_us, endpoint=0, outcome=0):
    """Spread evenly over the steady state."""
    step = 30_000_000 // max(1, len(latencies_us))
    return [(10_000_000 + i * step, 0, us, endpoint, outcome) for i, us in enumerate(latencies_us)]


def summarise(rows, endpoints=("a", "b"), phases=STEADY, load="closed", seed=1, dropped=None):
    return summary.summarise(samples(rows), endpoints, OUTCOMES, phases, load, 200, seed, dropped)


latencies = st.lists(st.integers(1, 2_000_000), min_size=1, max_size=300)


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap_limit, "RESAMPLES", 40)


def test_record_and_dtype_agree():
    assert summary.SAMPLE_DTYPE.itemsize == SAMPLE.size == 32
    record = samples([(-1, 3, 4, 5, 6)])[0]
    assert record.tolist() == (-1, 2, 4, 5, 6, 100, 1)


@pytest.mark.parametrize("cut", [0, 1, 31])
def test_a_torn_last_record_is_dropped(cut):
    blob = bytes(SAMPLE.size * 3)
    read, torn = summary.read_samples([blob, blob[: len(blob) - SAMPLE.size + cut], b""])
    assert (len(read), torn) == (5, int(cut > 0))


def test_no_samples_at_all():
    empty = summarise([])
    assert (empty.pooled.requests, empty.pooled.failure_ratio, empty.pooled.latency) == (0, None, None)
    assert empty.endpoints == empty.timeline == ()
    found = summary.metrics(empty)
    assert found["p95_ms"][None] is found["failure_ratio"][None] is None
    assert found["throughput_rps"][None].value == 0


def test_a_run_without_steady_state_counts_nothing():
    result = summarise(steady([1000] * 50), phases=Phases("", 0, None, None, None))
    assert (result.counted_s, result.pooled.requests) == (0, 0)
    assert summary.metrics(result)["throughput_rps"][None] is None


@pytest.mark.parametrize(
    ("load", "counted"),
    [("closed", [False, True, True, False]), ("open", [False, True, True, False]), ("stages", [True] * 4)],
)
def test_what_counts_is_decided_by_the_scheduled_start(load, counted):
    at = [9_999_999, 10_000_000, 39_999_999, 40_000_000]
    for scheduled, expected in zip(at, counted, strict=True):
        # it starts and ends elsewhere
        result = summarise([(scheduled, 5_000_000, 9_000_000, 0, 0)], load=load)
        assert result.pooled.requests == expected
        assert sum(bucket.requests for bucket in result.timeline) == 1


def test_latency_is_from_the_scheduled_start_and_service_beside_it():
    result = summarise([(10_000_000, 150_000, 20_000, 0, 0), (11_000_000, -50, 20_000, 0, 0)])
    assert (result.pooled.latency.max_ms, result.pooled.latency.min_ms) == (170, 20)
    assert result.pooled.service.max_ms == 20


def test_ratios_late_throughput_and_outcomes():
    rows = [
        *steady([200_000] * 6, endpoint=0),
        *steady([200_001] * 2, endpoint=0),
        *steady([1] * 2, endpoint=1, outcome=2),
    ]
    result = summarise(rows)
    pooled, (a, b) = result.pooled, result.endpoints
    assert (pooled.requests, pooled.failures, pooled.late) == (10, 2, 4)
    assert (pooled.failure_ratio, pooled.late_ratio) == (0.2, 0.4)
    assert pooled.throughput_rps == pytest.approx(10 / 30)
    assert pooled.bytes_in == 1000
    assert pooled.outcomes == {"ok": 8, "timeout": 2}
    assert (a.endpoint, a.late, b.endpoint, b.latency) == ("a", 2, "b", None)


def test_endpoints_without_counted_requests_are_absent():
    result = summarise([(0, 0, 5, 1, 0), *steady([5, 5], endpoint=0)])
    assert [row.endpoint for row in result.endpoints] == ["a"]


@given(latencies)
@settings(max_examples=60)
def test_percentiles_are_order_statistics_and_lie_in_their_intervals(values):
    latency = summarise(steady(values)).pooled.latency
    ordered = sorted(values)
    for percentile, least in ((50, 2), (90, 10), (95, 20), (99, 100)):
        estimate = getattr(latency, f"p{percentile}_ms")
        if len(values) < least:
            assert estimate is None
            continue
        assert estimate.value == ordered[math.ceil(len(values) * percentile / 100) - 1] / 1000
        assert estimate.count == len(values)
        assert (estimate.low is None) == (len(values) < summary.interval_min_count(percentile))
        if estimate.low is not None:
            assert ordered[0] / 1000 <= estimate.low <= estimate.value <= estimate.high <= ordered[-1] / 1000
    assert latency.mean_ms == pytest.approx(np.mean(values) / 1000)


@given(latencies, st.integers(0, 50))
@settings(max_examples=30)
def test_failures_never_move_latency(values, faults):
    failed = [(10_000_000 + i, 0, 1, 0, 1) for i in range(faults)]
    clean, dirty = summarise(steady(values)), summarise(steady(values) + failed)
    assert dirty.pooled.latency == clean.pooled.latency
    assert dirty.pooled.failures == faults


def test_instant_faults_do_not_improve_percentiles():
    slow, faults = steady([900_000] * 400), steady([1_000] * 3600, outcome=1)
    both, alone = summarise(slow + faults).pooled, summarise(slow).pooled
    assert both.latency == alone.latency
    assert {both.latency.p50_ms.value, both.latency.p99_ms.value} == {900}
    assert (both.requests, both.failure_ratio, both.late_ratio) == (4000, 0.9, 1.0)


# Locust's own numbers of the same response times, in a process of its own: importing Locust patches the one it is in.
ROUNDED = """
import sys, json
from locust.stats import RequestStats, StatsEntry
for times_ms in json.load(sys.stdin):
    entry = StatsEntry(RequestStats(), "x", "POST")
    for ms in times_ms:
        entry.log(ms, 0)
    print(entry.get_response_time_percentile(0.95))
"""


def test_limits_hold_to_the_tenth_of_a_millisecond_where_locust_rounds():
    """p95 of 100 samples is the 95th; Locust keeps response times from 100 ms in steps of 10 ms."""
    kept_us, missed_us = ([100_000] * 94 + [at_limit_us] * 6 for at_limit_us in (199_900, 200_100))
    limit = threshold.parse("p95_ms < 200")
    outcomes = []
    for service_us in (kept_us, missed_us):
        (verdict,) = threshold.evaluate([limit], summary.metrics(summarise(steady(service_us))), "day40")
        outcomes.append((verdict.observed.value, verdict.outcome))
    assert outcomes == [(199.9, "pass"), (200.1, "fail")]
    times_ms = json.dumps([[us / 1000 for us in service_us] for service_us in (kept_us, missed_us)])
    locust = subprocess.run(
        [sys.executable, "-c", ROUNDED], input=times_ms, capture_output=True, text=True, check=True, timeout=60
    )
    assert [float(line) for line in locust.stdout.split()] == [200, 200]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 50_000_000), st.just(0), st.integers(1, 500_000), st.integers(0, 1), st.integers(0, 2)
        ),
        max_size=120,
    ),
    st.randoms(),
)
@settings(max_examples=30)
def test_the_order_of_merging_changes_nothing(rows, random):
    shuffled = random.sample(rows, len(rows))
    assert summarise(rows) == summarise(shuffled)


def test_names_decide_not_numbers():
    rows = steady([1000] * 30, endpoint=0) + steady([2000] * 30, endpoint=1)
    swapped = [(at, q, us, 1 - e, o) for at, q, us, e, o in rows]
    assert summarise(rows, ("a", "b")) == summarise(swapped, ("b", "a"))


def test_samples_without_a_name_are_a_fault():
    with pytest.raises(InputError, match="index 2 has no name among 2; restore"):
        summarise(steady([5], endpoint=2))


def run(rows, second, endpoints=("a", "b")):
    phases = Phases(f"2026-02-03T00:00:{second:02d}Z", second, 10_000_000, 40_000_000, None)
    return summary.RunSamples(samples(rows), endpoints, OUTCOMES, phases)


def test_several_runs_combine():
    runs = [run(steady([1000 + i] * 40), i) for i in range(3)]
    runs[1] = run(steady([5000] * 40, endpoint=1), 1, ("c", "a"))
    combined = summary.combine(runs, "closed", 200, 1)
    assert (combined.counted_s, combined.pooled.requests) == (90, 120)
    assert combined.pooled.throughput_rps == pytest.approx(120 / 90)
    assert [(row.endpoint, row.requests) for row in combined.endpoints] == [("a", 120)]
    for order in itertools.permutations(runs):
        assert summary.combine(order, "closed", 200, 1) == combined
    assert summary.combine(runs[:1], "closed", 200, 1) == summary.summarise(
        runs[0].samples, runs[0].endpoints, OUTCOMES, runs[0].phases, "closed", 200, 1
    )


def test_arrivals_of_an_open_load():
    late_us = round(summary.LATE_AFTER_MS * 1000)
    rows = [
        *steady([1000] * 7),
        (10_000_000, late_us, 1000, 0, 0),  # on the limit: in time
        (10_000_000, late_us + 1, 1000, 1, 2),  # late, and failed as well
        (9_999_999, 9_000_000, 1000, 0, 0),  # due in the warm-up
    ]
    result = summarise(rows, load="open", dropped={"a": 2, "b": 1})
    assert result.arrivals == ArrivalStats(due=12, late=1, dropped=3, late_after_ms=50)
    found = summary.metrics(result)
    late, dropped = found["late_arrival_ratio"], found["dropped_arrival_ratio"]
    assert set(late) == set(dropped) == {None}
    assert (late[None].value, late[None].count) == (1 / 12, 12)
    assert (dropped[None].value, dropped[None].count) == (3 / 12, 12)
    assert 0 < dropped[None].low < 0.25 < dropped[None].high < 1
    # a dropped arrival is no request
    assert (result.pooled.requests, result.pooled.failures) == (9, 1)


@pytest.mark.parametrize(
    ("load", "dropped"),
    [("closed", {}), ("stages", {}), ("open", None)],
    ids=["closed", "stages", "what was dropped is not known"],
)
def test_without_a_schedule_or_its_end_nothing_is_said_of_arrivals(load, dropped):
    result = summarise(steady([1000] * 9), load=load, dropped=dropped)
    found = summary.metrics(result)
    assert result.arrivals is found["late_arrival_ratio"][None] is found["dropped_arrival_ratio"][None] is None
    (verdict,) = threshold.evaluate([threshold.parse("dropped_arrival_ratio <= 0")], found, "day40")
    assert verdict.outcome == "no_data"


def test_arrivals_of_several_runs_add_up():
    runs = [dataclasses.replace(run(steady([1000] * 40), i), dropped={"a": i}) for i in range(3)]
    assert summary.combine(runs, "open", 200, 1).arrivals == ArrivalStats(123, 0, 3, 50)
    runs[1] = dataclasses.replace(runs[1], dropped=None)
    assert summary.combine(runs, "open", 200, 1).arrivals is None
    nothing_due = summary.summarise(samples([]), (), OUTCOMES, STEADY, "open", 200, 1, {})
    assert summary.metrics(nothing_due)["dropped_arrival_ratio"] == {None: None}


@given(latencies, st.integers(0, 20))
@settings(max_examples=20)
def test_without_intervals_nothing_else_differs(values, faults):
    rows = samples(steady(values) + steady([1] * faults, endpoint=1, outcome=1) + [(1, 2, 3, 1, 0)])
    one = summary.RunSamples(rows, ("a", "b"), OUTCOMES, STEADY)
    quick, full = (summary.combine([one], "closed", 200, 1, intervals=wanted) for wanted in (False, True))
    assert quick == without_intervals(full)


def without_intervals(result):
    def bare(latency):
        if latency is None:
            return None
        found = {name: getattr(latency, name) for name in ("p50_ms", "p90_ms", "p95_ms", "p99_ms")}
        return dataclasses.replace(
            latency, **{name: one and dataclasses.replace(one, low=None, high=None) for name, one in found.items()}
        )

    def plain(row):
        return dataclasses.replace(row, latency=bare(row.latency), service=bare(row.service))

    return dataclasses.replace(result, pooled=plain(result.pooled), endpoints=tuple(map(plain, result.endpoints)))


def test_without_intervals_nothing_is_resampled(monkeypatch):
    monkeypatch.setattr(summary, "bootstrap_percentiles", None)
    one = summary.RunSamples(samples(steady([1000] * 99)), ("a",), OUTCOMES, STEADY)
    assert summary.combine([one], "closed", 200, 1, intervals=False).pooled.latency.p50_ms.value == 1
    with pytest.raises(TypeError):
        summary.combine([one], "closed", 200, 1)


def live(rows):
    """Samples of a run that has not come to its end."""
    return summary.RunSamples(samples(rows), ("a", "b"), OUTCOMES, dataclasses.replace(STEADY, steady_end_us=None))


def test_recent_samples_are_those_that_ended_in_the_window():
    rows = [
        (9_999_999, 0, 2_000_000, 0, 0),  # due in the warm-up
        (10_000_000, 1_000_000, 999_999, 0, 0),  # ended at 11.999999
        (10_000_000, 1_500_000, 500_000, 0, 0),  # ended at 12: the first
        (13_000_000, 0, 999_999, 1, 1),  # ended at 13.999999: the last
        (13_000_000, 0, 1_000_000, 1, 0),  # ended at 14
    ]
    found = summary.recent(live(rows), "closed", 14_000_000, 2_000_000, 200)
    assert (found["requests"][None].value, found["throughput_rps"][None].value) == (2, 1)
    assert (found["max_ms"][None].value, found["failure_ratio"]["b"].value) == (2000, 1)
    # of stages the start counts too
    found = summary.recent(live(rows), "stages", 12_000_000, 2_000_000, 200)
    assert found["requests"] == {None: Estimate(2, None, None, 2), "a": Estimate(2, None, None, 2)}


def test_nothing_is_known_of_a_window_before_the_steady_state():
    rows = steady([1000] * 100)
    assert summary.recent(live(rows), "closed", 12_000_000, 2_000_001, 200) == {}
    assert summary.recent(live(rows), "open", 12_000_000, 2_000_000, 200)["p50_ms"][None].value == 1
    not_begun = dataclasses.replace(live(rows), phases=Phases("", 0, None, None, None))
    assert summary.recent(not_begun, "closed", 12_000_000, 1_000, 200) == {}


def test_a_server_that_stopped_answering_breaks_a_limit_on_throughput():
    found = summary.recent(live(steady([1000] * 50)), "closed", 60_000_000, 5_000_000, 200)
    limits = [threshold.parse(text) for text in ("throughput_rps > 1", "p95_ms < 200")]
    assert [one.outcome for one in threshold.evaluate(limits, found, "day40")] == ["fail", "no_data"]


def test_what_is_judged_over_a_window_comes_from_samples():
    found = summary.recent(live(steady([1000] * 200)), "closed", 40_000_000, 30_000_000, 200)
    for name in threshold.METRICS:
        if threshold.on_samples(threshold.parse(f"{name} < 1")):
            assert found[name][None] is not None


@pytest.mark.parametrize("rho", [0, 0.9, 0.99])
def test_what_resampling_comes_to_is_computed_for_many_observations(rho, monkeypatch):
    """The bounds differ from drawn ones by less than a fifth of the interval: 1,000 resamples leave about a tenth."""
    monkeypatch.setattr(bootstrap_limit, "RESAMPLES", 1000)
    values = np.concatenate([ar1(3000, rho, 1), 1.1 * ar1(5000, rho, 2)])
    lengths = np.array([3000, 5000])
    block = summary.block_length(values, lengths)
    draws = [summary._draws(int(length), block) for length in lengths]
    assert (sum(count for count, _ in draws) < bootstrap_limit.FEW_BLOCKS) == (rho > 0)
    (drawn,) = summary.bootstrap_percentiles([values], lengths, block, [1])
    computed = bootstrap_limit.percentile_bounds(values, lengths, draws, summary.PERCENTILES, 0.95, [1])
    for percentile, (low, high) in drawn.items():
        assert computed[percentile] == pytest.approx((low, high), abs=0.2 * (high - low))


def test_computed_bounds_are_exact_where_every_resample_is_the_data():
    lengths, values = np.array([3000, 3000]), np.arange(6000.0)
    found = bootstrap_limit.percentile_bounds(values, lengths, [(1, 3000)] * 2, summary.PERCENTILES, 0.95, [1])
    assert found == {50: (2999, 2999), 90: (5399, 5399), 95: (5699, 5699), 99: (5939, 5939)}


def test_computed_bounds_hold_equal_values_and_outliers():
    values = np.repeat([1.0, 2.0, 9e9], [4000, 1999, 1])
    bounds = bootstrap_limit.percentile_bounds(values, np.array([6000]), [(6000, 1)], summary.PERCENTILES, 0.95, [1])
    assert bounds == {50: (1, 1), 90: (2, 2), 95: (2, 2), 99: (2, 2)}


def test_computed_intervals_cover_the_truth(monkeypatch):
    """As those that are drawn: p95 of correlated latencies, 95 % is the aim."""
    monkeypatch.setattr(bootstrap_limit, "RESAMPLES", 1000)
    truth, covered = math.exp(1.6448536), 0
    for seed in range(60):
        values, lengths = ar1(6000, 0.9, seed), np.array([6000])
        draws = [summary._draws(6000, summary.block_length(values, lengths))]
        low, high = bootstrap_limit.percentile_bounds(values, lengths, draws, (95,), 0.95, [seed])[95]
        covered += low <= truth <= high
    assert covered >= 51


def test_large_samples_take_the_computed_bounds(monkeypatch):
    rows = steady([1000 + i % 97 for i in range(300)])
    drawn = summarise(rows)
    monkeypatch.setattr(summary, "MOST_RESAMPLED", 100)
    monkeypatch.setattr(summary, "bootstrap_percentiles", None)
    computed = summarise(rows)
    assert computed.pooled.latency.p95_ms.value == drawn.pooled.latency.p95_ms.value
    assert computed.pooled.latency.p95_ms.low == pytest.approx(drawn.pooled.latency.p95_ms.low, abs=0.003)


def test_a_distribution_counts_every_success_in_bins_that_all_share():
    result = summarise(steady([1000, 1121, 1123, 250_000, 0]) + steady([5], outcome=1) + steady([1000], endpoint=1))
    whole, second = result.endpoints[0].distribution, result.endpoints[1].distribution
    assert (whole.bins_per_decade, whole.first_bin) == (20, -60)
    counted = {whole.first_bin + i: count for i, count in enumerate(whole.counts) if count}
    assert counted == {-60: 1, 0: 2, 1: 1, 47: 1}
    assert second == Distribution(20, 0, (1,))
    assert sum(result.pooled.distribution.counts) == 6
    assert summarise(steady([5], outcome=1)).pooled.distribution is None


def test_percentiles_over_time_have_buckets_wide_enough_for_a_p99():
    rows = [(at * 20_000, 0, 1000 + at % 7, 0, 0) for at in range(6000)]  # 50 a second for 120 s
    result = summarise(rows, load="stages")
    assert len(result.timeline) == 120
    assert all(bucket.p99_ms is None for bucket in result.timeline)
    assert [bucket.start_s for bucket in result.percentile_timeline] == [5.0 * i for i in range(24)]
    assert all(bucket.p99_ms for bucket in result.percentile_timeline)
    few = summarise(rows[:600], load="stages")
    assert len(few.percentile_timeline) == len(few.timeline) == 12


def test_blocks_never_cross_a_run():
    # a block of the whole run's length can only be that run: no resample differs from the data
    first, second = np.arange(50.0), np.arange(1000.0, 1050.0)
    bounds = summary.bootstrap_percentiles([np.concatenate([first, second])], np.array([50, 50]), 50, [1])[0]
    assert bounds == {50: (49, 49), 90: (1039, 1039), 95: (1044, 1044), 99: (1048, 1048)}


def test_every_resample_is_made_of_whole_blocks():
    covered = summary._coverage(np.random.default_rng(1), 20, 100, 10, 10)
    assert (covered.sum(axis=1) == 100).all()
    # each observation but the edges is reachable, and a block covers ten in a row
    single = summary._coverage(np.random.default_rng(1), 200, 100, 1, 10)
    widths = [np.diff(np.flatnonzero(row)[[0, -1]])[0] + 1 for row in single]
    assert set(widths) == {10}
    assert (single.sum(axis=0) > 0).all()


def ar1(n, rho, seed):
    noise = np.random.default_rng(seed).standard_normal(n) * math.sqrt(1 - rho * rho)
    values = list(itertools.accumulate(noise, lambda before, now: rho * before + now))
    return np.exp(np.array(values))


def test_blocks_grow_with_correlation_up_to_the_cap():
    lengths = np.array([3000])
    free, tied = (
        np.median([summary.block_length(ar1(3000, rho, seed), lengths) for seed in range(9)]) for rho in (0, 0.9)
    )
    assert free < 10
    assert 30 < tied <= math.ceil(3 * math.sqrt(3000))
    assert summary.block_length(np.ones(100), np.array([100])) == 1
    assert summary.block_length(np.array([1.0]), np.array([1])) == 1
    assert summary.block_length(ar1(300, 0.99, 1), np.array([294, 6])) <= 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 40))
def test_bootstrap_takes_runs_and_blocks_of_any_length(lengths, block):
    values = np.random.default_rng(3).permutation(float(sum(lengths)) + np.arange(sum(lengths)))
    for low, high in summary.bootstrap_percentiles([values], np.array(lengths), block, [1])[0].values():
        assert values.min() <= low <= high <= values.max()


def test_intervals_cover_the_truth(monkeypatch):
    """p95 of correlated latencies (rho 0.9, 2,000 per run): 95 % is the aim, and an independent bootstrap holds
    the truth in about 60 % of runs only."""
    monkeypatch.setattr(bootstrap_limit, "RESAMPLES", 200)
    truth, covered, naive = math.exp(1.6448536), 0, 0
    for seed in range(60):
        values, lengths = ar1(2000, 0.9, seed), np.array([2000])
        block = summary.block_length(values, lengths)
        low, high = summary.bootstrap_percentiles([values], lengths, block, [seed])[0][95]
        covered += low <= truth <= high
        low, high = summary.bootstrap_percentiles([values], lengths, 1, [seed])[0][95]
        naive += low <= truth <= high
    assert covered >= 50
    assert naive <= covered - 10


@given(st.integers(0, 40), st.integers(1, 40))
@settings(max_examples=30)
def test_failure_ratio_lies_in_its_interval(failed, good):
    assume(failed + good)
    result = summary.metrics(summarise(steady([5] * good) + steady([5] * failed, outcome=1)))
    estimate = result["failure_ratio"][None]
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.high > 0


def test_metrics_name_every_endpoint_and_the_pool():
    found = summary.metrics(summarise(steady([5000] * 30) + steady([7000] * 10, endpoint=1)))
    assert set(found) == {
        "p50_ms",
        "p90_ms",
        "p95_ms",
        "p99_ms",
        "mean_ms",
        "max_ms",
        "failure_ratio",
        "late_ratio",
        "throughput_rps",
        "requests",
        "late_arrival_ratio",
        "dropped_arrival_ratio",
    }
    assert all(
        set(row) == ({None, "a", "b"} if threshold.METRICS[name].names else {None}) for name, row in found.items()
    )
    assert found["p95_ms"]["a"].value == 5
    assert found["p95_ms"]["b"] is None
    assert (found["mean_ms"]["b"].value, found["requests"]["b"].value, found["max_ms"]["b"].value) == (7, 10, 7)


def test_timeline_has_empty_seconds_and_all_phases():
    rows = [(500_000, 0, 1000, 0, 0), *[(2_000_000 + i, 0, 3000, 0, i % 2) for i in range(40)]]
    timeline = summarise(rows).timeline
    assert [(bucket.start_s, bucket.requests, bucket.failures) for bucket in timeline] == [
        (0, 1, 0),
        (1, 0, 0),
        (2, 40, 20),
    ]
    assert [bucket.p50_ms for bucket in timeline] == [None, None, 3]
    assert [bucket.p95_ms for bucket in timeline] == [None, None, 3]


def test_long_timelines_are_coarser_and_bounded():
    rows = [(second * 1_000_000, 0, 1, 0, 0) for second in range(0, 3600, 10)]
    timeline = summarise(rows, load="stages").timeline
    assert len(timeline) == 719  # the last request is due at 3,590 s
    assert timeline[1].start_s == 5


@pytest.mark.parametrize(
    ("start_us", "service_us", "counted"),
    [
        (50, 49, False),  # its statements were over before the first snapshot
        (50, 50, True),  # under way at it
        (150, 49, True),
        (150, 50, False),
        (250, 10, False),
    ],
)
def test_a_request_belongs_to_the_snapshots_that_it_was_answered_between(start_us, service_us, counted):
    rows = np.zeros(1, summary.SAMPLE_DTYPE)
    rows["start_us"], rows["service_us"] = start_us, service_us
    assert summary.answered_between(rows, 100, 200).tolist() == [counted]
