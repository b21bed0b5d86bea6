"""Pictures of how latency and throughput went over a run's time, and of p95 per endpoint: values in, SVG text out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes

from harness.drawing import COLOURS, Dash, Line, Phase, Points, lines, rows
from harness.model import EndpointComparison, Profile, RunResult, TimeBucket

# as many runs as have room for their names above a picture
NAMED_RUNS = 8
PERCENTILES: tuple[tuple[str, str, Dash], ...] = (
    ("p99", "p99_ms", "dotted"),
    ("p95", "p95_ms", "solid"),
    ("p50", "p50_ms", "dashed"),
)


def latency_over_time(runs: Sequence[RunResult], limit_ms: float | None) -> str | None:
    """p50, p95 and p99 (ms) of all endpoints over time; None without a single bucket that holds a latency.

    One run is drawn from its start with its phases. Several are drawn end to end in the order they were made, only
    their counted part: that shows drift of the machine beside the difference of the profiles.
    """
    curves = [
        Line(f"{profile} {percentile}", points, profile, dash)
        for profile in _profiles(runs)
        for percentile, attribute, dash in PERCENTILES
        if _drawable(points := _end_to_end(runs, profile, attribute))
    ]
    if not curves:
        return None
    width_s = _width_s(_percentiles(runs[0]))
    return lines(
        "latency-over-time",
        "Latency over time",
        "p50 (dashed), p95 (solid) and p99 (dotted) latency in milliseconds of all endpoints together, per "
        f"{'second' if width_s == 1 else f'{width_s:g} seconds'} of the run.",
        curves,
        y_label="ms",
        limit=limit_ms,
        phases=_phases(runs),
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
            curves.append(Line(f"{profile} failures", failures, profile, "dashed"))
    if not any(_drawable(curve.points) for curve in curves):
        return None
    return lines(
        "throughput-over-time",
        "Throughput over time",
        "Requests and failures of all endpoints together, per second of the run.",
        curves,
        y_label="requests/s",
        phases=_phases(runs),
    )


def p95_by_endpoint(endpoints: Sequence[EndpointComparison], limit_ms: float | None) -> str | None:
    """Dot plot, one row per endpoint: p95 (ms) of both days with 95 % intervals; None where no endpoint has a p95."""
    sides: tuple[Profile, ...] = ("day31", "day40")
    estimates = {
        (side, row.endpoint): stats.latency.p95_ms
        for row in endpoints
        for side, stats in (("day31", row.day31), ("day40", row.day40))
        if stats is not None and stats.latency is not None and stats.latency.p95_ms is not None
    }
    if not estimates:
        return None
    names = [row.endpoint for row in endpoints]
    drawn = [side for side in sides if any(profile == side for profile, _ in estimates)]

    def draw(axes: Axes) -> None:
        for offset, side in ((-0.14, "day31"), (0.14, "day40")):
            found = [(i, estimates[side, name]) for i, name in enumerate(names) if (side, name) in estimates]
            if not found:
                continue
            bounds = [(row + offset, one.low, one.high) for row, one in found if one.low is not None]
            if bounds:
                axes.hlines(*zip(*bounds, strict=True), color=COLOURS[side], linewidth=1.6)
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

    return rows(
        "p95-by-endpoint",
        "p95 latency per endpoint",
        f"p95 latency in milliseconds with its 95 % interval, per endpoint, for {' and '.join(drawn)}.",
        names,
        draw,
        x_label="ms",
    )


def _profiles(runs: Sequence[RunResult]) -> list[Profile]:
    return sorted({run.meta.profile for run in runs})


def _drawable(points: Points) -> bool:
    return any(value is not None for _, value in points)


def _percentiles(run: RunResult) -> Sequence[TimeBucket]:
    """The buckets that percentiles are drawn from; older summaries have one timeline for all."""
    return run.summary.percentile_timeline or run.summary.timeline


def _counted(run: RunResult, buckets: Sequence[TimeBucket]) -> list[TimeBucket]:
    """Those that lie in the steady state; all of them where the run has none (stages: everything counts)."""
    phases = run.meta.phases
    if phases is None or phases.steady_start_us is None or phases.steady_end_us is None:
        return list(buckets)
    width_s, start_s, end_s = _width_s(buckets), phases.steady_start_us / 1e6, phases.steady_end_us / 1e6
    # a bucket that is mostly of the steady state is of it
    return [bucket for bucket in buckets if start_s <= bucket.start_s + width_s / 2 < end_s]


def _width_s(buckets: Sequence[TimeBucket]) -> float:
    return min((b.start_s - a.start_s for a, b in pairwise(buckets)), default=1.0)


def _bucket_s(runs: Sequence[RunResult], profile: Profile) -> float:
    """Width of the buckets that the profile's requests are counted in."""
    return _width_s(next((run.summary.timeline for run in runs if run.meta.profile == profile), ()))


def _end_to_end(runs: Sequence[RunResult], profile: Profile, attribute: str) -> list[tuple[float, float | None]]:
    """(seconds, value) of one profile; a gap wherever another run lies between two of its own."""

    def points(buckets: Sequence[TimeBucket], offset_s: float) -> list[tuple[float, float | None]]:
        middle_s = _width_s(buckets) / 2 if attribute.endswith("_ms") else 0.0
        return [(offset_s + bucket.start_s + middle_s, getattr(bucket, attribute)) for bucket in buckets]

    def drawn(run: RunResult) -> Sequence[TimeBucket]:
        return _percentiles(run) if attribute.endswith("_ms") else run.summary.timeline

    if len(runs) == 1:
        return points(drawn(runs[0]), 0.0)
    found: list[tuple[float, float | None]] = []
    for run, phase in zip(runs, _phases(runs), strict=True):
        buckets = _counted(run, drawn(run))
        if run.meta.profile == profile and buckets:
            found += points(buckets, phase.start_s - _start_s(run))
            found.append((phase.end_s, None))
    return found


def phases_of(run: RunResult) -> tuple[Phase, ...]:
    """The run's phases on its own clock; empty where the run did not record when they began.

    How long users took to arrive is as the scenario asked: `spawn_rate_per_s`. The rest was measured.
    """
    clock, asked = run.meta.phases, run.meta.scenario
    if clock is None or clock.steady_start_us is None:
        return ()
    start_s = clock.steady_start_us / 1e6
    if asked.load == "stages":
        return _legs(start_s, [(f"to {stage.users} users", stage.duration_s) for stage in asked.stages])
    if clock.steady_end_us is None:
        return ()
    ramped_s = min(start_s, asked.users / asked.spawn_rate_per_s) if asked.load == "closed" else 0.0
    end_s = clock.steady_end_us / 1e6
    drained_s = end_s if clock.drained_us is None else clock.drained_us / 1e6
    steady = (
        _legs(start_s, [(f"{step.rate_rps:g} arrivals/s", step.duration_s) for step in asked.steps])
        if asked.load == "open"
        else (Phase("steady state", start_s, end_s, True),)
    )
    found = (
        Phase("ramp-up", 0.0, ramped_s, False),
        Phase("warm-up", ramped_s, start_s, False),
        *steady,
        Phase("drain", end_s, drained_s, False),
    )
    return tuple(phase for phase in found if phase.end_s > phase.start_s)


def _legs(start_s: float, legs: Sequence[tuple[str, float]]) -> tuple[Phase, ...]:
    found = []
    for label, duration_s in legs:
        found.append(Phase(label, start_s, start_s + duration_s, True))
        start_s += duration_s
    return tuple(found)


def _phases(runs: Sequence[RunResult]) -> tuple[Phase, ...]:
    """Those of one run; of several the runs themselves, their counted parts end to end."""
    if len(runs) == 1:
        return phases_of(runs[0])
    durations_s = [run.summary.counted_s or _width_s(run.summary.timeline) * len(run.summary.timeline) for run in runs]
    named = len(runs) <= NAMED_RUNS
    return _legs(
        0.0,
        [
            (f"{number}: {run.meta.profile}" if named else "", duration_s)
            for number, (run, duration_s) in enumerate(zip(runs, durations_s, strict=True), start=1)
        ],
    )


def _start_s(run: RunResult) -> float:
    phases = run.meta.phases
    if phases is None or phases.steady_start_us is None or phases.steady_end_us is None:
        return run.summary.timeline[0].start_s if run.summary.timeline else 0.0
    return phases.steady_start_us / 1e6
