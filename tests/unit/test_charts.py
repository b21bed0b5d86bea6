"""charts: pictures are there when data are, equal for equal values, and safe to put into a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import built_results as built
import pytest

from harness import charts, compare


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def pictures() -> list[str]:
    benchmark = built.quick_benchmark()
    drawn = [
        charts.latency_over_time(benchmark.runs, 200.0),
        charts.throughput_over_time(benchmark.runs),
        charts.p95_by_endpoint(benchmark.endpoints, 200.0),
        charts.statements_by_time(benchmark.statements),
        *(svg for _, svg, _ in charts.probes_over_time("probes", benchmark.day40.probes)),
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
    assert "SELECT $1 -- </svg> WHERE $2" in "".join(parsed(charts.statements_by_time([statement])).itertext())


def test_without_data_there_is_no_picture():
    empty = built.without_data("day40")
    rows = compare.endpoints(empty.summary, empty.summary, 1)
    assert charts.latency_over_time([empty], 200.0) is None
    assert charts.throughput_over_time([empty]) is None
    assert charts.p95_by_endpoint(rows, 200.0) is None
    assert charts.statements_by_time([]) is None
    assert charts.probes_over_time("probes", {}) == ()


def test_probes_that_stayed_zero_are_left_out_and_the_highest_are_drawn():
    probes = {f"cpu_pct.service{i}": ((0.0, float(i)), (1.0, float(i))) for i in range(10)}
    ((caption, svg, left_out),) = charts.probes_over_time("probes", probes)
    assert caption == "CPU per service"
    assert left_out == 9 - charts.PROBE_LINES
    drawn = {text for text in parsed(svg).itertext() if text.startswith("service")}
    assert drawn == {f"service{i}" for i in range(4, 10)}


@pytest.mark.parametrize("count", [1, 240, 241, 5000])
def test_long_probe_series_keep_their_mean(count):
    thinned = charts._thinned([(float(i), 3.0) for i in range(count)], 1.0)
    assert len(thinned) <= charts.PROBE_POINTS
    assert {value for _, value in thinned} == {3.0}


def test_runs_lie_end_to_end_without_their_warm_up():
    runs = [built.result("day31"), built.result("day40"), built.result("day31")]
    points = charts._end_to_end(runs, "day31", "requests")
    assert [x for x, y in points if y is None] == [59.0, 179.0]  # gaps where another run follows
    assert sum(y is not None for _, y in points) == 120
    assert charts._end_to_end(runs, "day40", "requests")[0][0] == 60.0
