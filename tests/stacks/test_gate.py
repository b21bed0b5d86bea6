"""The gate on the real stack, both ways; a benchmark pair; and what is left when everything is killed in the middle."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from harness import plan, reset, rundir, runner
from harness.model import StackAddresses
from harness.rundir import BenchmarkDir, RunDir
from harness.services import api, process

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-m", "harness"]

SCENARIO = """
name = "gate"
description = "A short run for the gate's own tests"
locustfile = "locustfiles/dairy_day.py"
load = "closed"
users = 10
spawn_rate_per_s = 10
think_time_s = 0.5
warmup_s = 2
duration_s = 10
seed = 7
thresholds = ["p95_ms < 10000", "failure_ratio < 0.01"]
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "gate.toml"
    path.write_text(SCENARIO)
    return path


def dairyperf(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment, timeout=400)


def only_run(out: Path) -> RunDir:
    (path,) = out.iterdir()
    return RunDir(path)


def test_a_run_within_its_limits_passes_and_is_complete(
    stacks: dict[Any, StackAddresses], scenario: Path, tmp_path: Path
) -> None:
    done = dairyperf("run", scenario, "--profile", "day40", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    run = only_run(tmp_path / "runs")
    assert run.missing_parts() == []
    meta = run.read_meta()
    assert meta.state == "complete"
    assert meta.counts is not None
    assert meta.counts["sent"] == meta.counts["recorded"] == meta.counts["locust"]
    outcomes = {verdict.threshold.text: verdict.outcome for verdict in run.read_verdicts()}
    assert outcomes == {"p95_ms < 10000": "pass", "failure_ratio < 0.01": "pass"}
    logged, evidence = run.read_odoo_requests(), runner.read(run)
    assert logged is not None
    to_odoo = sum(count for endpoint, count in evidence.requests.items() if endpoint.startswith("odoo "))
    assert abs(len(logged) - to_odoo) <= 10  # as many users may have one under way at the first snapshot
    assert min(one.queries for one in logged) > 0
    page = (run.path / "report.html").read_text()
    assert "Where the statements come from" in page
    assert "is that all of it?" in page
    snapshot = run.path / "snapshot-after.json"
    foreign = json.loads(snapshot.read_text())
    foreign["postgres"]["database"]["datid"] += 1
    snapshot.write_text(json.dumps(foreign))
    again = dairyperf("report", run.path)  # as after another run's reset in the middle: passing limits do not help
    assert again.returncode == 4
    assert "the database was replaced during the run" in again.stdout
    with psycopg.connect(stacks["day40"].postgres_dsn) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM farm.milk_production").fetchone() or (0,)
    assert rows > stacks["day40"].counts["farm.milk_production"]  # the users wrote; the next reset takes it back


@pytest.fixture
def slow_animal(stacks: dict[Any, StackAddresses], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A state folder whose day31 stack is the shared one, but for an API that answers one endpoint late: by 2 s, or as
    the test says."""
    addresses = stacks["day31"]
    port = process.free_port()
    service = process.start(
        "slow api",
        api.command(port),
        log=tmp_path / "api.log",
        environment=api.environment(
            dsn=addresses.postgres_dsn.replace("user=harness", "user=api"),
            passfile=addresses.passfile,
            secrets_file=addresses.secrets_file,
            delay=f"GET /api/v1/animals/{{tag_number}}={getattr(request, 'param', 2.0)}",
        ),
        cwd=ROOT,
    )
    state = tmp_path / "state"
    state.mkdir()
    shared = json.loads((ROOT / ".dairyperf/tests/day31.json").read_text())
    shared["addresses"]["api_url"] = f"http://127.0.0.1:{port}"
    (state / "day31.json").write_text(json.dumps(shared))
    try:
        process.wait_until(service, lambda: process.responds(f"http://127.0.0.1:{port}{api.READY_PATH}"), 30)
        with (state / "day31.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield state
    finally:
        process.stop(service)


def test_one_slow_endpoint_fails_the_gate(slow_animal: Path, scenario: Path, tmp_path: Path) -> None:
    done = dairyperf(
        *("run", scenario, "--profile", "day31", "--out", tmp_path / "runs"),
        *("--threshold", "p95_ms < 1000", "--threshold", 'p50_ms["api GET /api/v1/animals/{tag_number}"] < 1000'),
        DAIRYPERF_STATE=str(slow_animal),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    verdicts = only_run(tmp_path / "runs").read_verdicts()
    failed = {verdict.endpoint for verdict in verdicts if verdict.outcome == "fail"}
    assert failed == {None, "api GET /api/v1/animals/{tag_number}"}
    assert all(
        verdict.observed is not None and verdict.observed.value >= 2000 for verdict in verdicts if verdict.endpoint
    )


@pytest.mark.parametrize("slow_animal", [0.4], indirect=True)
def test_a_run_is_held_against_a_stored_one(
    stacks: dict[Any, StackAddresses], slow_animal: Path, scenario: Path, tmp_path: Path
) -> None:
    """A slower endpoint fails the gate, and so does one statement more per request, each by its own name alone."""
    endpoint = "api GET /api/v1/animals/{tag_number}"
    main, now, worse = tmp_path / "main", tmp_path / "now", tmp_path / "worse"
    stored = dairyperf("run", scenario, "--profile", "day31", "--out", main)
    assert stored.returncode == 0, stored.stdout + stored.stderr
    done = dairyperf(
        *("run", scenario, "--profile", "day31", "--out", now, "--baseline", main),
        DAIRYPERF_STATE=str(slow_animal),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    verdicts = only_run(now).read_verdicts()
    assert {(one.threshold.metric, one.endpoint) for one in verdicts if one.outcome in ("fail", "no_data")} >= {
        ("p50_ms", endpoint)
    }
    counts = [one for one in verdicts if one.threshold.text == "db_calls_per_request[*] <= 1.1 × baseline"]
    assert "pass" in {one.outcome for one in counts}
    assert "fail" not in {one.outcome for one in counts}
    assert f"{endpoint}" in (only_run(now).path / "summary.md").read_text().replace("\\", "")
    assert "× baseline" in (only_run(now).path / "junit.xml").read_text()
    again = dairyperf("report", only_run(now).path)  # from its files alone
    assert (again.returncode, only_run(now).read_verdicts()) == (1, verdicts)

    shutil.copytree(main, worse)
    snapshot = only_run(worse).path / "snapshot-after.json"
    after = json.loads(snapshot.read_text())
    requests = runner.read(only_run(worse)).requests
    searched = [one for one in after["postgres"]["statements"] if "farm_milk_production_search_read" in one["role"]]
    # as if each request ran one of its statements once more
    most_called = max(searched, key=lambda one: one["calls"])
    most_called["calls"] += sum(n for name, n in requests.items() if "farm.milk_production.search_read" in name)
    snapshot.write_text(json.dumps(after))
    more = dairyperf("report", only_run(worse).path, "--baseline", only_run(main).path)
    assert more.returncode == 1, more.stdout
    failed = {(v.threshold.metric, v.endpoint) for v in only_run(worse).read_verdicts() if v.outcome == "fail"}
    assert failed == {("db_calls_per_request", "odoo farm.milk_production.search_read")}


@pytest.mark.parametrize(("limit", "code"), [("p95_ms < 10000", 0), ("p95_ms < 1", 1)])
def test_plain_locust_holds_the_same_gate(
    stacks: dict[Any, StackAddresses], scenario: Path, tmp_path: Path, limit: str, code: int
) -> None:
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "locustfiles/dairy_day.py",
        "--headless",
        "--scenario",
        str(scenario),
    ]
    command += ["-u", "10", "-r", "10", "-t", "12s", "--threshold", limit, "--out", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    assert "p95_ms <" in done.stdout
    assert only_run(tmp_path / "runs").missing_parts() == []


def interrupted(arguments: list[str], directory: Path, errors: Path, sent: signal.Signals) -> int:
    """Runs the command until its newest run has samples, then sends the signal; returns its exit code. None of its
    processes is left."""
    with (
        errors.open("w") as kept,
        subprocess.Popen([*CLI, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=kept) as harness,
    ):
        wait_for(lambda: any(any(RunDir(path).sample_blobs()) for path in directory.glob("*/runs/*")), 180)
        children = psutil.Process(harness.pid).children(recursive=True)
        assert len(children) >= 2  # Locust and its observer
        harness.send_signal(sent)
        code = harness.wait(60)
    assert psutil.wait_procs(children, timeout=15)[1] == []
    return code


@pytest.fixture
def begun(stacks: dict[Any, StackAddresses], tmp_path: Path) -> BenchmarkDir:
    """A benchmark of one pair whose first run was interrupted twice, by Ctrl-C and by `kill -9`."""
    errors, out = tmp_path / "errors", tmp_path / "runs"
    arguments = ["benchmark", "--pairs", "1", "--duration", "20s", "--out", str(out)]
    assert interrupted(arguments, out, errors, signal.SIGINT) == 130
    (path,) = out.iterdir()
    assert f"go on where it ended: ./dairyperf benchmark --resume {path}\n" in errors.read_text()
    directory = BenchmarkDir(path)
    directory.put_aside(directory.runs()[1])  # as the next one does; what is waited for are its own samples
    assert interrupted(["benchmark", "--resume", str(path)], out, errors, signal.SIGKILL) == -signal.SIGKILL
    assert [run.path.name for run in directory.runs().values()] == ["01-day31"]
    refused = dairyperf("report", path)
    assert refused.returncode == 4
    assert "no pair of runs is complete; go on with ./dairyperf benchmark --resume" in refused.stderr
    return directory


def test_a_benchmark_that_was_interrupted_is_resumed_and_whole(
    begun: BenchmarkDir, stacks: dict[Any, StackAddresses]
) -> None:
    path = begun.path
    refused = dairyperf("benchmark", "--resume", path, "--pairs", "3")
    assert refused.returncode == 2
    assert "--pairs: --resume has it from the plan" in refused.stderr
    logs = [Path(addresses.log_dir) / "odoo.log" for addresses in stacks.values()]
    lengths = [log.stat().st_size for log in logs]
    done = dairyperf("benchmark", "--resume", path)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # the limits are this machine's affair
    assert "pairs left: 1 of 1, 2 runs of 20 s" in done.stderr
    assert f"01-day31: it is not complete; kept in {path}/aside/01-day31-2, not counted" in done.stderr
    for aside in ("01-day31", "01-day31-2"):
        assert any(RunDir(path / "aside" / aside).sample_blobs())
    for log, length in zip(logs, lengths, strict=True):
        under_load = log.read_bytes()[length:].decode()
        assert not re.findall(r"^.* (?:ERROR|CRITICAL) .*$|^Traceback.*$", under_load, re.MULTILINE)
    runs = begun.runs().values()
    assert [run.path.name for run in runs] == ["01-day31", "02-day40"]
    for run in runs:
        assert run.missing_parts() == []
        plans = plan.read(run.read_plans() or {})
        assert len(plans.critical) == 20
        assert plans.missing == {}
        assert sum(one.plan is not None for one in plans.statements) >= 5
        assert len(list(run.plans_path.glob("*.txt"))) == 20
    benchmark = begun.read()
    assert len(benchmark.targets) == 7
    assert [row.metric for row in benchmark.targets if row.actual is None] == []
    assert "cannot be said" in benchmark.conclusion
    for side in (benchmark.day31, benchmark.day40):
        query_p95 = side.metrics["query_p95_ms"][None]
        assert query_p95 is not None
        assert query_p95.low is not None
        assert query_p95.low <= query_p95.value
        assert side.slow is not None
        assert side.slow.logged == query_p95.count
    for run in runs:
        assert (run.path / "csv/slow_statements.csv").read_text().startswith("user,fingerprint,query,endpoints,count,")
    assert benchmark.day40.servers is not None
    assert benchmark.day40.servers.cache is not None
    assert benchmark.day40.servers.cache.lookups > 0
    assert all(pool.query_count > 0 for pool in benchmark.day40.servers.pools or ())
    for profile in ("day31", "day40"):
        with (path / f"{profile}_pg_stats.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows
        assert {
            "queryid",
            "query_preview",
            "calls",
            "total_ms",
            "mean_ms",
            "stddev_ms",
            "rows",
            "cache_hit_pct",
        } <= set(rows[0])
    again = dairyperf("report", path)
    assert again.returncode == done.returncode
    page = (path / "report.html").read_text()
    assert not re.search(r"(?:src|href)=[\"']https?:", page)
    assert "0 of 20 read a large table sequentially" in page
    assert "Interrupted: 01-day31, 01-day31-2, kept in aside/" in page
    refused = dairyperf("benchmark", "--resume", path)
    assert refused.returncode == 2
    assert "complete, nothing is left to make" in refused.stderr
    second = begun.runs()[2]
    elsewhere = second.read_meta()
    second.write_meta(replace(elsewhere, host={**elsewhere.host, "cpu_count": 640}))
    refused = dairyperf("report", path)
    assert refused.returncode == 4
    assert re.search(r"02-day40: cpu_count: \d+, then 640", refused.stderr)


def test_killed_in_the_middle(stacks: dict[Any, StackAddresses], scenario: Path, tmp_path: Path) -> None:
    """`kill -9` of the harness: the samples stay, no process of the run does, and the stack can be used."""
    out = tmp_path / "runs"
    command = [*CLI, "run", str(scenario), "--profile", "day31", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as harness:
        wait_for(lambda: out.exists() and any(only_run(out).sample_blobs()), 120)
        wait_for(lambda: sum(map(len, only_run(out).sample_blobs())) > 32 * 20, 60)
        children = psutil.Process(harness.pid).children(recursive=True)
        assert len(children) >= 2  # Locust and its observer
        harness.kill()
    assert psutil.wait_procs(children, timeout=15)[1] == []
    run = only_run(out)
    assert rundir.state(run.read_meta()) in ("interrupted", "invalid")
    refused = dairyperf("report", run.path)
    assert refused.returncode == 4
    assert "samples are kept" in refused.stderr
    assert json.loads(dairyperf("status", "--json", "--profile", "day31").stdout)["state"] == "up"
    reset.stack(stacks["day31"])


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle(
    stacks: dict[Any, StackAddresses], scenario: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    out = tmp_path / "runs"
    command = [*CLI, "run", str(scenario), "--profile", "day40", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as harness:
        wait_for(lambda: out.exists() and any(only_run(out).sample_blobs()), 120)
        children = psutil.Process(harness.pid).children(recursive=True)
        harness.send_signal(sent)
        assert harness.wait(60) not in (0, 1)
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert rundir.state(only_run(out).read_meta()) != "complete"


def wait_for(condition: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.1)
