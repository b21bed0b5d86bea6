"""Fits the Universal Scalability Law to measured loads: contention, coherency and the peak, with intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]

# Three parameters need as many degrees of freedom again before their scatter means anything.
MIN_LOADS = 6
_RESAMPLES = 400
# A coherency whose interval reaches below this is none: at 1,000 in flight it would cost a tenth of throughput.
_NO_COHERENCY = 1e-7
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One load that was measured and that the load generator kept up with. response_s: mean, from the actual start."""

    throughput_rps: float
    response_s: float

    @property
    def in_flight(self) -> float:
        """Mean concurrency by Little's law, N = X · R: not users, most of whom are thinking."""
        return self.throughput_rps * self.response_s


@dataclass(frozen=True, slots=True)
class Interval:
    """A fitted value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ScalabilityFit:
    """X(N) = rate_rps · N / (1 + contention · (N - 1) + coherency · N · (N - 1)), N requests in flight.

    peak_in_flight: where throughput is largest, peak_rps: that throughput; None = no peak was observed, why stands in
    `note`. measured_in_flight: the largest measured N, beyond which nothing is claimed. residual_pct: root mean square
    of the relative residuals.
    """

    rate_rps: Interval
    contention: Interval
    coherency: Interval
    peak_in_flight: Interval | None
    peak_rps: Interval | None
    measured_in_flight: float
    residual_pct: float
    loads: int
    note: str

    def throughput_rps(self, in_flight: float) -> float:
        """What the fit says. Raises ValueError beyond the measured loads."""
        if in_flight > self.measured_in_flight * (1 + 1e-9):
            raise ValueError(
                f"{in_flight:g} in flight: more than the {self.measured_in_flight:g} that were measured; measure there"
            )
        return float(_usl(np.array([in_flight]), self.rate_rps.value, self.contention.value, self.coherency.value)[0])


def fit(points: Sequence[LoadPoint], seed: int = 0) -> ScalabilityFit:
    """Least squares on relative residuals (throughput scatters in proportion to itself), intervals by bootstrap of the
    residuals, each blown up by sqrt(n / (n - 3)) for the three parameters that were fitted to them.

    Formula and peak sqrt((1 - α) / β): Gunther, Guerrilla Capacity Planning (2007), ch. 4-6. Repeats of a load count as
    points of their own. Raises ValueError for fewer than six different loads.
    """
    loads = np.array([point.in_flight for point in points])
    rates = np.array([point.throughput_rps for point in points])
    if not np.all(np.isfinite(loads) & np.isfinite(rates) & (loads > 0) & (rates > 0)):
        raise ValueError("loads: throughput or response time is not above 0; leave loads without successes out")
    different = len(np.unique(np.round(np.log(loads), 2)))
    if different < MIN_LOADS:
        raise ValueError(f"{different} different loads: fewer than {MIN_LOADS}; measure more, past the knee")
    order = np.argsort(loads)
    loads, rates = loads[order], rates[order]
    found = _least_squares(loads, rates)
    fitted = _usl(loads, *found)
    residuals = rates / fitted - 1
    spread = (residuals - residuals.mean()) * math.sqrt(len(rates) / (len(rates) - 3))
    random = np.random.default_rng(seed)
    draws = fitted * (1 + random.choice(spread, (_RESAMPLES, len(rates))))
    drawn = np.array([_least_squares(loads, rates) for rates in draws])
    rate, contention, coherency = (_interval(found[i], drawn[:, i]) for i in range(3))
    measured = float(loads.max())
    note = _no_peak(contention, coherency, measured)
    peak_in_flight = peak_rps = None
    if not note:
        peaks = np.sqrt(np.maximum(1 - drawn[:, 1], 0) / np.maximum(drawn[:, 2], _NO_COHERENCY))
        at = math.sqrt((1 - found[1]) / found[2])
        tops = np.array([_usl(np.array([max(peak, 1.0)]), *row)[0] for peak, row in zip(peaks, drawn, strict=True)])
        peak_in_flight = _interval(at, peaks)
        peak_rps = _interval(float(_usl(np.array([at]), *found)[0]), tops)
    return ScalabilityFit(
        rate_rps=rate,
        contention=contention,
        coherency=coherency,
        peak_in_flight=peak_in_flight,
        peak_rps=peak_rps,
        measured_in_flight=measured,
        residual_pct=100 * float(np.sqrt(np.mean(residuals**2))),
        loads=different,
        note=note,
    )


def _usl(in_flight: Floats, rate: float, contention: float, coherency: float) -> Floats:
    denominator: Floats = 1 + contention * (in_flight - 1) + coherency * in_flight * (in_flight - 1)
    return rate * in_flight / denominator


def _least_squares(loads: Floats, rates: Floats) -> tuple[float, float, float]:
    """rate, contention, coherency, none below 0.

    N / X is linear in 1 / γ, α / γ and β / γ, and its relative residuals are those of X: no start values, no local
    minimum, and bounds that hold exactly (Lawson & Hanson's non-negative least squares).
    """
    terms = np.column_stack([np.ones_like(loads), loads - 1, loads * (loads - 1)])
    per_request = loads / rates
    (base, contended, coherent), _ = nnls(terms / per_request[:, None], np.ones_like(loads))
    return 1 / base, contended / base, coherent / base


def _interval(value: float, drawn: Floats) -> Interval:
    low, high = np.quantile(drawn, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def _no_peak(contention: Interval, coherency: Interval, measured: float) -> str:
    """Why there is no peak to be told; empty = there is one."""
    if coherency.low <= _NO_COHERENCY:
        return "no peak observed: coherency cannot be told from 0"
    peak = math.sqrt(max(1 - contention.value, 0.0) / coherency.value)
    if peak > measured:
        return f"no peak observed: it would lie beyond the largest load measured, {measured:.3g} in flight"
    return ""
