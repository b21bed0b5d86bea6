"""The statement log of both real stacks: what is in it, that nothing of it is lost, and what stands in the way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from harness import probe, server_log, slow_statements, statement_log
from harness.errors import StackError
from harness.model import StackAddresses, StatementLog
from harness.server_log import Position

# Far more than 5 % of the statements, so that the 95th percentile is one of them whichever were drawn.
SLEEPS_MS, SLOW_ONES, QUICK_ONES = 5.0, 160, 240


@pytest.fixture
def api(stack: StackAddresses) -> Iterator[psycopg.Connection]:
    """As the API's role connects, directly."""
    dsn = stack.postgres_dsn.replace("user=harness", "user=api")
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        yield connection


def logged_since(start: Position, stack: StackAddresses) -> StatementLog:
    sampling = statement_log.sampling(probe.snapshot(stack).postgres["settings"])
    return statement_log.read(server_log.since(stack.admin_dsn, start), stack.database, *sampling)


def test_slow_statements_are_all_there_and_the_percentile_is_what_the_client_timed(stack, api):
    start = server_log.position(stack.admin_dsn)
    for number in range(3):
        api.execute("SELECT pg_sleep(%s) -- by hand", (0.15 + number * 0.05,))
    api.execute("SELECT pg_sleep(0.11), 'a cow''s secret'")
    timed_ms = []
    for number in range(SLOW_ONES + QUICK_ONES):
        begun = time.perf_counter()
        api.execute("SELECT pg_sleep(%s)", (SLEEPS_MS / 1000 if number % 5 < 2 else 0,))
        timed_ms.append((time.perf_counter() - begun) * 1000)

    log = logged_since(start, stack)
    assert (log.sample_ratio, log.always_ms) == (0.1, 100.0)
    assert "secret" not in repr(log)
    slow = slow_statements.inventory([log])
    mine = {row.query: row for row in slow.rows if row.user == "api"}
    assert mine["SELECT pg_sleep($1)"].count >= 3  # and whatever of the others this machine made slow
    assert mine["SELECT pg_sleep($1)"].total_ms > 600
    assert mine["SELECT pg_sleep($1)"].plan["Plan"]["Node Type"] == "Result"
    assert mine["SELECT pg_sleep($1), $2"].count == 1

    ours = StatementLog(0.1, 100.0, tuple(one for one in log.statements if one.user == "api"), log.texts, ())
    p95 = statement_log.metrics([ours])["query_p95_ms"][None]
    assert 10 < p95.count < 100
    assert SLEEPS_MS <= p95.value <= max(*timed_ms, 300)
    assert sum(statement_log.weights(ours)) == pytest.approx(404, abs=200)


def test_a_rotation_in_between_loses_nothing(stack, api):
    start = server_log.position(stack.admin_dsn)
    with psycopg.connect(stack.admin_dsn, autocommit=True) as admin:

        def write_to(pattern: str | None) -> None:
            name = current()
            change = "RESET log_filename" if pattern is None else f"SET log_filename = '{pattern}'"
            admin.execute(f"ALTER SYSTEM {change}")
            admin.execute("SELECT pg_reload_conf()")
            deadline = time.monotonic() + 30
            while current() == name:
                assert time.monotonic() < deadline
                time.sleep(0.05)

        def current() -> str:
            return str(admin.execute("SELECT pg_current_logfile('jsonlog')").fetchone()[0])

        api.execute("SELECT pg_sleep(0.101)")
        try:
            write_to("rotated-%a.log")
            api.execute("SELECT pg_sleep(0.102)")
        finally:
            write_to(None)
        api.execute("SELECT pg_sleep(0.103)")
    log = logged_since(start, stack)
    assert sum(one.user == "api" and one.duration_ms >= 100 for one in log.statements) == 3


def test_who_may_not_read_the_log_is_told_what_to_grant(stack):
    with pytest.raises(StackError, match="give the administrator's role pg_read_server_files"):
        server_log.since(stack.postgres_dsn, {})
    with pytest.raises(StackError, match="its log cannot be read"):
        server_log.position(stack.admin_dsn.replace("dbname=postgres", "dbname=nowhere"))


def test_no_password_is_in_the_log_that_is_read(stack, secrets):
    lines = b"\n".join(server_log.since(stack.admin_dsn, server_log.position(stack.admin_dsn)))
    for path in Path(stack.log_dir).rglob("*.json"):
        lines += path.read_bytes()
    passwords = [line.rsplit(":", 1)[1] for line in Path(stack.passfile).read_text().splitlines()]
    found = [*passwords, secrets["api_key"], *secrets["odoo"].values()]
    assert len(found) > 5
    assert not [one for one in found if json.dumps(one)[1:-1].encode() in lines]
