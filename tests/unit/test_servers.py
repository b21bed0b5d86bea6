from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from built_snapshots import TIMINGS, api_counts, bouncer, delta, pg_row, redis_info, snapshot, statement, table
from hypothesis import given

from harness.model import ResultCacheDelta
from harness.server_metrics import metrics
from harness.servers import combine


def test_blocks_are_the_applications() -> None:
    rows = [statement(5), statement(30, role="harness", userid=11)]
    counts = snapshot().postgres["database"] | {"blks_hit": 120, "blks_read": 40}
    change = delta(snapshot(), snapshot(rows, database=counts))
    assert (change.blks_hit, change.blks_read) == (30, 10)
    assert metrics(change, "day31")["buffer_hit_pct"][None].value == 75


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


def test_two_users_of_an_alias_are_warned_of() -> None:
    pools = bouncer(1, 1, 0, 1)
    pools["pools"] += [{"database": "smart_dairy", "user": "api"}]
    assert (
        'pgbouncer "smart_dairy": api, odoo' in delta(snapshot(pgbouncer=pools), snapshot(pgbouncer=pools)).warnings[0]
    )


def test_a_restarted_server_is_warned_of() -> None:
    before = snapshot(redis=redis_info(100, 0, "old"), api=api_counts(30, 9))
    change = delta(before, snapshot(redis=redis_info(200, 0, "new"), api=api_counts(3, 1)))
    assert [text.split(":")[0] for text in change.warnings] == ["api /metrics", "redis"]
    assert (change.cache.server_hits, change.cache.lookups) == (200, 3)


def test_result_caches_are_summed_over_services() -> None:
    def seen(lookups: int, misses: int) -> dict[str, Any]:
        return {"result_caches": {"odoo": {"lookups": lookups, "misses": misses}}}

    before = snapshot(redis=redis_info(0, 0) | seen(10, 4), api=api_counts(10, 2))
    after = snapshot(redis=redis_info(0, 0) | seen(20, 6), api=api_counts(30, 9))
    cache = delta(before, after).cache
    assert dict(cache.by_service) == {"api": ResultCacheDelta(14, 20, 0), "odoo": ResultCacheDelta(8, 10, 0)}
    assert (cache.hits, cache.lookups, cache.errors) == (22, 30, 0)
    twice = combine([delta(before, after)] * 2).cache
    assert (twice.hits, dict(twice.by_service)["odoo"]) == (44, ResultCacheDelta(16, 20, 0))
    # an older run has no counts of Odoo's
    assert set(delta(snapshot(redis=redis_info(0, 0)), snapshot(redis=redis_info(0, 0))).cache.by_service) == {"api"}


def test_waiting_and_refreshes_are_absent_from_runs_that_did_not_count_them() -> None:
    def seen(lookups: int, **more: int) -> dict[str, Any]:
        return redis_info(0, 0) | {"result_caches": {"odoo": {"lookups": lookups, "misses": 0} | more}}

    def api(waited: int, refreshes: int) -> dict[str, float]:
        ahead = {"dairy_api_cache_waited_total": waited, "dairy_api_cache_refreshes_total": refreshes}
        return api_counts(0, 0) | ahead

    old = delta(snapshot(redis=seen(1), api=api_counts(0, 0)), snapshot(redis=seen(5), api=api_counts(9, 1)))
    new = delta(snapshot(redis=seen(1), api=api(1, 2)), snapshot(redis=seen(5, waited=3), api=api(4, 9)))
    quiet = delta(snapshot(redis=seen(1), api=api(1, 2)), snapshot(redis=seen(5), api=api(1, 2)))
    counted = {
        name: [(cache.waited, cache.refreshes) for cache in change.cache.by_service.values()]
        for name, change in {"old": old, "new": new, "quiet": quiet, "both": combine([new, quiet])}.items()
    }
    assert counted == {
        "old": [(None, None), (None, None)],
        "new": [(3, 7), (3, 0)],
        "quiet": [(0, 0), (0, 0)],
        "both": [(3, 7), (3, 0)],
    }
    assert combine([new, old]).cache.by_service["api"] == ResultCacheDelta(2, 9, 0)


def test_processor_time_counts_from_a_restart() -> None:
    before = snapshot(processes={"odoo": {"cpu_s": 5.0, "rss_bytes": 1.0}, "api": {"cpu_s": 9.0, "rss_bytes": 1.0}})
    after = snapshot(processes={"odoo": {"cpu_s": 8.0, "rss_bytes": 2.0}, "api": {"cpu_s": 1.0, "rss_bytes": 3.0}})
    change = delta(before, after)
    assert (change.process_cpu_s, change.process_rss_bytes) == ({"odoo": 3.0, "api": 1.0}, {"odoo": 2, "api": 3})
