from __future__ import annotations

import pytest

from fixtures.api.counters import RECENT_S, Counters
from fixtures.cache.steps import Counts


def counters_at(clock: list[float]) -> Counters:
    return Counters(clock=lambda: clock[0])


@pytest.mark.parametrize(
    ("milliseconds", "p95_ms"),
    [([], None), ([7], 7), (list(range(1, 21)), 19), (list(range(1, 101)), 95), ([5, 1, 9], 9)],
)
def test_p95_is_the_nearest_rank(milliseconds, p95_ms):
    counters = counters_at([0.0])
    for value in milliseconds:
        counters.sql("animal by tag", value / 1000)
    assert counters.sql_p95_ms() == (None if p95_ms is None else pytest.approx(p95_ms))


def test_p95_forgets_after_a_minute():
    clock = [0.0]
    counters = counters_at(clock)
    counters.sql("animal by tag", 9.0)
    clock[0] = RECENT_S / 2
    counters.sql("animal by tag", 0.001)
    clock[0] = RECENT_S + 1
    assert counters.sql_p95_ms() == pytest.approx(1.0)
    clock[0] = 2 * RECENT_S
    assert counters.sql_p95_ms() is None
    assert counters.sql_calls["animal by tag"] == 2


def test_hit_rate_without_lookups_is_absent():
    counters = Counters()
    assert counters.cache_hit_pct() is None
    counters.cache.lookups, counters.cache.hits = 8, 6
    assert counters.cache_hit_pct() == 75.0


def test_exposition():
    counters = Counters()
    counters.cache = Counts(lookups=3, hits=2, waited=1, refreshes=4, errors=1)
    counters.sql("milk history", 0.25)
    counters.sql("milk history", 0.25)
    counters.request("GET", "/api/v1/animals/{tag_number}", 200)
    assert counters.exposition() == (
        "# TYPE dairy_api_cache_lookups_total counter\n"
        "dairy_api_cache_lookups_total 3\n"
        "# TYPE dairy_api_cache_hits_total counter\n"
        "dairy_api_cache_hits_total 2\n"
        "# TYPE dairy_api_cache_waited_total counter\n"
        "dairy_api_cache_waited_total 1\n"
        "# TYPE dairy_api_cache_refreshes_total counter\n"
        "dairy_api_cache_refreshes_total 4\n"
        "# TYPE dairy_api_cache_errors_total counter\n"
        "dairy_api_cache_errors_total 1\n"
        "# TYPE dairy_api_sql_calls_total counter\n"
        'dairy_api_sql_calls_total{query="milk history"} 2\n'
        "# TYPE dairy_api_sql_seconds_total counter\n"
        'dairy_api_sql_seconds_total{query="milk history"} 0.5\n'
        "# TYPE dairy_api_http_requests_total counter\n"
        'dairy_api_http_requests_total{method="GET",route="/api/v1/animals/{tag_number}",status="200"} 1\n'
    )
