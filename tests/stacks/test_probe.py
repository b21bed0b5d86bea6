"""The probe and the arithmetic over it, proved on a running stack. Nothing here leaves a row behind."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from fixtures import herd, queries
from fixtures.queries import critical
from harness import plans, probe, server_metrics, servers, statements
from harness.model import StackAddresses
from harness.services import process

PARAMETERS = {
    "animal_id": 1,
    "breed": None,
    "details": '{"diagnosis": "mastitis"}',
    "due_by": "2026-02-03",
    "fat_percentage": 4,
    "from_date": "2026-01-01",
    "limit": 10,
    "offset": 0,
    "product_id": 1,
    "production_date": "2026-02-03",
    "quantity_litres": 12,
    "section_id": None,
    "shift": "morning",
    "snf_percentage": 8,
    "status": "active",
    "tag_number": "SD-0001",
    "until": "2026-02-03",
    "words": "calm",
}


def application(stack: StackAddresses, **options: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(stack.postgres_dsn, application_name="application", autocommit=True, **options)


def test_a_snapshot_survives_json(stack: StackAddresses) -> None:
    taken = asdict(probe.snapshot(stack))
    assert json.loads(json.dumps(taken)) == taken
    assert taken["postgres"]["settings"]["shared_buffers"]
    assert set(taken["processes"]) == set(stack.pids)
    assert (taken["pgbouncer"] is None) == (stack.pgbouncer_dsn is None)
    secrets = json.loads(Path(stack.secrets_file).read_text())
    assert str(secrets["redis"]) not in json.dumps(taken["redis"])


def test_a_delta_equals_what_was_executed(stack: StackAddresses) -> None:
    """The truth of each single call is the growth of the server's own total by it."""
    text = "SELECT count(*) AS proof FROM generate_series(1, %(rows)s) AS proof(n)"
    total = "SELECT sum(total_exec_time) FROM pg_stat_statements WHERE query LIKE '%AS proof(n)%' AND calls > 0"
    truth = []
    with application(stack) as connection:

        def call(rows: int) -> None:
            connection.execute(text, {"rows": rows})
            truth.append(connection.execute(total).fetchone()[0])

        for rows in (100, 50_000, 7):
            call(rows)
        before = probe.snapshot(stack)
        known = len(truth)
        for rows in [10, 20_000, 300, 80_000] * 5:
            call(rows)
        after = probe.snapshot(stack)
    own = [later - earlier for earlier, later in zip(truth[known - 1 :], truth[known:], strict=False)]

    names = statements.named_fingerprints({"proof": text})
    change = servers.diff(before, after, names, exclude_roles=())
    (found,) = [one for one in change.statements if one.name == "proof"]
    assert (found.calls, found.rows, found.lower_bound) == (20, 20, False)
    assert found.total_ms == pytest.approx(sum(own), rel=1e-9)
    assert (found.m2_ms2 / found.calls) ** 0.5 == pytest.approx(statistics.pstdev(own), rel=1e-6)
    judged = server_metrics.metrics(change, stack.profile)["statement_mean_ms"]["proof"]
    assert judged is not None
    assert judged.value == pytest.approx(statistics.fmean(own), rel=1e-9)


def test_every_named_query_is_found_again(stack: StackAddresses) -> None:
    texts = queries.texts()
    with psycopg.connect(stack.admin_dsn, dbname=stack.database, autocommit=True) as connection:
        # the server keeps the text that came first, and another test's may have been an EXPLAIN of the same query
        connection.execute("SELECT pg_stat_statements_reset()")
    before = probe.snapshot(stack)
    with psycopg.connect(stack.admin_dsn, dbname=stack.database) as connection:
        asked = critical.parameters(herd.inputs())
        for stem, text in texts.items():
            given = plans.bound(asked.get(stem, {}))
            connection.execute(text, {name: given.get(name, PARAMETERS.get(name)) for name in _names(text)})
        connection.rollback()
    change = servers.diff(before, probe.snapshot(stack), statements.named_fingerprints(texts), exclude_roles=())
    assert {one.name for one in change.statements} - {None} == {stem.replace("_", " ") for stem in texts}


def _names(text: str) -> set[str]:
    return set(re.findall(r"%\((\w+)\)s", text))


def scans_of_daily_milk(stack: StackAddresses) -> int:
    """No service reads this table: what others did a while ago may be counted any time."""
    (row,) = [one for one in probe.snapshot(stack).postgres["tables"] if one["relname"] == "daily_milk"]
    return int(row["seq_scan"])


def test_late_statistics_are_waited_for_beside_a_poller(stack: StackAddresses) -> None:
    stop = threading.Event()

    def poll() -> None:
        with application(stack) as connection:
            while not stop.wait(0.3):
                connection.execute("SELECT 1")

    earlier = scans_of_daily_milk(stack)
    with ThreadPoolExecutor() as threads, application(stack) as connection:
        polling = threads.submit(poll)
        try:
            for _ in range(20):
                connection.execute("SELECT count(*) FROM analytics.daily_milk")
            assert probe.wait_for_quiet_statistics(stack, timeout_s=20)
            assert scans_of_daily_milk(stack) == earlier + 20
        finally:
            stop.set()
            polling.result()


def test_an_open_transaction_is_not_quiet(stack: StackAddresses) -> None:
    with application(stack) as connection, connection.transaction():
        connection.execute("SELECT 1")
        assert not probe.wait_for_quiet_statistics(stack, timeout_s=0.5)


def test_samples_hold_every_source(stack: StackAddresses) -> None:
    with probe.Probes(stack, [os.getpid()]) as probes:
        first, second = probes.sample(), probes.sample()
    assert probes.warnings == []
    assert {"host.load_1m", "postgres.state.active", "postgres.wait.Lock", "rss_bytes.load_generator"} <= set(first)
    assert {f"cpu_pct.{service}" for service in (*stack.pids, "load_generator")} <= set(second)
    assert ("redis.ops_per_s" in first) == (stack.redis_url is not None)


def test_a_failing_source_is_absent_and_named_once(stack: StackAddresses) -> None:
    broken = replace(stack, redis_url="redis://127.0.0.1:1/0", postgres_dsn="host=127.0.0.1 port=1")
    with probe.Probes(broken) as probes:
        samples = probes.sample() | probes.sample()
    assert [text.split(":")[0] for text in probes.warnings] == ["postgres", "redis"]
    assert "host.cpu_pct" in samples
    assert not [name for name in samples if name.startswith(("postgres.", "redis."))]


# --- the pools' utilisation


@contextmanager
def private_pool(stack: StackAddresses, size: int) -> Iterator[tuple[StackAddresses, str]]:
    """A pgBouncer of its own before the stack's PostgreSQL: the program that the stack runs, one small pool."""
    own = psutil.Process(stack.pids["pgbouncer"])
    server = conninfo_to_dict(stack.postgres_dsn)
    password = next(
        line.rsplit(":", 1)[1]
        for line in Path(stack.passfile).read_text().splitlines()
        if line.split(":")[3] == server["user"] and line.split(":")[1] in (server["port"], "*")
    )
    port = process.free_port()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "users").write_text(f'"{server["user"]}" "{password}"\n')
        (Path(folder) / "ini").write_text(
            f"[databases]\nproof = host={server['host']} port={server['port']} dbname={stack.database} "
            f"pool_size={size}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {folder}/users\nadmin_users = {server['user']}\n"
            "pool_mode = transaction\nreserve_pool_size = 0\n"
            f"server_tls_sslmode = {server['sslmode']}\nserver_tls_ca_file = {server['sslrootcert']}\n"
        )
        uid = own.uids().real
        for path in (folder, f"{folder}/users", f"{folder}/ini"):
            os.chown(path, uid, -1)
        command = [own.exe(), f"{folder}/ini"]
        as_user = {"user": uid, "extra_groups": []} if os.getuid() == 0 else {}
        bouncer = subprocess.Popen(command, env=own.environ(), stderr=subprocess.DEVNULL, **as_user)  # type: ignore[call-overload]
        try:
            dsn = f"host=127.0.0.1 port={port} user={server['user']} password={password}"
            deadline = time.monotonic() + 10
            while process.port_is_free(port):
                assert time.monotonic() < deadline, "pgbouncer did not start"
                time.sleep(0.05)
            yield replace(stack, pgbouncer_dsn=f"{dsn} dbname=pgbouncer"), f"{dsn} dbname=proof"
        finally:
            bouncer.kill()
            bouncer.wait()


@pytest.mark.parametrize("stack", ["day40"], indirect=True)
@pytest.mark.parametrize("clients", [4, 1])
def test_pool_utilisation_is_time_held_without_time_waited(stack: StackAddresses, clients: int) -> None:
    """Two links; each client holds one for 20 × 100 ms. Four clients wait about as long as they work."""
    with private_pool(stack, size=2) as (addresses, dsn), ThreadPoolExecutor(clients) as threads:
        connections = [psycopg.connect(dsn, autocommit=True, prepare_threshold=None) for _ in range(clients)]

        def work(connection: psycopg.Connection[Any]) -> float:
            started = time.monotonic()
            for _ in range(20):
                connection.execute("SELECT pg_sleep(0.1)")
            return time.monotonic() - started

        list(threads.map(lambda one: one.execute("SELECT pg_sleep(0.2)"), connections))  # opens both links
        before = probe.snapshot(addresses)
        worked_s = sum(threads.map(work, connections))
        ended_us = time.monotonic_ns() // 1000
        after = probe.snapshot(addresses)
        for connection in connections:
            connection.close()
    change = servers.diff(before, after, {}, load_ended_us=ended_us)
    (use,), (pool,) = server_metrics.pool_use(change), change.pools or ()
    assert (use.xact_count, use.capacity) == (20 * clients, 2)
    # bounds, as machines may be slow: a link is held while its client sleeps, and no client holds and waits while idle
    asleep_s, waited_s = 0.1 * use.xact_count, use.mean_wait_ms * use.xact_count / 1000
    held_s = use.mean_pct / 100 * use.capacity * pool.elapsed_us / 1e6
    assert 0.99 * asleep_s <= held_s <= 1.01 * (worked_s - waited_s)
    assert use.mean_pct <= 101
    assert waited_s > asleep_s / 4 if clients > use.capacity else waited_s < asleep_s / 100
