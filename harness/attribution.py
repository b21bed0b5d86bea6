"""Which endpoint ran which statements how often, what ran outside of any, and whether that is all of it.

Pure: no I/O. Statements of an endpoint run under its own role (`fixtures.endpoints`), which pg_stat_statements keeps
apart: the counts are exact, not estimated.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fixtures.endpoints import ENDPOINTS
from harness.model import Estimate, OdooUse, ServerDelta, StatementDelta
from harness.statements import preview, service_of

# A query per record instead of one for all: many calls per request, each for about one record, and the more of them
# the longer the page is.
N_PLUS_ONE_CALLS_PER_REQUEST = 5.0
N_PLUS_ONE_ROWS_PER_CALL = 1.5
N_PLUS_ONE_CALLS_PER_RECORD = 0.5

PREVIEW_CHARS = 90

_CASE = re.compile(r" \[[^\]]*\]$")


@dataclass(frozen=True, slots=True)
class Use:
    """What statements did. blocks: of shared buffers, found there or read. total_ms: execution in the server."""

    calls: int = 0
    rows: int = 0
    blks_hit: int = 0
    blks_read: int = 0
    wal_bytes: int = 0
    total_ms: float = 0.0

    @property
    def blocks(self) -> int:
        return self.blks_hit + self.blks_read

    def plus(self, one: StatementDelta) -> Use:
        return Use(
            calls=self.calls + one.calls,
            rows=self.rows + one.rows,
            blks_hit=self.blks_hit + one.shared_blks_hit,
            blks_read=self.blks_read + one.shared_blks_read,
            wal_bytes=self.wal_bytes + one.wal_bytes,
            total_ms=self.total_ms + one.total_ms,
        )


@dataclass(frozen=True, slots=True)
class EndpointUse:
    """One endpoint, all cases of an Odoo method together. requests: answered between the snapshots. use: None = its
    statements are not told apart. statements: its own, the most calls first."""

    endpoint: str
    requests: int
    use: Use | None
    statements: tuple[StatementDelta, ...]

    def per_request(self, amount: float) -> float | None:
        return amount / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class Attribution:
    """endpoints: by name, those with requests or statements. outside: service -> what it ran for no endpoint.
    lower_bound: statements were evicted in between."""

    endpoints: tuple[EndpointUse, ...]
    outside: Mapping[str, Use]
    lower_bound: bool


def without_case(endpoint: str) -> str:
    """The load generator's name without the " [case]" that tells apart uses of one Odoo method."""
    return _CASE.sub("", endpoint) if service_of(endpoint) == "odoo" else endpoint


def attribute(statements: Sequence[StatementDelta], requests: Mapping[str, int]) -> Attribution:
    """requests: as the load generator names them, answered between the snapshots that the statements come from.

    An endpoint that has a role, of a service whose statements are told apart, and that ran none, ran none: its reply
    came from a cache. Any other without statements is not known (use None).
    """
    answered: Counter[str] = Counter()
    for name, count in requests.items():
        answered[without_case(name)] += count
    of_endpoint: dict[str, list[StatementDelta]] = defaultdict(list)
    outside: dict[str, Use] = defaultdict(Use)
    for one in statements:
        if one.endpoint is None:
            outside[one.role] = outside[one.role].plus(one)
        else:
            of_endpoint[one.endpoint].append(one)
    told_apart = {service_of(name) for name in of_endpoint}
    have_role = frozenset(ENDPOINTS.values())

    def endpoint(name: str) -> EndpointUse:
        own = sorted(of_endpoint.get(name, ()), key=lambda one: (-one.calls, one.query))
        known = bool(own) or (name in have_role and service_of(name) in told_apart)
        return EndpointUse(name, answered[name], total(own) if known else None, tuple(own))

    return Attribution(
        endpoints=tuple(endpoint(name) for name in sorted({*answered, *of_endpoint})),
        outside=dict(sorted(outside.items())),
        lower_bound=any(one.lower_bound for one in statements),
    )


def total(statements: Iterable[StatementDelta]) -> Use:
    use = Use()
    for one in statements:
        use = use.plus(one)
    return use


def per_request(
    statements: Sequence[StatementDelta], requests: Mapping[str, int]
) -> dict[str, dict[str | None, Estimate | None]]:
    """`db_calls_per_request`, `db_rows_per_request`, `db_blocks_per_request`: selector (None = pooled, what ran outside
    of endpoints included) -> exact count; None where it cannot be said. Lower bounds would pass an upper limit
    undeservedly: then all are None."""
    found = attribute(statements, requests)
    cannot_say = found.lower_bound or not statements
    everything, all_requests = total(statements), sum(requests.values())

    def metric(name: str) -> dict[str | None, Estimate | None]:
        def estimate(use: Use | None, count: int) -> Estimate | None:
            if cannot_say or use is None or not count:
                return None
            return Estimate(getattr(use, name) / count, None, None, count)

        return {
            None: estimate(everything, all_requests),
            **{one.endpoint: estimate(one.use, one.requests) for one in found.endpoints},
        }

    return {f"db_{name}_per_request": metric(name) for name in ("calls", "rows", "blocks")}


# --- one query per record ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NPlusOne:
    """A statement that one endpoint runs once per record. calls_per_record: by how many its calls per request grow with
    each record more on the page; None = only one page size is known."""

    endpoint: str
    statement: StatementDelta
    calls_per_request: float
    rows_per_call: float
    calls_per_record: float | None = None


def n_plus_one(
    endpoints: Iterable[EndpointUse], growth: Mapping[tuple[str, str], float] | None = None
) -> tuple[NPlusOne, ...]:
    """Statements with more than 5 calls per request of about one row (or none) each, the most calls first; where two
    page sizes are known, only those whose calls grow with the page. growth: as `growth_per_record` gives it."""
    known = growth or {}
    found = [
        NPlusOne(
            endpoint=one.endpoint,
            statement=statement,
            calls_per_request=statement.calls / one.requests,
            rows_per_call=statement.rows / statement.calls,
            calls_per_record=known.get((one.endpoint, statement.fingerprint)),
        )
        for one in endpoints
        for statement in one.statements
        if one.requests
        and statement.calls / one.requests > N_PLUS_ONE_CALLS_PER_REQUEST
        and statement.rows / statement.calls <= N_PLUS_ONE_ROWS_PER_CALL
        and known.get((one.endpoint, statement.fingerprint), math.inf) > N_PLUS_ONE_CALLS_PER_RECORD
    ]
    return tuple(sorted(found, key=lambda one: (-one.calls_per_request, one.endpoint, one.statement.query)))


def growth_per_record(
    small: Attribution, large: Attribution, small_records: int, large_records: int
) -> dict[tuple[str, str], float]:
    """(endpoint, fingerprint) -> calls per request that each further record costs, of two measurements that differ in
    how many records a page has. Above 0.5 it is a query per record. Raises ValueError unless the second has more."""
    if large_records <= small_records:
        raise ValueError(f"growth: {large_records} records after {small_records}; the second page must be longer")
    before, after = _calls_per_request(small), _calls_per_request(large)
    return {
        key: (calls - before.get(key, 0.0)) / (large_records - small_records) for key, calls in sorted(after.items())
    }


def _calls_per_request(found: Attribution) -> dict[tuple[str, str], float]:
    return {
        (one.endpoint, statement.fingerprint): statement.calls / one.requests
        for one in found.endpoints
        for statement in one.statements
        if one.requests
    }


# --- is that all of it? --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """One counter held against what is known of it. rest: what the difference is made of, where it is known."""

    what: str
    counted: int
    explained: int
    rest: str


def _most_called_outside(statements: Iterable[StatementDelta], service: str) -> str:
    of_none = [one for one in statements if one.endpoint is None and one.role == service]
    if not of_none:
        return "nothing"
    most = max(of_none, key=lambda one: (one.calls, one.query))
    return f"run for no endpoint, most of all ({most.calls:,} times): {most.name or preview(most.query, PREVIEW_CHARS)}"


def completeness(delta: ServerDelta, found: Attribution, odoo: Sequence[OdooUse] | None) -> tuple[Account, ...]:
    """What was attributed against every counter that saw the same load: pg_stat_statements, the services' own counts,
    the database's blocks, pgBouncer's queries."""
    calls = Counter({service: use.calls for service, use in found.outside.items()})
    attributed: Counter[str] = Counter()
    for one in found.endpoints:
        attributed[service_of(one.endpoint)] += one.use.calls if one.use else 0
    calls.update(attributed)
    accounts = [
        Account(
            f"Statements of {service} in pg_stat_statements, by endpoint",
            counted,
            attributed[service],
            _most_called_outside(delta.statements, service),
        )
        for service, counted in sorted(calls.items())
    ]
    if delta.api_sql_calls:
        accounts.append(
            Account(
                "Statements that the API counted itself, in pg_stat_statements",
                sum(delta.api_sql_calls.values()),
                calls["api"],
                "under way at a snapshot, or failed, which the server does not count; over 100 %: health checks",
            )
        )
    if odoo:
        accounts.append(
            Account(
                "Queries in Odoo's access log, in pg_stat_statements",
                sum(one.queries for one in odoo),
                calls["odoo"],
                "SET and SAVEPOINT, which are not tracked; over 100 %: requests that call no method, or under way at a "
                "snapshot",
            )
        )
    accounts.append(
        Account(
            "Blocks that the database counted, in pg_stat_statements",
            delta.blks_hit + delta.blks_read,
            total(delta.statements).blocks,
            "parsing and planning, new connections, background work",
        )
    )
    if delta.pools:
        accounts.append(
            Account(
                "Queries that pgBouncer passed on, in pg_stat_statements",
                sum(pool.query_count for pool in delta.pools),
                sum(calls.values()),
                "BEGIN, COMMIT, SET, RESET and SAVEPOINT, which are not tracked and which pgBouncer does not tell "
                "apart; what is over 100 % bypassed the pool",
            )
        )
        accounts.append(
            Account(
                "Transactions of the database, passed on by pgBouncer",
                delta.xact_commit + delta.xact_rollback,
                sum(pool.xact_count for pool in delta.pools),
                "the harness's own, and whatever bypassed the pool",
            )
        )
    return tuple(accounts)
