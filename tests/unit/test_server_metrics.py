from __future__ import annotations

import math
from dataclasses import replace

import pytest
from built_snapshots import api_counts, bouncer, delta, redis_info, snapshot, statement, table

from harness.model import PoolDelta
from harness.server_metrics import metrics, pool_use, seq_scan_shares
from harness.servers import diff


def test_seq_scan_shares_leave_small_tables_out_and_name_offenders() -> None:
    tables = [
        table("animal", 1, seq_scan=90, reltuples=255.0),
        table("short", 2, seq_scan=90, relpages=8),
        table("milk", 3, seq_scan=2, seq_tup_read=10_000, idx_scan=98, idx_tup_fetch=30_000),
        table("orders", 4, seq_scan=9, schemaname="sales"),
    ]
    change = delta(snapshot(), snapshot(tables=tables))
    shares = seq_scan_shares(change, requests=100)
    assert (shares.by_scans_pct, shares.by_tuples_pct, shares.scans) == (2.0, 25.0, 100)
    assert (shares.seq_bytes, shares.excluded) == (819_200, ("farm.animal", "farm.short"))
    assert shares.offenders == ("farm.milk",)
    assert seq_scan_shares(change, requests=200).offenders == ()
    assert metrics(change, "day31")["seq_scan_pct"][None].value == 2.0


def test_pool_utilisation_subtracts_the_wait_and_ends_with_the_load() -> None:
    before = snapshot(pgbouncer=bouncer(100, 50, 10, 7))
    after = snapshot(pgbouncer=bouncer(120, 80, 20, 107, query_s=75), at_s=20)
    change = diff(before, after, {}, load_ended_us=110_000_000)
    probes = {"pool.smart_dairy.sv_active": [(1.0, 3.0), (2.0, 2.0)], "pool.smart_dairy.clients": [(1.0, 9.0)]}
    (use,) = pool_use(change, probes)
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


def test_the_cache_is_the_applications() -> None:
    before = snapshot(redis=redis_info(10, 10), api=api_counts(10, 1))
    change = delta(before, snapshot(redis=redis_info(40, 20), api=api_counts(30, 9)))
    judged = metrics(change, "day40")
    assert (judged["redis_hit_pct"][None].value, judged["redis_hit_pct"][None].count) == (80.0, 20)
    assert judged["redis_server_hit_pct"][None].value == 75.0
    assert change.api_sql_calls == {"animal by tag": 20}
    assert metrics(change, "day31")["redis_hit_pct"][None] is None


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
    assert all(set(selectors.values()) == {None} for selectors in judged.values()), judged
