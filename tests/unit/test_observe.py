"""What the observer makes of the load generator's word, and the conversation on its pipes; its servers are made up."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import CHECKOUT, observe, rundir, scenario, threshold
from harness.model import SAMPLE, RunMeta, Scenario
from harness.odoo_log import OdooRequest
from harness.rundir import RunDir

HEALTHY = {
    "cpu_p95_pct": 40.0,
    "cpu_max_pct": 99.0,
    "lag_p95_ms": 2.0,
    "lag_max_ms": 400.0,
    "fds_max": 60,
    "fds_limit": 1024,
}
WORKER = {"index": 0, "users": 5, "lost": False, "samples": 10, "missing_at_most": 0}
ASKED = scenario.parse(
    'name = "tiny"\nlocustfile = "locustfiles/dairy_day.py"\nusers = 5\nspawn_rate_per_s = 5\nthink_time_s = 1\n'
    "warmup_s = 1\nduration_s = 5\nthresholds = []\n",
    "tiny.toml",
)


def drained(
    reasons: tuple[str, ...] = (), warnings: tuple[str, ...] = (), aborted: str | None = None, **counts: Any
) -> dict[str, Any]:
    same = {"a": 10, "b": 5}
    whole = {
        "sent": same,
        "recorded": same,
        "locust": same,
        "dropped": {},
        "checked": {"a": 3},
        "wrong": {"a": 0},
        "connections": {},
        "generator": {"local": HEALTHY},
        "workers": {"local": WORKER},
    }
    return {
        "event": "drained",
        "phases": {"origin_monotonic_us": 1, "steady_start_us": 2, "steady_end_us": 3, "drained_us": 4},
        "counts": whole | counts,
        "aborted": aborted,
        "reasons": list(reasons),
        "warnings": list(warnings),
    }


def asked(*limits: str, profiles: tuple[Any, ...] = (), **changes: Any) -> Scenario:
    thresholds = tuple(replace(threshold.parse(limit), profiles=profiles) for limit in limits)
    return replace(ASKED, thresholds=thresholds, **changes)


def sick(**figures: Any) -> dict[str, Any]:
    return {"generator": {"worker-1": HEALTHY | figures}, "workers": {"worker-1": WORKER}}


LOST = {"workers": {"local": WORKER, "worker-1": WORKER | {"lost": True, "samples": 4, "missing_at_most": 3}}}
LOSES = asked(may_lose_workers=True)
OPEN = {"dropped": {"a": 2, "b": 0}}


@pytest.mark.parametrize(
    ("message", "of", "said"),
    [
        (drained(), ASKED, []),
        (drained(recorded={"a": 10, "b": 4}), ASKED, ["b: 5 sent, 4 in the samples, 5 counted by Locust"]),
        (drained(locust={"a": 10}), ASKED, ["b: 5 sent, 5 in the samples, 0 counted by Locust"]),
        (drained(locust={"a": 10, "b": 5, "c": 1}), ASKED, ["c: 0 sent, 0 in the samples, 1 counted by Locust"]),
        (drained(("worker-1 was lost",)), ASKED, ["worker-1 was lost"]),
        (drained(("worker-1 was lost",), **LOST, sent={"a": 12, "b": 5}), ASKED, ["worker-1 was lost", "a: 12 sent"]),
        (drained(**LOST, sent={"a": 12, "b": 6}), LOSES, []),
        (drained(**LOST, sent={"a": 12, "b": 7}), LOSES, ["a: 12 sent", "b: 7 sent"]),
        (drained(workers={"local": LOST["workers"]["worker-1"] | {"missing_at_most": None}}, sent={}), LOSES, []),
        (drained(**OPEN), asked("p95_ms < 200"), ["2 arrivals were dropped: all 5 users were busy; give more users"]),
        (drained(**OPEN), asked("dropped_arrival_ratio < 0.5"), []),
        (drained(**OPEN), asked("dropped_arrival_ratio < 0.5", profiles=("day31",)), ["2 arrivals were dropped"]),
        (drained(**sick(cpu_p95_pct=90.0, lag_p95_ms=50.0, fds_max=921)), ASKED, []),
        (
            drained(**sick(cpu_p95_pct=97.4)),
            ASKED,
            ["load generator worker-1: 97 % of a core (p95), over 90; use --workers N"],
        ),
        (drained(**sick(lag_p95_ms=81.0)), ASKED, ["load generator worker-1: its loop ran 81 ms late (p95), over 50"]),
        (drained(**sick(fds_max=922)), ASKED, ["load generator worker-1: 922 of 1024 open files; raise the limit"]),
        (drained(**sick(fds_max=10**6, fds_limit=-1)), ASKED, []),
        (drained(**sick(lag_p95_ms=None)), ASKED, ["load generator worker-1: lag_p95_ms never measured"]),
        (drained(generator={}), ASKED, ["load generator: its CPU", "load generator local: cpu_p95_pct, lag_p95_ms"]),
        (drained(generator={}, workers={}), ASKED, ["load generator: its CPU, loop lag and open files were never"]),
        (drained(workers={}), ASKED, []),
        (drained(workers={"local": WORKER, "idle": WORKER | {"samples": 0}}), ASKED, []),
    ],
)
def test_why_a_load_is_invalid(message, of, said):
    found = observe.invalid_because(message, of, "day40")
    assert len(found) == len(said)
    assert all(reason.startswith(start) for reason, start in zip(found, said, strict=True)), found


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (drained(), []),
        (drained(warnings=("worker-1 fell silent",)), ["worker-1 fell silent"]),
        (
            drained(wrong={"a": 2, "b": 0}),
            ["a: 2 of 3 replies compared with the seed were wrong; they count as failures"],
        ),
        (
            drained(aborted="p95_ms < 200 over the last 30 s: 512.3 ms"),
            [
                "the load was ended early: p95_ms < 200 over the last 30 s: 512.3 ms; figures are of what was measured "
                "until then"
            ],
        ),
    ],
)
def test_what_readers_are_told_of_a_valid_load(message, said):
    assert observe.doubts(message) == said


# --- the conversation ----------------------------------------------------------------------------------------------

PROGRAM = """
import contextlib, sys, time, types
from built_snapshots import snapshot
from harness import live, observe
from harness.errors import StackError

class Probes:
    warnings = ["redis: samples are missing"]
    def __init__(self, addresses, load_generator): pass
    def __enter__(self): return self
    def __exit__(self, *fault): pass
    def sample(self): return {"host.cpu_pct": 1.0}
    def snapshot(self): return snapshot(at_s=time.monotonic())

live.SETTLED_S = observe.SAMPLE_EVERY_S = 0.02
observe.stack.read = lambda profile: types.SimpleNamespace(
    admin_dsn="dsn", database="d", may_write=True, may_reset=True
)
observe.stack.reserved = lambda profile: contextlib.nullcontext()
observe.reset.stack = lambda addresses: None
observe.probe.Probes = Probes
observe.probe.snapshot = lambda addresses: snapshot(at_s=time.monotonic())
observe.probe.odoo_log_bytes = lambda addresses: 7
observe.probe.odoo_log_since = lambda addresses, start_bytes: sys.argv[2] if start_bytes == 7 else None
observe.probe.wait_for_quiet_statistics = lambda *of: True

def since(dsn, start):
    if sys.argv[3:] == ["no log"]:
        raise StackError("postgresql: its log cannot be read")
    return [
        b'{"error_severity": "LOG", "user": "api", "dbname": "d", "message": "duration: 7.0 ms  execute x: SELECT 1"}'
    ]

observe.server_log.position = lambda dsn: {"postgresql.json": 7}
observe.server_log.since = since
observe.plans.take = lambda *of: []
sys.exit(observe.main())
"""


ACCESS_LOG = '10:00:00,001 7 INFO dairy werkzeug: - "POST /xmlrpc/2/object#a.read HTTP/1.1" 200 - 4 0.003 0.01'


class Observer:
    def __init__(self, run: RunDir, *arguments: str) -> None:
        places = {"PYTHONPATH": f"{CHECKOUT}:{Path(__file__).parent}", "PATH": ""}
        self.child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(run.path), ACCESS_LOG, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=places,
        )

    def tell(self, message: dict[str, Any]) -> None:
        self.child.stdin.write(json.dumps(message) + "\n")

    def hear(self) -> dict[str, Any]:
        line = self.child.stdout.readline()
        assert line, self.child.stderr.read()
        return json.loads(line)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    pid, started = rundir.this_process()
    empty: dict[str, Any] = {field.name: None for field in dataclasses.fields(RunMeta)}
    empty |= dict.fromkeys(("run_id", "started_at"), "") | dict.fromkeys(("warnings", "reasons"), ())
    empty |= {name: {} for name in ("host", "versions", "herd", "queries")}
    now = {"schema_version": rundir.SCHEMA_VERSION, "state": "running", "profile": "day40", "pid": pid}
    of = {"scenario": asked("max_ms < 200", abort_window_s=0.1), "pid_started": started}
    directory = RunDir(tmp_path)
    directory.write_meta(RunMeta(**empty | now | of))
    directory.write_names(["a"], ["ok"])
    return directory


@pytest.fixture
def observer(run: RunDir) -> Iterator[Observer]:
    running = Observer(run)
    with running.child:
        yield running
        running.child.kill()


def slow_request(run: RunDir, origin_us: int) -> int:
    """Records one of 300 ms that ends now; when it was scheduled."""
    start_us = time.monotonic_ns() // 1000 - origin_us - 300_000
    with run.samples_path("local").open("ab") as file:
        file.write(SAMPLE.pack(start_us, start_us, 300_000, 0, 0, 100, 0))
    return start_us


def test_a_run_is_judged_while_it_goes_on_and_ended_by_a_broken_limit(run: RunDir, observer: Observer) -> None:
    ready = observer.hear()
    assert ready["event"] == "ready"
    observer.tell({"event": "live"})
    assert (observer.hear()["reason"], run.read_snapshot("before")) == ("the steady state has not begun", None)
    at_us = slow_request(run, ready["origin_monotonic_us"])
    observer.tell({"event": "steady", "at_us": at_us, "end_us": None})

    limit, said = None, {}
    deadline = time.monotonic() + 30
    while limit is None or not said.get("verdicts"):
        assert time.monotonic() < deadline, said
        slow_request(run, ready["origin_monotonic_us"])
        observer.tell({"event": "live"})
        while (said := observer.hear())["event"] != "live":
            assert (said["event"], limit) == ("abort", None)
            limit = said["limit"]
    assert limit == "max_ms < 200 over the last 0.1 s: 300.0 ms"
    (verdict,) = said["verdicts"]
    assert (verdict["text"], verdict["shown"], verdict["outcome"]) == ("max_ms < 200", "300.0 ms", "fail")
    assert said["requests"] > 0

    observer.tell(drained(aborted=limit))
    assert observer.hear() == {"event": "observed"}
    assert observer.child.wait(30) == 0
    meta = run.read_meta()
    assert (meta.state, meta.aborted, meta.reasons) == ("complete", limit, ())
    assert meta.counts["generator"] == {"local": HEALTHY}
    assert meta.warnings[0] == "redis: samples are missing"
    assert run.read_snapshot("after").monotonic_us > run.read_snapshot("before").monotonic_us
    assert "host.cpu_pct" in run.read_probes(0)
    assert [one.duration_ms for one in run.read_statement_log().statements] == [7.0]
    assert run.read_odoo_requests() == (OdooRequest("a.read", 4, 3.0, 10.0),)


def test_a_log_that_cannot_be_read_is_a_warning_and_no_data(run: RunDir) -> None:
    observer = Observer(run, "no log")
    with observer.child:
        observer.hear()
        observer.tell({"event": "steady", "at_us": 0, "end_us": None})
        observer.tell(drained())
        assert observer.hear() == {"event": "observed"}
    assert run.read_statement_log() is None
    (warning,) = [text for text in run.read_meta().warnings if "its log cannot be read" in text]
    assert warning.endswith("query_p95_ms and slow statements have no data")


def test_the_end_of_locust_before_the_end_of_the_run_makes_it_invalid(run: RunDir, observer: Observer) -> None:
    observer.hear()
    observer.child.stdin.close()
    assert observer.child.wait(30) == 4
    assert run.read_meta().state == "invalid"
    assert "Locust ended before the run was drained" in run.read_meta().reasons[0]


def test_an_answer_that_nobody_hears_ends_nothing(run: RunDir, observer: Observer) -> None:
    observer.hear()
    observer.child.stdout.close()
    observer.tell({"event": "live"})
    observer.tell(drained())
    observer.child.wait(30)
    assert run.read_meta().state == "complete"
