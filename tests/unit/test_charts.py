"""charts: pictures are there when data are, equal for equal values, and safe to put into a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import built_results as built
import pytest

from harness import charts, charts_latency, charts_servers, compare, report_pictures
from harness.model import Distribution, Effect, RunResult, Stage
from harness.wait_events import wait_shares


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def effect(change: float | None, verdict: str, half: float | None = 5.0, unit: str = "pct") -> Effect:
    low, high = (None, None) if half is None or change is None else (change - half, change + half)
    return Effect(change, low, high, unit, 0.01, 6.0, 10, verdict, None, "")


def with_effects():
    """A comparison with every verdict, one of them without an interval."""
    changes = (
        effect(-40, "improved"),
        effect(1, "equivalent"),
        effect(30, "regressed"),
        effect(9, "inconclusive", None),
    )
    rows = built.quick_benchmark().endpoints
    return [replace(row, effects={"p50_ms": one, "p95_ms": one}) for row, one in zip(rows, changes, strict=True)]


def texts(svg: str) -> list[str]:
    return [text.strip() for text in parsed(svg).itertext() if text.strip()]


def pictures() -> list[str]:
    benchmark = built.quick_benchmark()
    drawn = [
        charts.latency_over_time(benchmark.runs, 200.0),
        charts.throughput_over_time(benchmark.runs),
        charts.p95_by_endpoint(benchmark.endpoints, 200.0),
        charts_latency.distributions(benchmark.endpoints, 200.0),
        charts_latency.effects(with_effects(), "p95_ms"),
        charts_latency.effects(with_effects(), "p50_ms"),
        charts_servers.statement_times(benchmark.statements),
        charts_servers.scans_by_table([("day31", benchmark.day31), ("day40", benchmark.day40)]),
        charts_servers.index_use("day40", benchmark.day40.servers.indexes),
        *(svg for _, svg, _ in charts_servers.probes_over_time("probes", benchmark.day40.probes)),
    ]
    assert None not in drawn
    return drawn


def test_pictures_are_equal_for_equal_values():
    assert pictures() == pictures()


def test_pictures_can_share_a_page():
    ids = [found for svg in pictures() for found in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in pictures():
        used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
        assert used <= set(re.findall(r' id="([^"]+)"', svg))


def test_pictures_have_a_name_and_no_link_out():
    for svg in pictures():
        root = parsed(svg)
        title, description = root.find("title"), root.find("desc")
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        assert title.text
        assert description.text
        assert "http" not in svg
        assert not re.search(r"#[0-9a-f]{6}\b", svg), "a colour that the page cannot turn dark"


def test_names_are_text_whatever_they_contain():
    name = '<script>alert(1)</script> & "$1 + $2"'
    rows = [replace(row, endpoint=name) for row in built.quick_benchmark().endpoints[:1]]
    svg = charts.p95_by_endpoint(rows, None)
    assert "<script" not in svg
    assert name[:20] in "".join(parsed(svg).itertext())
    statement = replace(built.quick_benchmark().statements[0], name=None, query="SELECT $1 -- </svg>\nWHERE $2")
    assert "SELECT $1 -- </svg> WHERE $2" in "".join(parsed(charts_servers.statement_times([statement])).itertext())


def test_without_data_there_is_no_picture():
    empty = built.without_data("day40")
    rows = compare.endpoints(empty.summary, empty.summary, {})
    assert charts.latency_over_time([empty], 200.0) is None
    assert charts.throughput_over_time([empty]) is None
    assert charts.p95_by_endpoint(rows, 200.0) is None
    assert charts.phases_of(replace(empty, meta=replace(empty.meta, phases=None))) == ()
    assert charts_latency.distributions(rows, 200.0) is None
    assert charts_latency.effects(rows, "p95_ms") is None
    assert (
        charts_latency.effects(
            [replace(one, effects={"p95_ms": effect(None, "inconclusive")}) for one in with_effects()], "p95_ms"
        )
        is None
    )
    assert (
        charts_latency.effects(
            [replace(one, effects={"p95_ms": effect(1, "improved", unit="abs")}) for one in with_effects()], "p95_ms"
        )
        is None
    )
    assert charts_servers.statement_times([]) is None
    assert charts_servers.scans_by_table([("day31", empty)]) is None
    assert charts_servers.index_use("day40", []) is None
    assert charts_servers.probes_over_time("probes", {}) == ()
    assert wait_shares([empty]) == ()


def test_probes_that_stayed_zero_are_left_out_and_the_highest_are_drawn():
    probes = {f"cpu_pct.service{i}": ((0.0, float(i)), (1.0, float(i))) for i in range(10)}
    ((caption, svg, left_out),) = charts_servers.probes_over_time("probes", probes)
    assert caption == "CPU per service"
    assert left_out == 9 - charts_servers.PROBE_LINES
    drawn = {text for text in parsed(svg).itertext() if text.startswith("service")}
    assert drawn == {f"service{i}" for i in range(4, 10)}


@pytest.mark.parametrize("count", [1, 240, 241, 5000])
def test_long_probe_series_keep_their_mean(count):
    thinned = charts_servers._thinned([(float(i), 3.0) for i in range(count)], 1.0)
    assert len(thinned) <= charts_servers.PROBE_POINTS
    assert {value for _, value in thinned} == {3.0}


def test_runs_lie_end_to_end_without_their_warm_up():
    runs = [built.result("day31"), built.result("day40"), built.result("day31")]
    points = charts._end_to_end(runs, "day31", "requests")
    assert [x for x, y in points if y is None] == [60.0, 180.0]  # gaps where another run follows
    assert sum(y is not None for _, y in points) == 120
    assert charts._end_to_end(runs, "day40", "requests")[0][0] == 60.0


def test_percentiles_are_drawn_from_the_wider_buckets_and_older_summaries_from_their_own():
    run = built.result("day40")
    assert [at for at, _ in charts._end_to_end([run], "day40", "p99_ms")] == [2.5 + 5 * i for i in range(15)]
    older = replace(run, summary=replace(run.summary, percentile_timeline=()))
    assert [at for at, _ in charts._end_to_end([older], "day40", "p95_ms")][:3] == [0.5, 1.5, 2.5]
    assert "day40 p99" in texts(charts.latency_over_time([run], None))
    assert "day40 p99" not in texts(charts.latency_over_time([older], None))


def named(run: RunResult) -> list[tuple[str, float, float, bool]]:
    return [(phase.label, phase.start_s, phase.end_s, phase.counted) for phase in charts.phases_of(run)]


def test_phases_follow_the_clock_and_the_scenario():
    closed = built.result("day40")
    assert named(closed) == [
        ("ramp-up", 0, 5, False),
        ("warm-up", 5, 15, False),
        ("steady state", 15, 75, True),
        ("drain", 75, 76, False),
    ]
    assert named(built.open_load("day40")) == [
        ("warm-up", 0, 15, False),
        ("40 arrivals/s", 15, 45, True),
        ("70 arrivals/s", 45, 75, True),
        ("drain", 75, 76, False),
    ]
    scenario = replace(closed.meta.scenario, load="stages", stages=(Stage(20.0, 10), Stage(40.0, 50)))
    stages = replace(closed, meta=replace(closed.meta, scenario=scenario))
    assert named(stages) == [("to 10 users", 15, 35, True), ("to 50 users", 35, 75, True)]
    said = texts(charts.latency_over_time([closed], None))
    assert {"ramp-up", "warm-up", "steady state", "not counted"} <= set(said)
    assert "drain" not in said  # a second of 76 has no room for its name


def test_many_runs_have_no_room_for_their_names():
    runs = [built.result("day31"), built.result("day40")]
    assert {"1: day31", "2: day40"} <= set(texts(charts.throughput_over_time(runs)))
    assert "1: day31" not in texts(charts.throughput_over_time(runs * 5))


def test_a_distribution_is_drawn_to_its_edges():
    edges, heights = charts_latency._steps(Distribution(10, 20, (1, 0, 4)))
    assert edges == pytest.approx([100, 125.9, 125.9, 158.5, 158.5, 199.5], rel=1e-3)
    assert heights == [0.25, 0.25, 0, 0, 1, 1]


def test_effects_show_their_verdicts_by_more_than_colour():
    svg = charts_latency.effects(with_effects(), "p95_ms")
    assert {"improved", "equivalent", "regressed", "inconclusive", "too small to count"} <= set(texts(svg))
    description = parsed(svg).find("desc").text
    assert f"{built.TAG} improved" in description or f"{built.DAILY} improved" in description


def test_times_per_request_are_those_of_the_comparison():
    (row,) = [one for one in built.quick_benchmark().statements if one.name == "health search"]
    per_request = row.day31_calls_per_request * row.day31.total_ms / row.day31.calls
    assert per_request == pytest.approx(300 * 2.0 / 3315)
    svg = charts_servers.statement_times([replace(row, day40=None, day40_calls_per_request=None)])
    assert "day31" in texts(svg)
    assert "day40" not in texts(svg)
    assert charts_servers.statement_times([replace(row, day31=None, day40=None)]) is None


def test_archived_wal_is_taken_off_what_was_written():
    probes = {"wal.written_bytes": ((0.0, 5.0), (1.0, 9.0), (2.0, 9.0)), "wal.archived_bytes": ((0.0, 5.0), (1.0, 5.0))}
    assert charts_servers._not_archived(probes) == {"wal.not_archived_bytes": [(0.0, 0.0), (1.0, 4.0)]}
    assert charts_servers._not_archived({}) == {}


def test_waits_are_counted_in_the_steady_state_of_all_runs():
    run = built.result("day31")
    waits = {
        "postgres.wait.none": ((0.0, 99.0), (15.0, 3.0), (74.9, 1.0), (75.0, 99.0)),
        "postgres.wait.IO": ((15.0, 0.0), (74.9, 2.0)),
        "postgres.wait.Lock": ((15.0, 0.0), (74.9, 0.0)),
        "postgres.state.active": ((15.0, 7.0),),
    }
    run = replace(run, probes=waits)
    for runs in ([run], [run, run]):
        found = {share.wait: (share.mean_backends, share.share_pct) for share in wait_shares(runs)}
        assert found == {"none": (2.0, pytest.approx(66.67, abs=0.01)), "IO": (1.0, pytest.approx(33.33, abs=0.01))}
    idle = replace(run, probes={"postgres.wait.none": ((15.0, 0.0),)})
    assert [(share.mean_backends, share.share_pct) for share in wait_shares([idle])] == [(0.0, None)]
    rows = report_pictures._wait_rows([("day31", run), ("day40", replace(built.result("day40"), probes={}))], [])
    assert [(row.wait, row.shares[1]) for row in rows] == [("none", None), ("IO", None)]
