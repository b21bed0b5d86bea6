"""Draw measured values as small inline SVG pictures: values in, SVG text out, the same bytes for the same values.

Reads no file, clock or display. Colours are CSS variables, so that the page decides between light and dark; lines
differ by dash and points by shape as well, so that no picture depends on colour.
"""

from __future__ import annotations

import io
import math
import re
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.compare import statement_label
from harness.model import EndpointComparison, Profile, RunResult, StatementComparison, TimeBucket

# Drawn with these, then replaced by the variable of the same name in reports/style.css.
COLOURS = {
    "day31": "#b45309",
    "day40": "#1d4ed8",
    "limit": "#b91c1c",
    "ink": "#1f2937",
    "muted": "#6b7280",
    "grid": "#d1d5db",
    "series1": "#1d4ed7",
    "series2": "#b4530a",
    "series3": "#0f766e",
    "series4": "#7e22ce",
    "series5": "#be185d",
    "series6": "#4d7c0f",
}
# Text stays text (selectable, small, in the reader's own font), the hash salt keeps ids equal between two drawings,
# and SQL's "$1" is not a formula.
STYLE: Any = {  # Any: matplotlib types its keys as one literal of 300 names
    "svg.fonttype": "none",
    "svg.hashsalt": "dairyperf",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["ink"],
    "ytick.color": COLOURS["ink"],
    "legend.frameon": False,
    "path.simplify_threshold": 0.5,
}
WIDTH_PX = 860
LINES_HEIGHT_PX = 270
ROW_HEIGHT_PX = 34
LABEL_CHARS = 52
PROBE_LINES = 6
PROBE_POINTS = 240
# Caption, unit, what the names of its series begin with, divisor.
PROBE_FAMILIES = (
    ("CPU per service", "% of a core", r"cpu_pct\.", 1.0),
    ("CPU of the host", "%", r"host\.(?=cpu_pct|iowait_pct|steal_pct)", 1.0),
    ("Resident memory per service", "MiB", r"rss_bytes\.", 2.0**20),
    (
        "Connection pools: links in use, clients waiting",
        "links, clients",
        r"pool\.(?=.*\.(?:sv_active|cl_waiting)$)",
        1.0,
    ),
    ("PostgreSQL backends by state", "backends", r"postgres\.state\.", 1.0),
    ("PostgreSQL: what active backends wait for", "backends", r"postgres\.wait\.", 1.0),
    ("Redis hit ratio, whole server", "%", r"redis\.(?=hit_pct)", 1.0),
)

Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. points: (x, y), y None = a gap. colour: a key of COLOURS."""

    label: str
    points: Points
    colour: str
    dashed: bool = False


def latency_over_time(runs: Sequence[RunResult], limit_ms: float | None) -> str | None:
    """p50 and p95 (ms) of all endpoints per time bucket; None without a single bucket that holds a latency.

    One run is drawn from its start, its warm-up shaded. Several are drawn end to end in the order they were made, only
    their counted part: that shows drift of the machine beside the difference of the profiles.
    """
    curves = [
        Line(f"{profile} {percentile}", points, profile, dashed=percentile == "p50")
        for profile in _profiles(runs)
        for percentile, attribute in (("p95", "p95_ms"), ("p50", "p50_ms"))
        if _drawable(points := _end_to_end(runs, profile, attribute))
    ]
    if not curves:
        return None
    return _lines(
        "latency-over-time",
        "Latency over time",
        "p50 (dashed) and p95 (solid) latency in milliseconds of all endpoints together, per second of the run.",
        curves,
        y_label="ms",
        limit=limit_ms,
        shaded=_warmup(runs),
    )


def throughput_over_time(runs: Sequence[RunResult]) -> str | None:
    """Requests per second over time, failures dashed where there were any; None without a bucket."""
    curves = []
    for profile in _profiles(runs):
        width_s = _bucket_s(runs, profile)
        requests, failures = (
            tuple((at, None if count is None else count / width_s) for at, count in _end_to_end(runs, profile, counted))
            for counted in ("requests", "failures")
        )
        curves.append(Line(f"{profile} requests", requests, profile))
        if any(value for _, value in failures):
            curves.append(Line(f"{profile} failures", failures, profile, dashed=True))
    if not any(_drawable(curve.points) for curve in curves):
        return None
    return _lines(
        "throughput-over-time",
        "Throughput over time",
        "Requests and failures of all endpoints together, per second of the run.",
        curves,
        y_label="requests/s",
        shaded=_warmup(runs),
    )


def p95_by_endpoint(rows: Sequence[EndpointComparison], limit_ms: float | None) -> str | None:
    """Dot plot, one row per endpoint: p95 (ms) of both days with 95 % intervals; None where no endpoint has a p95."""
    sides: tuple[Profile, ...] = ("day31", "day40")
    estimates = {
        (side, row.endpoint): stats.latency.p95_ms
        for row in rows
        for side, stats in (("day31", row.day31), ("day40", row.day40))
        if stats is not None and stats.latency is not None and stats.latency.p95_ms is not None
    }
    if not estimates:
        return None
    names = [row.endpoint for row in rows]
    drawn = [side for side in sides if any(profile == side for profile, _ in estimates)]

    def draw(axes: Axes) -> None:
        for offset, side in ((-0.14, "day31"), (0.14, "day40")):
            found = [(i, estimates[side, name]) for i, name in enumerate(names) if (side, name) in estimates]
            if not found:
                continue
            for row, estimate in found:
                if estimate.low is not None and estimate.high is not None:
                    axes.plot([estimate.low, estimate.high], [row + offset] * 2, color=COLOURS[side], linewidth=1.6)
            axes.plot(
                [estimate.value for _, estimate in found],
                [row + offset for row, _ in found],
                linestyle="none",
                marker="o" if side == "day40" else "D",
                markersize=6,
                color=COLOURS[side],
                markerfacecolor=COLOURS[side] if side == "day40" else "none",
                label=f"{side} p95",
            )
        if limit_ms is not None:
            axes.axvline(limit_ms, color=COLOURS["limit"], linewidth=1.2, linestyle=(0, (4, 2)), label="limit")
        axes.set_xlim(left=0)

    return _rows(
        "p95-by-endpoint",
        "p95 latency per endpoint",
        f"p95 latency in milliseconds with its 95 % interval, per endpoint, for {' and '.join(drawn)}.",
        names,
        draw,
        x_label="ms",
    )


def statements_by_time(rows: Sequence[StatementComparison]) -> str | None:
    """Bars, one row per statement: total time (s) on both days; None without a statement."""
    if not any(row.day31 or row.day40 for row in rows):
        return None
    names = [statement_label(row, LABEL_CHARS) for row in rows]

    def draw(axes: Axes) -> None:
        for offset, side in ((-0.19, "day31"), (0.19, "day40")):
            deltas = [row.day31 if side == "day31" else row.day40 for row in rows]
            found = [(i, delta.total_ms / 1000) for i, delta in enumerate(deltas) if delta is not None]
            if found:
                axes.barh(
                    [row + offset for row, _ in found],
                    [seconds for _, seconds in found],
                    height=0.34,
                    facecolor=COLOURS[side] if side == "day40" else "none",
                    edgecolor=COLOURS[side],
                    linewidth=1.2,
                    label=side,
                )

    return _rows(
        "statements-by-time",
        "Statements by total time",
        "Total execution time in seconds of the statements that took the most, on both days.",
        names,
        draw,
        x_label="s",
    )


def probes_over_time(
    name: str, probes: Mapping[str, Sequence[tuple[float, float]]]
) -> tuple[tuple[str, str, int], ...]:
    """One picture per family of probes: (caption, SVG, number of series left out, those that stayed lowest).

    probes: series name as `probe` gives it -> (seconds from the run's origin, value). Series that stayed 0 are not
    drawn. name: distinguishes the pictures of two runs on one page.
    """
    pictures = []
    for number, (caption, y_label, pattern, scale) in enumerate(PROBE_FAMILIES):
        highest = {
            series: max((value for _, value in probes[series]), default=0.0)
            for series in probes
            if re.match(pattern, series)
        }
        drawn = sorted((series for series in highest if highest[series] > 0), key=lambda one: (-highest[one], one))
        curves = [
            Line(
                re.sub(pattern, "", series) or series, _thinned(probes[series], scale), f"series{i}", dashed=i % 2 == 0
            )
            for i, series in enumerate(drawn[:PROBE_LINES], start=1)
        ]
        if curves:
            description = f"{caption} over the run, in {y_label}: {', '.join(curve.label for curve in curves)}."
            picture = _lines(f"{name}-{number}", caption, description, curves, y_label=y_label)
            pictures.append((caption, picture, len(drawn) - len(curves)))
    return tuple(pictures)


def _thinned(samples: Sequence[tuple[float, float]], scale: float) -> Points:
    """Means of as many neighbours as it takes to leave PROBE_POINTS points."""
    size = max(1, math.ceil(len(samples) / PROBE_POINTS))
    groups = [samples[i : i + size] for i in range(0, len(samples), size)]
    return [(group[0][0], statistics.fmean(value for _, value in group) / scale) for group in groups]


def _profiles(runs: Sequence[RunResult]) -> list[Profile]:
    return sorted({run.meta.profile for run in runs})


def _drawable(points: Points) -> bool:
    return any(value is not None for _, value in points)


def _counted(run: RunResult) -> list[TimeBucket]:
    """The buckets of the steady state; all of them where the run has none (stages: everything counts)."""
    phases = run.meta.phases
    if phases is None or phases.steady_start_us is None or phases.steady_end_us is None:
        return list(run.summary.timeline)
    start_s, end_s = phases.steady_start_us / 1e6, phases.steady_end_us / 1e6
    return [bucket for bucket in run.summary.timeline if start_s <= bucket.start_s < end_s]


def _bucket_s(runs: Sequence[RunResult], profile: Profile) -> float:
    """Width of the profile's time buckets: seconds from one to the next."""
    starts = next((run.summary.timeline for run in runs if run.meta.profile == profile), ())
    return min((b.start_s - a.start_s for a, b in pairwise(starts)), default=1.0)


def _end_to_end(runs: Sequence[RunResult], profile: Profile, attribute: str) -> list[tuple[float, float | None]]:
    """(seconds, value) of one profile; a gap wherever another run lies between two of its own."""
    if len(runs) == 1:
        return [(bucket.start_s, getattr(bucket, attribute)) for bucket in runs[0].summary.timeline]
    points: list[tuple[float, float | None]] = []
    offset_s = 0.0
    for run in runs:
        buckets = _counted(run)
        if not buckets:
            continue
        start_s = buckets[0].start_s
        if run.meta.profile == profile:
            points += [(offset_s + bucket.start_s - start_s, getattr(bucket, attribute)) for bucket in buckets]
            points.append((offset_s + buckets[-1].start_s - start_s, None))
        step_s = min((b.start_s - a.start_s for a, b in pairwise(buckets)), default=1.0)
        offset_s += buckets[-1].start_s - start_s + step_s
    return points


def _warmup(runs: Sequence[RunResult]) -> tuple[float, float] | None:
    phases = runs[0].meta.phases if len(runs) == 1 else None
    return (0.0, phases.steady_start_us / 1e6) if phases and phases.steady_start_us else None


def _lines(
    name: str,
    title: str,
    description: str,
    curves: Sequence[Line],
    *,
    y_label: str,
    limit: float | None = None,
    shaded: tuple[float, float] | None = None,
) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_PX / 72, LINES_HEIGHT_PX / 72))
        axes = figure.add_axes((0.075, 0.17, 0.91, 0.7))
        for curve in curves:
            axes.plot(
                [x for x, _ in curve.points],
                [float("nan") if y is None else y for _, y in curve.points],
                color=COLOURS[curve.colour],
                linewidth=1.1 if curve.dashed else 1.7,
                linestyle=(0, (3, 2)) if curve.dashed else "-",
                label=curve.label,
            )
        if limit is not None:
            axes.axhline(limit, color=COLOURS["limit"], linewidth=1.2, linestyle=(0, (4, 2)), label="limit")
        if shaded is not None:
            axes.axvspan(*shaded, color=COLOURS["grid"], alpha=0.4, linewidth=0, label="not counted")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds")
        axes.set_ylabel(y_label)
        axes.margins(x=0.01)
        _legend(axes)
        return _svg(figure, name, title, description)


def _rows(name: str, title: str, description: str, labels: Sequence[str], draw: Any, *, x_label: str) -> str:
    """A horizontal picture with one row per label, drawn by `draw(axes)` at y = 0, 1, …"""
    height_px = ROW_HEIGHT_PX * len(labels) + 76
    short = [label if len(label) <= LABEL_CHARS else label[: LABEL_CHARS - 1] + "…" for label in labels]
    # 6.4 px: the mean advance of 11 px sans-serif, so that the longest label just fits.
    left_px = 16 + 6.4 * max(len(label) for label in short)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_PX / 72, height_px / 72))
        axes = figure.add_axes((left_px / WIDTH_PX, 44 / height_px, 1 - (left_px + 18) / WIDTH_PX, 1 - 76 / height_px))
        draw(axes)
        axes.set_yticks(range(len(short)), short)
        axes.set_ylim(len(short) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(x_label)
        _legend(axes)
        return _svg(figure, name, title, description)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=6, borderaxespad=0.2, handlelength=2.4)


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an <svg> to be put into HTML: named for screen readers, ids private to it, colours as variables."""
    text = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text: the reader's browser has a font for it, whatever Matplotlib's own lacks.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure.savefig(text, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    drawn = text.getvalue()
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 : drawn.rindex("</svg>")]
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{name}-", body)
    body = re.sub(r"; font-family: [^;\"]*", "", body)
    body = re.sub(r' (?:d|x|y|transform)="[^"]*"', _rounded, body)
    for variable, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r">\s*\n\s*<", "><", body.strip())
    width_pt, height_pt = (size * 72 for size in figure.get_size_inches())
    return (
        f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-desc" '
        f'viewBox="0 0 {width_pt:g} {height_pt:g}">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n<desc id="{name}-desc">{escape(description)}</desc>'
        f"{body}</svg>"
    )


def _rounded(attribute: re.Match[str]) -> str:
    """Coordinates to a hundredth of a pixel: nobody sees more, and the page is a third smaller."""
    one_line = " ".join(attribute[0].split())
    return " " + re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", one_line)
