"""Erlang's C against published values, against a queue that is simulated, and what holds for every pool."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.pool_sizing import WAIT_SHARE, advise, erlang_c, pool


@pytest.mark.parametrize(
    ("size", "offered", "waiting"),
    # M/M/1 waits with probability ρ; M/M/2 with 2ρ² / (1 + ρ)
    [(1, 0.7, 0.7), (2, 1.2, 2 * 0.6**2 / 1.6), (2, 0.2, 2 * 0.1**2 / 1.1)],
)
def test_erlang_c_in_closed_form(size: int, offered: float, waiting: float) -> None:
    assert erlang_c(size, offered) == pytest.approx(waiting, rel=1e-12)


@given(size=st.integers(1, 40), share=st.floats(0.05, 0.97))
def test_erlang_c_is_its_defining_sum(size: int, share: float) -> None:
    offered = size * share
    terms = [offered**k / math.factorial(k) for k in range(size)]
    last = offered**size / math.factorial(size) / (1 - share)
    assert erlang_c(size, offered) == pytest.approx(last / (sum(terms) + last), rel=1e-9)


@settings(max_examples=60)
@given(rate=st.floats(0.5, 400), hold_ms=st.floats(1, 400), limit_ms=st.floats(20, 1000))
def test_the_smallest_pool_keeps_the_limit_and_the_next_smaller_does_not(
    rate: float, hold_ms: float, limit_ms: float
) -> None:
    advice = advise(rate, hold_ms, limit_ms)
    assert advice.smallest.p95_wait_ms is not None
    assert advice.smallest.p95_wait_ms < WAIT_SHARE * limit_ms
    if advice.smallest.size > 1:
        smaller = pool(advice.smallest.size - 1, rate, hold_ms)
        assert smaller.p95_wait_ms is None or smaller.p95_wait_ms >= WAIT_SHARE * limit_ms
    waits = [size.p95_wait_ms for size in advice.sizes]
    assert all(one is not None for one in waits)
    assert waits == sorted(waits, key=lambda wait: -(wait or 0.0))


def test_a_pool_that_cannot_keep_up_has_no_wait_to_be_told() -> None:
    overloaded = pool(4, 50, 100)
    assert (overloaded.p95_wait_ms, overloaded.mean_wait_ms, overloaded.waiting_ratio) == (None, None, None)
    assert overloaded.utilisation_pct == 100


def test_more_links_than_the_servers_cores_carry_are_named() -> None:
    assert "2 cores" in advise(100, 100, 200, cores=2).note
    assert advise(10, 10, 200, cores=2).note == ""


@pytest.mark.parametrize("demand", [(0.0, 10.0, 200.0), (1.0, 0.0, 200.0), (1.0, 1.0, 0.0)])
def test_no_demand_no_advice(demand: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="measure under load"):
        advise(*demand)


def simulated_waits_ms(size: int, rate: float, hold_ms: float, arrivals: int, seed: int) -> np.ndarray:
    """Waits of a first-come-first-served queue, arrival by arrival: each takes the link that is free first."""
    random = np.random.default_rng(seed)
    due_ms = np.cumsum(random.exponential(1000 / rate, arrivals))
    holds_ms = random.exponential(hold_ms, arrivals)
    free_ms = [0.0] * size
    waits = np.empty(arrivals)
    for i in range(arrivals):
        start_ms = max(due_ms[i], free_ms[0])
        waits[i] = start_ms - due_ms[i]
        heapq.heapreplace(free_ms, start_ms + holds_ms[i])
    return waits[arrivals // 10 :]


@pytest.mark.parametrize(
    ("size", "rate", "hold_ms"), [(5, 44.6, 100), (6, 44.6, 100), (8, 44.6, 100), (2, 20, 70), (1, 8, 100)]
)
def test_a_simulated_queue_waits_as_foretold(size: int, rate: float, hold_ms: float) -> None:
    waits_ms = simulated_waits_ms(size, rate, hold_ms, arrivals=200_000, seed=size)
    foretold = pool(size, rate, hold_ms)
    assert foretold.mean_wait_ms == pytest.approx(waits_ms.mean(), rel=0.12)
    assert foretold.waiting_ratio == pytest.approx((waits_ms > 0).mean(), rel=0.06)
    assert foretold.p95_wait_ms == pytest.approx(float(np.quantile(waits_ms, 0.95)), rel=0.12, abs=1)


def test_the_advice_holds_in_a_simulated_queue() -> None:
    advice = advise(44.6, 100, 200, current=5)
    assert advice.current is not None
    assert advice.current.size == 5
    waits_ms = simulated_waits_ms(advice.smallest.size, 44.6, 100, arrivals=200_000, seed=7)
    assert np.quantile(waits_ms, 0.95) < WAIT_SHARE * 200
    waits_ms = simulated_waits_ms(advice.smallest.size - 1, 44.6, 100, arrivals=200_000, seed=7)
    assert np.quantile(waits_ms, 0.95) > WAIT_SHARE * 200 * 0.9
