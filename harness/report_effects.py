"""How a report writes effects: each with its interval and verdict, per endpoint and in one sentence. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.model import Benchmark, Effect, EffectMetric, EffectVerdict, EndpointComparison, NoiseFloor
from harness.report_text import MINUS, figure

REGRESSED_SHOWN = 2
# metric -> (its name in a table's head, the unit of an absolute change), in the order of the columns
METRICS: Mapping[EffectMetric, tuple[str, str]] = {
    "p50_ms": ("p50", "ms"),
    "p95_ms": ("p95", "ms"),
    "throughput_rps": ("Throughput", "rps"),
    "failure_ratio": ("Failures", "ratio"),
    "db_ms_per_request": ("Database time per request", "ms"),
    "db_calls_per_request": ("Calls per request", "count"),
}
FIRST: tuple[EffectMetric, ...] = ("p50_ms", "p95_ms")
REST: tuple[EffectMetric, ...] = ("throughput_rps", "failure_ratio", "db_ms_per_request", "db_calls_per_request")
VERDICTS: tuple[EffectVerdict, ...] = ("improved", "equivalent", "regressed", "inconclusive")


@dataclass(frozen=True, slots=True)
class EffectCell:
    """One effect as a table shows it. verdict None = there is none, and `change` says why."""

    change: str
    interval: str
    verdict: EffectVerdict | None
    note: str


@dataclass(frozen=True, slots=True)
class EffectRow:
    """One endpoint's effects."""

    endpoint: str
    cells: Mapping[EffectMetric, EffectCell]


def effect_rows(benchmark: Benchmark) -> tuple[EffectRow, ...]:
    """All endpoints together, then each; empty where there were too few pairs."""
    tested = _comparisons(benchmark)
    if not _has_intervals(benchmark):
        return ()
    return tuple(
        EffectRow(row.endpoint, {metric: _cell(row.effects.get(metric), metric) for metric in METRICS})
        for row in tested
    )


def _comparisons(benchmark: Benchmark) -> tuple[EndpointComparison, ...]:
    return (*((benchmark.pooled,) if benchmark.pooled else ()), *benchmark.endpoints)


def _has_intervals(benchmark: Benchmark) -> bool:
    """Too few pairs give no interval at all, and then nothing can be said."""
    return any(one.low is not None for row in _comparisons(benchmark) for one in row.effects.values())


def _cell(effect: Effect | None, metric: EffectMetric) -> EffectCell:
    if effect is None:
        return EffectCell("no data", "", None, "")
    if effect.change is None:
        return EffectCell("cannot say", "", effect.verdict, effect.note)
    note = effect.note
    if effect.verdict == "inconclusive" and effect.pairs_needed is not None:
        note = "; ".join(part for part in (note, f"about {effect.pairs_needed:,} pairs needed") if part)
    return EffectCell(change_text(effect, metric), interval_text(effect, metric), effect.verdict, note)


def change_text(effect: Effect, metric: EffectMetric) -> str:
    """The change with its sign and unit."""
    if effect.change is None:
        return "cannot say"
    return f"{_signed_pct(effect.change)} %" if effect.unit == "pct" else _signed(effect.change, metric)


def interval_text(effect: Effect, metric: EffectMetric) -> str:
    """The 95 % interval in brackets; the unit stands at the change."""
    if effect.low is None or effect.high is None:
        return "no interval"
    if effect.unit == "pct":
        return f"[{_signed_pct(effect.low)}, {_signed_pct(effect.high)}]"
    return f"[{_signed(effect.low, metric)}, {_signed(effect.high, metric)}]"


def _signed_pct(pct: float) -> str:
    return f"{pct:+.{0 if abs(pct) >= 10 else 1}f}".replace("-", MINUS)


def _signed(value: float, metric: EffectMetric) -> str:
    return (MINUS if value < 0 else "+") + figure(abs(value), METRICS[metric][1])


def effect_lines(benchmark: Benchmark) -> tuple[str, ...]:
    """What got faster, in a few sentences; empty where there were too few pairs."""
    tested = [(row.effects["p95_ms"], row.endpoint) for row in benchmark.endpoints if "p95_ms" in row.effects]
    if not _has_intervals(benchmark):
        return ()
    lines = []
    if benchmark.pooled is not None:
        lines += _pooled_lines(benchmark.pooled)
    if tested:
        counts = Counter(effect.verdict for effect, _ in tested)
        shares = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        lines.append(f"p95 of {len(tested)} endpoints: {shares}.")
    improved = sorted((effect.change, name, effect) for effect, name in tested if _is(effect, "improved"))
    if improved:
        lines.append(f"Most improved: {improved[0][1]}, {_whole(improved[0][2], 'p95_ms')}.")
    return (*lines, *_regressed_lines(benchmark.endpoints))


def _pooled_lines(pooled: EndpointComparison) -> list[str]:
    shown: tuple[EffectMetric, ...] = ("p95_ms", "p50_ms")
    return [
        f"{METRICS[metric][0]} of all endpoints: {_whole(effect, metric)}, {effect.verdict}."
        for metric in shown
        if (effect := pooled.effects.get(metric))
    ]


def _regressed_lines(rows: Sequence[EndpointComparison]) -> list[str]:
    """Whatever got worse is named, in any figure."""
    worse = [
        f"{row.endpoint}, "
        + ", ".join(f"{METRICS[metric][0]} {_whole(effect, metric)}" for metric, effect in found.items())
        for row in rows
        if (found := {metric: one for metric, one in row.effects.items() if one.verdict == "regressed"})
    ]
    more = f"; and {len(worse) - REGRESSED_SHOWN} more" if len(worse) > REGRESSED_SHOWN else ""
    return [f"Regressed: {'; '.join(worse[:REGRESSED_SHOWN])}{more}."] if worse else []


def _whole(effect: Effect, metric: EffectMetric) -> str:
    return (
        f"{change_text(effect, metric)} {interval_text(effect, metric)}" if effect.change is not None else "cannot say"
    )


def _is(effect: Effect, verdict: EffectVerdict) -> bool:
    return effect.verdict == verdict and effect.change is not None


def floor_text(floor: NoiseFloor | None) -> str:
    """What this machine calls a change when nothing changed."""
    if floor is None:
        return "The noise floor of this machine was not measured: 5 % stands in for it."
    known = [f"{METRICS[name][0]} {floor.floor_pct[name]:.1f} %" for name in FIRST if name in floor.floor_pct]
    made = f"{floor.pairs:,} pairs of {floor.profile} against itself, {floor.measured_at[:10]}"
    return f"Noise floor of this machine: {', '.join(known) or 'no data'} ({made})."
