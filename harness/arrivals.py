"""When the requests of an open load are due, and which of them each user takes. Pure: the same on every machine."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from harness.model import Scenario

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Beside the scenario's seed, so that no other stream that is drawn from it is this one.
_STREAM = 0x0A221
# standard deviations of their number that are drawn beyond the mean: at six, hardly ever too few at once
_SPARE = 6


def times_us(scenario: Scenario) -> Ints:
    """All arrivals of an open load, ascending, in µs from the start of arrivals: the warm-up at the first step's rate,
    then every step.

    The rate, integrated over time, says how many arrivals are due; an arrival happens where it reaches a point.
    constant: the points k + 0.5, k = 0, 1, …, so that they are evenly spaced within a step, go on across steps without
    a jump, and none falls on the border of two. A step has rate x duration of them, rounded up or down.
    poisson: the running sum of exponential gaps of mean 1 (time-rescaling: Daley & Vere-Jones, An Introduction to the
    Theory of Point Processes I, 7.4), drawn from the scenario's seed. More time or a higher last rate only adds
    arrivals.
    """
    legs = [(step.duration_s, step.rate_rps) for step in scenario.steps]
    if scenario.warmup_s > 0:
        legs.insert(0, (scenario.warmup_s, scenario.steps[0].rate_rps))
    ends_s = np.cumsum([0.0, *(duration_s for duration_s, _ in legs)])
    due = np.cumsum([0.0, *(duration_s * rate_rps for duration_s, rate_rps in legs)])
    points = _poisson(float(due[-1]), scenario.seed) if scenario.arrivals == "poisson" else _constant(float(due[-1]))
    at_us: Floats = np.interp(points, due, ends_s) * 1e6
    return np.rint(at_us).astype(np.int64)


def share(times_us: Ints, worker: int, workers: int) -> Ints:
    """The arrivals of one of `workers` processes (worker = 0, 1, …): they take turns."""
    return times_us[worker::workers]


def of_user(times_us: Ints, worker: int, workers: int, user: int, users: int) -> Ints:
    """The arrivals of user `user` (0, 1, …) of the `users` in process `worker`: they take turns with its share.

    Turns are fixed, so that the same seed gives every user the same requests. A user who still waits for a reply when
    the next turn comes takes it late, and the lateness counts: users / rate seconds is what a reply may take.
    """
    return share(times_us, worker, workers)[user::users]


def _constant(due: float) -> Floats:
    return np.arange(math.ceil(due - 0.5), dtype=np.float64) + 0.5


def _poisson(due: float, seed: int) -> Floats:
    draws = np.random.Generator(np.random.PCG64([seed, _STREAM]))
    gaps = draws.standard_exponential(math.ceil(due + _SPARE * math.sqrt(due)) + 1)
    while gaps.sum() <= due:  # what is drawn later does not change what was drawn before
        gaps = np.append(gaps, draws.standard_exponential(len(gaps)))
    points = np.cumsum(gaps)
    return points[points < due]
