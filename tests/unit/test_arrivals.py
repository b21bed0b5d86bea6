from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness import arrivals
from harness.model import Scenario, Step


def scenario(steps, warmup_s=0.0, kind="constant", seed=1):
    """steps: (duration_s, rate_rps)."""
    legs = tuple(Step(float(duration_s), float(rate_rps)) for duration_s, rate_rps in steps)
    total_s = math.fsum(leg.duration_s for leg in legs)
    return Scenario("x", "", "x.py", "open", 10, 10.0, 0.0, warmup_s, total_s, seed, (), (), arrivals=kind, steps=legs)


def per_leg(times_us, durations_s):
    ends_s = list(itertools.accumulate(durations_s, initial=0.0))
    return [int(np.sum((times_us >= a * 1e6) & (times_us < b * 1e6))) for a, b in itertools.pairwise(ends_s)]


steps = st.lists(st.tuples(st.integers(1, 60), st.floats(0.1, 200)), min_size=1, max_size=4)
kinds = st.sampled_from(["constant", "poisson"])


def test_constant_arrivals_lie_in_the_middle_of_their_turn():
    times = arrivals.times_us(scenario([(2, 4), (1, 2)], warmup_s=1.0))
    assert times.dtype == np.int64
    # 4 per second for the warm-up and the first step, then 2 per second without a jump
    assert times.tolist() == [125_000 + 250_000 * k for k in range(12)] + [3_250_000, 3_750_000]


@given(steps, st.floats(0, 20))
def test_every_leg_has_its_rate(legs, warmup_s):
    times = arrivals.times_us(scenario(legs, warmup_s))
    durations_s = [warmup_s, *(duration_s for duration_s, _ in legs)]
    rates_rps = [legs[0][1], *(rate_rps for _, rate_rps in legs)]
    for found, duration_s, rate_rps in zip(per_leg(times, durations_s), durations_s, rates_rps, strict=True):
        assert abs(found - duration_s * rate_rps) <= 1 + 1e-6


@given(st.integers(1, 60), st.integers(1, 500))
def test_whole_numbers_of_arrivals_are_exact_and_evenly_spaced(duration_s, rate_rps):
    times = arrivals.times_us(scenario([(duration_s, rate_rps)]))
    assert len(times) == duration_s * rate_rps
    assert (np.abs(np.diff(times) - 1e6 / rate_rps) <= 1).all()  # whole microseconds


@given(steps, st.floats(0, 20), kinds, st.integers(0, 2**64))
def test_times_ascend_within_the_load_and_repeat(legs, warmup_s, kind, seed):
    asked = scenario(legs, warmup_s, kind, seed)
    times = arrivals.times_us(asked)
    assert (np.diff(times) >= 0).all()
    assert (times >= 0).all()
    assert (times <= (warmup_s + asked.duration_s) * 1e6).all()
    assert np.array_equal(times, arrivals.times_us(asked))


@given(steps, kinds, st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_all_users_together_take_every_arrival_once(legs, kind, users):
    """users: how many each process has."""
    times = arrivals.times_us(scenario(legs, 2.0, kind))
    workers = len(users)
    taken = [
        arrivals.of_user(times, worker, workers, user, count)
        for worker, count in enumerate(users)
        for user in range(count)
    ]
    assert np.array_equal(np.sort(np.concatenate(taken)), times)
    by_worker = [arrivals.share(times, worker, workers) for worker in range(workers)]
    assert max(map(len, by_worker)) - min(map(len, by_worker)) <= 1
    for worker, count in enumerate(users):
        counts = [len(arrivals.of_user(times, worker, workers, user, count)) for user in range(count)]
        assert max(counts) - min(counts) <= 1


def test_a_seed_gives_the_same_poisson_arrivals_on_every_machine():
    times = arrivals.times_us(scenario([(60, 50)], kind="poisson"))
    assert times[:4].tolist() == [4055, 34823, 44833, 89878]
    assert arrivals.times_us(scenario([(60, 50)], kind="poisson", seed=2))[0] != times[0]
    # a longer run begins the same
    longer = arrivals.times_us(scenario([(600, 50)], kind="poisson"))
    assert np.array_equal(longer[: len(times)], times)


def test_poisson_gaps_are_exponential_and_independent():
    rate_rps, duration_s = 50, 400
    times = arrivals.times_us(scenario([(duration_s, rate_rps)], kind="poisson"))
    gaps_s = np.diff(times) / 1e6
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / rate_rps)).pvalue > 0.01
    assert abs(np.corrcoef(gaps_s[:-1], gaps_s[1:])[0, 1]) < 3 / math.sqrt(len(gaps_s))
    # the counts per second of a Poisson process scatter as much as they are high; those of a constant one do not
    counts = np.bincount(times // 1_000_000, minlength=duration_s)
    dispersion = counts.var(ddof=1) / counts.mean()
    low, high = stats.chi2.ppf([0.005, 0.995], duration_s - 1) / (duration_s - 1)
    assert low < dispersion < high
    constant = arrivals.times_us(scenario([(duration_s, rate_rps)]))
    assert np.bincount(constant // 1_000_000).var() == 0


@pytest.mark.parametrize("seed", range(3))
def test_poisson_steps_have_their_rates(seed):
    durations_s, rates_rps = [50.0, 100.0, 100.0, 100.0], [20, 20, 200, 40]
    asked = scenario(list(zip(durations_s[1:], rates_rps[1:], strict=True)), 50.0, "poisson", seed)
    found = per_leg(arrivals.times_us(asked), durations_s)
    for count, duration_s, rate_rps in zip(found, durations_s, rates_rps, strict=True):
        expected = duration_s * rate_rps
        assert abs(count - expected) < 4 * math.sqrt(expected)


def test_too_few_draws_are_followed_by_more(monkeypatch):
    asked = scenario([(60, 50)], kind="poisson")
    expected = arrivals.times_us(asked)
    monkeypatch.setattr(arrivals, "_SPARE", -30)
    assert np.array_equal(arrivals.times_us(asked), expected)
