"""What a benchmark's effects amount to, in plain words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

from harness.effects import LEAST_FLOOR_PCT, Paired, least_pairs
from harness.model import Effect, EffectMetric, EffectVerdict, EndpointComparison, NoiseFloor
from harness.report_text import signed_pct
from harness.units import format_pct

METRIC_WORDS: Mapping[EffectMetric, str] = {
    "p50_ms": "p50",
    "p95_ms": "p95",
    "throughput_rps": "throughput",
    "failure_ratio": "failures",
    "db_ms_per_request": "database time per request",
    "db_calls_per_request": "database calls per request",
}
# What a benchmark is for; of the others only a regression is worth a place in the conclusion.
LATENCY: tuple[EffectMetric, ...] = ("p95_ms", "p50_ms")
NAMED = 3
_VERDICTS: tuple[EffectVerdict, ...] = get_args(EffectVerdict)


def conclusion(
    endpoints: Sequence[EndpointComparison], pooled: EndpointComparison, paired: Paired, floor: NoiseFloor | None
) -> str:
    """What can be said of the effects, and what keeps the rest from being said; one paragraph."""
    pairs, needed = len(paired.pairs), least_pairs(len(endpoints))
    left_out = f" Left out: {'; '.join(paired.left_out)}." if paired.left_out else ""
    if pairs < needed:
        return (
            f"Limits are judged. Whether Day 40 is faster than Day 31 cannot be said from {pairs} "
            f"pair{'' if pairs == 1 else 's'} of runs: {needed} are needed. Differences below are what these runs "
            f"showed, not effects.{left_out}"
        )
    return (
        f"Limits are judged. Effects over {pairs} pairs of runs. "
        + " ".join(f"{_metric_text(metric, endpoints, pooled)}." for metric in LATENCY)
        + "".join(f" {text}." for metric in METRIC_WORDS if (text := _regressed_text(metric, endpoints)))
        + f" {_floor_text(floor)}{left_out}"
    )


def _metric_text(metric: EffectMetric, endpoints: Sequence[EndpointComparison], pooled: EndpointComparison) -> str:
    """ "p95: 17 of 20 endpoints improved, 2 equivalent, 1 inconclusive (about 14 pairs are needed)" """
    effects = _effects(metric, endpoints)
    counts = Counter(effect.verdict for effect in effects)
    words = [f"{counts[verdict]} {verdict}" for verdict in _VERDICTS if counts[verdict]] or ["none compared"]
    number, _, verdict = words[0].partition(" ")
    if effects:
        words[0] = f"{number} of {len(effects)} endpoints {verdict}"
    unsettled = [effect.pairs_needed for effect in effects if effect.verdict == "inconclusive"]
    if unsettled:
        words[-1] += f" ({_needed_text([count for count in unsettled if count is not None])})"
    together = pooled.effects.get(metric)
    return f"{METRIC_WORDS[metric]}: {', '.join(words)}{_together_text(together) if together else ''}"


def _needed_text(needed: Sequence[int]) -> str:
    if not needed:
        return "how many pairs are needed cannot be said"
    return f"about {min(needed)} {f'to {max(needed)} ' if max(needed) > min(needed) else ''}pairs are needed"


def _together_text(effect: Effect) -> str:
    if effect.change is None or effect.unit != "pct":
        return ""
    interval = ""
    if effect.low is not None and effect.high is not None:
        interval = f" ({signed_pct(effect.low)} to {signed_pct(effect.high)})"
    return f"; all together {signed_pct(effect.change)}{interval}, {effect.verdict}"


def _regressed_text(metric: EffectMetric, endpoints: Sequence[EndpointComparison]) -> str:
    names = [row.endpoint for row in endpoints if metric in row.effects and row.effects[metric].verdict == "regressed"]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"Regressed in {METRIC_WORDS[metric]}: {', '.join(names[:NAMED])}{more}" if names else ""


def _floor_text(floor: NoiseFloor | None) -> str:
    if floor is None:
        return (
            f"Only changes beyond {LEAST_FLOOR_PCT:g} % count; how much this machine varies by itself is not known, "
            "as no A/A session was measured on it."
        )
    shown = ", ".join(
        f"{format_pct(max(LEAST_FLOOR_PCT, floor.floor_pct.get(metric, 0.0)))} in {METRIC_WORDS[metric]}"
        for metric in LATENCY
    )
    return (
        f"Only changes beyond {shown} count: the noise floor of an A/A session of {floor.pairs} pairs on this machine."
    )


def _effects(metric: EffectMetric, endpoints: Sequence[EndpointComparison]) -> list[Effect]:
    return [row.effects[metric] for row in endpoints if metric in row.effects]
