"""How pictures are drawn: colours, axes and the way from a matplotlib figure to SVG inside a page.

Reads no file, clock or display: the same values give the same bytes. Colours are CSS variables, so that the page
decides between light and dark; lines differ by dash and points by shape as well, so that no picture depends on colour.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

# Drawn with these, then replaced by the variable of the same name in reports/style.css.
COLOURS = {
    "day31": "#b45309",
    "day40": "#1d4ed8",
    "limit": "#b91c1c",
    "ink": "#1f2937",
    "muted": "#6b7280",
    "grid": "#d1d5db",
    "pass": "#14713d",
    "fail": "#b3161b",
    "open": "#8a5a00",
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
    "hatch.linewidth": 0.7,
}
WIDTH_PX = 860
LINES_HEIGHT_PX = 270
ROW_HEIGHT_PX = 34
LABEL_CHARS = 52
Dash = Literal["solid", "dashed", "dotted"]
DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted")
LINE_STYLES: Mapping[Dash, Any] = {  # Any: matplotlib's own type is a union of a literal and pairs
    "solid": ("-", 1.7),
    "dashed": ((0, (3, 2)), 1.1),
    "dotted": ((0, (1, 1.3)), 1.3),
}
# narrower phases (share of the picture) have no room for their name
_NAMED_PHASE_RATIO = 0.05

Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. points: (x, y), y None = a gap. colour: a key of COLOURS."""

    label: str
    points: Points
    colour: str
    dash: Dash = "solid"


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the time axis, in seconds. counted: whether figures come from it; if not, it is shaded."""

    label: str
    start_s: float
    end_s: float
    counted: bool


def lines(
    name: str,
    title: str,
    description: str,
    curves: Sequence[Line],
    *,
    y_label: str,
    limit: float | None = None,
    phases: Sequence[Phase] = (),
    stacked: bool = False,
) -> str:
    """Curves over seconds. stacked: as areas on top of one another, all at the same x and without gaps."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_PX / 72, LINES_HEIGHT_PX / 72))
        axes = figure.add_axes((0.075, 0.17, 0.91, 0.7))
        if stacked:
            _areas(axes, curves)
        else:
            _curves(axes, curves)
        if limit is not None:
            axes.axhline(limit, color=COLOURS["limit"], linewidth=1.2, linestyle=(0, (4, 2)), label="limit")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds")
        axes.set_ylabel(y_label)
        axes.margins(x=0.01)
        if phases:
            _phases(axes, phases)
        legend(axes)
        return svg(figure, name, title, description)


def _curves(axes: Axes, curves: Sequence[Line]) -> None:
    for curve in curves:
        linestyle, linewidth = LINE_STYLES[curve.dash]
        axes.plot(
            [x for x, _ in curve.points],
            [float("nan") if y is None else y for _, y in curve.points],
            color=COLOURS[curve.colour],
            linewidth=linewidth,
            linestyle=linestyle,
            label=curve.label,
        )
        if alone := _alone(curve.points):  # a point between two gaps is no line
            axes.plot(
                *zip(*alone, strict=True), linestyle="none", marker="o", markersize=2, color=COLOURS[curve.colour]
            )


def _alone(points: Points) -> list[tuple[float, float]]:
    """The points that have a gap, or an end, on both sides."""
    known = [False, *(y is not None for _, y in points), False]
    return [
        (x, y)
        for (x, y), before, after in zip(points, known, known[2:], strict=False)
        if y is not None and not before and not after
    ]


def _areas(axes: Axes, curves: Sequence[Line]) -> None:
    xs = [x for x, _ in curves[0].points]
    below = [0.0] * len(xs)
    for number, curve in enumerate(curves):
        above = [base + (y or 0.0) for base, (_, y) in zip(below, curve.points, strict=True)]
        axes.fill_between(
            xs,
            below,
            above,
            facecolor=COLOURS[curve.colour],
            alpha=0.45,
            linewidth=0,
            label=curve.label,
        )
        linestyle, _ = LINE_STYLES[DASHES[number % len(DASHES)]]
        axes.plot(xs, above, color=COLOURS[curve.colour], linewidth=1.0, linestyle=linestyle)
        below = above


def _phases(axes: Axes, phases: Sequence[Phase]) -> None:
    """Names along the top, room made for them; what does not count is shaded."""
    low, high = axes.get_xlim()
    low, high = min(low, phases[0].start_s), max(high, phases[-1].end_s)
    axes.set_xlim(low, high)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.1)
    label = "not counted"
    for phase in phases:
        if not phase.counted:
            axes.axvspan(phase.start_s, phase.end_s, color=COLOURS["grid"], alpha=0.4, linewidth=0, label=label)
            label = "_again"
        if (phase.end_s - phase.start_s) / (high - low) >= _NAMED_PHASE_RATIO:
            middle = (phase.start_s + phase.end_s) / 2
            axes.text(
                middle,
                0.985,
                phase.label,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize=9,
                color=COLOURS["muted"],
            )
    axes.vlines(
        [(before.end_s + after.start_s) / 2 for before, after in pairwise(phases)],
        0,
        1,
        transform=axes.get_xaxis_transform(),
        color=COLOURS["muted"],
        linewidth=0.6,
        linestyle=(0, (1, 2)),
    )


def rows(
    name: str,
    title: str,
    description: str,
    labels: Sequence[str],
    draw: Callable[[Axes], None],
    *,
    x_label: str,
    row_px: float = ROW_HEIGHT_PX,
) -> str:
    """A horizontal picture with one row per label, drawn by `draw(axes)` at y = 0, 1, …"""
    height_px = row_px * len(labels) + 76
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
        legend(axes)
        return svg(figure, name, title, description)


def legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=7, borderaxespad=0.2, handlelength=2.4)


def plain_numbers(axes: Axes) -> None:
    """On a log axis 1000 is to read as a number, not as a power of ten."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    # every tick is five objects to lay out, and nine in ten are minor
    axes.xaxis.set_minor_locator(NullLocator())


def svg(figure: Figure, name: str, title: str, description: str) -> str:
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
