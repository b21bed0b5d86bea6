"""Pictures of what the servers did: gauges over time, wait events, scans, indexes, time per statement."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from harness.compare import statement_label
from harness.drawing import COLOURS, LABEL_CHARS, Line, Phase, Points, lines, plain_numbers, rows
from harness.model import IndexDelta, Profile, RunResult, StatementComparison
from harness.wait_events import PREFIX as WAITS

PROBE_LINES = 6
PROBE_POINTS = 240
TOP_TABLES = 15
TOP_INDEXES = 24
BAR_ROW_PX = 24
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
    ("PostgreSQL: what active backends wait for", "backends", re.escape(WAITS), 1.0),
    ("WAL that the archive lacks", "MiB", r"wal\.(?=not_archived_bytes)", 2.0**20),
    ("Redis hit ratio, whole server", "%", r"redis\.(?=hit_pct)", 1.0),
)

Probes = Mapping[str, Sequence[tuple[float, float]]]


def probes_over_time(name: str, probes: Probes, phases: Sequence[Phase] = ()) -> tuple[tuple[str, str, int], ...]:
    """One picture per family of probes: (caption, SVG, number of series left out, those that stayed lowest).

    probes: series name as `probe` gives it -> (seconds from the run's origin, value). Series that stayed 0 are not
    drawn. What backends wait for is drawn as areas on top of one another. name: distinguishes the pictures of two runs
    on one page.
    """
    probes = {**probes, **_not_archived(probes)}
    pictures = []
    for number, (caption, y_label, pattern, scale) in enumerate(PROBE_FAMILIES):
        highest = {
            series: max((value for _, value in probes[series]), default=0.0)
            for series in probes
            if re.match(pattern, series)
        }
        drawn = sorted((series for series in highest if highest[series] > 0), key=lambda one: (-highest[one], one))
        stacked = pattern == re.escape(WAITS) and len({tuple(at for at, _ in probes[one]) for one in drawn}) == 1
        curves = [
            Line(
                re.sub(pattern, "", series) or series,
                _thinned(probes[series], scale),
                f"series{i}",
                "dashed" if i % 2 == 0 else "solid",
            )
            for i, series in enumerate(drawn[:PROBE_LINES], start=1)
        ]
        if curves:
            description = f"{caption} over the run, in {y_label}: {', '.join(curve.label for curve in curves)}."
            picture = lines(
                f"{name}-{number}", caption, description, curves, y_label=y_label, phases=phases, stacked=stacked
            )
            pictures.append((caption, picture, len(drawn) - len(curves)))
    return tuple(pictures)


def _not_archived(probes: Probes) -> dict[str, list[tuple[float, float]]]:
    written, archived = (dict(probes.get(f"wal.{name}_bytes", ())) for name in ("written", "archived"))
    lacking = [(at, max(0.0, written[at] - archived[at])) for at in sorted(written.keys() & archived.keys())]
    return {"wal.not_archived_bytes": lacking} if lacking else {}


def _thinned(samples: Sequence[tuple[float, float]], scale: float) -> Points:
    """Means of as many neighbours as it takes to leave PROBE_POINTS points."""
    size = max(1, math.ceil(len(samples) / PROBE_POINTS))
    groups = [samples[i : i + size] for i in range(0, len(samples), size)]
    return [(group[0][0], statistics.fmean(value for _, value in group) / scale) for group in groups]


def scans_by_table(sides: Sequence[tuple[Profile, RunResult]]) -> str | None:
    """Sequential scans per 1,000 requests, one row per table, the most scanned first; None without a scan, or without
    requests to divide by."""
    found = {
        (side, f"{table.schema}.{table.table}"): 1000 * table.seq_scan / requests
        for side, result in sides
        if result.servers is not None and (requests := sum(result.requests.values()))
        for table in result.servers.tables
        if table.seq_scan
    }
    names = sorted({name for _, name in found}, key=lambda name: (-_most(found, name), name))[:TOP_TABLES]
    if not names:
        return None

    return _dumbbells(
        "scans-by-table",
        "Sequential scans per table",
        "Sequential scans per 1,000 requests of the tables that were scanned most",
        names,
        found,
        x_label="sequential scans per 1,000 requests, logarithmic",
    )


def statement_times(statements: Sequence[StatementComparison]) -> str | None:
    """Database time (ms) per request of each statement on both days, joined by a line; None without a statement."""
    names: list[str] = []
    found: dict[tuple[Profile, str], float] = {}
    for number, row in enumerate(statements, start=1):
        name = f"S{number} {statement_label(row, LABEL_CHARS - 4)}"
        of_row: dict[tuple[Profile, str], float] = {}
        if row.day31 is not None and row.day31.calls and row.day31_calls_per_request is not None:
            of_row["day31", name] = row.day31_calls_per_request * row.day31.total_ms / row.day31.calls
        if row.day40 is not None and row.day40.calls and row.day40_calls_per_request is not None:
            of_row["day40", name] = row.day40_calls_per_request * row.day40.total_ms / row.day40.calls
        if any(value > 0 for value in of_row.values()):
            names.append(name)
            found |= of_row
    if not names:
        return None
    return _dumbbells(
        "statement-times",
        "Statements by time per request",
        "Execution time per request in milliseconds of the statements that took the most",
        names,
        found,
        x_label="ms per request, logarithmic",
    )


def _most(found: Mapping[tuple[Profile, str], float], name: str) -> float:
    return max(value for (_, label), value in found.items() if label == name)


def _dumbbells(
    picture: str,
    title: str,
    description: str,
    names: Sequence[str],
    found: Mapping[tuple[Profile, str], float],
    *,
    x_label: str,
) -> str:
    """Two dots per row, joined, on a log axis. A side without a value above 0 has no dot."""
    sides: tuple[Profile, ...] = ("day31", "day40")

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        both = [
            (row, found["day31", name], found["day40", name])
            for row, name in enumerate(names)
            if all(found.get((side, name), 0) > 0 for side in sides)
        ]
        if both:
            axes.hlines(*zip(*both, strict=True), color=COLOURS["muted"], linewidth=1.4)
        for side in sides:
            dots = [(found[side, name], row) for row, name in enumerate(names) if found.get((side, name), 0) > 0]
            if dots:
                axes.plot(
                    *zip(*dots, strict=True),
                    linestyle="none",
                    marker="o" if side == "day40" else "D",
                    markersize=6.5,
                    color=COLOURS[side],
                    markerfacecolor=COLOURS[side] if side == "day40" else "none",
                    label=side,
                )
        plain_numbers(axes)

    drawn = [side for side in sides if any(found.get((side, name), 0) > 0 for name in names)]
    return rows(
        picture, title, f"{description}, for {' and '.join(drawn)}.", names, draw, x_label=x_label, row_px=BAR_ROW_PX
    )


def index_use(side: Profile, indexes: Sequence[IndexDelta]) -> str | None:
    """Bars, one row per index: how often it was scanned, the most first; None where none was."""
    used = sorted((index for index in indexes if index.idx_scan > 0), key=lambda one: (-one.idx_scan, one.index))
    if not used:
        return None
    used = used[:TOP_INDEXES]

    def draw(axes: Axes) -> None:
        axes.barh(
            range(len(used)),
            [index.idx_scan for index in used],
            height=0.6,
            facecolor=COLOURS[side] if side == "day40" else "none",
            edgecolor=COLOURS[side],
            linewidth=1.2,
            label=side,
        )
        axes.set_xscale("log")
        axes.set_xlim(left=0.7)
        plain_numbers(axes)

    return rows(
        f"index-use-{side}",
        f"Index scans on {side}",
        f"Scans per index of Day 32 on {side}, the most used first, on a logarithmic axis.",
        [index.index for index in used],
        draw,
        x_label="scans, logarithmic",
        row_px=BAR_ROW_PX,
    )
