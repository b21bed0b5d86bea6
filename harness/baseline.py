"""Holds a run against stored runs of the same load: hard limits on what it asked of the database, statistical ones on
latency. Pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness import threshold
from harness.comparable import Difference, differences
from harness.errors import InputError
from harness.model import (
    Baseline,
    BaselineRun,
    Confidence,
    Estimate,
    Metrics,
    NoiseFloor,
    Outcome,
    RunMeta,
    RunResult,
    Threshold,
    Verdict,
)
from harness.threshold import METRICS

# What a limit's number may be a ratio of, and what is added to it: near nothing a ratio is no limit. A fifth of a
# statement lets one more statement per request through only where there are eight of them already.
COUNT_SLACK: Mapping[str, float] = {
    "db_calls_per_request": 0.2,
    "db_rows_per_request": 1.0,
    "db_blocks_per_request": 5.0,
}
LATENCIES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")
CALLS = "db_calls_per_request"

# Blocks of one endpoint also depend on when autovacuum came by: two runs of the same commit differed by up to 20 %
# (sequential scans on day31); their calls and rows by nothing, unless a cache answered in between.
DEFAULT_LIMITS = tuple(
    map(
        threshold.parse,
        (
            "db_calls_per_request <= 1.1",
            "db_calls_per_request[*] <= 1.1",
            "db_rows_per_request <= 1.1",
            "db_rows_per_request[*] <= 1.1",
            "db_blocks_per_request <= 1.1",
            "db_blocks_per_request[*] <= 1.3",
            "p50_ms <= 1.05",
            "p50_ms[*] <= 1.05",
            "p95_ms <= 1.05",
            "p95_ms[*] <= 1.05",
        ),
    )
)
# Where the machine's noise floor was not measured. Intervals of p50 and p95 of four pairs of runs that differed in
# nothing (21 endpoints, 2 shared cores) lay up to 8.5 % apart. Simulated, with runs of the same commit 5 % apart
# (standard deviation) and 1 % of uncertainty within each, 3 % of gates on 32 latencies fail for nothing at 20 %, and
# 63 % would at 10 %; at 10 % apart 86 %, against three runs of the baseline 19 %. Twice as slow is found in over 94 %.
ASSUMED_FLOOR_PCT = 20.0
# The note of an endpoint that the baseline does not have.
NEW = "new: the baseline has no figure of it"
# Fewer requests than this say nothing about an endpoint; so many a p95 needs as well.
MIN_REQUESTS = 20
# A run with less than this share of the baseline's requests lacks data.
MIN_REQUESTS_RATIO = 0.5
# Standard errors of the number of cache misses that a limit leaves room for.
MISSES_Z = 3.0


def parse_limits(texts: Sequence[str]) -> tuple[Threshold, ...]:
    """The default limits with `texts`, in the thresholds' grammar with a ratio as the number, in place of those on the
    same metric. Raises InputError."""
    given = tuple(map(_parse_limit, texts))
    replaced = {limit.metric for limit in given}
    return (*(limit for limit in DEFAULT_LIMITS if limit.metric not in replaced), *given)


def _parse_limit(text: str) -> Threshold:
    limit = threshold.parse(text)
    if limit.metric not in (*COUNT_SLACK, *LATENCIES):
        known = ", ".join((*COUNT_SLACK, *LATENCIES))
        raise InputError(f"baseline limit '{text}': {limit.metric} is not held against a baseline; use one of {known}")
    if limit.op not in ("<", "<=") or not 0 < limit.limit <= 100:
        raise InputError(
            f"baseline limit '{text}': it is no upper bound on the ratio to the baseline; write "
            f'"{limit.metric} <= 1.1" for 10 % more'
        )
    return limit


def floor_pct(floor: NoiseFloor) -> dict[str, float]:
    """By how much one run of the machine differs from another for nothing: the floor is of the median effect over
    pairs, whose error is smaller by the root of their number."""
    return {name: pct * math.sqrt(floor.pairs) for name, pct in floor.floor_pct.items() if name in LATENCIES}


def of_run(result: RunResult) -> BaselineRun:
    """The part of a judged run that others are held against. Raises InputError if it cannot be trusted."""
    meta = result.meta
    if meta.reasons or meta.state != "complete":
        why = "; ".join(meta.reasons) or f"it is {meta.state}"
        raise InputError(f"baseline {meta.run_id}: its figures cannot be trusted: {why}; name a valid run")
    if meta.aborted is not None:
        raise InputError(
            f"baseline {meta.run_id}: it was ended early ({meta.aborted}); name a run that came to its end"
        )
    kept = {name: result.metrics[name] for name in (*COUNT_SLACK, *LATENCIES) if name in result.metrics}
    # what it counted of itself is of no use to others
    return BaselineRun(dataclasses.replace(meta, counts=None), kept)


def check_comparable(held: Baseline, meta: RunMeta) -> None:
    """Raises InputError naming each difference that forbids to hold the run against `held`."""
    found = _differences(held, meta)
    of_load = [(run, one) for run, one in found if one.kind in ("load", "data")]
    if of_load:
        raise InputError(
            f"{_named(of_load)}; counts and latency depend on it, so that nothing could be judged: "
            "make the baseline with the same scenario, options and data"
        )
    if found and not held.historical:
        raise InputError(
            f"{_named(found)}; latency cannot be judged across that: make a baseline here, or add --historical to "
            "judge database calls, rows and blocks alone"
        )


def _differences(held: Baseline, meta: RunMeta) -> list[tuple[BaselineRun, Difference]]:
    return [(run, one) for run in held.runs for one in differences(run.meta, meta)]


def _named(found: Sequence[tuple[BaselineRun, Difference]]) -> str:
    by_run: dict[str, list[str]] = {}
    for run, one in found:
        by_run.setdefault(run.meta.run_id, []).append(f"{one.kind} {one}")
    return "; ".join(f"baseline {name}: it differs in {'; '.join(texts)}" for name, texts in by_run.items())


def evaluate(held: Baseline, meta: RunMeta, metrics: Metrics, *, strict: bool = False) -> tuple[Verdict, ...]:
    """One verdict per limit of `held`, or per endpoint of the run or the baseline for `[*]`.

    Counts (calls, rows, blocks per request) fail above ratio x baseline + slack. Where a cache answered part of the
    requests, which it did is a draw, and the limit leaves room for three standard errors of the misses. Latency fails
    only if the run's 95 % interval lies above the intervals of all runs of the baseline by more than the ratio and the
    machine's noise floor, passes if even its upper end is within them of the lower end, and else cannot be said; with
    `strict` that fails. Several runs: counts are their mean by requests, but what one of them had is never too much.
    An endpoint that is gone fails, one that is new is named.
    """
    kinds = {one.kind for _, one in _differences(held, meta)}
    whats = ", ".join(sorted({f"{one.kind} ({one.what})" for _, one in _differences(held, meta)}))
    verdicts = []
    for limit in held.limits:
        for name in _names(limit, held, metrics):
            case = _Case(limit, name, metrics, held)
            if kinds & {"load", "data"}:
                verdict = case.verdict("no_data", f"cannot be compared: {whats} differs")
            elif limit.metric in LATENCIES and kinds:
                verdict = case.verdict("not_applicable", f"historical baseline: {whats} differs; not judged")
            else:
                verdict = _judge(case)
            if strict and verdict.outcome == "cannot_say":
                verdict = dataclasses.replace(verdict, outcome="fail")
            verdicts.append(verdict)
    return tuple(verdicts)


def _names(limit: Threshold, held: Baseline, metrics: Metrics) -> Sequence[str | None]:
    if limit.selector != "*":
        return [limit.selector]
    tables = [metrics.get(limit.metric, {}), *(run.metrics.get(limit.metric, {}) for run in held.runs)]
    return sorted({name for table in tables for name in table if name is not None}) or [None]


@dataclass(frozen=True, slots=True)
class _Case:
    """One limit for one endpoint (None = pooled): the run's figure and the baseline's."""

    limit: Threshold
    name: str | None
    metrics: Metrics
    held: Baseline

    @property
    def observed(self) -> Estimate | None:
        return self.metrics.get(self.limit.metric, {}).get(self.name)

    @property
    def seen(self) -> float:
        """How many requests, of latency successes, the run has to show."""
        if self.observed is not None:
            return self.observed.count
        failed = self.metrics.get("failure_ratio", {}).get(self.name)
        if self.limit.metric not in LATENCIES:
            return 0
        return self.answered * (1 - (failed.value if failed else 0.0))

    @property
    def answered(self) -> float:
        """How many requests the run had, whatever became of them."""
        requests = self.metrics.get("requests", {}).get(self.name)
        return 0 if requests is None else requests.value

    @property
    def known(self) -> list[Estimate]:
        """The baseline's figures, of the runs that have one."""
        return list(self.of_baseline(self.limit.metric))

    def of_baseline(self, metric: str) -> Iterator[Estimate]:
        for run in self.held.runs:
            if (estimate := run.metrics.get(metric, {}).get(self.name)) is not None:
                yield estimate

    def verdict(
        self, outcome: Outcome, note: str, baseline: Estimate | None = None, limit: float | None = None
    ) -> Verdict:
        """limit: in the metric's unit, None = it came to none."""
        observed = self.observed
        confidence: Confidence | None = None
        if outcome in ("pass", "fail"):
            confidence = "clear" if self.limit.metric in LATENCIES else "exact"
        elif outcome == "cannot_say":
            confidence = "straddles" if limit is not None else "too_few"
        text = f"{self.limit.text} × baseline"
        held_to = dataclasses.replace(self.limit, text=text, limit=self.limit.limit if limit is None else limit)
        return Verdict(held_to, self.name, observed, outcome, confidence, baseline, note)


def _judge(case: _Case) -> Verdict:
    known, observed = case.known, case.observed
    one_of_many = case.limit.selector == "*" and case.name is not None
    if observed is None and case.limit.metric not in LATENCIES and case.answered:
        why = (
            f"no figure, though {case.answered:,.0f} requests were answered: see the doubts on the servers' statistics"
        )
        return case.verdict("no_data", why)
    if not known:
        if observed is None and one_of_many:
            return case.verdict("not_applicable", "neither run can say")
        if one_of_many:
            return case.verdict("not_applicable", NEW)
        return case.verdict("no_data", "the baseline has no figure of it")
    usual = sum(one.count for one in known) / len(known)
    seen = case.seen
    if seen < MIN_REQUESTS_RATIO * usual:
        rare = one_of_many and usual < MIN_REQUESTS
        note = f"{'rare' if rare else 'gone'}: {seen:,.0f} requests, the baseline had {usual:,.0f}"
        return case.verdict("not_applicable" if rare else "no_data", note)
    if observed is None:
        return case.verdict("cannot_say", f"too few for a figure: {seen:,.0f} successes")
    if case.limit.metric in LATENCIES:
        return _judge_latency(case, known, observed)
    if usual < MIN_REQUESTS:
        return case.verdict(
            "not_applicable", f"rare: the baseline had {usual:,.0f} requests, {MIN_REQUESTS} are needed"
        )
    return _judge_count(case, known, observed)


# --- counts --------------------------------------------------------------------------------------------------------


def _judge_count(case: _Case, known: Sequence[Estimate], observed: Estimate) -> Verdict:
    ratio, metric = case.limit.limit, case.limit.metric
    base = _pooled(known)
    misses = _misses_error(case)
    if misses is None and metric != CALLS:
        return case.verdict("not_applicable", "the baseline's cache answered every request; its calls are judged", base)
    room = ratio * (1 + MISSES_Z * (misses or 0.0))
    limit = max(base.value * room + COUNT_SLACK[metric], *(one.value for one in known))
    note = f"baseline {base.value:.4g}, limit {limit:.4g}"
    if misses:
        note += f" ({MISSES_Z:g} standard errors of the cache's misses allowed)"
    kept = threshold.OPERATORS[case.limit.op](observed.value, limit)
    return case.verdict("pass" if kept else "fail", note, base, limit)


def _pooled(known: Sequence[Estimate]) -> Estimate:
    requests = sum(one.count for one in known)
    return Estimate(sum(one.value * one.count for one in known) / requests, None, None, requests)


def _misses_error(case: _Case) -> float | None:
    """Relative standard error of how the two sides' numbers of cache misses compare: binomial where there are fewer
    calls than requests, 0 where each request makes one or more. None if the baseline made no call."""
    of_run = case.metrics.get(CALLS, {}).get(case.name)
    of_baseline = list(case.of_baseline(CALLS))
    if of_baseline and not any(one.value for one in of_baseline):
        return None
    sides = [*([_pooled(of_baseline)] if of_baseline else []), *([of_run] if of_run and of_run.value else [])]
    return math.sqrt(sum(max(0.0, 1 - one.value) / (one.value * one.count) for one in sides))


# --- latency -------------------------------------------------------------------------------------------------------


def _judge_latency(case: _Case, known: Sequence[Estimate], observed: Estimate) -> Verdict:
    counts = f"{min(one.count for one in known):,} successes, then {observed.count:,}"
    lows, highs = [one.low for one in known], [one.high for one in known]
    lowest = min((low for low in lows if low is not None), default=None)
    highest = max((high for high in highs if high is not None), default=None)
    middle = sorted(one.value for one in known)[len(known) // 2]
    base = Estimate(middle, lowest, highest, sum(one.count for one in known))
    if lowest is None or highest is None or None in lows or observed.low is None or observed.high is None:
        return case.verdict("cannot_say", f"too few for an interval: {counts}", base)
    margin, why = _margin(case)
    limit = highest * margin
    shown = METRICS[case.limit.metric].unit
    note = f"baseline {lowest:.4g} – {highest:.4g} {shown}, {why}"
    if observed.low > limit:
        return case.verdict("fail", f"slower: its interval lies above {limit:.4g} {shown}; {note}", base, limit)
    if observed.high <= lowest * margin:
        return case.verdict("pass", note, base, limit)
    return case.verdict("cannot_say", f"the intervals do not settle it; {note}", base, limit)


def _margin(case: _Case) -> tuple[float, str]:
    """By how much it may be slower, as a factor, and where that comes from."""
    floor = case.held.floor_pct.get(case.limit.metric)
    asked_pct, floor_pct = 100 * (case.limit.limit - 1), ASSUMED_FLOOR_PCT if floor is None else floor
    if asked_pct >= floor_pct:
        return case.limit.limit, f"{asked_pct:.3g} % allowed"
    source = "noise floor not measured" if floor is None else "noise floor of this machine"
    return 1 + floor_pct / 100, f"{floor_pct:.3g} % allowed: {source}"
