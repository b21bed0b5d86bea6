"""report_checklists: each item of §5.3 from what a run shows, and nothing met that was not measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import built_results as built
import pytest

from fixtures.indexes import day32
from harness.model import IndexDelta, QueryPlans, RunResult
from harness.report_checklists import ChecklistRow, acceptance

INDEXES, REDIS, POOL, LOAD = "All indexes", "Redis", "pgBouncer", "K6 load tests"


def row(result: RunResult, start: str) -> ChecklistRow:
    return next(row for row in acceptance(result) if row.item.startswith(start))


def with_all_indexes(result: RunResult) -> RunResult:
    assert result.servers is not None
    indexes = tuple(IndexDelta(one.schema, one.table, one.name, 1, 8192) for one in day32())
    return replace(result, servers=replace(result.servers, indexes=indexes))


def loaded(result: RunResult) -> RunResult:
    """At the load that the specification asks for, with every limit kept."""
    kept = tuple(verdict for verdict in result.verdicts if verdict.outcome == "pass")
    summary = replace(result.summary, counted_s=300.0, endpoints=result.summary.endpoints[:3])
    scenario = replace(result.meta.scenario, duration_s=300.0)
    return replace(result, verdicts=kept, summary=summary, meta=replace(result.meta, scenario=scenario))


def test_all_twelve_items_have_a_requirement_and_evidence_whatever_was_measured():
    for result in (built.result("day40"), built.result("day31"), built.without_data("day40")):
        rows = acceptance(result)
        assert len(rows) == 12
        assert all(row.requirement.startswith("C-0") and row.evidence for row in rows)
    assert not [row for row in acceptance(built.without_data("day40")) if row.status == "pass"]


def test_an_index_that_is_missing_is_named():
    found = row(built.result("day40"), INDEXES)
    assert found.status == "fail"
    assert f"3 of {len(day32())} are there; missing: " in found.evidence


def test_indexes_are_validated_by_the_plans_that_ran():
    run = with_all_indexes(built.result("day40"))
    assert run.plans is not None
    complete = replace(run, plans=replace(run.plans, missing={}))
    assert row(complete, INDEXES).status == "pass"
    assert row(replace(run, plans=replace(run.plans, missing={"herd": "timeout"})), INDEXES).status == "not_shown"
    assert row(replace(run, plans=None), INDEXES).status == "not_shown"
    assert row(replace(run, plans=QueryPlans((), {}, ())), INDEXES).status == "not_shown"
    whole = replace(run.plans.critical[0], sequential=("farm.animal",))
    found = row(replace(run, plans=replace(run.plans, critical=(whole,), missing={})), INDEXES)
    assert (found.status, whole.name in found.evidence) == ("fail", True)


def test_a_cache_without_hits_or_with_errors_is_not_operational():
    run = built.result("day40")
    assert run.servers is not None
    assert run.servers.cache is not None
    assert row(run, REDIS) == ChecklistRow(
        "C-009",
        "Redis caching layer operational with measurable hit ratio",
        "pass",
        "88.5 % of 2,600 look-ups hit, 0 errors",
    )
    for change in ({"hits": 0}, {"errors": 3}):
        cache = replace(run.servers.cache, **change)
        assert row(replace(run, servers=replace(run.servers, cache=cache)), REDIS).status == "fail"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda run: run, "pass"),
        (lambda run: replace(run, meta=replace(run.meta, state="invalid")), "fail"),
        (lambda run: replace(run, meta=replace(run.meta, aborted="p95_ms < 200")), "fail"),
        (lambda run: replace(run, summary=replace(run.summary, counted_s=60.0)), "not_shown"),
        (lambda run: replace(run, verdicts=built.result("day40").verdicts), "no_data"),
        (lambda run: replace(run, verdicts=(replace(run.verdicts[0], outcome="fail"),)), "fail"),
        (lambda run: replace(run, verdicts=()), "no_data"),
    ],
)
def test_load_tests_pass_with_every_limit_at_the_load_that_was_asked_for(
    change: Callable[[RunResult], RunResult], status: str
):
    assert row(change(loaded(built.result("day40"))), LOAD).status == status


def test_pooling_shows_under_load_alone():
    run = built.result("day40")
    assert run.servers is not None
    assert row(run, POOL).status == "pass"
    few = replace(run, meta=replace(run.meta, scenario=replace(run.meta.scenario, users=10)))
    assert row(few, POOL).status == "not_shown"
    assert row(built.open_load("day40"), POOL).status == "not_shown"
    idle = tuple(replace(pool, xact_count=0) for pool in run.servers.pools or ())
    assert row(replace(run, servers=replace(run.servers, pools=idle)), POOL).status == "fail"


def test_what_belongs_to_day40_is_not_asked_of_day31():
    rows = acceptance(built.result("day31"))
    assert [row.status for row in rows if row.evidence.startswith("n/a")] == ["not_applicable"] * 5
