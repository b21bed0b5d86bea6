"""statement_changes: the split adds up to the whole, and each cause is said where the counts show it alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import built_plans
import built_results as built
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import compare
from harness.model import StatementDelta
from harness.report_statements import benchmark_section, run_section
from harness.statement_changes import changes, lossy_days, total_change

SELECT, INSERT = "SELECT a FROM t WHERE b = $1", "INSERT INTO t (a) VALUES ($1)"


def statement(query: str = SELECT, calls: int = 1000, mean_ms: float = 1.0, **per_call: float) -> StatementDelta:
    """per_call: rows, blocks, read, temp, wal; the spread is a hundredth of the mean."""
    figures = {"rows": 2.0, "blocks": 10.0, "read": 0.0, "temp": 0.0, "wal": 0.0} | per_call
    return replace(
        built.statement("api", None, query, calls, mean_ms),
        m2_ms2=calls * (mean_ms / 100) ** 2,
        rows=round(calls * figures["rows"]),
        shared_blks_hit=round(calls * (figures["blocks"] - figures["read"])),
        shared_blks_read=round(calls * figures["read"]),
        temp_blks_written=round(calls * figures["temp"]),
        wal_bytes=round(calls * figures["wal"]),
    )


def change_of(before: StatementDelta | None, after: StatementDelta | None, lossy: tuple[str, ...] = ()) -> Any:
    sides = [replace(built.servers("day31"), statements=(one,) if one else ()) for one in (before, after)]
    (found,) = changes(compare.statements(*sides, 1000, 1000), lossy)
    return found


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ({}, {}, "as before: what differs is small, or within chance"),
        ({}, {"mean_ms": 1.05}, "as before: what differs is small, or within chance"),
        (
            {"calls": 100},
            {"calls": 120},
            "as before: what differs is small, or within chance",
        ),  # 20 ± 2 √(1/100 + 1/120)
        ({}, {"calls": 500}, "2.0 × fewer calls per request"),
        ({}, {"calls": 3000}, "3.0 × more calls per request"),
        ({}, {"mean_ms": 3.0}, "calls 3.0 × slower, the same blocks: likely contention (CPU, locks, waits)"),
        ({}, {"mean_ms": 0.5}, "calls 2.0 × faster, the same blocks: likely less contention, or less to compute"),
        ({"read": 9}, {"mean_ms": 0.5}, "calls 2.0 × faster, the same blocks, found in memory instead of read"),
        ({}, {"mean_ms": 25.0, "blocks": 300}, "calls 25 × slower, 30 × more blocks: likely another plan"),
        ({"blocks": 300}, {"mean_ms": 0.1}, "calls 10 × faster, 30 × fewer blocks: likely another plan"),
        ({"blocks": 0}, {"mean_ms": 9.0, "blocks": 30}, "calls 9.0 × slower, 30 × more blocks: likely another plan"),
        (
            {},
            {"mean_ms": 2.0, "blocks": 20, "rows": 4},
            "calls 2.0 × slower, 2.0 × more rows per call (2.0 × more blocks)",
        ),
        (
            {},
            {"mean_ms": 2.0, "blocks": 2},
            "calls 2.0 × slower, 5.0 × fewer blocks and yet slower: another plan, or likely contention (CPU, locks, "
            "waits)",
        ),
        (
            {"query": INSERT, "wal": 100},
            {"query": INSERT, "mean_ms": 2.0, "blocks": 20, "wal": 300},
            "calls 2.0 × slower, more indexes or checks for each row (2.0 × more blocks, 3.0 × more WAL)",
        ),
        (
            {},
            {"mean_ms": 2.0, "temp": 1},
            "calls 2.0 × slower, the same blocks: likely contention (CPU, locks, waits), spills to disk",
        ),
        # the larger part is said first, one of less than a tenth not at all
        (
            {},
            {"calls": 500, "mean_ms": 5.0},
            "calls 5.0 × slower, the same blocks: likely contention (CPU, locks, waits); 2.0 × fewer calls per request",
        ),
        (
            {},
            {"calls": 1100, "mean_ms": 9.0},
            "calls 9.0 × slower, the same blocks: likely contention (CPU, locks, waits)",
        ),
    ],
)
def test_cause(before: Any, after: Any, cause: str) -> None:
    assert change_of(statement(**before), statement(**after)).cause == cause


def test_a_mean_that_its_spread_explains_is_no_change() -> None:
    wild = replace(statement(calls=10, mean_ms=3.0), m2_ms2=10 * 9.0**2)
    assert change_of(statement(calls=10), wild).cause.startswith("as before")
    assert change_of(statement(calls=10), replace(wild, m2_ms2=0.0)).cause.startswith("calls 3.0 × slower")
    assert change_of(statement(calls=1), statement(calls=1, mean_ms=9.0)).cause.startswith("as before")


@pytest.mark.parametrize(
    ("lossy", "gone", "new"),
    [
        ((), "gone: not called on day40", "new: not called on day31"),
        (
            ("day31", "day40"),
            "not seen on day40, where statements were lost: it may have been called there",
            "not seen on day31, where statements were lost: it may have been called there",
        ),
    ],
)
def test_a_statement_of_one_day_was_not_called_on_the_other_or_lost(lossy: Any, gone: str, new: str) -> None:
    one, other = change_of(statement(), None, lossy), change_of(None, statement(), lossy)
    assert (one.kind, one.cause, one.change_ms, one.calls_ms) == ("gone", gone, pytest.approx(-1.0), None)
    assert (other.kind, other.cause, other.change_ms, other.mean_ms) == ("new", new, pytest.approx(1.0), None)
    assert (one.doubtful, other.doubtful) == (lossy[1:], lossy[:1])


def test_plans_of_both_days_decide_what_counts_leave_open() -> None:
    day31, day40 = built_plans.plans("day31"), built_plans.plans("day40")
    names = {one.name for one in day31.critical}
    assert {"milk history", "animal by tag"} <= names

    def cause(name: str) -> str:
        rows = [
            replace(row, name=name)
            for row in compare.statements(
                replace(built.servers("day31"), statements=(statement(),)),
                replace(built.servers("day40"), statements=(statement(mean_ms=3.0),)),
                1000,
                1000,
            )
        ]
        return changes(rows, (), day31, day40)[0].cause

    assert cause("milk history") == "calls 3.0 × slower, another plan (farm.milk_production Seq Scan → Index Scan)"
    assert cause("animal by tag").endswith("the same plan and blocks: likely contention (CPU, locks, waits)")
    assert cause("no such query").endswith("the same blocks: likely contention (CPU, locks, waits)")


figures = st.tuples(st.integers(1, 9999), st.floats(0.001, 1000))
sides = st.dictionaries(st.integers(0, 8), figures, max_size=8)


@given(sides, sides, st.integers(1, 5000), st.integers(1, 5000))
def test_the_parts_add_up_to_the_change_of_everything(day31: Any, day40: Any, requests31: int, requests40: int) -> None:
    def delta(of: Any) -> Any:
        rows = tuple(statement(f"SELECT c{n} FROM t", calls, mean) for n, (calls, mean) in of.items())
        return replace(built.servers("day31"), statements=rows)

    before, after = delta(day31), delta(day40)
    found = changes(compare.statements(before, after, requests31, requests40))
    total = total_change(found)
    if total is None:
        assert not day31
        assert not day40
        return
    whole31 = sum(one.total_ms for one in before.statements) / requests31
    whole40 = sum(one.total_ms for one in after.statements) / requests40
    assert (total.day31_ms, total.day40_ms) == (pytest.approx(whole31), pytest.approx(whole40))
    exact = pytest.approx(whole40 - whole31, rel=1e-9, abs=1e-9 * (whole31 + whole40 + 1))
    assert total.change_ms == exact
    assert total.calls_ms + total.mean_ms + total.new_ms + total.gone_ms == pytest.approx(
        whole40 - whole31, rel=1e-6, abs=1e-6 * (whole31 + whole40 + 1)
    )
    saved = [one.change_ms for one in found]
    assert saved == sorted(saved)


def test_without_requests_nothing_is_compared() -> None:
    delta = replace(built.servers("day31"), statements=(statement(),))
    (one,) = changes(compare.statements(delta, delta, 1000, 0))
    assert (one.change_ms, one.calls_ms) == (None, None)
    assert one.cause == "cannot say: there were no requests to divide by"
    assert total_change([one]) is None


# --- the page's rows


def test_lower_bounds_are_marked_in_the_rows_and_in_the_totals() -> None:
    day31, day40 = built.result("day31"), built.result("day40")
    lost = replace(
        day40.servers,
        statements=tuple(replace(one, lower_bound=True) for one in day40.servers.statements),
        statements_lost=True,
    )
    rows = compare.statements(day31.servers, lost, 3315, 3315)
    section = benchmark_section(day31, replace(day40, servers=lost), rows)
    assert lossy_days(day31.servers, lost) == ("day40",)
    shown = [row for group in section.groups for row in group.rows]
    assert {row.doubt for row in shown} == {"uncertain: day40 may have done more"}
    cells = [row.cells[1] for row in shown if row.cells[1].missing is None]
    assert all(one.calls_per_request.startswith("at least ") for one in cells)
    assert {row.cells[1].missing for row in shown} - {None} == {"not seen, statements were lost"}
    assert re.match(
        r"All 7 statements together: [\d.]+ ms of execution per request on day31, at least [\d.]+ ms on day40, "
        r"−[\d.]+ ms \(uncertain, as counts were lost\): ",
        section.summary[0],
    )
    assert all(group.together.endswith(" per request (uncertain, as counts were lost)") for group in section.groups)
    assert [text[:6] for text in section.doubts] == ["day40:"]
    assert [[own.startswith("at least ") for _, own, _, _ in total.cells] for total in section.totals] == [
        [False, True]
    ] * 3


def test_what_got_faster_comes_first_and_twenty_are_shown() -> None:
    day31, day40 = built.result("day31"), built.result("day40")
    before = tuple(statement(f"SELECT c{n} FROM t", 1000, 1.0) for n in range(30))
    after = tuple(statement(f"SELECT c{n} FROM t", 1000, 1.0 + (n - 10) / 10) for n in range(30))
    rows = compare.statements(replace(day31.servers, statements=before), replace(day40.servers, statements=after), 1, 1)
    section = benchmark_section(day31, day40, rows)
    faster, slower = section.groups
    assert (len(faster.rows) + len(slower.rows), len(section.rest.rows)) == (20, 10)
    assert faster.rows[0].text == "SELECT c0 FROM t"
    assert slower.rows[0].text == "SELECT c29 FROM t"
    assert section.rest.title == "10 further statements whose time per request changed less"


def test_a_long_statement_is_cut_and_says_so() -> None:
    run = built.result("day40")
    long = replace(statement(), query="SELECT " + "x" * 20_000)
    rows = compare.statements(replace(run.servers, statements=()), replace(run.servers, statements=(long,)), 1, 10)
    row = run_section("day40", run, rows).groups[0].rows[0]
    assert len(row.label) == 90
    assert row.text.endswith(" … (10,007 more characters)")


def test_a_statement_whose_text_the_server_did_not_keep_is_called_so() -> None:
    run = built.result("day40")
    rows = compare.statements(
        replace(run.servers, statements=()), replace(run.servers, statements=(statement(""),)), 1, 9
    )
    row = run_section("day40", run, rows).groups[0].rows[0]
    assert (row.label, row.text) == ("text not kept by the server", "text not kept by the server")


def test_a_day_without_counters_has_no_totals() -> None:
    section = run_section("day40", built.without_data("day40"), ())
    assert (section.groups, section.rest, section.totals, section.doubts) == ((), None, (), ())
