"""The values that flow between the layers: frozen dataclasses and the sample record, nothing else.

Numbers carry their unit in the name (`_ms _us _s _rps _bytes _ratio` 0-1, `_pct` 0-100, `_at` UTC ISO 8601).
Absent is `None`, never 0.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Profile = Literal["day31", "day40"]
PROFILES: tuple[Profile, ...] = ("day31", "day40")

# One request, little-endian, 32 bytes: scheduled_us i8, start_us i8, service_us u4, endpoint u2, outcome u2,
# bytes_in u4 (the whole reply as it came over the wire), user u4. Times are microseconds from the run's monotonic
# origin; endpoint and outcome index the lists of endpoints.json, where outcome 0 is "ok".
# Latency = start_us - scheduled_us + service_us.
SAMPLE = struct.Struct("<qqIHHII")
SAMPLE_FIELDS = (
    ("scheduled_us", "<i8"),
    ("start_us", "<i8"),
    ("service_us", "<u4"),
    ("endpoint", "<u2"),
    ("outcome", "<u2"),
    ("bytes_in", "<u4"),
    ("user", "<u4"),
)
OUTCOME_OK = 0


# --- what is asked for ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Threshold:
    """One limit, `METRIC[SELECTOR] OP NUMBER`. selector: None = all endpoints pooled, "*" = each, else that name.

    profiles: the profiles it applies to; empty = all.
    """

    text: str
    metric: str
    selector: str | None
    op: Literal["<", "<=", ">", ">="]
    limit: float
    profiles: tuple[Profile, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """One leg of a ramp: reach `users` linearly within `duration_s`."""

    duration_s: float
    users: int


@dataclass(frozen=True, slots=True)
class Step:
    """One leg of an open load: `rate_rps` arrivals per second for `duration_s`."""

    duration_s: float
    rate_rps: float


LoadModel = Literal["closed", "stages", "open"]
Arrivals = Literal["constant", "poisson"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who, how many, how long, which limits.

    load: "closed" (a steady state after ramp-up and warm-up; only the steady state counts), "stages" (everything
    counts; users, spawn rate, warm-up and duration follow the stages) or "open" (requests arrive by the clock whether
    or not earlier ones were answered; `users` bounds how many are under way; ramp-up and warm-up as in closed).
    think_time_s: closed and stages, from a reply to the user's next request. pacing_s: instead of it, from one
    scheduled start to the next. steps: open, at least one; their durations sum to duration_s, the warm-up has the
    first one's rate. check_one_in: how many replies there are for each that is parsed and compared with the seed.
    abort_window_s: ends the run when a limit on samples fails over a window of this length; None = never.
    may_lose_workers: a load generator's worker that dies does not make the run invalid.
    """

    name: str
    description: str
    locustfile: str
    load: LoadModel
    users: int
    spawn_rate_per_s: float
    think_time_s: float
    warmup_s: float
    duration_s: float
    seed: int
    stages: tuple[Stage, ...]
    thresholds: tuple[Threshold, ...]
    strict: bool = False
    pacing_s: float | None = None
    arrivals: Arrivals = "constant"
    steps: tuple[Step, ...] = ()
    check_one_in: int = 200
    abort_window_s: float | None = None
    may_lose_workers: bool = False


# --- the stack -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """An Odoo account. Its password stands in the secrets file under its login, nowhere else."""

    login: str
    uid: int
    role: str


@dataclass(frozen=True, slots=True)
class StackAddresses:
    """Where one running stack answers and how to log in; holds no secret, only the paths of the 0600 files that do.

    postgres_dsn: direct, role `harness` (pg_monitor, reads everything). admin_dsn: direct, superuser, database
    postgres; None where the harness has no such role. pgbouncer_dsn: its admin console. checksum, counts: of the seeded
    data, None and empty where unknown. pids: service -> first process, of those on this machine. log_dir: None where
    the logs are elsewhere. may_write: load may be put on it, which writes. may_reset: its database may be replaced.
    passfile: libpq's format. secrets_file: JSON {"odoo": {login: password},
    "odoo_keys": {login: API key, for JSON-2}, "api_keys": {login: the API service's key}, "api_key": the
    administrator's of these, "redis": ...}.
    """

    profile: Profile
    odoo_url: str
    api_url: str
    postgres_dsn: str
    admin_dsn: str | None
    pgbouncer_dsn: str | None
    redis_url: str | None
    database: str
    accounts: tuple[Account, ...]
    passfile: str
    secrets_file: str
    as_of: str
    herd: int
    seed: int
    checksum: str | None
    counts: Mapping[str, int]
    versions: Mapping[str, str]
    log_dir: str | None
    pids: Mapping[str, int]
    may_write: bool = True
    may_reset: bool = True


# --- what was measured: load ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Phases:
    """The run's clock. `*_us` are microseconds from origin_monotonic_us (CLOCK_MONOTONIC, shared by all processes of
    one machine). A sample belongs to the steady state if steady_start_us <= scheduled_us < steady_end_us."""

    origin_at: str
    origin_monotonic_us: int
    steady_start_us: int | None
    steady_end_us: int | None
    drained_us: int | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval (None = cannot be given) and the count of observations behind it."""

    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Over successes only. Percentiles are exact order statistics (inverted CDF) with moving-block bootstrap
    intervals; None where the count is below what the percentile needs."""

    count: int
    min_ms: float
    mean_ms: float
    max_ms: float
    p50_ms: Estimate | None
    p90_ms: Estimate | None
    p95_ms: Estimate | None
    p99_ms: Estimate | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """Latencies of successes, counted in bins of equal width on a log axis that are the same for every endpoint and
    run: bin i holds 10 ** (i / bins_per_decade) ms up to the next. counts: from bin `first_bin` to the last that is
    not empty."""

    bins_per_decade: int
    first_bin: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """One endpoint, or all pooled (endpoint None), over the counted phase. latency is from the scheduled start,
    service from the actual start. late_ratio counts successes slower than late_limit_ms and failures. distribution:
    None = nothing succeeded, or the run was judged before there were any."""

    endpoint: str | None
    requests: int
    failures: int
    late: int
    failure_ratio: float | None
    late_ratio: float | None
    throughput_rps: float
    bytes_in: int
    outcomes: Mapping[str, int]
    latency: Latency | None
    service: Latency | None
    distribution: Distribution | None = None


@dataclass(frozen=True, slots=True)
class TimeBucket:
    """One second (or bucket_s) of the run, for plots: start is seconds from the run's origin. A percentile is None
    where the bucket holds fewer successes than it needs."""

    start_s: float
    requests: int
    failures: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ArrivalStats:
    """Open load, over the counted phase: how many requests were due, how many of them started later than
    `late_after_ms`, and how many never did. A dropped arrival has no latency: it is the load that was not applied."""

    due: int
    late: int
    dropped: int
    late_after_ms: float


@dataclass(frozen=True, slots=True)
class Summary:
    """timeline: what a plot of counts shows. percentile_timeline: the same in buckets wide enough for a p99, empty in
    summaries of older runs."""

    counted_s: float
    late_limit_ms: float
    pooled: EndpointStats
    endpoints: tuple[EndpointStats, ...]
    timeline: tuple[TimeBucket, ...]
    arrivals: ArrivalStats | None = None
    percentile_timeline: tuple[TimeBucket, ...] = ()


# --- what was measured: servers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters of every server at one moment; rows are as the server gave them (column name -> value), every row.

    monotonic_us: CLOCK_MONOTONIC when the snapshot began, absolute. None = the profile has no such server.
    postgres: {"version", "settings": {name: value}, "extension_version", "statements": [row], "info": row,
    "tables": [row], "indexes": [row], "database": row, "wal", "bgwriter", "archiver": row, "io": [row]}
    pgbouncer: {"version", "stats": [row], "pools": [row], "databases": [row], "config": [row]}
    redis: {"info": {...}, "result_caches": {service: {"lookups" | "misses" | "waited" | "errors": n}}, of services of
    several processes, which count in Redis}   api: {counter name: value} of its /metrics
    processes: {service: {cpu_s, rss_bytes, ...}}
    """

    taken_at: str
    monotonic_us: int
    postgres: Mapping[str, Any]
    pgbouncer: Mapping[str, Any] | None
    redis: Mapping[str, Any] | None
    api: Mapping[str, float] | None
    processes: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class StatementDelta:
    """What one statement did between two snapshots, top level only. name: of the file in fixtures/queries it came
    from, else None. lower_bound: rows of it were evicted in between. role: the service's login ("api", "odoo"), also
    where it ran under the role of an endpoint. endpoint: which that was, as in `fixtures.endpoints`; None = of none,
    or all of them together."""

    role: str
    fingerprint: str
    name: str | None
    query: str
    calls: int
    total_ms: float
    m2_ms2: float
    rows: int
    shared_blks_hit: int
    shared_blks_read: int
    temp_blks_written: int
    wal_bytes: int
    lower_bound: bool
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class TableDelta:
    """One table (a partitioned one: the sum of its partitions). Indexed counters are None without an index. writes:
    rows inserted, and updated outside HOT, each of which adds an entry to every index; None = not known."""

    schema: str
    table: str
    seq_scan: int
    seq_tup_read: int
    idx_scan: int | None
    idx_tup_fetch: int | None
    rows_estimate: int
    pages: int
    heap_bytes: int
    n_dead_tup: int
    writes: int | None = None


@dataclass(frozen=True, slots=True)
class IndexDelta:
    schema: str
    table: str
    index: str
    idx_scan: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PoolDelta:
    """One pgBouncer alias. capacity = its pool_size without reserve."""

    alias: str
    capacity: int
    elapsed_us: int
    xact_count: int
    query_count: int
    xact_time_us: int
    query_time_us: int
    wait_time_us: int


@dataclass(frozen=True, slots=True)
class ResultCacheDelta:
    """The result cache as one service used it, all its processes together. waited: those of the hits that waited for
    somebody else's computation. refreshes: results computed before anybody asked for them, no look-ups; None = the run
    is older than this count."""

    hits: int
    lookups: int
    errors: int
    waited: int | None = None
    refreshes: int | None = None


@dataclass(frozen=True, slots=True)
class CacheDelta:
    """hits, lookups, errors: the application's result cache, of all services. server_*: the whole Redis server."""

    hits: int
    lookups: int
    errors: int
    server_hits: int
    server_misses: int
    evicted_keys: int
    expired_keys: int
    by_service: Mapping[str, ResultCacheDelta] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArchiveDelta:
    """What became of the WAL. archived_bytes: disk that the archive grew by. failures: attempts that archive_command
    refused; the server tries again. lag_s: the worst of lag_samples, None = cannot say; see `harness.wal_archive`."""

    segments: int
    archived_bytes: int
    failures: int
    lag_s: float | None
    lag_samples: int


@dataclass(frozen=True, slots=True)
class ServerDelta:
    """Everything the servers did between two snapshots; additive, so that runs of one side can be combined.

    warnings: why parts are invalid or lower bounds (statistics reset, evictions), each with its remedy. archive: None
    where archiving is off. statements_lost: rows of pg_stat_statements were evicted or reset, so that a statement that
    is not there may have been called. active_ms: of the application's sessions, as the database counts it.
    """

    elapsed_s: float
    warnings: tuple[str, ...]
    statements: tuple[StatementDelta, ...]
    tables: tuple[TableDelta, ...]
    indexes: tuple[IndexDelta, ...]
    blks_hit: int
    blks_read: int
    xact_commit: int
    xact_rollback: int
    deadlocks: int
    temp_bytes: int
    wal_bytes: int
    pools: tuple[PoolDelta, ...] | None
    cache: CacheDelta | None
    api_sql_calls: Mapping[str, int]
    process_cpu_s: Mapping[str, float]
    process_rss_bytes: Mapping[str, int]
    archive: ArchiveDelta | None = None
    statements_lost: bool = False
    active_ms: float | None = None


# --- what was measured: PostgreSQL's statement log -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoggedStatement:
    """One statement that the server logged with its duration. kind "execute" is the execution alone (the extended
    protocol, psycopg 3), "statement" has parsing and planning in it (the simple protocol, psycopg2)."""

    at: str
    user: str
    kind: Literal["execute", "statement"]
    duration_ms: float
    fingerprint: str


@dataclass(frozen=True, slots=True)
class LoggedPlan:
    """A plan that auto_explain logged, without constants: the costliest of its statement between the snapshots."""

    at: str
    user: str
    duration_ms: float
    fingerprint: str
    plan: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StatementLog:
    """What the application's statements left in the log between the snapshots; utility statements are left out.

    sample_ratio: the share that was logged of statements shorter than always_ms, each drawn by itself; None = short
    ones were not drawn evenly. always_ms: from this duration on every one was logged; None = not even long ones.
    texts: fingerprint -> statement without constants.
    """

    sample_ratio: float | None
    always_ms: float | None
    statements: tuple[LoggedStatement, ...]
    texts: Mapping[str, str]
    plans: tuple[LoggedPlan, ...]


@dataclass(frozen=True, slots=True)
class SlowStatement:
    """The executions of one statement by one login that took the inventory's limit or longer. endpoints: those for
    which pg_stat_statements counted the statement meanwhile."""

    user: str
    fingerprint: str
    query: str
    endpoints: tuple[str, ...]
    count: int
    total_ms: float
    max_ms: float
    plan: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class SlowStatements:
    """The inventory, the most total time first. logged: lines it was read from; executed: how many statements these
    stand for, estimated; None = cannot be said."""

    limit_ms: float
    logged: int
    executed: float | None
    rows: tuple[SlowStatement, ...]


# --- what was measured: plans --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanScan:
    """One relation as a plan reads it, all loops together. table: the partitioned table of a partition, else the
    relation itself; indexes likewise by their parents' names. rows: those that it gave, removed: those that it read and
    threw away, blocks: of shared buffers; None = it was planned and not executed."""

    kind: str
    relation: str
    table: str
    indexes: tuple[str, ...]
    estimated_rows: float
    rows: float | None
    removed: float | None
    blocks: int | None


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """How the server answers one statement. name: as in fixtures/queries, with spaces. sequential: tables that it reads
    sequentially, whole or by partitions that are large enough for an index to help. shape: equal for plans of the same
    nodes over the same tables by the same indexes, however many partitions. What a plan that was never executed cannot
    have is None. findings: what is wrong with it, in words."""

    name: str
    execution_ms: float | None
    planning_ms: float | None
    rows: float | None
    blocks: int | None
    scans: tuple[PlanScan, ...]
    sequential: tuple[str, ...]
    shape: str
    findings: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class StatementPlan:
    """The plan of one of a run's statements for any values of its parameters, never executed; None: why stands in
    `reason`."""

    role: str
    name: str | None
    query: str
    calls: int
    total_ms: float
    plan: QueryPlan | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class QueryPlans:
    """The plans that a run took after its last snapshot. missing: query -> why its plan could not be taken."""

    critical: tuple[QueryPlan, ...]
    missing: Mapping[str, str]
    statements: tuple[StatementPlan, ...]


@dataclass(frozen=True, slots=True)
class OdooUse:
    """What Odoo's access log says of one method, requests of all its cases together. queries: as Odoo counts them, SET
    and SAVEPOINT too, BEGIN and COMMIT not. query_ms: waiting for them; remaining_ms: all the rest, mostly Python."""

    method: str
    requests: int
    queries: int
    fewest_queries: int
    most_queries: int
    query_ms: float
    remaining_ms: float


# --- what was judged -----------------------------------------------------------------------------------------------

# metric -> selector (None = pooled) -> estimate, or None where the data cannot say
Metrics = Mapping[str, Mapping[str | None, Estimate | None]]

Outcome = Literal["pass", "fail", "no_data", "cannot_say", "not_applicable"]
Confidence = Literal["clear", "straddles", "too_few", "exact"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A threshold held against one observation. outcome alone decides the exit code; no_data fails.

    Against a baseline: the threshold's limit is what the baseline came to, baseline the figure it came from, note what
    was compared or why not, never empty; cannot_say, which does not fail, is of these alone."""

    threshold: Threshold
    endpoint: str | None
    observed: Estimate | None
    outcome: Outcome
    confidence: Confidence | None
    baseline: Estimate | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class RunMeta:
    """run.json: what was run, where, on what. state: running, complete, invalid, failed (interrupted is inferred).

    counts: {"sent" | "recorded" | "locust" | "dropped" | "checked" | "wrong": {endpoint: n}, "connections":
    {request type: {"connects", "reconnects", "bytes_out", "bytes_in"}}, "generator": {process: {...}},
    "workers": {name: {...}}}; see `harness.locust_plugin`. queries: fingerprint -> name of the statements that limits
    name. warnings: doubts; reasons: why the run is invalid or failed; aborted: the limit that ended it early.
    """

    schema_version: int
    run_id: str
    state: Literal["running", "complete", "invalid", "failed"]
    profile: Profile
    scenario: Scenario
    started_at: str
    ended_at: str | None
    host: Mapping[str, Any]
    versions: Mapping[str, str]
    herd: Mapping[str, Any]
    phases: Phases | None
    counts: Mapping[str, Any] | None
    queries: Mapping[str, str]
    warnings: tuple[str, ...]
    reasons: tuple[str, ...]
    pid: int
    pid_started: float
    aborted: str | None = None


@dataclass(frozen=True, slots=True)
class BaselineRun:
    """A stored run as far as others are held against it. metrics: those that `harness.baseline` judges."""

    meta: RunMeta
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a run is held against. limits: their number is a ratio to the baseline. historical: runs of another machine
    or other versions are allowed, and latency is then not judged. floor_pct: by how much single runs of the machine
    differ for nothing, by metric; empty = not measured."""

    schema_version: int
    runs: tuple[BaselineRun, ...]
    limits: tuple[Threshold, ...]
    historical: bool
    floor_pct: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunResult:
    """One judged run (or one side of a benchmark: runs of a profile combined). settings: PostgreSQL's, read back.
    slow: None = the statement log was not read. plans: None = not captured; of a side: those of its last run that has
    them. requests: endpoint -> requests answered between the snapshots. odoo: None = its log was not read. baseline:
    what it was held against, if it was."""

    meta: RunMeta
    summary: Summary
    servers: ServerDelta | None
    settings: Mapping[str, str]
    metrics: Metrics
    verdicts: tuple[Verdict, ...]
    probes: Mapping[str, tuple[tuple[float, float], ...]]
    warnings: tuple[str, ...]
    slow: SlowStatements | None = None
    plans: QueryPlans | None = None
    requests: Mapping[str, int] = field(default_factory=dict)
    odoo: tuple[OdooUse, ...] | None = None
    baseline: Baseline | None = None


EffectMetric = Literal[
    "p50_ms", "p95_ms", "throughput_rps", "failure_ratio", "db_ms_per_request", "db_calls_per_request"
]
EffectVerdict = Literal["improved", "equivalent", "regressed", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Effect:
    """How day40 differs from day31 in one figure of one endpoint, over pairs of runs made one after the other.

    change: Hodges-Lehmann estimate over the pairs; low, high: its 95 % interval, None = too few pairs. unit "pct":
    relative to day31, from differences of logarithms; "abs": in the figure's own unit, where a side has zeros. p_value:
    corrected over all endpoints (Holm), None = no test was possible. floor: the smallest change that counts, in the
    same unit: the machine's noise floor, but at least 5 % of day31, and of failures 0.001. pairs: those with the figure
    on both sides. pairs_needed: of an inconclusive one, how many would likely settle it; None = cannot be estimated.
    note: why there is no change or no test, how many pairs lack the figure, what else it covers; else empty."""

    change: float | None
    low: float | None
    high: float | None
    unit: Literal["pct", "abs"]
    p_value: float | None
    floor: float
    pairs: int
    verdict: EffectVerdict
    pairs_needed: int | None
    note: str


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """What this machine calls a change when nothing changed: per figure the 97.5th percentile of the absolute effects
    in percent over all endpoints of an A/A session, pairs of runs of one profile."""

    measured_at: str
    host: Mapping[str, Any]
    versions: Mapping[str, str]
    herd: Mapping[str, Any]
    profile: Profile
    scenario: Scenario
    pairs: int
    floor_pct: Mapping[EffectMetric, float]


@dataclass(frozen=True, slots=True)
class EndpointComparison:
    """effects: empty where the pairs were not tested. endpoint: its name, or "all endpoints"."""

    endpoint: str
    day31: EndpointStats | None
    day40: EndpointStats | None
    p50_change_pct: float | None
    p95_change_pct: float | None
    effects: Mapping[EffectMetric, Effect] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatementComparison:
    """One statement on both sides, joined by role and fingerprint, never by queryid."""

    role: str
    name: str | None
    query: str
    day31: StatementDelta | None
    day40: StatementDelta | None
    day31_calls_per_request: float | None
    day40_calls_per_request: float | None


# not_shown: the value is of a load that cannot show whether the target is met.
TargetStatus = Literal["pass", "fail", "no_data", "not_shown"]


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One row of the specification's §5.2 table. baseline/actual None = cannot say; note says why or how measured."""

    metric: str
    unit: str
    target: str
    baseline: Estimate | None
    baseline_note: str
    actual: Estimate | None
    actual_note: str
    status: TargetStatus


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Day 31 against Day 40. runs: in the order they were made. warnings: doubts about the whole; reasons: why it is
    invalid."""

    schema_version: int
    benchmark_id: str
    started_at: str
    ended_at: str
    pairs: int
    runs: tuple[RunResult, ...]
    day31: RunResult
    day40: RunResult
    targets: tuple[TargetRow, ...]
    endpoints: tuple[EndpointComparison, ...]
    statements: tuple[StatementComparison, ...]
    missing_in_day40: tuple[str, ...]
    conclusion: str
    pooled: EndpointComparison | None = None
    noise_floor: NoiseFloor | None = None
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
