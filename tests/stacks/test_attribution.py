"""attribution on a real server: statements under an endpoint's role are told apart, and a query per record is found."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from fixtures.endpoints import ENDPOINTS, role
from harness import probe, servers
from harness.attribution import Attribution, attribute, growth_per_record, n_plus_one
from harness.model import StackAddresses

SLUG = "api_animals"
ENDPOINT = ENDPOINTS[SLUG]
# What every role may read, so that no grant is made for this.
PAGE = "SELECT oid FROM pg_catalog.pg_proc ORDER BY oid LIMIT %s"
RECORD = "SELECT proname FROM pg_catalog.pg_proc WHERE oid = %s"
REQUESTS = 3


@pytest.fixture
def application(stacks: dict[str, StackAddresses]) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A direct connection to day40 that may take the role of the endpoint."""
    addresses = stacks["day40"]
    with psycopg.connect(addresses.admin_dsn, dbname=addresses.database) as connection:
        yield connection


def test_a_query_per_record_is_found_and_grows_with_the_page(
    stacks: dict[str, StackAddresses], application: psycopg.Connection[tuple[object, ...]]
) -> None:
    addresses = stacks["day40"]

    def read_pages(records: int) -> None:
        for _ in range(REQUESTS):
            with application.transaction():
                application.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role(SLUG, "worker"))))
                for (oid,) in application.execute(PAGE, [records]).fetchall():
                    application.execute(RECORD, [oid])

    def measured(records: int) -> Attribution:
        before = probe.snapshot(addresses)
        read_pages(records)
        delta = servers.diff(before, probe.snapshot(addresses), {})
        return attribute(delta.statements, {ENDPOINT: REQUESTS})

    small, large = measured(6), measured(30)
    (of_large,) = (one for one in large.endpoints if one.endpoint == ENDPOINT)
    assert of_large.use is not None
    assert (of_large.use.calls, of_large.use.rows) == (REQUESTS * 31, REQUESTS * 60)
    (found,) = n_plus_one(large.endpoints, growth_per_record(small, large, 6, 30))
    assert (found.endpoint, found.statement.role, "WHERE oid" in found.statement.query) == (ENDPOINT, "api", True)
    assert (found.calls_per_request, found.rows_per_call, found.calls_per_record) == (30.0, 1.0, 1.0)
