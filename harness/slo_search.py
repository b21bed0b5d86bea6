"""Finds the largest number of users that keeps the service level: a pure generator of trials, and their conclusion.

Holds no clock and runs nothing: the caller makes each trial and sends back what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
StoppedBy = Literal["found", "budget", "below", "above", "generator"]

# A margin beyond this (odds of 1 : 12 against those of the limit, either way) says only on which side a load lies: so
# far from the limit the odds do not follow the logarithm of users any more.
_CLIP = 2.5
# What the margin may gain per unit of ln(users) at the limit: from e-fold odds over a doubling to a cliff between one
# user and the next.
_SLOPES: Floats = np.geomspace(1.5, 1000.0, 10)
# How far apart, as a standard deviation of ln(users), two runs of one load may put the limit: host, JIT, checkpoints.
_SPREADS: Floats = np.geomspace(0.005, 0.2, 7)
# Spreads are the less likely the further from 3 %, what a quiet machine shows, by a factor of e to either side.
_SPREAD_PRIOR: Floats = -0.5 * np.log(_SPREADS / 0.03) ** 2
_LOGISTIC_SD = math.pi / math.sqrt(3)
# Points of ln(users): over all loads in question, then over where the mass is.
_GRIDS = (32, 48)
# One trial cannot tell its own scatter; this many within a third of the bracket can.
_MIN_NEAR = 4


@dataclass(frozen=True, slots=True)
class Goal:
    """The service level. late_ratio: "p95 below the limit" is a late share below 0.05. failure_ratio: of requests."""

    late_ratio: float = 0.05
    failure_ratio: float = 0.01


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What the search may do. A trial lasts settle_s, which does not count, and duration_s, which does; reset_s is what
    the first trial is expected to take beyond that, later ones what the worst one took. budget_s bounds all of it.
    width_ratio: the bracket may be this wide, relative to its lower end, and always two users. confidence: its own.
    """

    start_users: int
    min_users: int
    max_users: int
    settle_s: float
    duration_s: float
    budget_s: float
    reset_s: float = 0.0
    width_ratio: float = 0.10
    confidence: float = 0.95
    goal: Goal = Goal()


@dataclass(frozen=True, slots=True)
class Trial:
    users: int
    settle_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Counts over duration_s. late: successes slower than the limit, and failures. elapsed_s: of the whole trial with
    its reset. generator_fault: why the load generator could not apply the load, None = it could."""

    requests: int
    late: int
    failures: int
    elapsed_s: float
    generator_fault: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A trial that was made. passed: None = the load generator failed, the trial says nothing about the stack."""

    trial: Trial
    result: TrialResult
    passed: bool | None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """passing, failing: the limit is at least the one and below the other, with `confidence`; None = not found on that
    side. stopped_by: "found" the bracket is as narrow as asked; "budget" time is up, the bracket is what is known;
    "below" min_users fails already; "above" max_users passes still; "generator" the load generator gives out before the
    stack. highest_passed, lowest_failed: loads most of whose trials did so. reason: the same in words."""

    stopped_by: StoppedBy
    passing: int | None
    failing: int | None
    confidence: float | None
    highest_passed: int | None
    lowest_failed: int | None
    elapsed_s: float
    measured: tuple[Measured, ...]
    reason: str


Search = Generator[Trial, TrialResult, SearchResult]


def search(plan: SearchPlan) -> Search:
    """Yields trials, takes their results by send(), returns the SearchResult.

    Doubles the load from start_users (or halves it) until one load passes and another fails. From then on all trials
    are weighed together. A trial's margin, the log-odds of its late share over those of the limit (failures likewise;
    the worse counts), is slope × (ln users - ln limit) + scatter, with logistic scatter of unknown size between trials:
    latencies within a trial depend on each other and two runs of one load differ, so each trial is one observation,
    never its many requests. Margins beyond ±2.5 only say on which side. The posterior of the limit, on a grid over
    slope and scatter, picks the next load, by turns at either end of its central half, and gives the bracket: its
    central `confidence`. That is the psi method of psychophysics (Kontsevich & Tyler 1999) with a censored continuous
    answer; bisections like RFC 2544's take a trial's pass or fail only, so that one unlucky trial cuts the truth off.
    A late share that scatters far between trials (few requests, long bursts) is skewed, and the limit then comes out a
    little high: make trials longer.

    Of 60 simulated stacks (tests/benchmarks/slo_search_peers.py) the bracket held the truth in 59, with 8.5 % mean
    width and 10.9 trials; MLRsearch 1.2.1's in 52 to 56, with 11.2 % and 10.6 to 14.2 trials, by its settings.

    A trial whose generator failed is made once more; the second time its load and all above are out of reach. Raises
    ValueError for a plan that contradicts itself.
    """
    _check(plan)
    measured: list[Measured] = []
    elapsed_s, reset_s, reach = 0.0, plan.reset_s, plan.max_users
    while True:
        users, done = _next(plan, measured, reach)
        if users is not None and elapsed_s + plan.settle_s + plan.duration_s + reset_s > plan.budget_s:
            done = "budget"
        if done is not None:
            return _result(plan, measured, reach, elapsed_s, done)
        assert users is not None
        trial = Trial(users, plan.settle_s, plan.duration_s)
        result = yield trial
        elapsed_s += result.elapsed_s
        reset_s = max(reset_s, result.elapsed_s - plan.settle_s - plan.duration_s)
        passed = None if result.generator_fault or not result.requests else margin(result, plan.goal) < 0
        measured.append(Measured(trial, result, passed))
        if passed is None and sum(m.passed is None and m.trial.users <= users for m in measured) > 1:
            reach = min(reach, users - 1)


def run(plan: SearchPlan, measure: Callable[[Trial], TrialResult]) -> SearchResult:
    """The whole search, each trial made by `measure`."""
    trials = search(plan)
    try:
        trial = next(trials)
        while True:
            trial = trials.send(measure(trial))
    except StopIteration as end:
        result: SearchResult = end.value
        return result


def margin(result: TrialResult, goal: Goal) -> float:
    """Log-odds by which the trial misses the goal (0 and above) or keeps it; of the worse of its two limits, within
    ±2.5. A trial without requests misses it."""

    def beyond(count: int, limit: float) -> float:
        if not count:  # a share too small for this many requests to show
            return -_CLIP
        # half a count to either side: a share of all has finite odds
        return math.log((count + 0.5) / (result.requests - count + 0.5)) - math.log(limit / (1 - limit))

    if not result.requests:
        return _CLIP
    worse = max(beyond(result.late, goal.late_ratio), beyond(result.failures, goal.failure_ratio))
    return min(max(worse, -_CLIP), _CLIP)


def _check(plan: SearchPlan) -> None:
    if not 1 <= plan.min_users <= plan.start_users <= plan.max_users:
        raise ValueError(
            f"users {plan.min_users} ≤ {plan.start_users} ≤ {plan.max_users} does not hold; start within the bounds"
        )
    if not (0 < plan.goal.late_ratio < 1 and 0 < plan.goal.failure_ratio < 1 and 0 < plan.confidence < 1):
        raise ValueError("goal and confidence: not between 0 and 1; give shares")
    if plan.budget_s < plan.settle_s + plan.duration_s + plan.reset_s:
        raise ValueError(f"budget_s {plan.budget_s:g}: shorter than one trial; give more time or shorten the trials")


# --- which load next -----------------------------------------------------------------------------------------------


def _next(plan: SearchPlan, measured: Sequence[Measured], reach: int) -> tuple[int | None, StoppedBy | None]:
    """The next load, or why there is none."""
    if reach < plan.min_users:
        return None, "generator"
    valid = [m for m in measured if m.passed is not None]
    if measured and measured[-1].passed is None and measured[-1].trial.users <= reach:
        return measured[-1].trial.users, None  # once more
    if not valid:
        return min(plan.start_users, reach), None
    passed, failed = _loads(valid)
    if not failed:
        highest = max(passed)
        if reach < plan.max_users:  # the load generator's limit is all there is to narrow down
            if reach - highest <= max(1, plan.width_ratio * highest):
                return None, "generator"
            return min(round(math.sqrt(highest * (reach + 1))), reach), None
        if highest < reach:
            return min(2 * highest, reach), None
        if sum(m.trial.users == reach for m in valid) < 2:  # once may be luck
            return reach, None
        return None, "above"
    if not passed:
        lowest = min(failed)
        if lowest > plan.min_users:
            return max(lowest // 2, plan.min_users), None
        if sum(m.trial.users == plan.min_users for m in valid) >= 2:
            return None, "below"
        return plan.min_users, None
    posterior = _posterior(plan, valid, reach)
    low, high = posterior.quantile((1 - plan.confidence) / 2), posterior.quantile((1 + plan.confidence) / 2)
    passing, failing = math.floor(low), math.ceil(high)
    near = sum(0.75 * passing <= m.trial.users <= failing / 0.75 for m in valid)
    if failing - passing <= max(2, plan.width_ratio * passing) and near >= _MIN_NEAR:
        return None, "found"
    if low >= reach and near >= _MIN_NEAR:
        return None, "above" if reach == plan.max_users else "generator"
    if high <= plan.min_users and near >= _MIN_NEAR:
        return None, "below"
    users = round(posterior.quantile(0.25 if len(valid) % 2 else 0.75))
    return min(max(users, plan.min_users), reach), None


def _loads(valid: Sequence[Measured]) -> tuple[set[int], set[int]]:
    """Loads most of whose trials passed, and the rest."""
    votes: dict[int, int] = {}
    for m in valid:
        votes[m.trial.users] = votes.get(m.trial.users, 0) + (1 if m.passed else -1)
    return {users for users, vote in votes.items() if vote > 0}, {users for users, vote in votes.items() if vote <= 0}


# --- what is known -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Posterior:
    """Of ln(limit): the grid's points and the probability up to and including each."""

    points: Floats
    cumulated: Floats

    def quantile(self, share: float) -> float:
        """In users."""
        return math.exp(float(np.interp(share, self.cumulated, self.points)))


def _posterior(plan: SearchPlan, valid: Sequence[Measured], reach: int) -> _Posterior:
    """Twice: over all loads in question, then over where the mass is, so that the grid is fine enough there."""
    # beyond the bounds by a third, so that a limit outside of them can be recognised as such
    low, high = math.log(plan.min_users) - 0.3, math.log(reach) + 0.3
    for size in _GRIDS:
        points = np.linspace(low, high, size)
        mass = _mass(plan, valid, points)
        cumulated = np.cumsum(mass)
        low = float(points[max(int(np.searchsorted(cumulated, 1e-4)) - 1, 0)])
        high = float(points[min(int(np.searchsorted(cumulated, 1 - 1e-4)) + 1, size - 1)])
    return _Posterior(points, cumulated)


def _mass(plan: SearchPlan, valid: Sequence[Measured], points: Floats) -> Floats:
    """Probability of each point of ln(limit), summed over slope and scatter."""
    margins = np.array([margin(m.result, plan.goal) for m in valid])[:, None, None, None]
    users = np.log([m.trial.users for m in valid])[:, None, None, None]
    requests = np.array([m.result.requests for m in valid])[:, None, None, None]
    slope, spread = _SLOPES[:, None], _SPREADS[None, :]
    # counting alone scatters log-odds by 1 / sqrt(n p (1 - p)); taken at the limit, where it matters
    counting = 1 / (requests * plan.goal.late_ratio * (1 - plan.goal.late_ratio))
    scale = np.sqrt((slope * spread) ** 2 + counting) / _LOGISTIC_SD
    beyond = (margins - slope * (users - points[:, None, None])) / scale
    # ln of the logistic density, or of its tail where only the side is known
    tail = -np.logaddexp(0.0, np.where(margins <= -_CLIP, -beyond, beyond))
    near = np.abs(margins) < _CLIP
    log_likelihood = np.where(near, 2 * tail + beyond - np.log(scale), tail).sum(axis=0) + _SPREAD_PRIOR
    mass: Floats = np.exp(log_likelihood - log_likelihood.max()).sum(axis=(1, 2))
    mass /= mass.sum()
    return mass


# --- what is said --------------------------------------------------------------------------------------------------


def _result(
    plan: SearchPlan, measured: Sequence[Measured], reach: int, elapsed_s: float, stopped_by: StoppedBy
) -> SearchResult:
    valid = [m for m in measured if m.passed is not None]
    passed, failed = _loads(valid)
    passing: int | None = max(passed, default=None)
    failing: int | None = min(failed, default=None)
    confidence: float | None = None
    if passed and failed:
        posterior = _posterior(plan, valid, reach)
        passing = math.floor(posterior.quantile((1 - plan.confidence) / 2))
        failing = math.ceil(posterior.quantile((1 + plan.confidence) / 2))
        confidence = plan.confidence
    if stopped_by == "below":
        passing, failing, confidence = None, plan.min_users, None
    elif stopped_by in ("above", "generator"):
        passing, failing, confidence = max(passed, default=None), None, None
    return SearchResult(
        stopped_by=stopped_by,
        passing=passing,
        failing=failing,
        confidence=confidence,
        highest_passed=max(passed, default=None),
        lowest_failed=min(failed, default=None),
        elapsed_s=elapsed_s,
        measured=tuple(measured),
        reason=_reason(plan, measured, reach, stopped_by, passing, failing),
    )


def _reason(
    plan: SearchPlan,
    measured: Sequence[Measured],
    reach: int,
    stopped_by: StoppedBy,
    passing: int | None,
    failing: int | None,
) -> str:
    match stopped_by:
        case "found":
            return f"the limit lies from {passing} to {failing} users"
        case "budget":
            least = "" if passing is None else f" at {passing} users or above"
            most = "" if failing is None else f" below {failing}"
            known = " and".join(part for part in (least, most) if part)
            return f"{plan.budget_s:g} s are up; the limit lies{known or ' nowhere measured'}; give more time"
        case "below":
            return f"{plan.min_users} users fail already; search from fewer"
        case "above":
            return f"{plan.max_users} users pass still; search up to more"
        case "generator":
            faults = [m.result.generator_fault or "no requests" for m in measured if m.passed is None]
            return f"the load generator gave out above {reach} users ({faults[-1]}); use more of its workers"
