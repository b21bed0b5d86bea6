"""The statement log's lines, as PostgreSQL 16.14 wrote them for psycopg 3 and psycopg2, directly and through pgBouncer
1.18 with every statement logged (tests/data/statement-log.json); and the percentile, on simulated samples."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_results import servers as built_servers
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness import slow_statements, statement_log
from harness.model import LoggedStatement, StatementLog

LINES = (Path(__file__).parents[1] / "data" / "statement-log.json").read_bytes().splitlines()
DATABASE = "smart_dairy"


def line(message: str, **fields: Any) -> bytes:
    row = {"timestamp": "2026-02-03 10:00:00.000 UTC", "user": "api", "dbname": DATABASE, "error_severity": "LOG"}
    return json.dumps(row | {"message": message} | fields).encode()


def executed(*texts: str, ms: float = 1.0) -> list[bytes]:
    return [line(f"duration: {ms:.3f} ms  execute <unnamed>: {text}") for text in texts]


def read(lines: list[bytes]) -> StatementLog:
    return statement_log.read(lines, DATABASE, 0.1, 100.0)


# --- lines ---------------------------------------------------------------------------------------------------------


def test_every_driver_and_way_to_the_server_is_read():
    log = read(LINES)
    assert Counter((one.user, one.kind) for one in log.statements) == {
        # unnamed, prepared as _pg3_0, in a pipeline, and through pgBouncer
        ("api", "execute"): 6,
        # without parameters, two in one string; psycopg2 through pgBouncer as role api
        ("api", "statement"): 4,
        ("odoo", "statement"): 2,
    }
    assert [one.duration_ms for one in log.statements if one.duration_ms > 100] == [158.874, 264.931, 125.799, 123.478]
    assert log.texts[log.statements[0].fingerprint] == "SELECT pg_sleep($1)"
    assert [(plan.user, plan.duration_ms) for plan in log.plans] == [("api", 263.986)]


def test_no_constant_of_any_line_is_kept():
    assert any(b"secret" in one and b"geheim" in one for one in LINES)
    kept = repr(read(LINES))
    assert "secret" not in kept
    assert "geheim" not in kept
    assert "4711" not in kept


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("SELECT 'x' -- secret\n FROM t /* secret */ WHERE a IN (1, 2, 3)", "SELECT $1 FROM t WHERE a IN ($2, …)"),
        ("SELECT $1, '--', 7", "SELECT $1, …"),
        ("SELECT 'unfinished", "(unreadable)"),
        ("INSERT INTO t VALUES ($$secret$$, E'\\'', -1.5)", "INSERT INTO t VALUES ($1, …)"),
    ],
)
def test_statements_lose_constants_and_comments(before, after):
    assert statement_log.without_constants(before) == after


def test_plans_lose_constants_and_keep_names():
    document = {
        "Query Text": "SELECT 1 FROM farm.milk_2025 WHERE tag = 'geheim'",
        "Query Parameters": "$1 = 'geheim'",
        "Plan": {
            "Node Type": "Index Scan",
            "Index Name": "milk_2025_key",
            "Subplan Name": "InitPlan 1 (returns $0)",
            "Total Cost": 8.29,
            "Index Cond": "((tag)::text = 'it''s geheim'::text)",
            "Filter": "((farm.milk_2025.id > 4711) AND (x = $1) AND (y < '-1.5'::numeric))",
            "Plans": [{"Node Type": "Sort", "Sort Key": ["(tag = 'geheim')", "col_7"]}],
        },
    }
    lines = [line(f"duration: {ms:.3f} ms  plan:\n{json.dumps(document)}") for ms in (210.0, 240.0, 220.0)]
    (plan,) = read(lines).plans
    assert (plan.duration_ms, plan.user) == (240.0, "api")
    assert plan.plan == {
        "Plan": {
            "Node Type": "Index Scan",
            "Index Name": "milk_2025_key",
            "Subplan Name": "InitPlan 1 (returns $0)",
            "Total Cost": 8.29,
            "Index Cond": "((tag)::text = ?::text)",
            "Filter": "((farm.milk_2025.id > ?) AND (x = $1) AND (y < ?::numeric))",
            "Plans": [{"Node Type": "Sort", "Sort Key": ["(tag = ?)", "col_7"]}],
        }
    }


@pytest.mark.parametrize(
    "text",
    [
        "BEGIN",
        "SET LOCAL ROLE ep_x",
        'SAVEPOINT "a"',
        "DISCARD ALL",
        "COMMIT",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH 5 FROM c",
        "NOTIFY x",
        "garbage that no parser reads",
    ],
)
def test_utility_statements_are_left_out(text):
    assert read(executed(text)).statements == ()


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"not json",
        b"[1]",
        b'{"message": "duration: 1.000 ms  execute x: SELECT 1',
        line("duration: 1.000 ms  execute x: SELECT 1", user="harness"),
        line("duration: 1.000 ms  execute x: SELECT 1", user="postgres"),
        line("duration: 1.000 ms  execute x: SELECT 1", user=None),
        line("duration: 1.000 ms  execute x: SELECT 1", dbname="postgres"),
        line("duration: 1.000 ms  execute x: SELECT 1", error_severity="ERROR"),
        line("duration: 1.000 ms"),
        line("duration: 1.000 ms  parse x: SELECT 1"),
        line("duration: 1.000 ms  bind x: SELECT 1"),
        line("duration: 1.000 ms  execute fetch from x: SELECT 1"),
        line("duration: 300.000 ms  plan:\nQuery Text: SELECT 1"),
        line("duration: 300.000 ms  plan:\n[]"),
        line("connection authorized: user=api"),
    ],
)
def test_torn_and_foreign_lines_are_passed_over(foreign):
    log = read([foreign, *executed("SELECT 2", ms=7)])
    assert [(one.duration_ms, one.kind) for one in log.statements] == [(7.0, "execute")]
    assert log.plans == ()


@given(st.lists(st.sampled_from(LINES), max_size=30), st.integers(0, 400))
def test_a_log_cut_anywhere_gives_what_its_whole_lines_give(lines, cut):
    assert read([*lines, LINES[5][: min(cut, len(LINES[5]) - 1)]]) == read(lines)


@pytest.mark.parametrize(
    ("settings", "ratio", "always_ms"),
    [
        ({}, None, None),
        ({"log_min_duration_statement": "100ms"}, None, 100.0),
        (
            {
                "log_min_duration_statement": "100ms",
                "log_min_duration_sample": "0",
                "log_statement_sample_rate": "0.1",
            },
            0.1,
            100.0,
        ),
        ({"log_min_duration_sample": "0"}, 1.0, None),
        ({"log_min_duration_sample": "0", "log_statement_sample_rate": "0"}, None, None),
        # short statements are not drawn: nothing can be said of all
        ({"log_min_duration_statement": "1s", "log_min_duration_sample": "10ms"}, None, 1000.0),
        ({"log_min_duration_statement": "0"}, 1.0, 0.0),
    ],
)
def test_what_the_settings_let_the_log_hold(settings, ratio, always_ms):
    assert statement_log.sampling(settings) == (ratio, always_ms)


# --- the percentile ------------------------------------------------------------------------------------------------


def log_of(durations_ms: NDArray[np.float64], ratio: float | None, always_ms: float | None = 100.0) -> StatementLog:
    statements = tuple(LoggedStatement("", "api", "execute", float(ms), "f") for ms in durations_ms)
    return StatementLog(ratio, always_ms, statements, {"f": "SELECT $1"}, ())


def p95(*logs: StatementLog | None):
    return statement_log.metrics(logs)["query_p95_ms"][None]


def executions(kind: str, random: np.random.Generator, count: int) -> NDArray[np.float64]:
    match kind:
        case "skewed":
            return random.lognormal(0.5, 1.4, count)
        case "slow":  # far more than 5 % are always logged
            return np.where(random.random(count) < 0.3, random.uniform(100, 400, count), random.exponential(5, count))
        case _:  # bursts: neighbours are alike, which the draw does not care about
            return np.repeat(random.lognormal(0.5, 1.2, count // 50), 50) * random.lognormal(0, 0.1, count // 50 * 50)


@pytest.mark.parametrize("ratio", [0.02, 0.1])
@pytest.mark.parametrize("kind", ["skewed", "slow", "bursts"])
def test_the_interval_covers_the_truth_as_often_as_it_says_and_the_value_is_not_biased(kind, ratio):
    random = np.random.default_rng(20260203)
    covered, shares = [], []
    for _ in range(300):
        everything = executions(kind, random, 10_000)
        always = everything >= 100
        logged = always | (random.random(len(everything)) < ratio)
        estimate = statement_log.p95(everything[logged], np.where(always, 1, 1 / ratio)[logged])
        truth = np.percentile(everything, 95, method="inverted_cdf")
        covered.append(estimate.low <= truth <= estimate.high)
        shares.append(np.mean(everything <= estimate.value))
    # of 300 at 95 %, fewer than 91 % or none missing at all is less likely than 1 in 1,000
    assert 0.91 <= np.mean(covered) <= 0.998
    assert abs(np.mean(shares) - 0.95) < 0.004


def test_lines_are_weighted_by_how_they_came_into_the_log():
    # 9 short ones stand for 90, the 10 long ones for themselves: 10 % were long, not half
    log = log_of(np.array([1.0] * 9 + [500.0] * 10), 0.1)
    assert statement_log.weights(log).tolist() == [10.0] * 9 + [1.0] * 10
    assert p95(log).value == 500.0
    assert p95(log_of(np.array([1.0] * 95 + [500.0] * 10), 0.1)).value == 1.0


def test_a_log_of_everything_is_exact():
    estimate = p95(log_of(np.arange(1.0, 1001.0), 1.0))
    assert (estimate.value, estimate.low, estimate.high, estimate.count) == (950.0, 950.0, 950.0, 1000)


def test_few_lines_have_no_interval():
    estimate = p95(log_of(np.arange(1.0, 61.0), 0.1))
    assert (estimate.low, estimate.high, estimate.count) == (None, None, 60)
    assert 67 < p95(log_of(np.arange(1.0, 71.0), 0.1)).high <= 70


@given(st.lists(st.floats(0.001, 99), min_size=1, max_size=300), st.floats(0.01, 1))
def test_value_and_interval_are_logged_durations_in_order(durations, ratio):
    estimate = p95(log_of(np.array(durations), ratio))
    assert estimate.value == np.percentile(durations, 95, method="inverted_cdf")
    assert estimate.low is None or estimate.low <= estimate.value <= estimate.high


def test_runs_are_pooled_and_one_without_a_log_leaves_no_data():
    one, other = log_of(np.full(100, 1.0), 0.1), log_of(np.full(100, 9.0), 0.5)
    assert p95(one, other).value == 9.0
    assert p95(one, other).count == 200
    for logs in ((), (None,), (one, None), (one, log_of(np.full(9, 1.0), None)), (log_of(np.array([]), 0.1),)):
        assert p95(*logs) is None


def test_a_log_that_lacks_lines_is_told_by_the_servers_own_count():
    delta = built_servers("day31")
    calls = sum(one.calls for one in delta.statements)
    assert statement_log.doubts(log_of(np.full(calls // 10, 1.0), 0.1), delta) == ()
    (lost,) = statement_log.doubts(log_of(np.full(calls // 30, 1.0), 0.1), delta)
    assert f"pg_stat_statements counted {calls:,}" in lost
    (uneven,) = statement_log.doubts(log_of(np.full(calls // 10, 1.0), None), delta)
    assert "log_min_duration_sample = 0" in uneven


# --- the inventory -------------------------------------------------------------------------------------------------


def test_slow_statements_are_counted_by_login_and_statement():
    tag = built_servers("day31").statements[0]
    plan = line('duration: 250.000 ms  plan:\n{"Query Text": "SELECT pg_sleep(0.25)", "Plan": {"Node Type": "Result"}}')
    lines = [
        *executed("SELECT pg_sleep(0.1)", ms=100),
        *executed("SELECT pg_sleep(0.25)", ms=250.5),
        plan,
        *executed("SELECT pg_sleep(0.09)", ms=99.999),
        line(f"duration: 150.000 ms  statement: {tag.query.replace('$1', 'NULL')}", user="odoo"),
    ]
    slow = slow_statements.inventory([read(lines)], [tag])
    assert [(row.user, row.query, row.count, row.total_ms, row.max_ms) for row in slow.rows] == [
        ("api", "SELECT pg_sleep($1)", 2, 350.5, 250.5),
        ("odoo", "SELECT id, name FROM farm.animal WHERE tag_number = $1", 1, 150.0, 150.0),
    ]
    assert [row.endpoints for row in slow.rows] == [(), ("api GET /api/v1/animals/{tag_number}",)]
    assert [row.plan for row in slow.rows] == [{"Plan": {"Node Type": "Result"}}, None]
    assert (slow.limit_ms, slow.logged, slow.executed) == (100.0, 4, 13.0)


def test_an_inventory_needs_a_log_of_every_slow_statement():
    short = log_of(np.full(9, 1.0), 0.1)
    assert slow_statements.inventory([short]).rows == ()
    for logs in ([], [None], [short, None], [log_of(np.full(9, 1.0), 0.1, None)], [log_of(np.full(9, 1.0), 0.1, 250)]):
        assert slow_statements.inventory(logs) is None
