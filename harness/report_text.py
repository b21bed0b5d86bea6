"""How a report writes numbers, intervals, changes and statements. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from harness.model import Estimate, Scenario, SlowStatements
from harness.units import format_bytes, format_count, format_duration, format_ms, format_pct, format_ratio, format_rps

MINUS = "\N{MINUS SIGN}"
QUERY_CHARS = 1500
SUBJECT_CHARS = 40
NO_DATA = "no data"
FORMATS: Mapping[str, Callable[[float], str]] = {
    "ms": format_ms,
    "pct": format_pct,
    "%": format_pct,
    "ratio": format_ratio,
    "rps": format_rps,
    "count": format_count,
    "bytes": format_bytes,
    "s": format_duration,
}
SUFFIXES = {"ms": "ms", "pct": "%", "%": "%", "ratio": "%", "rps": "/s", "count": "", "bytes": "B", "s": "s"}


def figure(value: float | None, unit: str, limit: float | None = None) -> str:
    """A number with its unit; with more digits where rounding would put it on the limit that it keeps or misses."""
    if value is None:
        return NO_DATA
    text = FORMATS[unit](value)
    if limit is None or value == limit or _digits(text) != _digits(FORMATS[unit](limit)):
        return text
    scale = 100 if unit == "ratio" else 1
    exact = (f"{value * scale:.{digits}g}" for digits in range(3, 17))
    return f"{next(number for number in exact if float(number) != limit * scale)} {SUFFIXES[unit]}".rstrip()


def _digits(text: str) -> float:
    return float(re.sub(r"[^0-9.]", "", text))


def interval(estimate: Estimate | None, unit: str) -> str:
    """The 95 % interval with its unit, which is written once where both ends share it."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return "no interval"
    low, high = FORMATS[unit](estimate.low), FORMATS[unit](estimate.high)
    value, _, low_unit = low.rpartition(" ")
    return f"{value if value and high.endswith(f' {low_unit}') else low} – {high}"


def load_text(scenario: Scenario) -> str:
    """Who sends how much, in a few words."""
    if scenario.load != "open":
        pace = "" if scenario.pacing_s is None else f", a request each every {format_duration(scenario.pacing_s)}"
        return f"{scenario.users:,} users{pace}"
    rates = " → ".join(f"{step.rate_rps:g}" for step in scenario.steps)
    return f"{rates} arrivals/s ({scenario.arrivals}), at most {scenario.users:,} under way"


def signed_pct(change: float | None) -> str:
    """A change in percent, with its sign."""
    return NO_DATA if change is None else f"{change:+.1f} %".replace("-", MINUS)


def per_request(calls: float | None) -> str:
    """Two digits however rare: a statement of every thousandth request is not a statement of none."""
    if calls is None:
        return NO_DATA
    return format_count(calls) if calls >= 1 or calls == 0 else f"{calls:.2g}"


def shortened(query: str) -> str:
    """A statement's text, cut off where only a machine would read on."""
    text = query.strip()
    return text if len(text) <= QUERY_CHARS else f"{text[:QUERY_CHARS]} … ({len(text) - QUERY_CHARS:,} more characters)"


def slow_basis(slow: SlowStatements) -> str:
    """Among how many statements the slow ones were sought."""
    lines = f"{slow.logged:,} logged"
    return f"{lines} statements" if slow.executed is None else f"about {slow.executed:,.0f} statements ({lines})"


def subject(warning: str) -> str:
    """What a warning is about: its words before the colon, else its start."""
    place, colon, _ = warning.partition(":")
    return place if colon and len(place) <= SUBJECT_CHARS else f"{warning[:SUBJECT_CHARS].rstrip()}…"


def plan_text(plan: Mapping[str, Any]) -> str:
    """A plan's JSON, indented."""
    return json.dumps(plan, indent=1, ensure_ascii=False)
