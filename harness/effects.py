"""How day40 differs from day31 in each figure of each endpoint, over pairs of runs made one after the other.

Pure: judged runs in, effects with intervals and verdicts out. The unit of replication is the run, never the request:
requests of one run are correlated, and runs differ from one another.
"""

from __future__ import annotations

import functools
import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import NormalDist
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from harness import attribution
from harness.model import (
    PROFILES,
    Effect,
    EffectMetric,
    EffectVerdict,
    EndpointStats,
    NoiseFloor,
    RunResult,
)

ALL_ENDPOINTS = "all endpoints"
METRICS: tuple[EffectMetric, ...] = get_args(EffectMetric)
DB_METRICS: frozenset[EffectMetric] = frozenset({"db_ms_per_request", "db_calls_per_request"})
HIGHER_IS_BETTER: frozenset[EffectMetric] = frozenset({"throughput_rps"})
# A few failures more among none or few are many times as many.
ABSOLUTE: frozenset[EffectMetric] = frozenset({"failure_ratio"})

ALPHA = 0.05
# A smaller change is of no practical weight, however well it is measured.
LEAST_FLOOR_PCT = 5.0
# A noise floor above it says that this machine cannot tell, not that nothing changed. Our choice.
MOST_EQUIVALENT_PCT = 15.0
# One failure in a thousand requests, a tenth of the scenarios' limit: of a day31 without failures 5 % would be nothing,
# and a single failed request would keep the days from ever being equivalent.
LEAST_FAILURE_FLOOR_RATIO = 0.001
FLOOR_PERCENTILE = 97.5
# What an estimated number of pairs gives a true effect of the size observed.
POWER = 0.8
# Beyond this the observed effect lies so near a bound that its number of pairs says nothing.
MOST_PAIRS = 200
_ALL_CASES = "of all cases of this method together"

Floats = NDArray[np.float64]
Pair = tuple[RunResult, RunResult]
Effects = Mapping[str, Mapping[EffectMetric, Effect]]


# --- pairs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paired:
    """pairs: (day31's run, day40's run). left_out: why a pair that was begun is not among them, each in words."""

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...]


def paired(runs: Iterable[RunResult], numbers: Sequence[int] = ()) -> Paired:
    """Runs in the order they were made: the i-th of day31 and the i-th of day40 are a pair. numbers: what the pairs are
    called, where some are missing; from 1 otherwise.

    Both must be complete: a run that is invalid or that a limit ended early drops its pair. A last run without its
    partner is left out.
    """
    made = list(runs)
    day31, day40 = ([run for run in made if run.meta.profile == profile] for profile in PROFILES)
    whole, left_out = [], []
    whole_pairs = list(zip(day31, day40, strict=False))
    for number, pair in zip(numbers or range(1, len(whole_pairs) + 1), whole_pairs, strict=True):
        faults = [f"{run.meta.profile}'s run {fault}" for run in pair if (fault := _fault(run))]
        if faults:
            left_out.append(f"pair {number}: {', '.join(faults)}")
        else:
            whole.append(pair)
    left_out += [
        f"pair {number}: only one of its runs was made"
        for number in range(min(len(day31), len(day40)) + 1, max(len(day31), len(day40)) + 1)
    ]
    return Paired(tuple(whole), tuple(left_out))


def _fault(run: RunResult) -> str | None:
    if run.meta.state != "complete":
        return f"is {run.meta.state}"
    return "was ended early by a limit" if run.meta.aborted is not None else None


# --- figures of one run --------------------------------------------------------------------------------------------

Figures = Mapping[str, Mapping[EffectMetric, float]]


def _figures(run: RunResult) -> Figures:
    """Endpoint -> metric -> figure; what the run cannot say is left out. Database figures stand under the method
    without its case, which is what has a role in the database."""
    summary = run.summary
    found: dict[str, dict[EffectMetric, float]] = {
        row.endpoint or ALL_ENDPOINTS: _sampled(row, summary.counted_s) for row in (summary.pooled, *summary.endpoints)
    }
    for name, figures in _database(run).items():
        found.setdefault(name, {}).update(figures)
    return found


def _sampled(row: EndpointStats, counted_s: float) -> dict[EffectMetric, float]:
    found: dict[EffectMetric, float] = {}
    if row.latency is not None and row.latency.p50_ms is not None:
        found["p50_ms"] = row.latency.p50_ms.value
    if row.latency is not None and row.latency.p95_ms is not None:
        found["p95_ms"] = row.latency.p95_ms.value
    if row.failure_ratio is not None:
        found["failure_ratio"] = row.failure_ratio
    if counted_s > 0:
        found["throughput_rps"] = row.throughput_rps
    return found


def _database(run: RunResult) -> dict[str, dict[EffectMetric, float]]:
    """Nothing where statements were evicted: lower bounds would look like an improvement. All endpoints together
    include what ran outside of any."""
    statements = run.servers.statements if run.servers is not None else ()
    known = attribution.attribute(statements, run.requests)
    if not statements or known.lower_bound or (run.servers is not None and run.servers.statements_lost):
        return {}
    uses = [(one.endpoint, one.use, one.requests) for one in known.endpoints]
    uses.append((ALL_ENDPOINTS, attribution.total(statements), sum(run.requests.values())))
    return {
        name: {"db_ms_per_request": use.total_ms / requests, "db_calls_per_request": use.calls / requests}
        for name, use, requests in uses
        if use is not None and requests
    }


# --- effects -------------------------------------------------------------------------------------------------------


def effects(pairs: Sequence[Pair], floor: NoiseFloor | None) -> Effects:
    """Endpoint (and ALL_ENDPOINTS) -> metric -> effect, of every endpoint that any run called.

    Latency, throughput and failures stand by the load generator's name; database figures are of the method without its
    case, so that its cases share one effect, whose note says so.

    change: Hodges & Lehmann's (1963) estimate, the median of the Walsh averages of the paired differences; the
    interval inverts the exact signed-rank test. Differences are of logarithms; of failures, and where any pair has a
    0, of the figures themselves. p_value: Wilcoxon's signed-rank test, exact over all sign flips with mid-ranks for
    ties, differences of 0 left out, corrected by Holm (1979). The family is all endpoints of one metric (methods, for
    the database), those without the figure included; ALL_ENDPOINTS stands outside of it, uncorrected. The error rate is
    thus kept per metric, not over all of them.

    improved, regressed: p <= 0.05 and the interval excludes 0 and the change exceeds the floor. equivalent: the
    interval lies within it, and within MOST_EQUIVALENT_PCT. Otherwise, and always with fewer pairs than Holm can reject
    by over all endpoints, inconclusive.
    """
    sides = [(_figures(day31), _figures(day40)) for day31, day40 in pairs]
    called = sorted(
        {row.endpoint for pair in pairs for run in pair for row in run.summary.endpoints if row.endpoint is not None}
    )
    methods = sorted({attribution.without_case(name) for name in called})
    least = least_pairs(len(called))
    found: dict[str, dict[EffectMetric, Effect]] = {name: {} for name in (*called, ALL_ENDPOINTS)}
    for metric in METRICS:
        least_pct = max(LEAST_FLOOR_PCT, floor.floor_pct.get(metric, 0.0) if floor else 0.0)
        family = _family(metric, methods if metric in DB_METRICS else called, sides, least_pct, least)
        for name in called:
            method = attribution.without_case(name)
            effect = family[method if metric in DB_METRICS else name]
            of_all_cases = metric in DB_METRICS and method != name
            found[name][metric] = replace(effect, note=_joined(_ALL_CASES, effect.note)) if of_all_cases else effect
        found[ALL_ENDPOINTS][metric] = _family(metric, [ALL_ENDPOINTS], sides, least_pct, least)[ALL_ENDPOINTS]
    return found


def floor_pct(pairs: Sequence[Pair]) -> Mapping[EffectMetric, float]:
    """The noise floor that an A/A session shows: metric -> percent. Both runs of a pair are of one profile.

    The 97.5th percentile (inverted CDF; of 20 endpoints the largest) over endpoints of the absolute A/A effect, itself
    the Hodges-Lehmann estimate over all pairs. Pooled are the endpoints, not ALL_ENDPOINTS, that have the figure in
    every pair and without a 0: one that is called too rarely for it would set the floor of all. Cases of a method count
    once for the database. A metric of which that leaves no endpoint is left out.
    """
    found: dict[EffectMetric, float] = {}
    measured = effects(pairs, None)
    for metric in METRICS:
        of_methods = {
            attribution.without_case(name) if metric in DB_METRICS else name: by_metric[metric]
            for name, by_metric in measured.items()
            if name != ALL_ENDPOINTS
        }
        changes = [
            abs(effect.change)
            for effect in of_methods.values()
            if effect.change is not None and effect.unit == "pct" and effect.pairs == len(pairs)
        ]
        if changes:
            found[metric] = float(np.percentile(changes, FLOOR_PERCENTILE, method="inverted_cdf"))
    return found


def least_pairs(endpoints: int) -> int:
    """The fewest pairs by which Holm can reject any of that many hypotheses: the least n with 2 / 2^n <= 0.05 / m."""
    return 1 + math.ceil(math.log2(max(endpoints, 1) / ALPHA))


def _family(
    metric: EffectMetric, names: Sequence[str], sides: Sequence[tuple[Figures, Figures]], floor: float, least: int
) -> dict[str, Effect]:
    """The effects of one metric, corrected over `names`. floor: in percent. least: fewer pairs decide nothing."""
    measured = [_measured(metric, name, sides) for name in names]
    # untested ones stay in the family, so that its size is known before any figure is
    p_values = holm([signed_rank_p(one.differences) for one in measured])
    return {
        name: _effect(metric, one, p_value, floor, len(names), least, len(sides))
        for name, one, p_value in zip(names, measured, p_values, strict=True)
    }


@dataclass(frozen=True, slots=True)
class _Measured:
    """differences: day40 - day31 per pair that has both, of logarithms (relative) or of the figures. day31: the median
    of its figures over these pairs, None without any."""

    differences: tuple[float, ...]
    relative: bool
    day31: float | None


def _measured(metric: EffectMetric, name: str, sides: Sequence[tuple[Figures, Figures]]) -> _Measured:
    both = [
        (before[name][metric], after[name][metric])
        for before, after in sides
        if metric in before.get(name, {}) and metric in after.get(name, {})
    ]
    if not both:
        return _Measured((), True, None)
    relative = metric not in ABSOLUTE and all(before > 0 and after > 0 for before, after in both)
    differences = tuple(math.log(after) - math.log(before) if relative else after - before for before, after in both)
    return _Measured(differences, relative, statistics.median(before for before, _ in both))


def _effect(
    metric: EffectMetric, measured: _Measured, p_value: float, floor: float, family: int, least: int, made: int
) -> Effect:
    differences, relative = measured.differences, measured.relative
    count = len(differences)
    if not relative:
        assert measured.day31 is not None
        floor = max(floor / 100 * measured.day31, LEAST_FAILURE_FLOOR_RATIO if metric == "failure_ratio" else 0.0)
    if not count:
        return Effect(
            change=None,
            low=None,
            high=None,
            unit="pct",
            p_value=None,
            floor=floor,
            pairs=0,
            verdict="inconclusive",
            pairs_needed=None,
            note="no pair of runs has this figure on both days",
        )
    change, low, high = (_shown(value, relative) for value in hodges_lehmann(differences))
    assert change is not None
    margin = min(floor, MOST_EQUIVALENT_PCT) if relative else floor
    verdict: EffectVerdict = "inconclusive"
    if count >= least and low is not None and high is not None:
        if p_value <= ALPHA and (low > 0 or high < 0) and abs(change) > floor:
            verdict = "improved" if (change > 0) == (metric in HIGHER_IS_BETTER) else "regressed"
        elif -margin <= low and high <= margin:
            verdict = "equivalent"
    needed = None
    if verdict == "inconclusive" and (margin == floor or abs(change) > floor):
        needed = _pairs_needed(differences, _log_floor(floor, change) if relative else floor, family, least, made)
    return Effect(
        change=change,
        low=low,
        high=high,
        unit="pct" if relative else "abs",
        p_value=p_value,
        floor=floor,
        pairs=count,
        verdict=verdict,
        pairs_needed=needed,
        note=f"{made - count} of {made} pairs lack it" if count < made else "",
    )


def _log_floor(floor_pct: float, change_pct: float) -> float:
    """The floor as a distance in logarithms, on the change's side: to halve is further from 0 than to add half."""
    if change_pct >= 0:
        return math.log1p(floor_pct / 100)
    return -math.log1p(-floor_pct / 100) if floor_pct < 100 else math.inf


def _shown(difference: float | None, relative: bool) -> float | None:
    return difference if difference is None or not relative else 100 * math.expm1(difference)


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _pairs_needed(differences: Sequence[float], floor: float, family: int, least: int, made: int) -> int | None:
    """How many pairs would likely settle it, at least what Holm can reject by; None where it cannot be said.

    n = (z_a + z_b)² (π / 3) s² / d² (Noether 1987): s the standard deviation of the paired differences, π / 3 what
    the signed-rank test loses against the t test on normal ones, z_b of 80 % power. Beyond the floor d is the change
    and z_a that of 0.05 / family; within it d is what lies between the change and the floor, and z_a that of the 95 %
    interval. Pairs that lack the figure make it more by as much. `differences` and `floor` in the same scale.
    """
    count = len(differences)
    needed = float(least)
    if interval_rank(count) is not None:
        change, _, _ = hodges_lehmann(differences)
        beyond = abs(change) > floor
        distance = abs(change) if beyond else floor - abs(change)
        spread = float(np.std(differences, ddof=1))
        if math.isinf(floor) or spread > MOST_PAIRS * distance:
            return None
        z = _z(1 - (ALPHA / family if beyond else ALPHA) / 2) + _z(POWER)
        estimate = (z * spread / distance) ** 2 * math.pi / 3 if spread else 0.0
        # what these pairs did not settle takes more of them
        needed = max(least, count + 1 if count >= least else 0, estimate)
    needed *= made / count
    return math.ceil(needed) if needed <= MOST_PAIRS else None


_z = functools.cache(NormalDist().inv_cdf)


# --- the signed-rank test, its inversion, Holm -----------------------------------------------------------------------


def signed_rank_p(differences: Sequence[float]) -> float:
    """Wilcoxon's signed-rank test, two-sided: the share of all 2^n sign flips whose rank sum is as far from its mean.

    Exact with ties as well (mid-ranks), where scipy.stats.wilcoxon turns to the normal approximation, whose p of ten
    pairs (0.005) could never pass Holm over 20. Differences of 0 are left out, as Wilcoxon did; 1 if nothing is left.
    """
    nonzero = [one for one in differences if one]
    sizes = sorted(map(abs, nonzero))
    # twice the mid-ranks, which are whole numbers
    ranks = [bisect_left(sizes, abs(one)) + bisect_right(sizes, abs(one)) + 1 for one in nonzero]
    distribution = _rank_sums(tuple(sorted(ranks)))
    positive, total = sum(rank for rank, one in zip(ranks, nonzero, strict=True) if one > 0), sum(ranks)
    return min(1.0, 2 * float(distribution[max(positive, total - positive) :].sum()))


@functools.lru_cache(maxsize=1024)
def _rank_sums(ranks: tuple[int, ...]) -> Floats:
    """The probability of every sum of a random half of `ranks`, each taken or not with equal chance."""
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        taken = np.zeros_like(chances)
        taken[rank:] = chances[: len(chances) - rank]
        chances = (chances + taken) / 2
    return chances


def hodges_lehmann(differences: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The median of the Walsh averages (d_i + d_j) / 2, i <= j, of at least one difference, with its interval of at
    least 95 %, None for fewer than 6."""
    averages = sorted((one + other) / 2 for number, one in enumerate(differences) for other in differences[number:])
    rank = interval_rank(len(differences))
    middle = statistics.median(averages)
    return (middle, None, None) if rank is None else (middle, averages[rank], averages[-1 - rank])


@functools.cache
def interval_rank(count: int) -> int | None:
    """How many Walsh averages lie outside of the interval on each side (Hollander & Wolfe, Nonparametric Statistical
    Methods, 3.3): the largest k with P(T <= k) <= 0.025 under the signed-rank distribution; None if there is none."""
    if 2.0**-count > ALPHA / 2:
        return None
    below = np.cumsum(_rank_sums(tuple(range(1, count + 1))))
    return int(np.searchsorted(below, ALPHA / 2, side="right")) - 1


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment, in the order given: no smaller than the raw values, at most 1, and in their
    order."""
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    stepped = accumulate((p_values[number] * (len(order) - step) for step, number in enumerate(order)), max)
    adjusted = dict(zip(order, stepped, strict=True))
    return [min(1.0, adjusted[number]) for number in range(len(p_values))]
