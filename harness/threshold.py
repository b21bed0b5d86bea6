"""The thresholds' grammar, `METRIC[SELECTOR] OP NUMBER`, and the judgement of measured metrics against them.

Pure: text and numbers in, verdicts out.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, cast

from harness.errors import InputError
from harness.model import Confidence, Estimate, Metrics, Outcome, Profile, Threshold, Verdict

Unit = Literal["ms", "s", "ratio", "pct", "rps", "count", "bytes"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a threshold may speak of. names: what its selector names; None = it takes no selector.

    sampled: an estimate from a sample, so that without an interval it is in doubt; the others are counts of what
    happened and exact. min_count: observations below which there is no value. windowed: samples alone give it, and it
    means the same over any stretch of time, so that a limit on it can be judged while the load runs.
    """

    unit: Unit
    description: str
    names: Literal["endpoint", "statement", "pool"] | None = None
    sampled: bool = False
    min_count: int = 1
    windowed: bool = False


# A percentile needs the observations that make its order statistic differ from the maximum: n >= 1 / (1 - p).
METRICS: Mapping[str, Metric] = {
    "p50_ms": Metric("ms", "median latency of successes, from the scheduled start", "endpoint", True, 2, windowed=True),
    "p90_ms": Metric("ms", "90th percentile of latency", "endpoint", True, 10, windowed=True),
    "p95_ms": Metric("ms", "95th percentile of latency", "endpoint", True, 20, windowed=True),
    "p99_ms": Metric("ms", "99th percentile of latency", "endpoint", True, 100, windowed=True),
    "mean_ms": Metric("ms", "mean latency of successes", "endpoint", windowed=True),
    "max_ms": Metric("ms", "slowest success", "endpoint", windowed=True),
    "failure_ratio": Metric("ratio", "failed requests / requests", "endpoint", True, windowed=True),
    "late_ratio": Metric("ratio", "(failed + slower than the limit) / requests", "endpoint", True, windowed=True),
    "throughput_rps": Metric("rps", "finished requests per second of the counted phase", "endpoint", windowed=True),
    "requests": Metric("count", "finished requests in the counted phase", "endpoint"),
    "late_arrival_ratio": Metric("ratio", "open load: arrivals that started late / arrivals due", None, True),
    "dropped_arrival_ratio": Metric("ratio", "open load: arrivals that never started / arrivals due", None, True),
    "pool_utilisation_pct": Metric("pct", "busy share of pgBouncer's server links, worst pool", "pool"),
    "redis_hit_pct": Metric("pct", "result-cache hits / look-ups"),
    "redis_server_hit_pct": Metric("pct", "keyspace hits / (hits + misses) of the whole Redis server"),
    "buffer_hit_pct": Metric("pct", "blocks found in shared buffers / blocks asked for"),
    "seq_scan_pct": Metric("pct", "sequential scans / scans, over tables that are worth an index"),
    "statement_mean_ms": Metric("ms", "mean execution time of a statement", "statement"),
    "wal_archive_lag_s": Metric("s", "age of the oldest WAL that the archive lacks, worst sample of the run"),
    "wal_archive_failures": Metric("count", "attempts to archive a WAL segment that failed"),
    "db_calls_per_request": Metric("count", "SQL statements per request", "endpoint"),
    "query_p95_ms": Metric("ms", "95th percentile of SQL execution, from the sampled statement log", None, True, 20),
}

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_UNIT_RANGE: Mapping[str, tuple[float, float]] = {"ratio": (0, 1), "pct": (0, 100)}
_SHAPE = re.compile(
    r"""\s*(?P<metric>[^\s\[<>=!]+)\s*
        (?:\[(?P<selector>\*|"(?:[^"\\]|\\.)*"|'[^']*'|[^\]]*)\])?\s*
        (?P<op>[<>=!~]+)?\s*
        (?P<number>.*?)\s*""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def parse(text: str) -> Threshold:
    """The threshold that `text` writes. Raises InputError naming the piece that is wrong."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise _fault(text, "it does not read as METRIC[SELECTOR] OP NUMBER", 'write "p95_ms < 200"')
    name, quoted, op, number = match["metric"], match["selector"], match["op"], match["number"]
    if name not in METRICS:
        near = get_close_matches(name, METRICS, n=1, cutoff=0.4)
        remedy = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(METRICS)}"
        raise _fault(text, f'"{name}" is no metric', remedy)
    metric = METRICS[name]
    if quoted is not None and metric.names is None:
        raise _fault(text, f'"{name}" takes no selector', f"leave out [{quoted}]")
    if op not in OPERATORS:
        fault = "a comparison is missing" if op is None else f'"{op}" is no comparison'
        raise _fault(text, fault, "use < <= > or >=")
    if not _NUMBER.fullmatch(number) or not math.isfinite(float(number)):
        remedy = f'write a plain number in {metric.unit}, such as "{name} {op} 5"'
        raise _fault(text, f'"{number}" is no number' if number else "the number is missing", remedy)
    low, high = _UNIT_RANGE.get(metric.unit, (0, math.inf))
    limit = float(number)
    if not low <= limit <= high:
        bounds = f"{low} to {high}" if high < math.inf else "0 and more"
        raise _fault(text, f"{number} is outside the range of a {metric.unit}", f"write a number from {bounds}")
    return Threshold(
        text=text.strip(),
        metric=name,
        selector=_selector(text, quoted),
        op=cast(Literal["<", "<=", ">", ">="], op),
        limit=limit,
    )


def _selector(text: str, quoted: str | None) -> str | None:
    if quoted is None or quoted == "*":
        return quoted
    name: str = ""
    if quoted.startswith("'") and quoted.endswith("'"):
        name = quoted[1:-1]
    elif quoted.startswith('"'):
        try:
            name = json.loads(quoted)
        except ValueError:
            raise _fault(text, f"[{quoted}] is no quoted name", "escape quotes inside it with a backslash") from None
    else:
        raise _fault(text, f"[{quoted}] is no selector", f'write [*] for each, or ["{quoted}"] for one by name')
    # "*" as a quoted name could not be told from [*] once parsed
    if not name or name == "*":
        raise _fault(text, "the quoted name is empty" if not name else '"*" is no name', "write [*] or a name")
    return name


def _fault(text: str, fault: str, remedy: str) -> InputError:
    return InputError(f"threshold '{text}': {fault}; {remedy}")


def on_samples(threshold: Threshold) -> bool:
    """Whether samples alone decide it over any stretch of time: what a run can be ended early by."""
    return METRICS[threshold.metric].windowed


def holds(threshold: Threshold, value: float) -> bool:
    """Whether `value` keeps the limit; exact, nothing is rounded."""
    return OPERATORS[threshold.op](value, threshold.limit)


def evaluate(
    thresholds: Iterable[Threshold], metrics: Metrics, profile: Profile, strict: bool = False
) -> tuple[Verdict, ...]:
    """One verdict per threshold, or per named endpoint for `[*]`, in the order written.

    The outcome comes from the point estimate alone. With `strict`, a passing verdict that is not clear fails.
    """
    return tuple(
        replace(verdict, outcome="fail")
        if strict and verdict.outcome == "pass" and verdict.confidence in ("straddles", "too_few")
        else verdict
        for threshold in thresholds
        for verdict in _verdicts(threshold, metrics, profile)
    )


def _verdicts(threshold: Threshold, metrics: Metrics, profile: Profile) -> list[Verdict]:
    if threshold.profiles and profile not in threshold.profiles:
        return [Verdict(threshold, None, None, "not_applicable", None)]
    observed = metrics.get(threshold.metric, {})
    if threshold.selector != "*":
        return [_judge(threshold, threshold.selector, observed.get(threshold.selector))]
    each = [_judge(threshold, name, observed[name]) for name in sorted(name for name in observed if name is not None)]
    return each or [Verdict(threshold, None, None, "no_data", None)]


def _judge(threshold: Threshold, endpoint: str | None, observed: Estimate | None) -> Verdict:
    metric = METRICS[threshold.metric]
    if observed is None or not math.isfinite(observed.value):
        return Verdict(threshold, endpoint, None, "no_data", None)
    if metric.sampled and observed.count < metric.min_count:
        return Verdict(threshold, endpoint, observed, "no_data", "too_few")
    outcome: Outcome = "pass" if holds(threshold, observed.value) else "fail"
    return Verdict(threshold, endpoint, observed, outcome, _confidence(threshold, observed))


def _confidence(threshold: Threshold, observed: Estimate) -> Confidence:
    if observed.low is None or observed.high is None:
        return "too_few" if METRICS[threshold.metric].sampled else "exact"
    return "clear" if holds(threshold, observed.low) == holds(threshold, observed.high) else "straddles"


def exit_code(verdicts: Iterable[Verdict]) -> Literal[0, 1]:
    """1 if any threshold failed or had no data, else 0."""
    return 1 if any(verdict.outcome in ("fail", "no_data") for verdict in verdicts) else 0
