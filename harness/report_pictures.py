"""The pictures of a page and the table of wait events: which are drawn, from which runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fixtures.indexes import day32
from harness import charts, charts_latency, charts_servers, compare
from harness.index_findings import index_rows
from harness.model import EffectMetric, EndpointComparison, Profile, RunResult, StatementComparison
from harness.report_facts import Sides
from harness.wait_events import MEANINGS, WaitShare, wait_shares

BAR_STATEMENTS = 12
EFFECTS: tuple[tuple[EffectMetric, str], ...] = (
    (
        "p95_ms",
        "Change of p95 per endpoint from day31 to day40, with its 95 % interval; the band is too small to count",
    ),
    ("p50_ms", "Change of p50 per endpoint from day31 to day40, likewise"),
)


@dataclass(frozen=True, slots=True)
class WaitRow:
    """One class of wait on every side of the page; None where it never occurred."""

    wait: str
    meaning: str
    shares: tuple[WaitShare | None, ...]


def pictures(
    sides: Sides,
    runs: Sequence[RunResult],
    endpoints: Sequence[EndpointComparison],
    statements: Sequence[StatementComparison],
) -> dict[str, Any]:
    """Name in the templates -> SVG or None, or a list of (…, SVG). sides: as the page compares them. runs: all of both
    sides in the order they were made; of a side whose own probes were not kept the last run's are drawn."""
    limit_ms = compare.ENDPOINT_P95_LIMIT_MS
    probed = {side: _probed(side, result, runs) for side, result in sides}
    return {
        "endpoint_picture": charts.p95_by_endpoint(endpoints, limit_ms),
        "distribution_picture": charts_latency.distributions(endpoints, limit_ms),
        "effect_pictures": [
            (caption, svg)
            for metric, caption in EFFECTS
            if (svg := charts_latency.effects(endpoints, metric)) is not None
        ],
        "latency_picture": charts.latency_over_time(runs, limit_ms),
        "throughput_picture": charts.throughput_over_time(runs),
        "statement_picture": charts_servers.statement_times(statements[:BAR_STATEMENTS]) if len(sides) > 1 else None,
        "scan_picture": charts_servers.scans_by_table(sides),
        "index_pictures": [
            (side, svg)
            for side, result in sides
            if result.servers is not None
            and (svg := charts_servers.index_use(side, [index for index, _ in index_rows(result.servers, day32())]))
        ],
        "probe_pictures": [
            (side, *picture)
            for side, result in probed.items()
            for picture in charts_servers.probes_over_time(f"probes-{side}", result.probes, charts.phases_of(result))
        ],
        "wait_rows": _wait_rows(sides, runs),
    }


def _probed(side: Profile, own: RunResult, runs: Sequence[RunResult]) -> RunResult:
    """A side's own samples, else those of its last run that has any."""
    of_side = [run for run in runs if run.meta.profile == side]
    return next((result for result in (own, *reversed(of_side)) if result.probes), own)


def _wait_rows(sides: Sides, runs: Sequence[RunResult]) -> tuple[WaitRow, ...]:
    by_side: list[Mapping[str, WaitShare]] = []
    for side, own in sides:
        sampled = [own] if own.probes else [run for run in runs if run.meta.profile == side]
        by_side.append({share.wait: share for share in wait_shares(sampled)})
    waits = {wait: max(s[wait].mean_backends for s in by_side if wait in s) for shares in by_side for wait in shares}
    return tuple(
        WaitRow(wait, MEANINGS.get(wait, "not known"), tuple(shares.get(wait) for shares in by_side))
        for wait in sorted(waits, key=lambda wait: (-waits[wait], wait))
    )
