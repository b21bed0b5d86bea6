"""The specification's acceptance checklist (§5.3) held against one result: status and evidence of each item. Pure.

§1.2's criteria are judged by `harness.compare`. What a load run cannot show is said to be not measured, with the place
where it is; it never counts as met.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fixtures.indexes import day32
from harness import compare
from harness.compare import TARGET_USERS, CriterionStatus
from harness.model import RunResult
from harness.report_text import figure
from harness.server_metrics import pool_use

Judgement = tuple[CriterionStatus, str]
NO_SNAPSHOTS = "no data: the servers' counters are missing"
# The specification's days: what each item asks for is not part of Day 31.
NOT_ON_DAY31 = "n/a: not part of day31"


@dataclass(frozen=True, slots=True)
class ChecklistRow:
    """One item of §5.3, in the specification's words. evidence: what this result shows, or who shows it instead."""

    requirement: str
    item: str
    status: CriterionStatus
    evidence: str


def acceptance(result: RunResult) -> tuple[ChecklistRow, ...]:
    """All twelve items of §5.3, in its order."""
    rows = (ChecklistRow(requirement, item, *judge(result)) for requirement, item, judge in _ITEMS)
    return tuple(replace(row, status=compare.trusted(row.status, result)) for row in rows)


# --- the items that load shows -------------------------------------------------------------------------------------


def _indexes(result: RunResult) -> Judgement:
    if result.meta.profile == "day31":
        return "not_applicable", NOT_ON_DAY31
    if result.servers is None:
        return "no_data", NO_SNAPSHOTS
    wanted = {index.name for index in day32()}
    there = {index.index for index in result.servers.indexes}
    missing = sorted(wanted - there)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return (
            "fail",
            f"{len(wanted) - len(missing)} of {len(wanted)} are there; missing: {', '.join(missing[:3])}{more}",
        )
    found = f"all {len(wanted)} of Day 32 are there"
    if result.plans is None:
        return "not_shown", f"{found}; no plan was captured"
    taken, untaken = len(result.plans.critical), len(result.plans.missing)
    whole = [plan.name for plan in result.plans.critical if plan.sequential]
    found += f"; EXPLAIN ANALYZE of {taken} of {taken + untaken} critical queries, "
    if whole:
        return "fail", f"{found}{len(whole)} read a large table sequentially: {', '.join(whole)}"
    return "pass" if taken and not untaken else "not_shown", f"{found}none reads a large table sequentially"


def _redis(result: RunResult) -> Judgement:
    if result.meta.profile == "day31":
        return "not_applicable", NOT_ON_DAY31
    cache = result.servers.cache if result.servers else None
    ratio = result.metrics.get("redis_hit_pct", {}).get(None)
    if cache is None or ratio is None:
        return "no_data", "no data: no look-up in the result cache was counted"
    text = f"{figure(ratio.value, 'pct')} of {cache.lookups:,} look-ups hit, {cache.errors:,} errors"
    return "pass" if cache.hits and not cache.errors else "fail", text


def _pool(result: RunResult) -> Judgement:
    if result.meta.profile == "day31":
        return "not_applicable", NOT_ON_DAY31
    if result.servers is None or not result.servers.pools:
        return "no_data", "no data: no counters of pgBouncer"
    transactions = sum(pool.xact_count for pool in result.servers.pools)
    if not transactions:
        return "fail", "no transaction went through pgBouncer"
    asked = result.meta.scenario
    loaded = asked.users >= TARGET_USERS and asked.load == "closed"
    load = f"{asked.users} users" if asked.load != "open" else "an open load"
    used = pool_use(result.servers)
    busiest = f"; busiest pool {used[0].alias}, {used[0].capacity} links" if used else ""
    return "pass" if loaded else "not_shown", f"{transactions:,} transactions through it at {load}{busiest}"


def _load(result: RunResult) -> Judgement:
    undecided = ("not_applicable", "cannot_say")
    outcomes = [verdict.outcome for verdict in result.verdicts if verdict.outcome not in undecided]
    text = f"Locust in K6's place: {outcomes.count('pass')} of {len(outcomes)} limits met"
    if result.meta.state != "complete" or result.meta.reasons:
        return "fail", f"{text}; the run is invalid"
    if result.meta.aborted is not None:
        return "fail", f"{text}; ended early"
    if not outcomes:
        return "no_data", "no data: no limit applies"
    if outcomes.count("pass") < len(outcomes):
        return ("fail" if "fail" in outcomes else "no_data"), text
    sustained = next(row for row in compare.criteria(result) if row.criterion.startswith("50 users"))
    return ("pass" if sustained.status == "pass" else "not_shown"), f"{text}; {sustained.note}"


def _row_level(result: RunResult) -> Judgement:
    if result.meta.profile == "day31":
        return "not_applicable", NOT_ON_DAY31
    statements = result.servers.statements if result.servers else ()
    endpoints = {one.endpoint for one in statements if one.endpoint is not None}
    load = (
        f"here the statements of {len(endpoints)} endpoints ran under roles of their own" if endpoints else "not here"
    )
    return "not_measured", f"what a policy refuses, tests/stacks/test_security.py shows; {load}"


def _tls(result: RunResult) -> Judgement:
    if result.meta.profile == "day31":
        return "not_applicable", NOT_ON_DAY31
    setting = result.settings.get("ssl", "not read back")
    return (
        "not_measured",
        f"that plain connections are refused, tests/stacks/test_configuration.py shows; ssl = {setting}",
    )


def _elsewhere(evidence: str) -> Callable[[RunResult], Judgement]:
    return lambda result: ("not_measured", evidence)


_ITEMS: tuple[tuple[str, str, Callable[[RunResult], Judgement]], ...] = (
    ("C-003", "All indexes created and validated with EXPLAIN ANALYZE", _indexes),
    ("C-009", "Redis caching layer operational with measurable hit ratio", _redis),
    ("C-001", "pgBouncer connection pooling verified under load", _pool),
    ("C-010", "Backup and PITR restore drill passed", _elsewhere("no restore drill belongs to a load run")),
    ("C-011", "RLS policies tested with multiple roles", _row_level),
    ("C-011", "SSL/TLS enforced for all database connections", _tls),
    ("C-012", "Grafana dashboards displaying real-time metrics", _elsewhere("no Grafana runs beside the stack")),
    ("C-009", "K6 load tests passing all thresholds", _load),
    ("C-014", "ETL scripts validated on sample data", _elsewhere("no migration belongs to a load run")),
    (
        "C-001",
        "VACUUM/ANALYZE automation scheduled and verified",
        _elsewhere("no part of a load run; `dairyperf maintenance` does it, tests/stacks/test_maintenance.py shows it"),
    ),
    ("C-015", "All runbooks reviewed and committed", _elsewhere("for reviewers; not judged here")),
    ("C-015", "Milestone sign-off document completed", _elsewhere("this page, once it is signed below")),
)
