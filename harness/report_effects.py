"""How a report writes effects: each with its interval and verdict, per endpoint and in one sentence. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.effects import LEAST_FLOOR_PCT, Paired, least_pairs
from harness.model import Benchmark, Effect, EffectMetric, EffectVerdict, EndpointComparison, NoiseFloor
from harness.report_text import MINUS, figure

REGRESSED_SHOWN = 2
# metric -> (its name in a table's head, the unit of an absolute change), in the order of the columns
COLUMNS: Mapping[EffectMetric, tuple[str, str]] = {
    "p50_ms": ("p50", "ms"),
    "p95_ms": ("p95", "ms"),
    "throughput_rps": ("Throughput", "rps"),
    "failure_ratio": ("Failures", "ratio"),
    "db_ms_per_request": ("Database time per request", "ms"),
    "db_calls_per_request": ("Calls per request", "count"),
}
# what the first screen tells
HEADLINE: tuple[EffectMetric, ...] = ("p95_ms", "p50_ms")
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
        EffectRow(row.endpoint, {metric: _cell(row.effects.get(metric), metric) for metric in COLUMNS})
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
    return f"[{', '.join(_signed(bound, metric).removesuffix(' points') for bound in (effect.low, effect.high))}]"


def _signed_pct(pct: float) -> str:
    return f"{pct:+.{0 if abs(pct) >= 10 else 1}f}".replace("-", MINUS)


def _signed(value: float, metric: EffectMetric) -> str:
    """An absolute change; of a ratio in points, as a change in percent would be relative."""
    size = f"{100 * abs(value):.2f} points" if COLUMNS[metric][1] == "ratio" else figure(abs(value), COLUMNS[metric][1])
    return (MINUS if value < 0 else "+") + size


def conclusion(paired: Paired, endpoints: int) -> str:
    """What can be said at all, of so many endpoints, and what was left out."""
    pairs, needed = len(paired.pairs), least_pairs(endpoints)
    left_out = f" Left out: {'; '.join(paired.left_out)}." if paired.left_out else ""
    if pairs < needed:
        return (
            f"Limits are judged. Whether Day 40 is faster than Day 31 cannot be said from {pairs} "
            f"pair{'' if pairs == 1 else 's'} of runs: {needed} are needed. Differences below are what these runs "
            f"showed, not effects.{left_out}"
        )
    return f"Limits are judged, and effects: over {pairs} pairs of runs, corrected for {endpoints} endpoints.{left_out}"


def effect_lines(benchmark: Benchmark) -> tuple[str, ...]:
    """What got faster and what got worse, in a few sentences; empty where there were too few pairs."""
    if not _has_intervals(benchmark):
        return ()
    lines = [_metric_line(metric, benchmark) for metric in HEADLINE]
    improved = [row for row in benchmark.endpoints if _is(row.effects.get("p50_ms"), "improved")]
    if improved:
        most = min(improved, key=lambda row: (row.effects["p50_ms"].change or 0.0, row.endpoint))
        lines.append(f"Most improved: {most.endpoint}, p50 {_whole(most.effects['p50_ms'], 'p50_ms')}.")
    return (*lines, *_regressed_lines(_comparisons(benchmark)))


def _metric_line(metric: EffectMetric, benchmark: Benchmark) -> str:
    """ "p95: all endpoints −23 % [−26, −20], improved; of 20 endpoints 17 improved, 2 equivalent, 1 inconclusive." """
    together = benchmark.pooled.effects.get(metric) if benchmark.pooled else None
    effects = [row.effects[metric] for row in benchmark.endpoints if metric in row.effects]
    counts = Counter(effect.verdict for effect in effects)
    shares = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    parts = (
        [f"all endpoints {_whole(together, metric)}, {together.verdict}"]
        if together and together.change is not None
        else []
    )
    parts.append(f"of {len(effects)} endpoints {shares or 'none compared'}")
    return f"{COLUMNS[metric][0]}: {'; '.join(parts)}."


def _regressed_lines(rows: Sequence[EndpointComparison]) -> list[str]:
    """Whatever got worse is named, in any figure."""
    worse = [
        f"{row.endpoint}, "
        + ", ".join(f"{COLUMNS[metric][0]} {_whole(effect, metric)}" for metric, effect in found.items())
        for row in rows
        if (found := {metric: one for metric, one in row.effects.items() if one.verdict == "regressed"})
    ]
    more = f"; and {len(worse) - REGRESSED_SHOWN} more" if len(worse) > REGRESSED_SHOWN else ""
    return [f"Regressed: {'; '.join(worse[:REGRESSED_SHOWN])}{more}."] if worse else []


def _whole(effect: Effect, metric: EffectMetric) -> str:
    return (
        f"{change_text(effect, metric)} {interval_text(effect, metric)}" if effect.change is not None else "cannot say"
    )


def _is(effect: Effect | None, verdict: EffectVerdict) -> bool:
    return effect is not None and effect.verdict == verdict and effect.change is not None


def floor_text(floor: NoiseFloor | None) -> str:
    """Which changes count, and what this machine calls a change when nothing changed."""
    if floor is None:
        return (
            f"Changes beyond {LEAST_FLOOR_PCT:g} % count; how much this machine varies by itself is not known: "
            "no fitting noise floor was measured."
        )
    counted = ", ".join(
        f"{max(LEAST_FLOOR_PCT, floor.floor_pct.get(name, 0.0)):.1f} % in {COLUMNS[name][0]}" for name in HEADLINE
    )
    made = f"{floor.pairs:,} pairs of {floor.profile} against itself on {floor.measured_at[:10]}"
    return f"Changes beyond {counted} count: this machine's noise floor, by {made}, and at least {LEAST_FLOOR_PCT:g} %."
