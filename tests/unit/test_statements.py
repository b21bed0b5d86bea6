from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import statements
from harness.errors import InputError, StackError
from harness.model import PoolDelta, ServerDelta, Snapshot
from harness.statements import combine, diff, fingerprint, metrics, named_fingerprints

BY_TAG = "SELECT id FROM farm.animal WHERE tag_number = $1"


def statement(calls: int, mean: float = 2.0, sd: float = 0.5, **columns: Any) -> dict[str, Any]:
    row = {
        "role": "api",
        "database": "smart_dairy",
        "userid": 10,
        "dbid": 1,
        "queryid": 7,
        "toplevel": True,
        "query": BY_TAG,
        "calls": calls,
        "total_exec_time": calls * mean,
        "stddev_exec_time": sd,
        "rows": calls,
        "shared_blks_hit": 3 * calls,
        "shared_blks_read": calls,
        "temp_blks_written": 0,
        "wal_bytes": 0,
    }
    return row | columns


def table(name: str, relid: int, **columns: Any) -> dict[str, Any]:
    row = {
        "relid": relid,
        "relkind": "r",
        "schemaname": "farm",
        "relname": name,
        "parent_schemaname": None,
        "parent_relname": None,
        "seq_scan": 0,
        "seq_tup_read": 0,
        "idx_scan": 0,
        "idx_tup_fetch": 0,
        "reltuples": 5000.0,
        "relpages": 50,
        "heap_bytes": 409_600,
        "n_live_tup": 5000,
        "n_dead_tup": 1,
    }
    return row | columns


def snapshot(rows: Sequence[dict[str, Any]] = (), at_s: float = 0, **parts: Any) -> Snapshot:
    """parts: keys of Snapshot replace it, other keys replace parts of its `postgres`."""
    database = dict.fromkeys(
        ("blks_hit", "blks_read", "xact_commit", "xact_rollback", "deadlocks", "temp_bytes"), 0
    ) | {"datname": "smart_dairy"}
    postgres = {
        "version": "16.14",
        "extension_version": "1.10",
        "settings": {"pg_stat_statements.max": "1000"},
        "info": {"dealloc": 0, "stats_reset": "2026-02-03"},
        "statements": list(rows),
        "tables": [],
        "indexes": [],
        "database": database,
        "wal": {"wal_bytes": 0},
    }
    own = {name: parts.pop(name) for name in ("pgbouncer", "redis", "api", "processes") if name in parts}
    base = Snapshot("", int(at_s * 1e6), postgres | parts, None, None, None, {})
    return replace(base, **own)


def delta(before: Snapshot, after: Snapshot) -> ServerDelta:
    return diff(before, after, {fingerprint(BY_TAG): "animal by tag"})


# --- fingerprints


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a FROM t WHERE b IN (1, 2, 3)", "select a from t where b in ($1)"),
        ("INSERT INTO t VALUES (1, 'x'), (2, 'y')", "INSERT INTO t VALUES ($1, $2)"),
        ("SELECT a -- why\nFROM t LIMIT 10", "/* x */ SELECT a FROM t LIMIT $1"),
        ("SELECT date '2026-02-03' - interval '1 day'", "SELECT date $1 - interval $2"),
        ("SELECT broken FROM WHERE x = 17", "select  broken from where x = $1"),
    ],
)
def test_fingerprint_ignores_what_varies_between_calls(one: str, other: str) -> None:
    assert fingerprint(one) == fingerprint(other)


def test_fingerprint_keeps_shapes_apart() -> None:
    texts = ["SELECT a FROM t", "SELECT b FROM t", "SELECT a FROM u", "SELECT a FROM t WHERE b = 1", "SELECT a FROM"]
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


def test_blocks_are_the_applications() -> None:
    rows = [statement(5), statement(30, role="harness", userid=11)]
    counts = snapshot().postgres["database"] | {"blks_hit": 120, "blks_read": 40}
    change = delta(snapshot(), snapshot(rows, database=counts))
    assert (change.blks_hit, change.blks_read) == (30, 10)
    assert metrics(change, "day31")["buffer_hit_pct"][None].value == 75


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


TIMINGS = st.lists(st.floats(0.001, 1000), min_size=2, max_size=40)


def pg_row(timings: Sequence[float]) -> list[dict[str, Any]]:
    """The row as the server computes it of single timings."""
    if not timings:
        return []
    return [statement(len(timings), mean=statistics.fmean(timings), sd=statistics.pstdev(timings))]


@given(TIMINGS, st.integers(0, 39))
def test_a_difference_has_the_moments_of_its_own_calls(timings: list[float], cut: int) -> None:
    old, own = timings[: cut % len(timings)], timings[cut % len(timings) :]
    (one,) = delta(snapshot(pg_row(old)), snapshot(pg_row(timings))).statements
    assert one.calls == len(own)
    assert one.total_ms == pytest.approx(sum(own), abs=1e-6)
    assert math.sqrt(one.m2_ms2 / one.calls) == pytest.approx(statistics.pstdev(own), rel=1e-6, abs=1e-3)


@given(TIMINGS, TIMINGS, TIMINGS)
def test_combine_is_associative_and_has_the_moments_of_all_calls(
    a: list[float], b: list[float], c: list[float]
) -> None:
    one, two, three = (delta(snapshot(), snapshot(pg_row(timings), at_s=1)) for timings in (a, b, c))
    for both in (
        combine([combine([one, two]), three]),
        combine([one, combine([two, three])]),
        combine([one, two, three]),
    ):
        (total,) = both.statements
        assert (total.calls, both.elapsed_s) == (len(a + b + c), 3)
        assert total.total_ms == pytest.approx(sum(a + b + c))
        assert math.sqrt(total.m2_ms2 / total.calls) == pytest.approx(statistics.pstdev(a + b + c), rel=1e-6, abs=1e-6)


# --- tables, pools, caches


def test_partitions_count_for_their_parent() -> None:
    parent = {"parent_schemaname": "farm", "parent_relname": "milk"}
    own = table("milk", 1, relkind="p", reltuples=10_000.0, relpages=-1, heap_bytes=0)
    before = snapshot(tables=[own, table("m_q1", 2, **parent)])
    after = snapshot(
        tables=[
            own,
            table("m_q1", 2, seq_scan=1, seq_tup_read=900, idx_scan=2, idx_tup_fetch=8, **parent),
            table("m_q2", 3, idx_scan=7, idx_tup_fetch=7, **parent),
            table("log", 4, idx_scan=None, idx_tup_fetch=None, seq_scan=1, reltuples=-1.0, n_live_tup=12),
        ]
    )
    log, milk = delta(before, after).tables
    assert (milk.table, milk.seq_scan, milk.seq_tup_read, milk.idx_scan, milk.idx_tup_fetch) == ("milk", 1, 900, 9, 15)
    assert (milk.rows_estimate, milk.pages, milk.heap_bytes, milk.n_dead_tup) == (10_000, 100, 819_200, 2)
    assert (log.idx_scan, log.idx_tup_fetch, log.rows_estimate, log.pages) == (None, None, 12, 50)


def test_indexes_of_partitions_count_for_the_partitioned_one() -> None:
    none = {"parent_schemaname": None, "parent_relname": None, "parent_indexrelname": None}
    own = {"schemaname": "farm", "relname": "m_q1", "indexrelname": "m_q1_date", "size_bytes": 8192, "idx_scan": 5}
    parent = {"parent_schemaname": "farm", "parent_relname": "milk", "parent_indexrelname": "milk_date"}
    rows = [own | parent | {"indexrelid": 1}, own | parent | {"indexrelid": 2}, own | none | {"indexrelid": 3}]
    lone, milk = delta(snapshot(indexes=[rows[0] | {"idx_scan": 2}]), snapshot(indexes=rows)).indexes
    assert (milk.table, milk.index, milk.idx_scan, milk.size_bytes) == ("milk", "milk_date", 8, 16_384)
    assert (lone.table, lone.index, lone.idx_scan) == ("m_q1", "m_q1_date", 5)


def test_seq_scan_shares_leave_small_tables_out_and_name_offenders() -> None:
    tables = [
        table("animal", 1, seq_scan=90, reltuples=255.0),
        table("short", 2, seq_scan=90, relpages=8),
        table("milk", 3, seq_scan=2, seq_tup_read=10_000, idx_scan=98, idx_tup_fetch=30_000),
        table("orders", 4, seq_scan=9, schemaname="sales"),
    ]
    change = delta(snapshot(), snapshot(tables=tables))
    shares = statements.seq_scan_shares(change, requests=100)
    assert (shares.by_scans_pct, shares.by_tuples_pct, shares.scans) == (2.0, 25.0, 100)
    assert (shares.seq_bytes, shares.excluded) == (819_200, ("farm.animal", "farm.short"))
    assert shares.offenders == ("farm.milk",)
    assert statements.seq_scan_shares(change, requests=200).offenders == ()
    assert metrics(change, "day31")["seq_scan_pct"][None].value == 2.0


def bouncer(at_s: float, xact_s: float, wait_s: float, count: int, query_s: float | None = None) -> dict[str, Any]:
    stats = {
        "total_xact_count": count,
        "total_query_count": 2 * count,
        "total_xact_time": xact_s * 1e6,
        "total_query_time": (xact_s if query_s is None else query_s) * 1e6,
        "total_wait_time": wait_s * 1e6,
    }
    return {
        "monotonic_us": int(at_s * 1e6),
        "stats": [stats | {"database": "smart_dairy"}, stats | {"database": "quiet", "total_xact_count": 0}],
        "pools": [{"database": "smart_dairy", "user": "odoo"}],
        "databases": [
            {"name": "smart_dairy", "database": "smart_dairy", "pool_size": 4, "max_connections": 0},
            {"name": "quiet", "database": "smart_dairy", "pool_size": 9, "max_connections": 3},
            {"name": "postgres", "database": "postgres", "pool_size": 9, "max_connections": 0},
        ],
    }


def test_pool_utilisation_subtracts_the_wait_and_ends_with_the_load() -> None:
    before = snapshot(pgbouncer=bouncer(100, 50, 10, 7))
    after = snapshot(pgbouncer=bouncer(120, 80, 20, 107, query_s=75), at_s=20)
    change = diff(before, after, {}, load_ended_us=110_000_000)
    probes = {"pool.smart_dairy.sv_active": [(1.0, 3.0), (2.0, 2.0)], "pool.smart_dairy.clients": [(1.0, 9.0)]}
    (use,) = statements.pool_use(change, probes)
    # 20 s held of 10 s x 4 links; 15 s of them in queries; 10 s waited by 100 transactions
    assert (use.mean_pct, use.held_idle_pct, use.mean_wait_ms) == (50.0, 25.0, 100.0)
    assert (use.peak_pct, use.ceiling_pct) == (75.0, 100.0)
    assert [(pool.alias, pool.capacity) for pool in change.pools] == [("quiet", 3), ("smart_dairy", 4)]
    judged = metrics(change, "day40")["pool_utilisation_pct"]
    assert (judged[None], judged["smart_dairy"].value) == (judged["smart_dairy"], 50.0)
    assert "quiet" not in judged


def test_the_worst_alias_counts() -> None:
    pools = tuple(PoolDelta(alias, 10, 1_000_000, 5, 5, held, held, 0) for alias, held in (("a", 10**6), ("b", 10**7)))
    judged = metrics(replace(delta(snapshot(), snapshot()), pools=pools), "day40")["pool_utilisation_pct"]
    assert (judged[None].value, judged["a"].value) == (100.0, 10.0)


def test_two_users_of_an_alias_are_warned_of() -> None:
    pools = bouncer(1, 1, 0, 1)
    pools["pools"] += [{"database": "smart_dairy", "user": "api"}]
    assert (
        'pgbouncer "smart_dairy": api, odoo' in delta(snapshot(pgbouncer=pools), snapshot(pgbouncer=pools)).warnings[0]
    )


def redis_info(hits: int, misses: int, run_id: str = "r") -> dict[str, Any]:
    names = {"keyspace_hits": hits, "keyspace_misses": misses, "evicted_keys": 0, "expired_keys": 1}
    return {"info": names | {"run_id": run_id}}


def api_counts(lookups: int, hits: int) -> dict[str, float]:
    return {
        "dairy_api_cache_lookups_total": lookups,
        'dairy_api_cache_hits_total{cache="animal"}': hits,
        'dairy_api_cache_hits_total{cache="milk"}': hits,
        'dairy_api_sql_calls_total{query="animal by tag"}': lookups,
        'dairy_api_sql_seconds_total{query="animal by tag"}': 0.5,
    }


def test_the_cache_is_the_applications() -> None:
    before = snapshot(redis=redis_info(10, 10), api=api_counts(10, 1))
    change = delta(before, snapshot(redis=redis_info(40, 20), api=api_counts(30, 9)))
    judged = metrics(change, "day40")
    assert (judged["redis_hit_pct"][None].value, judged["redis_hit_pct"][None].count) == (80.0, 20)
    assert judged["redis_server_hit_pct"][None].value == 75.0
    assert change.api_sql_calls == {"animal by tag": 20}
    assert metrics(change, "day31")["redis_hit_pct"][None] is None


def test_a_restarted_server_is_warned_of() -> None:
    before = snapshot(redis=redis_info(100, 0, "old"), api=api_counts(30, 9))
    change = delta(before, snapshot(redis=redis_info(200, 0, "new"), api=api_counts(3, 1)))
    assert [text.split(":")[0] for text in change.warnings] == ["api /metrics", "redis"]
    assert (change.cache.server_hits, change.cache.lookups) == (200, 3)


def test_processor_time_counts_from_a_restart() -> None:
    before = snapshot(processes={"odoo": {"cpu_s": 5.0, "rss_bytes": 1.0}, "api": {"cpu_s": 9.0, "rss_bytes": 1.0}})
    after = snapshot(processes={"odoo": {"cpu_s": 8.0, "rss_bytes": 2.0}, "api": {"cpu_s": 1.0, "rss_bytes": 3.0}})
    change = delta(before, after)
    assert (change.process_cpu_s, change.process_rss_bytes) == ({"odoo": 3.0, "api": 1.0}, {"odoo": 2, "api": 3})


# --- metrics


def test_statement_means_have_an_interval_from_two_calls_on() -> None:
    (estimate,) = metrics(delta(snapshot(), snapshot([statement(4, 2, 0.5)])), "day31")["statement_mean_ms"].values()
    half = 1.96 * math.sqrt(4 * 0.25 / 3 / 4)
    assert (estimate.value, estimate.count) == (2, 4)
    assert (estimate.low, estimate.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    (estimate,) = metrics(delta(snapshot(), snapshot([statement(1, 2, 0)])), "day31")["statement_mean_ms"].values()
    assert (estimate.low, estimate.high) == (None, None)


def test_calls_per_request_are_none_where_rows_were_lost() -> None:
    before, after = snapshot([statement(10)]), snapshot([statement(40)])
    assert metrics(delta(before, after), "day31", {"a": 5, "b": 5})["db_calls_per_request"][None].value == 3
    assert metrics(delta(before, after), "day31")["db_calls_per_request"][None] is None
    assert metrics(delta(after, before), "day31", {"a": 5})["db_calls_per_request"][None] is None


def test_what_was_not_measured_is_none() -> None:
    judged = metrics(delta(snapshot(), snapshot()), "day40", {"a": 1})
    assert judged.pop("statement_mean_ms") == {}
    assert all(selectors == {None: None} for selectors in judged.values()), judged


# --- the Day 31 files


def test_pg_stats_csv_has_the_specifications_columns_slowest_first() -> None:
    after = snapshot(
        [statement(4), statement(2, 9.456, 0, queryid=-8, query="SELECT\n  1"), statement(1, role="harness")]
    )
    before = snapshot([statement(2, 1, 0)])
    after.postgres["statements"][2]["queryid"] = 9
    rows = list(csv.reader(io.StringIO(statements.pg_stats_csv([(before, after)]))))
    assert ",".join(rows[0]) == "queryid,query_preview,calls,total_ms,mean_ms,stddev_ms,rows,cache_hit_pct,role"
    assert rows[1] == ["-8", "SELECT 1", "2", "18.91", "9.46", "0.0", "2", "75.0", "api"]
    assert [row[:5] for row in rows[2:]] == [["7", BY_TAG, "2", "6.0", "3.0"]]


def test_pg_stats_csv_sums_spans_by_text() -> None:
    spans = [(snapshot(), snapshot([statement(2, mean, 0, queryid=queryid)])) for mean, queryid in ((1, 7), (3, 8))]
    _, row = csv.reader(io.StringIO(statements.pg_stats_csv(spans)))
    assert row == ["8", BY_TAG, "4", "8.0", "2.0", "1.0", "4", "75.0", "api"]


def test_pg_scans_csv_leaves_the_unknown_empty() -> None:
    tables = [
        table("quiet", 1, schemaname="sales"),
        table("log", 2, seq_scan=1, seq_tup_read=5, idx_scan=None, idx_tup_fetch=None),
        table("milk", 3, seq_scan=1, seq_tup_read=9, idx_scan=2, idx_tup_fetch=4),
        table("res_users", 4, schemaname="public", seq_scan=4),
    ]
    text = statements.pg_scans_csv(delta(snapshot(), snapshot(tables=tables)))
    assert text.splitlines() == [
        "schemaname,relname,seq_scan,seq_tup_read,idx_scan,idx_tup_fetch,idx_scan_pct",
        "farm,milk,1,9,2,4,66.67",
        "farm,log,1,5,,,",
        "sales,quiet,0,0,0,0,",
    ]
