"""The scalability law fitted to simulated systems whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.usl import LoadPoint, ScalabilityFit, fit

LOADS = (1, 2, 5, 10, 15, 25, 35, 50, 75)


def points(
    rate: float, contention: float, coherency: float, noise: float, seed: int, loads: tuple[float, ...] = LOADS
) -> list[LoadPoint]:
    """Throughput scatters by `noise`; the response time follows from it by Little's law at that many in flight."""
    random = np.random.default_rng(seed)
    found = []
    for load in loads:
        truth = rate * load / (1 + contention * (load - 1) + coherency * load * (load - 1))
        throughput = truth * (1 + noise * random.standard_normal())
        found.append(LoadPoint(throughput, load / throughput))
    return found


def test_without_noise_the_truth_comes_back() -> None:
    found = fit(points(20, 0.05, 0.0008, 0, 0))
    assert found.rate_rps.value == pytest.approx(20, rel=1e-4)
    assert found.contention.value == pytest.approx(0.05, rel=1e-3)
    assert found.coherency.value == pytest.approx(0.0008, rel=1e-3)
    assert found.peak_in_flight is not None
    assert found.peak_in_flight.value == pytest.approx(math.sqrt(0.95 / 0.0008), rel=1e-3)
    assert found.throughput_rps(20) == pytest.approx(20 * 20 / (1 + 0.05 * 19 + 0.0008 * 380), rel=1e-4)


def test_the_intervals_hold_the_truth() -> None:
    """Of 60 systems with 3 % noise each 95 % interval holds the truth in at least 51 (85 %): nine points make a
    bootstrap of residuals a little too sure of itself, and 60 draws scatter."""
    held = {"rate": 0, "contention": 0, "coherency": 0, "peak": 0}
    for seed in range(60):
        found = fit(points(20, 0.05, 0.0008, 0.03, seed), seed)
        held["rate"] += found.rate_rps.low <= 20 <= found.rate_rps.high
        held["contention"] += found.contention.low <= 0.05 <= found.contention.high
        held["coherency"] += found.coherency.low <= 0.0008 <= found.coherency.high
        assert found.peak_in_flight is not None
        held["peak"] += found.peak_in_flight.low <= math.sqrt(0.95 / 0.0008) <= found.peak_in_flight.high
    assert min(held.values()) >= 51, held


def test_a_system_without_coherency_has_no_peak() -> None:
    wrong = [fit(points(20, 0.05, 0, 0.03, seed), seed).peak_in_flight for seed in range(20)]
    assert sum(peak is not None for peak in wrong) <= 2


def test_a_peak_beyond_the_loads_is_not_told() -> None:
    found = fit(points(20, 0.02, 0.00005, 0, 0))
    assert found.peak_in_flight is None
    assert found.peak_rps is None
    assert "beyond the largest load measured" in found.note


def test_users_in_place_of_requests_in_flight_would_hide_contention() -> None:
    """Why N is X · R: the same loads counted as thinking users look all but linear."""
    measured = points(20, 0.05, 0.0008, 0, 0)
    think_s = 1.0
    thinking = [LoadPoint(point.throughput_rps, point.response_s + think_s) for point in measured]
    assert fit(thinking).contention.value < 0.01 < 0.049 < fit(measured).contention.value


def test_fewer_than_six_loads_are_refused_repeats_or_not() -> None:
    measured = points(20, 0.05, 0.0008, 0, 0, loads=(1, 5, 10, 25, 50))
    with pytest.raises(ValueError, match="5 different loads: fewer than 6"):
        fit(measured * 3)


def test_a_load_without_successes_is_refused() -> None:
    with pytest.raises(ValueError, match="not above 0"):
        fit([*points(20, 0.05, 0.0008, 0, 0), LoadPoint(0, 1)])


def test_nothing_is_said_beyond_the_loads() -> None:
    found: ScalabilityFit = fit(points(20, 0.05, 0.0008, 0, 0))
    with pytest.raises(ValueError, match="measure there"):
        found.throughput_rps(100)
