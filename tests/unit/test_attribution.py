"""attribution: exact counts per endpoint, what is left over, one query per record, and completeness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import built_results as built
import pytest
from built_snapshots import BY_TAG, delta, snapshot, statement
from hypothesis import given
from hypothesis import strategies as st

from fixtures.endpoints import ENDPOINTS, role
from harness import attribution, server_metrics
from harness.attribution import Use, attribute, completeness, growth_per_record, n_plus_one, per_request, without_case
from harness.model import Estimate, OdooUse, StatementDelta
from harness.statements import over_endpoints, service_of

SLUGS = {name: slug for slug, name in ENDPOINTS.items()}
TAG, HISTORY = "api GET /api/v1/animals/{tag_number}", "api GET /api/v1/milk-production/{animal_id}/history"
READ, WRITE = "odoo farm.animal.search_read", "odoo farm.animal.write"
BY_ID = "SELECT name FROM core.section WHERE id = $1"


def used(endpoint: str | None, calls: int = 10, query: str = BY_TAG, rows: int | None = None) -> StatementDelta:
    service = "api" if endpoint is None else service_of(endpoint)
    one = built.statement(service, None, query, calls, 2.0, endpoint=endpoint)
    return replace(one, rows=calls if rows is None else rows, wal_bytes=5 * calls)


def test_the_role_of_a_statement_names_its_endpoint_and_roles_of_one_endpoint_add_up() -> None:
    slug = SLUGS[TAG]
    rows = [
        statement(3, role=role(slug, "manager"), userid=21),
        statement(4, role=role(slug, "worker"), userid=22),
        statement(5, role=role(SLUGS[READ], "worker"), userid=23),
        statement(2),
        statement(6, role=role("odoo_other", "auditor"), userid=24),
    ]
    found = delta(snapshot(), snapshot(rows)).statements
    calls = {(one.role, one.endpoint): one.calls for one in found}
    assert calls == {("api", TAG): 7, ("odoo", READ): 5, ("api", None): 2, ("odoo", None): 6}
    calls = {(one.role, one.endpoint): one.calls for one in over_endpoints(found)}
    assert calls == {("api", None): 9, ("odoo", None): 11}


def test_use_per_endpoint_is_exact_and_cases_of_a_method_are_one_endpoint() -> None:
    statements = [used(READ, 30), used(READ, 10, BY_ID), used(TAG, 8), used(None, 4)]
    found = attribute(statements, {f"{READ} [tag]": 15, f"{READ} [active]": 5, TAG: 16})
    tag, read = found.endpoints
    assert (tag.endpoint, tag.requests, read.endpoint, read.requests) == (TAG, 16, READ, 20)
    assert read.use == Use(calls=40, rows=40, blks_hit=440, blks_read=4, wal_bytes=200, total_ms=80.0)
    assert [one.query for one in read.statements] == [BY_TAG, BY_ID]
    assert tag.per_request(tag.use.calls if tag.use else 0) == 0.5
    assert found.outside == {"api": Use(4, 4, 44, 0, 20, 8.0)}


@pytest.mark.parametrize(
    ("statements", "requests", "values"),
    [
        # a cache answered every second request; of HISTORY all
        ([used(TAG, 8)], {TAG: 16, HISTORY: 4}, {None: 0.4, TAG: 0.5, HISTORY: 0.0}),
        # statements outside of endpoints are part of all together
        ([used(TAG, 8), used(None, 12)], {TAG: 10}, {None: 2.0, TAG: 0.8}),
        # no statement of this service is told apart
        ([used(TAG, 8)], {TAG: 4, f"{READ} [tag]": 4}, {None: 1.0, TAG: 2.0, READ: None}),
        # an endpoint without a role
        ([used(TAG, 8)], {TAG: 4, "api GET /new": 4}, {None: 1.0, TAG: 2.0, "api GET /new": None}),
        # ran statements, but nobody knows for how many requests
        ([used(TAG, 8)], {HISTORY: 4}, {None: 2.0, TAG: None, HISTORY: 0.0}),
        ([used(None, 8)], {TAG: 4}, {None: 2.0, TAG: None}),
        ([], {TAG: 4}, {None: None, TAG: None}),
        ([used(TAG, 8)], {}, {None: None, TAG: None}),
    ],
)
def test_calls_per_request(
    statements: list[StatementDelta], requests: Mapping[str, int], values: Mapping[str | None, float | None]
) -> None:
    found = per_request(statements, requests)["db_calls_per_request"]
    assert {name: one.value if one else None for name, one in found.items()} == values


def test_rows_and_blocks_have_the_same_selectors() -> None:
    found = per_request([used(TAG, 10, rows=30)], {TAG: 20})
    assert found["db_rows_per_request"] == {None: Estimate(1.5, None, None, 20), TAG: Estimate(1.5, None, None, 20)}
    assert found["db_blocks_per_request"][TAG] == Estimate(5.55, None, None, 20)  # 110 hit, 1 read


def test_lower_bounds_pass_no_limit() -> None:
    statements = [used(TAG), replace(used(HISTORY), lower_bound=True)]
    assert {one for metric in per_request(statements, {TAG: 5}).values() for one in metric.values()} == {None}


def test_the_metrics_of_a_run_name_endpoints() -> None:
    built_delta = built.servers("day31")
    found = server_metrics.metrics(built_delta, "day31", built.REQUESTS)["db_calls_per_request"]
    assert found[built.TAG] == Estimate(1700 / 1800, None, None, 1800)
    assert found["odoo farm.animal.search_read"] == Estimate(52.0, None, None, 600)


@given(st.lists(st.tuples(st.sampled_from([TAG, HISTORY, READ, WRITE, None]), st.integers(1, 1000)), max_size=12))
def test_nothing_is_lost_or_counted_twice(calls: list[tuple[str | None, int]]) -> None:
    statements = [used(endpoint, number) for endpoint, number in calls]
    found = attribute(statements, {TAG: 1})
    parts = [one.use for one in found.endpoints if one.use] + list(found.outside.values())
    whole = attribution.total(statements)
    for name in ("calls", "rows", "blocks", "wal_bytes", "total_ms"):
        assert sum(getattr(part, name) for part in parts) == getattr(whole, name)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("odoo farm.animal.search_read [tag]", READ),
        (READ, READ),
        ("api GET /a [b]", "api GET /a [b]"),
    ],
)
def test_only_odoo_has_cases(name: str, without: str) -> None:
    assert without_case(name) == without


# --- one query per record ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "rows", "flagged"),
    [
        (50, 50, True),
        (50, 0, True),  # looks for what is not there, as often
        (50, 76, False),
        (5, 5, False),
        (6, 6, True),
    ],
)
def test_many_calls_of_one_row_each_are_one_query_per_record(calls: int, rows: int, flagged: bool) -> None:
    found = attribute([used(READ, 10 * calls, BY_ID, rows=10 * rows), used(READ, 10)], {f"{READ} [tag]": 10})
    named = [(one.endpoint, one.statement.query, one.calls_per_request) for one in n_plus_one(found.endpoints)]
    assert named == ([(READ, BY_ID, float(calls))] if flagged else [])


def test_its_growth_with_the_page_is_calls_per_record() -> None:
    def page(records: int) -> attribution.Attribution:
        return attribute([used(READ, 5 * records, BY_ID), used(READ, 5)], {READ: 5})

    small, large = page(10), page(80)
    growth = growth_per_record(small, large, 10, 80)
    by_id, by_tag = used(READ, query=BY_ID).fingerprint, used(READ).fingerprint
    assert growth == {(READ, by_id): 1.0, (READ, by_tag): 0.0}
    (found,) = n_plus_one(large.endpoints, growth)
    assert found.calls_per_record == 1.0
    assert n_plus_one(large.endpoints, dict.fromkeys(growth, 0.1)) == ()  # many, but as many for the smaller page
    with pytest.raises(ValueError, match="the second page must be longer"):
        growth_per_record(large, small, 80, 10)


# --- completeness --------------------------------------------------------------------------------------------------


def test_every_counter_that_saw_the_load_is_held_against_what_is_known() -> None:
    servers = replace(
        built.servers("day40"),
        statements=(used(TAG, 60), used(None, 40), used(READ, 90), replace(used(None, 10), role="odoo")),
        api_sql_calls={"animal by tag": 101},
    )
    found = attribute(servers.statements, {TAG: 60, READ: 30})
    odoo = [OdooUse("farm.animal.search_read", 30, 130, 3, 5, 60.0, 90.0)]
    accounts: dict[str, Any] = {one.what: (one.counted, one.explained) for one in completeness(servers, found, odoo)}
    assert accounts == {
        "Statements of api in pg_stat_statements, by endpoint": (100, 60),
        "Statements of odoo in pg_stat_statements, by endpoint": (100, 90),
        "Statements that the API counted itself, in pg_stat_statements": (101, 100),
        "Queries in Odoo's access log, in pg_stat_statements": (130, 100),
        "Blocks that the database counted, in pg_stat_statements": (100_000, 2220),
        "Queries that pgBouncer passed on, in pg_stat_statements": (7820, 200),
        "Transactions of the database, passed on by pgBouncer": (6603, 2120),
    }
    without = completeness(replace(servers, pools=None, api_sql_calls={}), found, None)
    assert [one.what for one in without] == list(accounts)[:2] + list(accounts)[4:5]
