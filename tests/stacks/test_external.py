"""A stack that somebody else runs: here the tests' own, as a file describes it and as nobody here started it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness import cli, stack
from harness.model import StackAddresses
from harness.rundir import RunDir
from harness.services import odoo, process

# Known of a stack on this machine alone.
LOCAL = ("pids", "log_dir")


@pytest.fixture(autouse=True)
def _own_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(stack.VARIABLE, "")  # so that what --stack chooses is taken back
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)  # the command line sets its own


@pytest.fixture
def day40(stacks: dict[Any, StackAddresses]) -> StackAddresses:
    return stacks["day40"]


@pytest.fixture
def file(day40: StackAddresses, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """As `status --toml` describes the stack, for a machine that is not its own; nothing is allowed yet."""
    assert cli.main(["status", "--toml", "--profile", day40.profile]) == 0
    lines = capsys.readouterr().out.splitlines()
    path = tmp_path / "staging.toml"
    path.write_text("\n".join(line for line in lines if not line.startswith(LOCAL)))
    return path


def milkings(day40: StackAddresses) -> tuple[int, int]:
    """Their number, and which database they are in: a reset makes a new one."""
    with psycopg.connect(day40.postgres_dsn) as connection:
        found = connection.execute(
            "SELECT count(*), (SELECT oid::int8 FROM pg_database WHERE datname = current_database())"
            " FROM farm.milk_production"
        ).fetchone()
        assert found is not None
        return found


def test_it_is_measured_without_a_reset_and_never_stopped(
    day40: StackAddresses,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    which = ["--stack", f"external:{file}", "--profile", "day40"]
    scenario = tmp_path / "short.toml"
    scenario.write_text(
        'name = "short"\ndescription = "A few seconds."\nlocustfile = "locustfiles/dairy_day.py"\nload = "closed"\n'
        "users = 4\nspawn_rate_per_s = 10\nthink_time_s = 0.1\nwarmup_s = 1\nduration_s = 4\nseed = 1\n"
        'thresholds = ["failure_ratio < 0.01"]\n'
    )
    run = ["run", str(scenario), *which, "--out", str(tmp_path / "runs")]
    rows, database = milkings(day40)

    assert cli.main(run) == 2
    assert not (tmp_path / "runs").exists()  # load writes, which the file does not allow

    file.write_text(file.read_text().replace("allow_writes = false", "allow_writes = true"))
    assert cli.main(run) == 0, capsys.readouterr()
    (path,) = (tmp_path / "runs").iterdir()
    meta = RunDir(path).read_meta()
    assert meta.state == "complete"
    assert meta.warnings[0].startswith("the stack was not reset")
    assert meta.herd["checksum"] is None  # nothing proved it
    assert "the stack was not reset" in (path / "report.html").read_text()
    after, same = milkings(day40)
    assert same == database
    assert after > rows  # what the users wrote is still there

    assert cli.main(["down", *which]) == 2
    assert process.responds(day40.odoo_url + odoo.READY_PATH)
    capsys.readouterr()
    assert cli.main(["status", "--json", *which]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["odoo_url"]) == ("up", day40.odoo_url)
