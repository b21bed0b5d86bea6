"""What a growing herd and more users mean: rows, disk and WAL by year, and the date on which a limit is crossed. Pure.

Never says anything about a herd more than twice as large as the largest that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]

DAYS_PER_YEAR = 365.25
# The furthest that a fit may be followed, in multiples of the largest measured herd.
EXTRAPOLATION = 2.0
# Draws of Monte Carlo; P10 and P90 then scatter by about one percentile.
DRAWS = 1000
# Steps in which the first crossing is looked for before it is narrowed down.
_STEPS = 48
_QUANTILES = (0.1, 0.5, 0.9)
# Bounds and steps of the exponent: 0 an index look-up, 1 a sequential scan, 2 a scan per row.
_EXPONENTS: Floats = np.linspace(0.0, 2.0, 41)
# standard deviations between the ends of a 95 % interval
_INTERVAL_SDS = 2 * 1.959964


@dataclass(frozen=True, slots=True)
class Quantiles:
    """P10, P50, P90 over the draws; None = that share of the draws does not say."""

    p10: float | None
    p50: float | None
    p90: float | None


@dataclass(frozen=True, slots=True)
class Range:
    """Growth per year, 0.15 = +15 %: triangular around `likely`, or evenly between the ends where it is None."""

    low: float
    high: float
    likely: float | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """Where herd and users stand today and how fast they may grow."""

    herd: int
    users: int
    herd_per_year: Range
    users_per_year: Range


# --- rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VolumePoint:
    """Rows of a table at one herd with this much history; head_days: the herd's size summed over its days."""

    head: int
    head_days: float
    rows: int


@dataclass(frozen=True, slots=True)
class TableVolume:
    """rows = fixed_rows + rows_per_head · head + rows_per_head_day · head-days. bytes_per_row: heap and indexes."""

    table: str
    fixed_rows: float
    rows_per_head: float
    rows_per_head_day: float
    bytes_per_row: float

    def rows(self, head: float, head_days: float) -> float:
        return self.fixed_rows + self.rows_per_head * head + self.rows_per_head_day * head_days


def fit_volume(table: str, points: Sequence[VolumePoint], bytes_per_row: float) -> TableVolume:
    """Both drivers from counted rows, none below 0, small tables weighing as much as large ones.

    Raises ValueError where the points cannot tell the drivers apart: they need several herds with several histories.
    """
    terms = np.array([[1.0, point.head, point.head_days] for point in points])
    if len(points) < 3 or np.linalg.matrix_rank(terms / terms.max(axis=0)) < 3:
        raise ValueError(f"{table}: points do not differ in herd and history; count rows of several herds and years")
    rows = np.array([float(point.rows) for point in points])
    weights = 1 / np.maximum(rows, 1.0)
    scale = terms.max(axis=0)
    found, _ = nnls(terms / scale * weights[:, None], rows * weights)
    fixed, per_head, per_head_day = (float(value) for value in found / scale)
    return TableVolume(table, fixed, per_head, per_head_day, bytes_per_row)


# --- cost ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CostPoint:
    """A figure measured at one herd, with its 95 % interval: an endpoint's p95 in ms; or, for the limit on users, the
    share of it that one user takes, 1 / largest number of users."""

    head: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CostFit:
    """value = fixed + per_scale · (head / smallest measured head) ^ exponent; between two measured herds never outside
    of their intervals. points: by herd."""

    name: str
    fixed: float
    per_scale: float
    exponent: float
    points: tuple[CostPoint, ...]

    @property
    def reach_head(self) -> float:
        """The largest herd about which anything is said."""
        return EXTRAPOLATION * self.points[-1].head

    def cost(self, head: Floats) -> Floats:
        """NaN beyond reach_head."""
        return _bounded(self.points, head, self.fixed, self.per_scale, self.exponent)


def fit_cost(name: str, points: Sequence[CostPoint]) -> CostFit:
    """Least squares weighted by the points' intervals, fixed and per_scale >= 0, 0 <= exponent <= 2.

    Additive, not a line through logarithms: that one takes the fixed part for a low exponent and foretells far too
    large a herd. Raises ValueError for fewer than four herds, one more than the parameters.
    """
    ordered = tuple(sorted(points, key=lambda point: point.head))
    if len({point.head for point in ordered}) < 4 or len(ordered) != len({point.head for point in ordered}):
        raise ValueError(f"{name}: {len(ordered)} points; measure four herds or more, each once")
    if not all(0 < point.low <= point.value <= point.high for point in ordered):
        raise ValueError(f"{name}: a point lies outside of its interval or is not above 0; leave it out")
    values = np.array([[point.value for point in ordered]])
    fixed, per_scale, exponent = _fits(ordered, values)
    return CostFit(name, float(fixed[0]), float(per_scale[0]), float(exponent[0]), ordered)


def _scales(points: Sequence[CostPoint]) -> Floats:
    heads = np.array([float(point.head) for point in points])
    scales: Floats = heads / heads[0]
    return scales


def _deviations(points: Sequence[CostPoint]) -> Floats:
    """Standard deviation of each point; at least 1 % of it, so that none is taken for exact."""
    return np.array([max((point.high - point.low) / _INTERVAL_SDS, 0.01 * point.value) for point in points])


def _fits(points: Sequence[CostPoint], values: Floats) -> tuple[Floats, Floats, Floats]:
    """One fit for each row of values: for every exponent of a grid the best line in scale ^ exponent."""
    weights = 1 / _deviations(points) ** 2
    total = weights.sum()
    best = np.full(len(values), np.inf)
    fixed, per_scale, exponent = np.zeros(len(values)), np.zeros(len(values)), np.zeros(len(values))
    mean_value = values @ weights / total
    for power in _EXPONENTS:
        x = _scales(points) ** power
        mean_x = x @ weights / total
        # with exponent 0 all scales are one, but for rounding: there is no slope
        centred = x - mean_x if power > 0 else np.zeros_like(x)
        spread = weights @ centred**2
        slope = np.maximum((values - mean_value[:, None]) @ (weights * centred) / max(spread, 1e-300), 0.0)
        base = mean_value - slope * mean_x
        # a line that would begin below 0 goes through 0 instead
        through = values @ (weights * x) / (weights @ x**2)
        slope, base = np.where(base < 0, through, slope), np.maximum(base, 0.0)
        errors = ((values - base[:, None] - slope[:, None] * x) ** 2) @ weights
        better = errors < best
        best = np.where(better, errors, best)
        fixed, per_scale = np.where(better, base, fixed), np.where(better, slope, per_scale)
        exponent = np.where(better, power, exponent)
    return fixed, per_scale, exponent


def _bounded(points: Sequence[CostPoint], head: Floats, *fit: Floats | float) -> Floats:
    """The fit, held between the intervals of the measured neighbours; NaN beyond twice the largest herd. Below the
    smallest herd at most, above the largest at least what was measured there."""
    fixed, per_scale, exponent = fit
    heads = np.array([float(point.head) for point in points])
    value = fixed + per_scale * (head / heads[0]) ** exponent
    right = np.searchsorted(heads, head)
    lows = np.minimum.accumulate(np.array([point.low for point in points])[::-1])[::-1]
    highs = np.maximum.accumulate(np.array([point.high for point in points]))
    low = np.where(right > 0, lows[np.maximum(right - 1, 0)], 0.0)
    high = np.where(right < len(heads), highs[np.minimum(right, len(heads) - 1)], np.inf)
    bounded: Floats = np.where(head > EXTRAPOLATION * heads[-1], np.nan, np.clip(value, low, high))
    return bounded


# --- the date ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Breach:
    """When `name` crosses `limit`. days: from today; None where it holds in that share of the draws for as long as
    anything can be said. head: the herd at the crossing. not_before_days: what can be said where a quantile is None:
    the day by which the horizon or twice the largest measured herd is reached first, in the fastest tenth of the draws.
    passing_head, failing_head: measured herds between which it lies, of today's users; None = not measured.
    extrapolated: the median lies beyond the largest measured herd. unbroken_ratio: share of draws without a crossing.
    """

    name: str
    limit: float
    days: Quantiles
    head: Quantiles
    not_before_days: float
    passing_head: int | None
    failing_head: int | None
    extrapolated: bool
    unbroken_ratio: float


def breach(
    cost: CostFit, limit: float, growth: Growth, horizon_days: int, by_user: bool = False, seed: int = 0
) -> Breach:
    """Monte Carlo over growth rates and fits: each draw takes rates from their ranges and moves every measured point by
    its own uncertainty before the fit.

    by_user: cost is a user's share of the limit, so that it counts times the number of users (`limit` is then 1);
    else it is a latency at a fixed number of users, and only the herd counts. Raises ValueError for a limit that is
    not above 0.
    """
    if limit <= 0:
        raise ValueError(f"{cost.name}: limit {limit:g}; give one above 0")
    random = np.random.default_rng(seed)
    herd_rate, user_rate = _draw(growth.herd_per_year, random), _draw(growth.users_per_year, random)
    values = np.array([point.value for point in cost.points])
    moved = np.maximum(values + _deviations(cost.points) * random.standard_normal((DRAWS, len(values))), 1e-12)
    fits = _fits(cost.points, moved)

    def heads_on(day: Floats) -> Floats:
        heads: Floats = growth.herd * (1 + herd_rate) ** (day / DAYS_PER_YEAR)
        return heads

    def over(day: Floats) -> NDArray[np.bool_]:
        load = growth.users * (1 + user_rate) ** (day / DAYS_PER_YEAR) if by_user else 1.0
        crossed: NDArray[np.bool_] = load * _bounded(cost.points, heads_on(day), *fits) >= limit
        return crossed

    ends = _ends(cost, growth.herd, herd_rate, horizon_days)
    days = _first(over, ends)
    heads = np.where(np.isinf(days), np.inf, heads_on(np.minimum(days, ends)))
    limits = limit / growth.users if by_user else limit
    passing = [point.head for point in cost.points if point.value < limits]
    failing = [point.head for point in cost.points if point.value >= limits]
    crossing, at = _quantiles(days), _quantiles(heads)
    return Breach(
        name=cost.name,
        limit=limit,
        days=crossing,
        head=at,
        not_before_days=float(np.quantile(np.minimum(days, ends), _QUANTILES[0], method="inverted_cdf")),
        passing_head=max((head for head in passing if not failing or head < min(failing)), default=None),
        failing_head=min(failing, default=None),
        extrapolated=at.p50 is not None and at.p50 > cost.points[-1].head,
        unbroken_ratio=float(np.isinf(days).mean()),
    )


def _ends(cost: CostFit, herd: int, herd_rate: Floats, horizon_days: int) -> Floats:
    """By draw: the day until which something can be said, of the horizon and the reach of the cost."""
    if herd >= cost.reach_head:
        return np.zeros(len(herd_rate))
    growing = np.where(herd_rate > 0, np.log1p(np.maximum(herd_rate, 1e-12)), 1e-12)
    # a hair before, as the cost is not a number beyond
    reached: Floats = DAYS_PER_YEAR * math.log(cost.reach_head / herd) / growing * (1 - 1e-9)
    return np.minimum(reached, float(horizon_days))


def _first(over: Callable[[Floats], NDArray[np.bool_]], ends: Floats) -> Floats:
    """By draw: the first day, to a day, on which `over` holds; infinite = on none up to its end."""
    before, after = np.zeros(len(ends)), np.full(len(ends), np.inf)
    for share in np.linspace(0.0, 1.0, _STEPS + 1):
        crossed = np.isinf(after) & over(share * ends)
        after = np.where(crossed, share * ends, after)
        before = np.where(np.isinf(after), share * ends, before)
    found = np.isfinite(after)
    while np.any(after[found] - before[found] > 1.0):
        middle = np.where(found, (before + np.where(found, after, 0.0)) / 2, 0.0)
        crossed = over(middle)
        after, before = np.where(found & crossed, middle, after), np.where(found & ~crossed, middle, before)
    return after


def first_breach(breaches: Sequence[Breach]) -> Breach | None:
    """The one whose median comes first, else whose P10; None = none of them says a date."""
    dated = [breach for breach in breaches if breach.days.p10 is not None]
    return min(dated, key=lambda one: (one.days.p50 or math.inf, one.days.p10 or 0.0), default=None)


def _draw(rates: Range, random: np.random.Generator) -> Floats:
    if not -1 < rates.low <= (rates.low if rates.likely is None else rates.likely) <= rates.high:
        raise ValueError(f"growth {rates.low:g} to {rates.high:g}: not a range above -1; give low ≤ likely ≤ high")
    if rates.low == rates.high:
        return np.full(DRAWS, rates.low)
    if rates.likely is None:
        return random.uniform(rates.low, rates.high, DRAWS)
    return random.triangular(rates.low, rates.likely, rates.high, DRAWS)


def _quantiles(drawn: Floats) -> Quantiles:
    found = np.quantile(drawn, _QUANTILES, method="inverted_cdf")
    return Quantiles(*(float(value) if math.isfinite(value) else None for value in found))


# --- disk and WAL --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WalRate:
    """WAL as measured: of what the herd's records write, and of what users do."""

    bytes_per_head_day: float
    bytes_per_user_day: float


@dataclass(frozen=True, slots=True)
class YearVolume:
    """At the end of a year from today (0 = today). wal_bytes: written within that year. rows: by table, at P50."""

    year: int
    head: Quantiles
    users: Quantiles
    disk_bytes: Quantiles
    wal_bytes: Quantiles
    rows: Mapping[str, float]


def volumes(
    tables: Sequence[TableVolume], head_days: float, wal: WalRate, growth: Growth, years: int, seed: int = 0
) -> tuple[YearVolume, ...]:
    """Year by year. head_days: of the history that there is today. Rows are never deleted: no retention is assumed."""
    random = np.random.default_rng(seed)
    herd_rate, user_rate = _draw(growth.herd_per_year, random), _draw(growth.users_per_year, random)
    found = []
    before = np.zeros(DRAWS), np.zeros(DRAWS)
    for year in range(years + 1):
        head, users = growth.herd * (1 + herd_rate) ** year, growth.users * (1 + user_rate) ** year
        lived = growth.herd * _unit_days(herd_rate, year)
        used = growth.users * _unit_days(user_rate, year)
        rows = {
            one.table: one.fixed_rows + one.rows_per_head * head + one.rows_per_head_day * (head_days + lived)
            for one in tables
        }
        disk = sum((rows[one.table] * one.bytes_per_row for one in tables), np.zeros(DRAWS))
        written = wal.bytes_per_head_day * (lived - before[0]) + wal.bytes_per_user_day * (used - before[1])
        before = lived, used
        found.append(
            YearVolume(
                year=year,
                head=_quantiles(head),
                users=_quantiles(users),
                disk_bytes=_quantiles(disk),
                wal_bytes=_quantiles(written),
                rows={table: float(np.median(count)) for table, count in rows.items()},
            )
        )
    return tuple(found)


def _unit_days(rate: Floats, years: float) -> Floats:
    """∫ (1 + rate) ^ t dt over `years`, in days, for one head (or user) today."""
    growth = np.log1p(rate)
    safe = np.where(np.abs(growth) < 1e-9, 1.0, growth)
    integral: Floats = np.where(np.abs(growth) < 1e-9, years, np.expm1(growth * years) / safe)
    return integral * DAYS_PER_YEAR
