"""Load from several processes: nothing is lost between them, and who dies is named."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from stub_run import API_KEY, CLOSED, PASSWORD, STUBS, Stage, messages, samples, stage_in, wait_for

from harness import CHECKOUT, arrivals
from harness import scenario as scenarios
from harness.services.process import free_port

OPEN = """
name = "tiny"
locustfile = "locustfiles/dairy_day.py"
load = "open"
users = 7
spawn_rate_per_s = 20
warmup_s = 0.5
arrivals = "poisson"
rate_rps = 40
duration_s = 3
thresholds = ["dropped_arrival_ratio <= 0"]
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with stage_in(tmp_path) as made:
        yield made


def workers(count: int) -> tuple[str, ...]:
    port = str(free_port())
    address = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port)
    return ("--processes", str(count), *address) if count else ()


def served(stage: Stage) -> int:
    return len(stage.odoo.served_us) + len(stage.api.served_us)


@pytest.mark.parametrize("processes", [0, 2, 4])
def test_what_was_served_is_what_was_sent_recorded_and_counted(stage: Stage, processes: int) -> None:
    code, output, run = stage.run(CLOSED, *workers(processes))
    assert code == 1, output
    counts = messages(run)[-1]["counts"]
    assert counts["sent"] == counts["recorded"] == counts["locust"]
    assert sum(counts["sent"].values()) == served(stage) == len(samples(run)) > 60
    assert len(np.unique(samples(run)["user"])) == 6
    assert len(counts["workers"]) == len(list(run.sample_blobs())) == len(counts["generator"]) == max(1, processes)
    assert sum(worker["users"] for worker in counts["workers"].values()) == 6
    assert all(health["cpu_p95_pct"] is not None for health in counts["generator"].values())
    assert PASSWORD not in output
    assert API_KEY not in output


@pytest.mark.parametrize(("processes", "shift_us"), [(0, 0), (2, -1_000_000_000)])
def test_every_arrival_is_sent_once_when_it_is_due(stage: Stage, processes: int, shift_us: int) -> None:
    """Also by workers whose machines' clocks began at other times."""
    code, output, run = stage.run(OPEN, *workers(processes), STUB_CLOCK_US=str(shift_us))
    assert code == 1, output
    drained = messages(run)[-1]
    assert not any(drained["counts"]["dropped"].values())
    scheduled_us = np.sort(samples(run)["scheduled_us"])
    asked = scenarios.parse(OPEN, "tiny")
    start_us = drained["phases"]["steady_start_us"] - round(asked.warmup_s * 1e6)
    error_us = max(worker["clock_error_us"] for worker in drained["counts"]["workers"].values())
    assert (error_us > 0) == bool(shift_us)
    assert len(scheduled_us) == len(arrivals.times_us(asked))
    assert np.abs(scheduled_us - start_us - arrivals.times_us(asked)).max() <= error_us


def test_what_is_due_and_not_sent_is_counted(stage: Stage) -> None:
    stage.odoo.delay_s = stage.api.delay_s = 0.5  # seven users answer at most 14 of 40 arrivals a second
    code, output, run = stage.run(OPEN)
    assert code == 1, output
    counts = messages(run)[-1]["counts"]
    sent, dropped = sum(counts["sent"].values()), sum(counts["dropped"].values())
    assert Counter(counts["sent"]) == Counter(counts["recorded"]) == Counter(counts["locust"])
    assert dropped > 0
    asked = scenarios.parse(OPEN, "tiny")
    warm = np.count_nonzero(arrivals.times_us(asked) < asked.warmup_s * 1e6)
    counted = np.count_nonzero(samples(run)["scheduled_us"] >= messages(run)[-1]["phases"]["steady_start_us"])
    assert counted + dropped == len(arrivals.times_us(asked)) - warm
    assert sent == len(samples(run))


def test_users_that_come_in_many_batches_to_many_workers(stage: Stage) -> None:
    """Locust ends a worker's spawning at each message of its master, also in the middle of making a user."""
    many = CLOSED.replace("users = 6", "users = 40").replace("spawn_rate_per_s = 6", "spawn_rate_per_s = 20")
    code, output, run = stage.run(many, *workers(4))
    assert code == 1, output
    assert "AttributeError" not in output
    counts = messages(run)[-1]["counts"]
    assert counts["sent"] == counts["recorded"] == counts["locust"]
    assert sum(counts["sent"].values()) == served(stage)
    assert len(np.unique(samples(run)["user"])) == 40


@pytest.mark.parametrize("allowed", [False, True])
def test_a_worker_that_dies_is_named_and_its_loss_is_bounded(stage: Stage, allowed: bool) -> None:
    stage.odoo.delay_s = stage.api.delay_s = 0.02
    may = "may_lose_workers = true\nthresholds" if allowed else "thresholds"
    process = stage.start(CLOSED.replace("duration_s = 2", "duration_s = 12").replace("thresholds", may), *workers(2))
    wait_for(lambda: any((stage.root / "runs").glob("*/messages.jsonl")))
    first, _second = (child for child in psutil.Process(process.pid).children() if "--processes" in child.cmdline())
    first.kill()
    output, _ = process.communicate(timeout=60)
    run = stage.run_dir()
    assert "fell silent" in output
    assert "of its requests are missing" in output
    if not allowed:
        assert process.returncode == 4, output
        assert (run.path / "abandoned").exists()
        return
    assert process.returncode == 1, output
    counts = messages(run)[-1]["counts"]
    (lost,) = (worker for worker in counts["workers"].values() if worker["lost"])
    missing = served(stage) - len(samples(run))
    assert 0 <= missing <= lost["missing_at_most"]


def test_when_no_worker_is_left_the_run_is_invalid(stage: Stage) -> None:
    endless = CLOSED.replace("duration_s = 2", "duration_s = 60").replace(
        "thresholds", "may_lose_workers = true\nthresholds"
    )
    process = stage.start(endless, *workers(2))
    wait_for(lambda: any((stage.root / "runs").glob("*/messages.jsonl")))
    for child in psutil.Process(process.pid).children():
        if "--processes" in child.cmdline():
            child.kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 4, output
    assert (stage.run_dir().path / "abandoned").exists()


def test_an_interrupted_crew_says_so(stage: Stage) -> None:
    process = stage.start(CLOSED.replace("duration_s = 2", "duration_s = 60"), *workers(2))
    wait_for(lambda: any((stage.root / "runs").glob("*/messages.jsonl")))
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 4, output
    assert messages(stage.run_dir())[-1]["reason"].startswith("interrupted before the end")
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_a_worker_without_secrets_says_so(stage: Stage) -> None:
    code, output, run = stage.run(CLOSED, *workers(2), "--secrets", str(stage.root / "none.json"))
    assert code == 3, output
    assert "none.json: [Errno 2] No such file or directory" in output
    assert "--secrets FILE" in output
    assert len(samples(run)) == 0


def test_more_workers_than_users_are_refused(stage: Stage) -> None:
    process = stage.start(CLOSED, *workers(7))
    assert "7 workers for 6 users: some would have none" in process.communicate(timeout=60)[0]
    assert process.returncode == 2


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[str, list[str]]]:
    """(address of the one, command that runs another on the other): the other one is a network namespace of its own
    where this machine lets us make one, else another loopback address."""
    name = f"dairyperf{os.getpid()}"
    near, far = "198.51.100.1", "198.51.100.2"  # TEST-NET-2 of RFC 5737, of which no real network is made
    steps = f"""
        netns add {name}
        link add {name[:13]}a type veth peer name {name[:13]}b netns {name}
        address add {near}/30 dev {name[:13]}a
        link set {name[:13]}a up
        -n {name} address add {far}/30 dev {name[:13]}b
        -n {name} link set {name[:13]}b up
    """
    commands = [["ip", *line.split()] for line in steps.strip().splitlines()]
    try:
        made = shutil.which("ip") is not None and all(
            subprocess.run(command, capture_output=True).returncode == 0 for command in commands
        )
        yield (near, ["ip", "netns", "exec", name]) if made else ("127.0.0.2", [])
    finally:
        if shutil.which("ip"):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_workers_on_another_machine(tmp_path: Path) -> None:
    with two_machines() as (address, elsewhere), stage_in(tmp_path, address) as stage:
        port = str(free_port())
        bind = ("--master", "--master-bind-host", address, "--master-bind-port", port, "--expect-workers", "2")
        master = stage.start(CLOSED, *bind)
        worker = [*elsewhere, sys.executable, "-m", "locust", "-f", str(STUBS / "locustfile.py"), "--worker"]
        secrets = tmp_path / "copied.json"
        secrets.write_text((tmp_path / "secrets.json").read_text())
        reach = ["--master-host", address, "--master-port", port, "--secrets", str(secrets)]
        with contextlib.ExitStack() as ended:
            crew = []
            for _ in range(2):
                command = [*worker, *reach]
                crew.append(subprocess.Popen(command, env=stage.environment, cwd=CHECKOUT, stderr=subprocess.DEVNULL))
                ended.callback(crew[-1].kill)
            output, _ = master.communicate(timeout=90)
            print(output)
            assert [process.wait(20) for process in crew] == [0, 0]
        assert master.returncode == 1, output
        run = stage.run_dir()
        counts = messages(run)[-1]["counts"]
        assert counts["sent"] == counts["recorded"] == counts["locust"]
        assert sum(counts["sent"].values()) == served(stage) == len(samples(run)) > 60


def test_no_worker_outlives_the_command_line(stage: Stage) -> None:
    _, _, run = stage.run()
    (run.path / "messages.jsonl").unlink()
    for blob in run.path.glob("samples-*"):
        blob.unlink()
    meta = run.read_meta()
    longer = dataclasses.replace(meta.scenario, duration_s=60.0)
    run.write_meta(dataclasses.replace(meta, scenario=longer))
    program = (
        "from pathlib import Path; from harness import load; "
        f"load.run({str(STUBS / 'locustfile.py')!r}, Path({str(run.path)!r}), "
        f"Path({str(run.path / 'locust.log')!r}), workers=2)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], env=stage.environment, cwd=CHECKOUT)
    wait_for(lambda: (run.path / "messages.jsonl").exists())
    family = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    assert len(family) == 4  # Locust's master, two workers, the observer
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(psutil.pid_exists, family)), 20)
