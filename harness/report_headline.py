"""A report's first screen: did it pass, what was found, how sure is that. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness import compare, verdict_text
from harness.model import PROFILES, Benchmark, RunResult, Verdict
from harness.report_effects import effect_lines, floor_text
from harness.report_text import figure, signed_pct
from harness.threshold import METRICS
from harness.units import format_duration, format_ms, format_rps

FASTEST_SHOWN = 2
SLOWEST_SHOWN = 3
NOT_MET_SHOWN = 4

State = Literal["pass", "fail", "invalid", "no_data"]


@dataclass(frozen=True, slots=True)
class Headline:
    """The first screen: state decides the colour; verdict and passed answer "did it pass", the others theirs."""

    state: State
    verdict: str
    passed: tuple[str, ...]
    found: tuple[str, ...]
    sure: tuple[str, ...]


def run_headline(result: RunResult) -> Headline:
    """The first screen of one run."""
    return Headline(
        *_passed(result.meta.profile, result, _invalid(result), _aborted(result)),
        (*_aborted(result), *_not_met(result.verdicts), _criteria_count(result)),
        (*_slowest(result.meta.profile, result, SLOWEST_SHOWN), *_load(result)),
        (*_validity([result]), *_confidences(result.verdicts)),
    )


def benchmark_headline(benchmark: Benchmark) -> Headline:
    """The first screen of a benchmark: whether Day 40 passes, and what it gained over Day 31."""
    day40 = benchmark.day40
    of_runs = tuple(f"{run.meta.run_id}: {reason}" for run in benchmark.runs for reason in _invalid(run))
    invalid = (*benchmark.reasons, *of_runs)
    aborted = {
        profile: tuple(
            f"{run.meta.run_id}: {text}"
            for run in benchmark.runs
            if run.meta.profile == profile
            for text in _aborted(run)
        )
        for profile in PROFILES
    }
    effects = effect_lines(benchmark)
    return Headline(
        *_passed("Day 40", day40, invalid, aborted["day40"]),
        (
            *aborted["day31"],
            *aborted["day40"],
            *_not_met(day40.verdicts),
            _target_count(benchmark),
            _criteria_count(day40),
        ),
        (*(effects or _faster(benchmark)), *_slowest("Day 40", day40)),
        (
            *_validity(benchmark.runs),
            benchmark.conclusion,
            *((floor_text(benchmark.noise_floor),) if effects else ()),
            *_confidences(day40.verdicts),
        ),
    )


def _passed(name: str, result: RunResult, invalid: Sequence[str], aborted: Sequence[str]) -> tuple[State, str]:
    outcomes = [verdict.outcome for verdict in result.verdicts if verdict.outcome != "not_applicable"]
    met, missed, unknown, unsettled = (outcomes.count(outcome) for outcome in ("pass", "fail", "no_data", "cannot_say"))
    count = f"{met} of {len(outcomes)} limits met"
    if missed:
        count += f", {missed} missed"
    if unknown:
        count += f", {unknown} without data"
    if unsettled:
        count += f", {unsettled} against the baseline cannot be said"
    if invalid:
        return "invalid", f"{name} is invalid: {'; '.join(invalid)}. {count}, none of it to be trusted."
    if aborted:
        return "fail", f"{name} fails: it was ended early. {count} until then."
    if not outcomes:
        return "no_data", f"{name} was not judged: no limit applies."
    if missed or unknown:
        return "fail", f"{name} fails: {count}."
    return "pass", f"{name} passes: {count}."


def _invalid(result: RunResult) -> tuple[str, ...]:
    """Why the numbers of a run cannot be trusted; empty = they can."""
    state = () if result.meta.state == "complete" else (f"the run is {result.meta.state}",)
    return (*state, *result.meta.reasons)


def _aborted(result: RunResult) -> tuple[str, ...]:
    """The limit that ended a run early, if one did."""
    return () if result.meta.aborted is None else (f"Ended early: {result.meta.aborted}",)


def _not_met(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """The limits that were missed, then those without data: the first few by name, the rest as a count."""
    found = [verdict for outcome in ("fail", "no_data") for verdict in verdicts if verdict.outcome == outcome]
    lines = [_not_met_text(verdict) for verdict in found[:NOT_MET_SHOWN]]
    return (*lines, f"and {len(found) - len(lines)} more") if len(found) > len(lines) else tuple(lines)


def _not_met_text(verdict: Verdict) -> str:
    threshold = verdict.threshold
    name = f" for {verdict.endpoint}" if verdict.endpoint and threshold.selector == "*" else ""
    if verdict.observed is None or verdict.outcome == "no_data":
        return f"No data: {threshold.text}{name}"
    observed = figure(verdict.observed.value, METRICS[threshold.metric].unit, threshold.limit)
    return f"Missed: {threshold.text}{name}: {observed}"


def _target_count(benchmark: Benchmark) -> str:
    met = sum(row.status == "pass" for row in benchmark.targets)
    not_shown = sum(row.status == "not_shown" for row in benchmark.targets)
    rest = f", {not_shown} not shown" if not_shown else ""
    return f"Specification's targets (§5.2): {met} of {len(benchmark.targets)} met{rest}."


def _criteria_count(result: RunResult) -> str:
    statuses = [row.status for row in compare.criteria(result)]
    missed, unmeasured = statuses.count("fail"), statuses.count("not_measured")
    rest = len(statuses) - statuses.count("pass") - missed - unmeasured
    not_shown = f"{rest} not shown, " if rest else ""
    return (
        f"Specification's criteria (§1.2): {statuses.count('pass')} of {len(statuses)} met, {missed} missed, "
        f"{not_shown}{unmeasured} not measured by load."
    )


def _slowest(name: str, result: RunResult, shown: int = 1) -> tuple[str, ...]:
    known = [
        (stats.latency.p95_ms.value, stats.endpoint)
        for stats in result.summary.endpoints
        if stats.latency and stats.latency.p95_ms
    ]
    if not known:
        return (f"Slowest on {name}: no data, no endpoint has enough successes for a p95.",)
    return tuple(
        f"{'Then' if number else f'Slowest on {name}'}: {endpoint}, p95 {format_ms(p95_ms)}."
        for number, (p95_ms, endpoint) in enumerate(sorted(known, reverse=True)[:shown])
    )


def _load(result: RunResult) -> tuple[str, ...]:
    pooled = result.summary.pooled
    lines = [
        f"{pooled.requests:,} requests in {format_duration(result.summary.counted_s)}: "
        f"{format_rps(pooled.throughput_rps)}, {pooled.failures:,} failed."
    ]
    if result.summary.arrivals is not None:
        lines.append(f"{verdict_text.arrivals_text(result.summary.arrivals)}.")
    return tuple(lines)


def _validity(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """Whether every run can be trusted; which one cannot, and why, is part of the verdict."""
    if not runs:
        return ("No run is left to look at.",)
    broken = sum(bool(_invalid(run)) for run in runs)
    if broken:
        return (f"{broken} of {len(runs)} runs invalid." if len(runs) > 1 else "The run is invalid.",)
    name = f"All {len(runs)} runs are" if len(runs) > 1 else "The run is"
    if any(worker["lost"] for run in runs for worker in (run.meta.counts or {}).get("workers", {}).values()):
        return (f"{name} valid as the scenario allows it: a worker of the load generator was lost.",)
    return (f"{name} valid: nothing sent was lost, the load generator kept up.",)


def _faster(benchmark: Benchmark) -> tuple[str, ...]:
    known = sorted((row.p95_change_pct, row.endpoint) for row in benchmark.endpoints if row.p95_change_pct is not None)
    if not known:
        return ("No endpoint can be compared: none has a p95 on both days.",)
    lower = [(change, name) for change, name in known if change < 0]
    lines = [f"{len(lower)} of {len(known)} endpoints have a lower p95 on Day 40, {len(known) - len(lower)} do not."]
    lines += [f"{name}: p95 {signed_pct(change)}" for change, name in lower[:FASTEST_SHOWN]]
    if known[-1][0] >= 0:
        lines.append(f"Least improved: {known[-1][1]}, p95 {signed_pct(known[-1][0])}")
    return tuple(lines)


def _confidences(verdicts: Iterable[Verdict]) -> tuple[str, ...]:
    found = [verdict.confidence for verdict in verdicts if verdict.confidence is not None]
    if not found:
        return ("No limit was held against a number.",)
    clear, exact = found.count("clear"), found.count("exact")
    still_open = len(found) - clear - exact
    return (f"Of {len(found)} judged limits: {clear} clear, {exact} exact counts, {still_open} open.",)
