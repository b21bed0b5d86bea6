"""Pictures of latency per endpoint: how it is distributed on both days, and how much it changed."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from harness.drawing import COLOURS, plain_numbers, rows
from harness.model import (
    Distribution,
    EffectMetric,
    EffectVerdict,
    EndpointComparison,
    EndpointStats,
    Profile,
)

DISTRIBUTION_ROW_PX = 46
SIDES: tuple[Profile, ...] = ("day31", "day40")
# Of one row's height: as much as the fullest bin of a distribution takes.
_RIDGE = 0.44
_VERDICT_MARKS: dict[EffectVerdict, tuple[str, str]] = {
    "improved": ("<", "pass"),
    "equivalent": ("s", "muted"),
    "regressed": (">", "fail"),
    "inconclusive": ("D", "open"),
}


def distributions(endpoints: Sequence[EndpointComparison], limit_ms: float | None) -> str | None:
    """One row per endpoint on one log axis of milliseconds: day31 above its line, outlined, day40 below it, filled.

    Every distribution is as high as any other, whatever its count. Ticks: p50 (short) and p95 (long). None where no
    endpoint has a distribution (nothing succeeded, or the summary is older).
    """
    found = {
        (side, row.endpoint): stats
        for row in endpoints
        for side, stats in (("day31", row.day31), ("day40", row.day40))
        if stats is not None and stats.distribution is not None
    }
    if not found:
        return None
    names = [row.endpoint for row in endpoints]

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        for side, direction in (("day31", -1), ("day40", 1)):
            label: str | None = side
            ticks: list[tuple[float, float, float]] = []
            for row, name in enumerate(names):
                if (stats := found.get((side, name))) is None:
                    continue
                _ridge(axes, row, direction, side, stats, label)
                ticks += _ticks(row, direction, stats)
                label = None
            if ticks:
                axes.vlines(*zip(*ticks, strict=True), color=COLOURS["ink"], linewidth=1.6)
        axes.hlines(
            range(len(names)), 0, 1, transform=axes.get_yaxis_transform(), color=COLOURS["muted"], linewidth=0.5
        )
        axes.plot([], [], color=COLOURS["ink"], linewidth=2.2, marker="|", markersize=7, linestyle="none", label="p50")
        axes.plot([], [], color=COLOURS["ink"], linewidth=2.2, marker="|", markersize=13, linestyle="none", label="p95")
        if limit_ms is not None:
            axes.axvline(limit_ms, color=COLOURS["limit"], linewidth=1.2, linestyle=(0, (4, 2)), label="limit")
        axes.grid(visible=False, axis="y")
        plain_numbers(axes)

    sides = [side for side in SIDES if any(profile == side for profile, _ in found)]
    where = {"day31": "day31 above each line, outlined", "day40": "day40 below each line, filled"}
    return rows(
        "latency-distributions",
        "Latency distributions per endpoint",
        "Distribution of latency per endpoint on one logarithmic axis of milliseconds: "
        f"{', '.join(where[side] for side in sides)}; ticks at p50 and p95.",
        names,
        draw,
        x_label="ms, logarithmic",
        row_px=DISTRIBUTION_ROW_PX,
    )


def _ridge(axes: Axes, row: int, direction: int, side: str, stats: EndpointStats, label: str | None) -> None:
    assert stats.distribution is not None
    edges, heights = _steps(stats.distribution)
    filled = side == "day40"
    axes.fill_between(
        edges,
        [row] * len(edges),
        [row + direction * _RIDGE * height for height in heights],
        facecolor=COLOURS[side] if filled else "none",
        edgecolor=COLOURS[side],
        alpha=None if not filled else 0.55,
        linewidth=1.1,
        label=label,
    )


def _ticks(row: int, direction: int, stats: EndpointStats) -> list[tuple[float, float, float]]:
    """(ms, from, to) of p50 and p95."""
    latency = stats.latency
    return [
        (estimate.value, row, row + direction * length)
        for estimate, length in (((latency.p50_ms, 0.22), (latency.p95_ms, 0.44)) if latency else ())
        if estimate is not None
    ]


def _steps(distribution: Distribution) -> tuple[list[float], list[float]]:
    """The outline of its bars: x in ms and heights, the fullest bin 1."""
    most = max(distribution.counts)
    edges: list[float] = []
    heights: list[float] = []
    for number, count in enumerate(distribution.counts, start=distribution.first_bin):
        edges += [10 ** (at / distribution.bins_per_decade) for at in (number, number + 1)]
        heights += [count / most] * 2
    return edges, heights


def effects(endpoints: Sequence[EndpointComparison], metric: EffectMetric) -> str | None:
    """Forest plot: per endpoint the change of one figure from day31 to day40 in percent, its 95 % interval, the floor
    below which no change counts, and the verdict as the marker's shape. None where no endpoint has such a change."""
    found = {
        row.endpoint: effect
        for row in endpoints
        if (effect := row.effects.get(metric)) is not None and effect.change is not None and effect.unit == "pct"
    }
    if not found:
        return None
    names = [row.endpoint for row in endpoints if row.endpoint in found]

    def draw(axes: Axes) -> None:
        floors = [found[name].floor for name in names]
        axes.barh(
            range(len(names)),
            [2 * floor for floor in floors],
            left=[-floor for floor in floors],
            height=0.8,
            color=COLOURS["grid"],
            alpha=0.6,
            label="too small to count",
        )
        axes.axvline(0, color=COLOURS["muted"], linewidth=1)
        for verdict, (marker, colour) in _VERDICT_MARKS.items():
            of_verdict = [(row, found[name]) for row, name in enumerate(names) if found[name].verdict == verdict]
            bounds = [(row, effect.low, effect.high) for row, effect in of_verdict if effect.low is not None]
            if bounds:
                axes.hlines(*zip(*bounds, strict=True), color=COLOURS[colour], linewidth=1.6)
            if of_verdict:
                axes.plot(
                    [effect.change or 0.0 for _, effect in of_verdict],
                    [row for row, _ in of_verdict],
                    linestyle="none",
                    marker=marker,
                    markersize=7,
                    color=COLOURS[colour],
                    markerfacecolor="none" if verdict == "inconclusive" else COLOURS[colour],
                    label=verdict,
                )

    figure = {"p50_ms": "p50 latency", "p95_ms": "p95 latency"}.get(metric, metric.replace("_", " "))
    return rows(
        f"effects-{metric.replace('_', '-')}",
        f"Change of {figure} per endpoint",
        f"Change of {figure} from day31 to day40 in percent per endpoint, with its 95 % interval, the smallest change "
        f"that counts as a band, and the verdict: {', '.join(f'{name} {found[name].verdict}' for name in names)}.",
        names,
        draw,
        x_label="change, %",
    )
