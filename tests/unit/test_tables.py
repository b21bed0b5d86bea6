from __future__ import annotations

import csv
import dataclasses
import io
import re

import built_results as built
import pandas as pd
import pytest

from harness import server_metrics, tables
from harness.model import Effect, Estimate, RunResult


def as_dicts(table: tables.Table) -> list[dict[str, object]]:
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


@pytest.fixture(params=["whole", "open", "empty"])
def result(request) -> RunResult:
    return {"whole": built.result, "open": built.open_load, "empty": built.without_data}[request.param]("day40")


def test_every_table_is_rectangular_and_has_the_same_columns_whatever_was_measured(result):
    found = tables.run_tables(result)
    whole = tables.run_tables(built.result("day40"))
    assert {name: table.header for name, table in found.items()} == {n: table.header for n, table in whole.items()}
    for name, table in found.items():
        assert re.fullmatch("[a-z_]+", name)
        assert len(set(table.header)) == len(table.header)
        for row in table.rows:
            assert len(row) == len(table.header)
            assert all(cell is None or isinstance(cell, str | int | float) for cell in row), (name, row)


def test_no_table_of_a_whole_run_is_empty_but_those_of_other_loads():
    empty = {name for name, table in tables.run_tables(built.result("day40")).items() if not table.rows}
    assert empty == {"arrivals", "slow_statements", "cache_by_service"}
    assert tables.run_tables(built.open_load("day40"))["arrivals"].rows == ((3320, 33, 5, 50.0),)


def test_an_estimate_is_four_columns():
    result = built.result("day40")
    row = as_dicts(tables.run_tables(result)["endpoints"])[1]
    stats = result.summary.endpoints[0]
    assert stats.latency is not None
    p95 = stats.latency.p95_ms
    assert p95 is not None
    names = ("latency_p95_ms", "latency_p95_ms_low", "latency_p95_ms_high", "latency_p95_ms_count")
    assert Estimate(*(row[name] for name in names)) == p95  # type: ignore[arg-type]
    assert (row["endpoint"], row["requests"]) == (stats.endpoint, stats.requests)


def test_the_figures_are_those_of_the_page():
    result = built.result("day40")
    assert result.servers is not None
    found = tables.run_tables(result)
    (pool, *_) = server_metrics.pool_use(result.servers, result.probes)
    assert as_dicts(found["pools"])[0] == dataclasses.asdict(pool)
    assert [row["outcome"] for row in as_dicts(found["verdicts"])] == [one.outcome for one in result.verdicts]
    use = {row["endpoint"]: row for row in as_dicts(found["endpoint_database_use"])}
    assert use[built.DAILY]["calls_per_request"] == 120 / 900
    (daily,) = (row for row in as_dicts(found["endpoint_statements"]) if row["endpoint"] == built.DAILY)
    assert (daily["calls"], daily["calls_per_request"]) == (120, 120 / 900)
    assert ("blks_hit", 99_500) in found["database"].rows


def test_a_benchmark_has_both_days_and_what_compares_them():
    benchmark = built.quick_benchmark()
    effect = Effect(-12.5, -15.0, -9.0, "pct", 0.01, 5.0, 10, "improved", None, "")
    first = dataclasses.replace(benchmark.endpoints[0], effects={"p95_ms": effect})
    found = tables.benchmark_tables(dataclasses.replace(benchmark, endpoints=(first, *benchmark.endpoints[1:])))
    assert {row[0] for row in found["endpoints"].rows} == {"day31", "day40"}
    assert len(found["targets"].rows) == 7
    assert [row["profile"] for row in as_dicts(found["runs"])] == ["day31", "day40", "day40", "day31"]
    (row,) = (row for row in as_dicts(found["effects"]) if row["endpoint"] == first.endpoint)
    assert row == {"endpoint": first.endpoint, "metric": "p95_ms", **dataclasses.asdict(effect)}
    compared = as_dicts(found["comparison"])[0]
    assert first.day31 is not None
    assert compared["day31_requests"] == first.day31.requests


def test_they_are_read_back_by_pandas_with_numbers_as_numbers():
    for name, text in tables.csv_texts(tables.benchmark_tables(built.quick_benchmark())).items():
        frame = pd.read_csv(io.StringIO(text))
        assert list(frame.columns) == next(csv.reader(io.StringIO(text))), name
    endpoints = pd.read_csv(io.StringIO(tables.csv_texts(tables.run_tables(built.result("day40")))["endpoints"]))
    assert endpoints["requests"].sum() == 2 * sum(built.REQUESTS.values())
    assert endpoints["latency_p95_ms"].dtype == float
