"""Small hand-built results for the tests of compare, charts and report, no part missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import built_plans

from harness import compare, server_metrics, statements
from harness.model import (
    ArchiveDelta,
    ArrivalStats,
    Benchmark,
    CacheDelta,
    Effect,
    EffectMetric,
    EffectVerdict,
    EndpointComparison,
    EndpointStats,
    Estimate,
    IndexDelta,
    Latency,
    Metrics,
    NoiseFloor,
    OdooUse,
    Phases,
    PoolDelta,
    Profile,
    RunMeta,
    RunResult,
    Scenario,
    ServerDelta,
    SlowStatement,
    SlowStatements,
    StatementDelta,
    Step,
    Summary,
    TableDelta,
    TimeBucket,
)
from harness.threshold import evaluate, parse

TAG, DAILY, LIST, CREATE = (
    "api GET /api/v1/animals/{tag_number}",
    "api GET /api/v1/milk/daily",
    "odoo farm.animal.search_read [page]",
    "odoo farm.milk_production.create",
)
# endpoint -> requests, failures, median latency (ms) on day31
LOAD = {TAG: (1800, 0, 9.0), DAILY: (900, 2, 31.0), LIST: (600, 1, 84.0), CREATE: (15, 0, 120.0)}
SCENARIO = Scenario(
    name="sustained",
    description="50 users, the specification's mix",
    locustfile="locustfiles/dairy_day.py",
    load="closed",
    users=50,
    spawn_rate_per_s=10.0,
    think_time_s=1.0,
    warmup_s=10.0,
    duration_s=60.0,
    seed=20260203,
    stages=(),
    thresholds=(
        parse("p95_ms < 200"),
        parse("p95_ms[*] < 200"),
        parse("failure_ratio < 0.01"),
        replace(parse("redis_hit_pct > 85"), profiles=("day40",)),
        replace(parse("pool_utilisation_pct < 70"), profiles=("day40",)),
        parse("buffer_hit_pct > 95"),
        parse('statement_mean_ms["animal by tag"] < 5'),
    ),
)


REQUESTS = {name: requests for name, (requests, _, _) in LOAD.items()}
COUNTS = {
    "sent": REQUESTS,
    "recorded": REQUESTS,
    "locust": REQUESTS,
    "dropped": {},
    "checked": {TAG: 18, DAILY: 9, LIST: 6},
    "wrong": {DAILY: 1},
    "connections": {
        "API": {"connects": 25, "reconnects": 1, "bytes_out": 700_000, "bytes_in": 2_500_000},
        "XMLRPC": {"connects": 615, "reconnects": 0, "bytes_out": 400_000, "bytes_in": 9_000_000},
    },
    "generator": {
        "worker-1": {
            "cpu_p95_pct": 11.5,
            "cpu_max_pct": 34.0,
            "lag_p95_ms": 1.25,
            "lag_max_ms": 12.0,
            "fds_max": 61,
            "fds_limit": 10_000,
        },
        "worker-2": {"cpu_p95_pct": None, "cpu_max_pct": None, "lag_p95_ms": None, "lag_max_ms": None},
    },
    "workers": {
        "worker-1": {"index": 0, "users": 25, "lost": False, "samples": 3300, "missing_at_most": 0},
        "worker-2": {"index": 1, "users": 25, "lost": True, "samples": 15, "missing_at_most": 75},
    },
}

# One that a run scans, one that it never does, and one that another begins like.
DAY32 = (
    IndexDelta("farm", "animal", "idx_farm_animal_active", 420, 16_384),
    IndexDelta("farm", "animal", "idx_farm_animal_status", 0, 16_384),
    IndexDelta("farm", "milk_production", "idx_farm_milk_prod_date", 900, 1_310_720),
)


def latency(count: int, median_ms: float) -> Latency | None:
    """A made-up skewed distribution; percentiles appear with the counts that they need."""
    if not count:
        return None

    def percentile(factor: float, needed: int) -> Estimate | None:
        value = median_ms * factor
        return Estimate(value, value * 0.96, value * 1.05, count) if count >= needed else None

    return Latency(
        count,
        median_ms / 3,
        median_ms * 1.2,
        median_ms * 6,
        percentile(1, 2),
        percentile(1.6, 10),
        percentile(2.1, 20),
        percentile(3.2, 100),
    )


def endpoint(name: str | None, requests: int, failures: int, median_ms: float) -> EndpointStats:
    outcomes = {"ok": requests - failures} | ({"timeout": failures} if failures else {})
    return EndpointStats(
        endpoint=name,
        requests=requests,
        failures=failures,
        late=failures,
        failure_ratio=failures / requests if requests else None,
        late_ratio=failures / requests if requests else None,
        throughput_rps=requests / 60,
        bytes_in=requests * 900,
        outcomes=outcomes,
        latency=latency(requests - failures, median_ms),
        service=latency(requests - failures, median_ms * 0.97),
    )


def summary(speed: float) -> Summary:
    """speed: 1 = day31, smaller is faster."""
    endpoints = tuple(endpoint(name, n, failed, ms * speed) for name, (n, failed, ms) in LOAD.items())
    pooled = endpoint(None, sum(e.requests for e in endpoints), sum(e.failures for e in endpoints), 26.0 * speed)
    timeline = tuple(
        TimeBucket(
            float(s),
            50 + s % 7,
            1 if s == 40 else 0,
            26.0 * speed + 2 * math.sin(s / 5),
            speed * (70.0 + 12 * math.sin(s / 3)) if s % 23 else None,
        )
        for s in range(75)
    )
    return Summary(60.0, 200.0, pooled, endpoints, timeline)


def statement(
    role: str, name: str | None, query: str, calls: int, mean_ms: float, *, endpoint: str | None = None, rows: int = 3
) -> StatementDelta:
    return StatementDelta(
        role=role,
        fingerprint=statements.fingerprint(query),
        name=name,
        query=query,
        calls=calls,
        total_ms=calls * mean_ms,
        m2_ms2=calls * mean_ms * mean_ms / 4,
        rows=calls * rows,
        shared_blks_hit=calls * 11,
        shared_blks_read=calls // 10,
        temp_blks_written=0,
        wal_bytes=0,
        lower_bound=False,
        endpoint=endpoint,
    )


def servers(profile: Profile) -> ServerDelta:
    tuned = profile == "day40"
    speed = 0.4 if tuned else 1.0
    tag = "SELECT id, name FROM farm.animal WHERE tag_number = $1"
    daily = (
        "SELECT production_date, sum(quantity_litres)\nFROM farm.milk_production\nWHERE production_date = $1 GROUP BY 1"
    )
    ids = "SELECT a.id FROM farm_animal AS a WHERE a.id IN ($1, $2)"
    section = "SELECT name FROM core.section WHERE id = $1"
    health = "SELECT id FROM farm.health_record WHERE details @> $1"
    return ServerDelta(
        elapsed_s=60.0,
        warnings=(),
        statements=(
            statement("api", "animal by tag", tag, 150 if tuned else 1700, 0.05, endpoint=TAG),
            statement("api", "animal by tag", tag, 50 if tuned else 100, 0.05),
            statement("api", "daily milk report", daily, 120 if tuned else 900, 14.0 * speed, endpoint=DAILY),
            statement("api", "health search", health, 300, 2.0 * speed),
            statement("odoo", None, ids, 1200, 3.5 * speed, endpoint="odoo farm.animal.search_read"),
            statement("odoo", None, section, 30_000, 0.02, endpoint="odoo farm.animal.search_read", rows=1),
            statement("odoo", None, "SELECT 31" if not tuned else "SELECT now()", 10, 0.5),
        ),
        tables=(
            TableDelta(
                "farm", "milk_production", 4 if tuned else 900, 40_000, 5000, 60_000, 160_000, 2000, 16_384_000, 9, 240
            ),
            TableDelta("farm", "animal", 700, 178_500, 900, 900, 255, 9, 73_728, 0),
            TableDelta("sales", "order", 0, 0, None, None, 4000, 60, 491_520, 0),
        ),
        indexes=(IndexDelta("farm", "animal", "animal_tag_number_key", 1800, 16_384), *(DAY32 if tuned else ())),
        blks_hit=99_500,
        blks_read=500,
        xact_commit=6600,
        xact_rollback=3,
        deadlocks=0,
        temp_bytes=0,
        wal_bytes=1_200_000,
        pools=(
            PoolDelta("odoo", 25, 60_000_000, 1500, 7200, 240_000_000, 90_000_000, 300_000),
            PoolDelta("api", 25, 60_000_000, 620, 620, 30_000_000, 29_000_000, 0),
        )
        if tuned
        else None,
        cache=CacheDelta(2300, 2600, 0, 9000, 1200, 0, 40) if tuned else None,
        api_sql_calls={"animal by tag": 200},
        process_cpu_s={"odoo": 48.0, "postgres": 12.5, "api": 9.0} | ({"redis": 1.0} if tuned else {}),
        process_rss_bytes={"odoo": 410 << 20, "postgres": 300 << 20, "api": 80 << 20}
        | ({"redis": 9 << 20} if tuned else {}),
        archive=ArchiveDelta(4, 64 << 20, 1, 31.5, 300) if tuned else None,
    )


def slow(profile: Profile) -> SlowStatements:
    """day31 has two slow statements, day40 none."""
    plan = {"Plan": {"Node Type": "Seq Scan", "Relation Name": "health_record", "Filter": "(details @> ?::jsonb)"}}
    health = "SELECT id FROM farm.health_record WHERE details @> $1"
    rows = (
        SlowStatement(
            "api",
            statements.fingerprint(health),
            health,
            ("api GET /api/v1/health-records/search",),
            3,
            720.4,
            301.25,
            plan,
        ),
        SlowStatement("odoo", "f00", "SELECT name FROM res_partner WHERE id IN ($1, …)", (), 1, 104.0, 104.0, None),
    )
    return SlowStatements(100.0, 612, 6075.0, rows if profile == "day31" else ())


def metrics(result_summary: Summary, delta: ServerDelta | None, profile: Profile) -> Metrics:
    by_endpoint = {s.endpoint: s.latency.p95_ms if s.latency else None for s in result_summary.endpoints}
    pooled = result_summary.pooled
    found: dict[str, Mapping[str | None, Estimate | None]] = {
        "p95_ms": {None: pooled.latency.p95_ms if pooled.latency else None, **by_endpoint},
        "failure_ratio": {None: Estimate(3 / 3315, 0.0002, 0.003, 3315)},
    }
    return found | (server_metrics.metrics(delta, profile, REQUESTS) if delta else {})


def result(profile: Profile, number: int = 1, *, delta: ServerDelta | None = None) -> RunResult:
    tuned = profile == "day40"
    measured = summary(0.55 if tuned else 1.0)
    delta = delta or servers(profile)
    found = metrics(measured, delta, profile)
    meta = RunMeta(
        schema_version=1,
        run_id=f"20260203T10{number:02d}00Z-sustained-{profile}",
        state="complete",
        profile=profile,
        scenario=SCENARIO,
        started_at=f"2026-02-03T10:{number:02d}:00Z",
        ended_at=f"2026-02-03T10:{number:02d}:59Z",
        host={"cpu_model": "Example 3000", "cpu_count": 2, "memory_bytes": 8 << 30},
        versions={"postgres": "16.14", "odoo": "19.0"} | ({"redis": "7.0.15", "pgbouncer": "1.18.0"} if tuned else {}),
        herd={"head": 255, "seed": 20260203, "checksum": "c0ffee"},
        queries={},
        phases=Phases(f"2026-02-03T10:{number:02d}:00Z", 0, 15_000_000, 75_000_000, 76_000_000),
        counts=COUNTS,
        warnings=(),
        reasons=(),
        pid=1,
        pid_started=0.0,
    )
    return RunResult(
        meta=meta,
        summary=measured,
        servers=delta,
        settings={
            "archive_mode": "on" if tuned else "off",
            "shared_buffers": "2GB" if tuned else "128MB",
            "work_mem": "16MB" if tuned else "4MB",
            "port": profile,
        },
        metrics=found,
        verdicts=evaluate(SCENARIO.thresholds, found, profile),
        probes={
            "cpu_pct.odoo": tuple((float(s), 70 + 20 * math.sin(s / 6)) for s in range(75)),
            "cpu_pct.postgres": tuple((float(s), 20 + 5 * math.sin(s / 4)) for s in range(75)),
            "pool.odoo.sv_active": tuple((float(s), float(s % 5)) for s in range(75)),
        },
        warnings=("Load generator: its loop lagged by 12 ms at most; use more workers if that rises.",),
        slow=slow(profile),
        plans=built_plans.plans(profile),
        requests=REQUESTS,
        odoo=(OdooUse("farm.animal.search_read", 600, 33_600, 5, 130, 2400.0, 4200.0),),
    )


def open_load(profile: Profile, number: int = 1) -> RunResult:
    """The same numbers as those of an open load."""
    full = result(profile, number)
    asked = replace(full.meta.scenario, load="open", think_time_s=0.0, steps=(Step(30.0, 40.0), Step(30.0, 70.0)))
    return replace(
        full,
        meta=replace(full.meta, scenario=asked),
        summary=replace(full.summary, arrivals=ArrivalStats(due=3320, late=33, dropped=5, late_after_ms=50.0)),
    )


def without_data(profile: Profile) -> RunResult:
    """A run of which nothing but its description was saved."""
    full = result(profile)
    full = replace(full, meta=replace(full.meta, counts=None))
    empty = Summary(0.0, 200.0, endpoint(None, 0, 0, 0.0), (), ())
    return replace(
        full,
        summary=empty,
        servers=None,
        settings={},
        metrics={},
        verdicts=evaluate(SCENARIO.thresholds, {}, profile),
        probes={},
        warnings=(),
        slow=None,
        plans=None,
        requests={},
        odoo=None,
    )


def benchmark(day31: RunResult, day40: RunResult, runs: Sequence[RunResult] = (), pairs: int = 2) -> Benchmark:
    known = day31.servers is not None and day40.servers is not None
    return Benchmark(
        schema_version=1,
        benchmark_id="20260203T100000Z-quick",
        started_at="2026-02-03T10:00:00Z",
        ended_at="2026-02-03T10:09:00Z",
        pairs=pairs,
        runs=tuple(runs),
        day31=day31,
        day40=day40,
        targets=compare.targets(day31, day40),
        endpoints=compare.endpoints(day31.summary, day40.summary, pairs),
        statements=compare.statements(day31.servers, day40.servers, 3315, 3315) if known else (),
        missing_in_day40=("Odoo result cache: queries of Odoo are not cached yet",),
        conclusion="With 2 pairs no effect can be told from noise.",
    )


def quick_benchmark() -> Benchmark:
    """Two pairs, A B B A."""
    order: tuple[Profile, ...] = ("day31", "day40", "day40", "day31")
    runs = [result(profile, number) for number, profile in enumerate(order, start=1)]
    return benchmark(result("day31"), result("day40"), runs)


def effect(change: float, verdict: EffectVerdict, spread: float = 3.0, **other: Any) -> Effect:
    """Ten pairs' effect in percent."""
    built = Effect(change, change - spread, change + spread, "pct", 0.008, 5.0, 10, verdict, None, "")
    return replace(built, **other)


def effects(p95_pct: float, verdict: EffectVerdict) -> Mapping[EffectMetric, Effect]:
    """All six figures of an endpoint, one of each kind among them."""
    pairs_needed = 24 if verdict == "inconclusive" else None
    return {
        "p50_ms": effect(p95_pct + 4, verdict, pairs_needed=pairs_needed),
        "p95_ms": effect(p95_pct, verdict, pairs_needed=pairs_needed),
        "throughput_rps": effect(1.25, "equivalent", spread=1.5),
        "failure_ratio": effect(0.0, "equivalent", spread=0.0005, unit="abs", floor=0.001),
        "db_ms_per_request": effect(-41.0, "improved", spread=6.0),
        "db_calls_per_request": effect(
            0.0, "inconclusive", unit="abs", low=None, high=None, p_value=None, note="no test"
        ),
    }


def tested_benchmark() -> Benchmark:
    """Ten pairs, each endpoint with another verdict."""
    built = quick_benchmark()
    of_endpoint: Mapping[str, tuple[float, EffectVerdict]] = {
        TAG: (-44.0, "improved"),
        DAILY: (-0.6, "equivalent"),
        LIST: (12.5, "regressed"),
        CREATE: (-7.0, "inconclusive"),
    }
    day31, day40 = built.day31, built.day40
    return replace(
        built,
        pairs=10,
        runs=built.runs * 5,
        endpoints=tuple(replace(row, effects=effects(*of_endpoint[row.endpoint])) for row in built.endpoints),
        pooled=EndpointComparison(
            "all endpoints",
            day31.summary.pooled,
            day40.summary.pooled,
            -45.0,
            -45.0,
            effects=effects(-23.0, "improved"),
        ),
        noise_floor=NoiseFloor(
            measured_at="2026-02-02T09:00:00Z",
            host=day40.meta.host,
            versions=day40.meta.versions,
            herd=day40.meta.herd,
            profile="day40",
            scenario=SCENARIO,
            pairs=5,
            floor_pct={"p50_ms": 3.2, "p95_ms": 4.8},
        ),
        conclusion="Over 10 pairs Day 40 is faster than Day 31.",
    )
