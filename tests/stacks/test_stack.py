"""The embedded stack: what is up, that the profiles differ as they say, resets, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from harness import reset, seed
from harness.model import StackAddresses
from harness.services import embedded, pgbouncer, provision

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-m", "harness"]


def dairyperf(*arguments: str, state: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"DAIRYPERF_STATE": str(state)} if state else {})
    return subprocess.run([*CLI, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)


def test_status_names_every_address_and_no_secret(stack: StackAddresses, secrets: dict[str, Any]) -> None:
    done = dairyperf("status", "--json", "--profile", stack.profile)
    status = json.loads(done.stdout)
    assert done.returncode == 0
    assert status["state"] == "up"
    assert {
        "odoo_url",
        "api_url",
        "postgres_dsn",
        "pgbouncer_dsn",
        "redis_url",
        "database",
        "accounts",
        "passfile",
    } <= set(status)
    known = [*secrets["odoo"].values(), *secrets["odoo_keys"].values(), *secrets["api_keys"].values(), secrets["redis"]]
    assert not [secret for secret in known if secret in done.stdout]


def test_no_secret_in_a_process_list_or_a_log(stack: StackAddresses, secrets: dict[str, Any]) -> None:
    passwords = [line.rsplit(":", 1)[1] for line in Path(stack.passfile).read_text().splitlines()]
    known = [
        *secrets["odoo"].values(),
        *secrets["odoo_keys"].values(),
        *secrets["api_keys"].values(),
        secrets["redis"],
        *passwords,
    ]
    for pid in stack.pids.values():
        process = psutil.Process(pid)
        text = " ".join([*process.cmdline(), *process.environ().values()])
        assert not [secret for secret in known if secret in text]
    for log in (path for path in Path(stack.log_dir).rglob("*") if path.is_file()):
        text = log.read_text(errors="replace")
        assert not [secret for secret in known if secret in text], log
    for path in (stack.passfile, stack.secrets_file):
        assert Path(path).stat().st_mode & 0o777 == 0o600


def test_servers_listen_on_loopback_alone(stack: StackAddresses) -> None:
    listening = set()
    for pid in stack.pids.values():
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's backends come and go
                connections = process.net_connections(kind="inet")
                listening |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_odoo_holds_a_queue_of_1024(stack: StackAddresses) -> None:
    port = stack.odoo_url.rsplit(":", 1)[1]
    lines = subprocess.run(
        ["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(lines[2]) == min(1024, int(Path("/proc/sys/net/core/somaxconn").read_text()))


def test_the_profiles_differ_by_what_the_milestone_did(stacks: dict[Any, StackAddresses]) -> None:
    settings, indexes = {}, {}
    for profile, addresses in stacks.items():
        with psycopg.connect(addresses.postgres_dsn) as connection:
            rows = connection.execute("SELECT name, setting FROM pg_settings").fetchall()
            settings[profile] = dict(rows)
            names = connection.execute(
                "SELECT indexname FROM pg_indexes WHERE schemaname = ANY(%s)", [SCHEMAS]
            ).fetchall()
            indexes[profile] = {name for (name,) in names if name.startswith("idx_")}
    assert settings["day31"]["shared_buffers"] == "16384"  # 128 MB: the server's own default
    assert settings["day40"]["random_page_cost"] == "1.1"
    assert settings["day31"]["log_min_duration_statement"] == settings["day40"]["log_min_duration_statement"] == "100"
    assert not indexes["day31"]
    assert len(indexes["day40"]) >= 16
    assert stacks["day31"].pgbouncer_dsn is None
    assert stacks["day31"].redis_url is None
    assert stacks["day31"].checksum == stacks["day40"].checksum


SCHEMAS = ["core", "farm", "sales", "inventory", "accounting", "analytics", "audit", "iot"]


def test_day40_goes_through_the_pool(stacks: dict[Any, StackAddresses]) -> None:
    addresses = stacks["day40"]
    assert addresses.pgbouncer_dsn is not None

    def transactions() -> dict[object, int]:
        with pgbouncer.console(addresses.pgbouncer_dsn or "") as connection:
            cursor = connection.execute("SHOW STATS")
            columns = [column.name for column in cursor.description or []]
            rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        return {row["database"]: int(str(row["total_xact_count"])) for row in rows}

    before = transactions()
    reset.stack(addresses)
    after = transactions()
    for alias in (addresses.database, f"{addresses.database}_api"):
        assert after[alias] > before.get(alias, 0)


def test_a_reset_undoes_what_was_written(stack: StackAddresses) -> None:
    with psycopg.connect(stack.admin_dsn, dbname=stack.database) as connection:
        connection.execute("UPDATE farm.animal SET name = name || ' changed' WHERE id = 1")
        connection.execute("DELETE FROM farm.milk_production WHERE production_date = core.as_of()")
    with psycopg.connect(stack.postgres_dsn) as connection:
        assert seed.checksum(connection) != stack.checksum
    reset.stack(stack)
    with psycopg.connect(stack.postgres_dsn) as connection:
        assert seed.checksum(connection) == stack.checksum


def test_a_taken_port_is_named_with_its_remedy(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = dairyperf("up", "--profile", "day31", "--port", f"api={port}", state=tmp_path)
    assert done.returncode == 3
    assert f"api: port {port} is taken" in done.stderr
    assert "--port" in done.stderr
    assert not _left_behind(tmp_path)


@pytest.fixture
def second(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that holds a day31 stack of its own, attached."""
    script = """
import sys
from harness import stack
with stack.up("day31", lambda text: print(text, file=sys.stderr)):
    print("up", flush=True)
    sys.stdin.read()
"""
    environment = os.environ | {"DAIRYPERF_STATE": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        yield owner, tmp_path
        owner.kill()
    _wait(lambda: not _left_behind(tmp_path), 15)
    shutil.rmtree(_home(tmp_path), ignore_errors=True)


@pytest.mark.parametrize("when", ["starting", "up"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_its_owner(
    second: tuple[subprocess.Popen[str], Path], when: str, how: signal.Signals, stacks: object
) -> None:
    owner, state = second
    if when == "up":
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        assert len(_left_behind(state)) >= 4
    else:
        _wait(lambda: any("postgres" in process.name() for process in _left_behind(state)), 60)
    owner.send_signal(how)
    _wait(lambda: not _left_behind(state), 15)


def test_a_killed_supervisor_takes_its_servers_along(
    second: tuple[subprocess.Popen[str], Path], stacks: object
) -> None:
    owner, state = second
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    psutil.Process(json.loads((state / "day31.json").read_text())["supervisor"]).kill()
    _wait(lambda: not _left_behind(state), 15)


def odoo_errors(log: str) -> list[str]:
    return re.findall(r"^.* (?:ERROR|CRITICAL) .*$|^Traceback.*$", log, re.MULTILINE)


def _home(state: Path) -> Path:
    return provision.cache_root() / "stacks" / hashlib.sha256(str(state).encode()).hexdigest()[:12]


def _left_behind(state: Path) -> list[psutil.Process]:
    """Processes whose working folder or arguments belong to the stack of this state folder."""
    home = str(_home(state))
    found = []
    for process in psutil.process_iter():
        try:
            if home in process.cwd() + "/ " + " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _wait(condition: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


@pytest.mark.parametrize("log", ["odoo-install.log", "odoo-start.log"])
def test_odoo_logs_no_error_until_it_serves(stack: StackAddresses, log: str) -> None:
    """What follows under load is looked at in test_gate; other tests provoke errors on purpose."""
    text = (Path(stack.log_dir) / log).read_text()
    assert "INFO" in text
    assert odoo_errors(text) == []


def test_stack_home_is_what_the_tests_assume(tmp_path: Path) -> None:
    assert embedded.STATE == ROOT / ".dairyperf" / "tests"
