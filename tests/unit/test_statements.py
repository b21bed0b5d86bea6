from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
from built_snapshots import BY_TAG, TIMINGS, delta, pg_row, snapshot, statement
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError, StackError
from harness.servers import combine
from harness.statements import fingerprint, named_fingerprints

# --- fingerprints


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a FROM t WHERE b IN (1, 2, 3)", "select a from t where b in ($1)"),
        ("INSERT INTO t VALUES (1, 'x'), (2, 'y')", "INSERT INTO t VALUES ($1, $2)"),
        ("SELECT a -- why\nFROM t LIMIT 10", "/* x */ SELECT a FROM t LIMIT $1"),
        ("SELECT date '2026-02-03' - interval '1 day'", "SELECT date $1 - interval $2"),
        ("SELECT broken FROM WHERE x = 17", "select  broken from where x = $1"),
        ("SELECT a FROM t WHERE (b, c) IN ((1, 2), (3, 4))", "SELECT a FROM t WHERE (b, c) IN (($1, $2))"),
        ("SELECT a FROM t WHERE b IN ($1 /*, ... */)", "SELECT a FROM t WHERE b IN ($1)"),  # PostgreSQL 18's own
        ("SELECT v.a FROM (VALUES (1, 2), (3, 4)) v (a, b)", "SELECT v.a FROM (VALUES ($1, $2)) v (a, b)"),
        ('SAVEPOINT "5d2c9e"', 'SAVEPOINT "77aa01"'),  # Odoo names each by a UUID
        ('RELEASE SAVEPOINT "5d2c9e"', 'RELEASE "77aa01"'),
        ("SELECT a FROM farm.t", "SELECT a FROM sales.t"),  # no two tables here have one name: test_statement_identity
    ],
)
def test_fingerprint_ignores_what_varies_between_calls(one: str, other: str) -> None:
    assert fingerprint(one) == fingerprint(other)


def test_fingerprint_keeps_shapes_apart() -> None:
    texts = [
        "SELECT a FROM t",
        "SELECT b FROM t",
        "SELECT a FROM u",
        "SELECT a FROM t WHERE b = 1",
        "SELECT a FROM t WHERE b NOT IN (1, 2)",
        "SELECT a FROM t LIMIT 5",
        "SELECT a FROM",
        "SELECT a FROM t WHERE b IN (1, 2",  # cut off
        "<insufficient privilege>",
        "",  # the server keeps no text once its file was cleared
    ]
    assert len({fingerprint(text) for text in texts}) == len(texts)


def test_named_fingerprints_find_the_text_that_the_server_keeps() -> None:
    names = named_fingerprints(
        {
            "animal_by_tag": "-- one animal\nSELECT id FROM farm.animal WHERE tag_number = %(tag)s",
            "search": "SELECT id FROM farm.animal WHERE name LIKE '%%x' AND (%(tag)s::text IS NULL OR tag = %(tag)s)",
        }
    )
    assert names[fingerprint(BY_TAG)] == "animal by tag"
    assert names[fingerprint("SELECT id FROM farm.animal WHERE name LIKE $2 AND ($1::text IS NULL OR tag = $1)")]


def test_two_files_of_one_shape_are_refused() -> None:
    with pytest.raises(InputError, match='query "b": same shape as "a"'):
        named_fingerprints({"a": "SELECT 1 FROM t", "b": "SELECT %(x)s FROM t"})


# --- one statement between two snapshots


@pytest.mark.parametrize(
    ("before", "after", "calls", "lower_bound", "warning"),
    [
        ([statement(10)], [statement(25)], 15, False, None),
        ([statement(10)], [statement(10)], None, False, None),
        ([], [statement(4)], 4, False, None),
        ([statement(10)], [], None, False, "1 statements of the first snapshot are gone"),
        ([statement(10)], [statement(3)], 3, True, "1 statements began to count anew"),
        ([statement(10, stats_since="a")], [statement(12, stats_since="b")], 12, True, "1 statements began to count"),
        ([statement(10, toplevel=False)], [statement(25, toplevel=False)], None, False, None),
        ([statement(10, database="postgres")], [statement(25, database="postgres")], None, False, None),
        ([statement(10, role="harness")], [statement(25, role="harness")], None, False, None),
    ],
    ids=["grown", "idle", "new", "gone", "reborn", "reborn-17", "nested", "other-database", "harness"],
)
def test_rows(before: Any, after: Any, calls: int | None, lower_bound: bool, warning: str | None) -> None:
    change = delta(snapshot(before), snapshot(after))
    assert [(one.calls, one.lower_bound) for one in change.statements] == ([(calls, lower_bound)] if calls else [])
    assert len(change.warnings) == (warning is not None)
    assert (warning or "") in "".join(change.warnings)


def test_the_figures_of_a_grown_row() -> None:
    (one,) = delta(snapshot([statement(10, mean=1)]), snapshot([statement(30, mean=2, wal_bytes=5)])).statements
    assert (one.role, one.name, one.query, one.rows) == ("api", "animal by tag", BY_TAG, 20)
    assert (one.shared_blks_hit, one.shared_blks_read, one.wal_bytes) == (60, 20, 5)
    assert one.total_ms == pytest.approx(50)


def test_texts_of_one_shape_and_role_are_one_statement() -> None:
    rows = [
        statement(2, queryid=1, query="SELECT a FROM t WHERE id IN ($1)", mean=1, sd=0),
        statement(2, queryid=2, query="SELECT a FROM t WHERE id IN ($1, $2)", mean=3, sd=0),
        statement(2, queryid=2, userid=11, role="odoo", query="SELECT a FROM t WHERE id IN ($1, $2)"),
    ]
    one, other = sorted(delta(snapshot(), snapshot(rows)).statements, key=lambda one: one.role)
    assert (one.role, one.calls, one.total_ms, one.m2_ms2) == ("api", 4, 8, pytest.approx(4))
    assert (other.role, other.calls) == ("odoo", 2)


@pytest.mark.parametrize(
    ("before", "after", "changed", "lost"),
    [
        ([statement(10)], [statement(25)], {}, False),
        ([], [statement(25)], {}, False),
        ([statement(10)], [], {}, True),
        ([statement(10)], [statement(25)], {"info": {"dealloc": 1, "stats_reset": "2026-02-03"}}, True),
        ([statement(10)], [statement(25)], {"info": {"dealloc": 0, "stats_reset": "2026-02-04"}}, True),
    ],
    ids=["grown", "new", "gone", "evicted", "reset"],
)
def test_a_view_that_lost_rows_says_so(before: Any, after: Any, changed: Any, lost: bool) -> None:
    change = delta(snapshot(before), snapshot(after, **changed))
    assert change.statements_lost is lost
    kept = delta(snapshot(), snapshot())
    assert combine([kept, change]).statements_lost is combine([change, kept]).statements_lost is lost


@pytest.mark.parametrize(
    ("active", "active_ms"), [((100.0, 180.0), 50.0), ((None, 180.0), None), ((100.0, 7.0), None), ((0.0, 20.0), 0.0)]
)
def test_the_time_of_the_application_is_without_what_others_ran(active: Any, active_ms: float | None) -> None:
    def taken(calls: int, time_ms: float | None) -> Any:
        one = snapshot([statement(calls), statement(calls, mean=3, userid=11, role="harness")])
        database = one.postgres["database"] | ({} if time_ms is None else {"active_time": time_ms})
        return replace(one, postgres={**one.postgres, "database": database})

    change = delta(taken(10, active[0]), taken(20, active[1]))
    assert change.active_ms == active_ms
    twice = combine([change, change]).active_ms
    assert twice == (None if active_ms is None else 2 * active_ms)


@pytest.mark.parametrize(
    ("changed", "calls", "lower_bound", "warning"),
    [
        ({"info": {"dealloc": 0, "stats_reset": "2026-02-04"}}, 25, True, "reset at 2026-02-04"),
        ({"info": {"dealloc": 2, "stats_reset": "2026-02-03"}}, 15, True, "evicted 2 times"),
        ({"settings": {"pg_stat_statements.max": "1"}}, 15, False, "1 of 1 entries"),
    ],
)
def test_validity_header(changed: Any, calls: int, lower_bound: bool, warning: str) -> None:
    change = delta(snapshot([statement(10)]), snapshot([statement(25)], **changed))
    assert [(one.calls, one.lower_bound) for one in change.statements] == [(calls, lower_bound)]
    assert warning in change.warnings[0]
    assert ";" in change.warnings[0], "a warning names its remedy"


def test_stats_since_proves_a_row_intact_although_others_were_evicted() -> None:
    before, after = ([statement(calls, stats_since="a")] for calls in (10, 25))
    change = delta(snapshot(before), snapshot(after, info={"dealloc": 2, "stats_reset": "2026-02-03"}))
    assert not change.statements[0].lower_bound


@pytest.mark.parametrize("version", ["1.9", "1.10", "1.11", "1.12"])
def test_extensions_of_postgresql_14_to_18_are_read(version: str) -> None:
    after = snapshot([statement(4)], extension_version=version)
    assert delta(snapshot(), after).statements[0].calls == 4


def test_an_older_extension_is_refused() -> None:
    with pytest.raises(StackError, match=r"pg_stat_statements 1\.8: .*; ALTER EXTENSION"):
        delta(snapshot(), snapshot(extension_version="1.8"))


@given(TIMINGS, st.integers(0, 39))
def test_a_difference_has_the_moments_of_its_own_calls(timings: list[float], cut: int) -> None:
    old, own = timings[: cut % len(timings)], timings[cut % len(timings) :]
    (one,) = delta(snapshot(pg_row(old)), snapshot(pg_row(timings))).statements
    assert one.calls == len(own)
    assert one.total_ms == pytest.approx(sum(own), abs=1e-6)
    assert math.sqrt(one.m2_ms2 / one.calls) == pytest.approx(statistics.pstdev(own), rel=1e-6, abs=1e-3)
