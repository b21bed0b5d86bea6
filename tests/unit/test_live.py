"""A run judged while it goes on: what is read, what is said when, and that it comes to what the end says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from built_snapshots import BY_TAG, api_counts, bouncer, redis_info, snapshot, statement
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import live, runner, scenario, threshold
from harness.errors import StackError
from harness.live import Live, SampleTail
from harness.model import SAMPLE, Phases, RunMeta, Snapshot
from harness.rundir import SCHEMA_VERSION, RunDir
from harness.statements import fingerprint
from harness.summary import SAMPLE_DTYPE

SETTLED_US = round(live.SETTLED_S * 1e6)
SECOND_US = 1_000_000
ORIGIN_US = 5_000 * SECOND_US
STEADY_US = 10 * SECOND_US
ENDPOINTS = ("api GET /animals/{id}", "odoo farm.animal.read")
LIMITS = (
    "p95_ms < 200",
    "p95_ms[*] < 200",
    "max_ms < 1",
    "failure_ratio < 0.01",
    "late_ratio < 0.5",
    "throughput_rps > 40",
    "requests > 10",
    "late_arrival_ratio < 0.5",
    "dropped_arrival_ratio < 0.001",
    "buffer_hit_pct > 95",
    "pool_utilisation_pct < 70",
    "redis_hit_pct > 85",
    "db_calls_per_request <= 2",
    'statement_mean_ms["animal by tag"] < 5',
    'p95_ms["nobody asks this"] < 5',
)
LOADS = {
    "closed": "think_time_s = 1\nwarmup_s = 10\nduration_s = 60\nusers = 5\nspawn_rate_per_s = 5\n",
    "stages": "think_time_s = 1\n[[stages]]\nduration_s = 60\nusers = 5\n",
    "open": "warmup_s = 10\nusers = 50\n[[steps]]\nduration_s = 60\nrate_rps = 20\n",
}


def meta(load: str = "closed", limits: tuple[str, ...] = LIMITS, window_s: float | None = None) -> RunMeta:
    head = f'name = "tiny"\nlocustfile = "locustfiles/dairy_day.py"\nload = "{load}"\nthresholds = []\n'
    asked = replace(
        scenario.parse(head + LOADS[load], "tiny.toml"),
        thresholds=tuple(threshold.parse(limit) for limit in limits),
        abort_window_s=window_s,
    )
    return RunMeta(
        schema_version=SCHEMA_VERSION,
        run_id="run",
        state="complete",
        profile="day40",
        scenario=asked,
        started_at="2026-02-03T10:11:12Z",
        ended_at=None,
        host={},
        versions={},
        herd={},
        phases=Phases("2026-02-03T10:11:12Z", ORIGIN_US, STEADY_US, 70 * SECOND_US, 72 * SECOND_US),
        counts=None,
        queries={fingerprint(BY_TAG): "animal by tag"},
        warnings=(),
        reasons=(),
        pid=1,
        pid_started=0.0,
    )


def rows(scheduled_s: Any, service_ms: Any = 20, endpoint: Any = 0, outcome: Any = 0) -> Any:
    """One row per scheduled start, 1 ms late."""
    found = np.zeros(len(scheduled_s), SAMPLE_DTYPE)
    found["scheduled_us"] = np.rint(np.asarray(scheduled_s) * 1e6)
    found["start_us"] = found["scheduled_us"] + 1000
    found["service_us"] = np.asarray(service_ms) * 1000
    found["endpoint"], found["outcome"] = endpoint, outcome
    return found


def servers_at(at_s: float, calls: int) -> Snapshot:
    """at_s: on the run's clock. calls: of the API's statement so far."""
    absolute_s = ORIGIN_US / 1e6 + at_s
    database = dict.fromkeys(("blks_read", "xact_commit", "xact_rollback", "deadlocks", "temp_bytes"), 0)
    harness = statement(9, role="harness", queryid=8, query="SELECT * FROM pg_stat_activity", shared_blks_hit=7 * calls)
    return snapshot(
        [statement(calls), harness],
        absolute_s,
        database=database | {"blks_hit": 10 * calls, "datname": "smart_dairy", "datid": 1},
        pgbouncer=bouncer(absolute_s, calls / 100, 0, calls),
        redis=redis_info(calls, calls // 5),
        api=api_counts(calls, calls // 2),
    )


class Stage:
    """A run directory, its clock in the test's hand, and servers that count two calls per second."""

    def __init__(self, run: RunDir, of: RunMeta) -> None:
        self.run, self.now_s, self.asked, self.broken = run, 0.0, 0, False
        run.write_names(ENDPOINTS, ["ok", "timeout"])
        self.live = Live(run, of, ORIGIN_US, lambda: self.snapshot(), lambda: round(self.now_s * 1e6))

    def snapshot(self) -> Snapshot:
        self.asked += 1
        if self.broken:
            raise StackError("redis: no snapshot")
        return servers_at(self.now_s, int(2 * self.now_s))

    def add(self, found: Any, source: str = "local") -> None:
        with self.run.samples_path(source).open("ab") as file:
            file.write(found.tobytes())

    def begin(self, end_us: int | None = None) -> None:
        self.live.count_from(STEADY_US, end_us, servers_at(STEADY_US / 1e6, 20))

    def answer(self, now_s: float, dropped: Mapping[str, int] | None = None) -> dict[str, Any]:
        self.now_s = now_s
        said = self.live.answer(dropped)
        json.dumps(said, allow_nan=False)  # what a pipe carries
        return said


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir(tmp_path)


@given(st.lists(st.tuples(st.sampled_from(["local", "worker-0", "worker-1"]), st.integers(0, 100)), max_size=40))
@settings(max_examples=50)
def test_every_record_is_read_once_however_the_files_grow(tmp_path_factory, writes):
    run = RunDir(tmp_path_factory.mktemp("run"))
    tail, written = SampleTail(run), dict.fromkeys(["local", "worker-0", "worker-1"], b"")
    for number, (source, count) in enumerate(writes):
        # any number of bytes, so that most writes end within a record
        part = bytes((number + i) % 251 for i in range(count))
        written[source] += part
        with run.samples_path(source).open("ab") as file:
            file.write(part)
        found = tail.read()
        assert len(found) == sum(len(content) // SAMPLE.size for content in written.values())
    whole = [content[: len(content) // SAMPLE.size * SAMPLE.size] for content in written.values()]
    records = [content[at : at + SAMPLE.size] for content in whole for at in range(0, len(content), SAMPLE.size)]
    assert sorted(row.tobytes() for row in tail.read()) == sorted(records)


def test_the_array_grows_past_its_first_size(run):
    tail = SampleTail(run)
    for part in np.split(rows(np.arange(5000) / 100), [10, 1024, 1030, 4000]):
        with run.samples_path("local").open("ab") as file:
            file.write(part.tobytes())
        tail.read()
    assert (tail.read()["scheduled_us"] == np.arange(5000) * 10_000).all()


@pytest.mark.parametrize("load", LOADS)
def test_at_the_end_it_says_what_the_judgement_says(run, load):
    stage, random = Stage(run, meta(load)), np.random.default_rng(7)
    scheduled_s = np.sort(random.uniform(0, 70, 2000))
    found = rows(scheduled_s, random.lognormal(4, 1, 2000), random.integers(0, 2, 2000), random.random(2000) < 0.02)
    stage.add(found[::2], "worker-0")
    stage.add(found[1::2], "worker-1")
    before, after = servers_at(10, 20), servers_at(72, 3000)
    stage.live.count_from(STEADY_US, 70 * SECOND_US, before)
    stage.snapshot = lambda: after  # type: ignore[method-assign]
    dropped = {ENDPOINTS[0]: 3, ENDPOINTS[1]: 0}
    stage.answer(72, dropped)
    said = stage.answer(90, dropped)

    run.write_meta(
        replace(
            meta(load),
            counts={
                "recorded": {name: int((found["endpoint"] == i).sum()) for i, name in enumerate(ENDPOINTS)},
                "dropped": dropped,
            },
        )
    )
    run.write_snapshot("before", before)
    run.write_snapshot("after", after)
    run.append_probes(1, {"a": 1})
    evidence = runner.read(run)
    evidence = replace(evidence, samples=replace(evidence.samples, dropped=dropped))
    result = runner.side([evidence], evidence.meta.scenario, evidence.meta)
    assert evidence.meta.reasons == ()
    assert [
        (one.threshold.text, one.endpoint, one.observed and one.observed.value, one.outcome) for one in result.verdicts
    ] == [(one["text"], one["endpoint"], one["observed"], one["outcome"]) for one in said["verdicts"]]
    assert {one.outcome for one in result.verdicts} == {"pass", "fail", "no_data"}
    assert (said["requests"], said["failures"]) == (result.summary.pooled.requests, result.summary.pooled.failures)
    assert said["db_calls_per_request"] == result.metrics["db_calls_per_request"][None].value
    assert said["reason"] is None


def test_before_the_steady_state_it_counts_and_says_no_more(run):
    stage = Stage(run, meta())
    stage.add(rows([1, 2, 3]))
    said = stage.answer(4)
    assert (said["samples"], said["verdicts"], said["p95_ms"], said["phase_s"]) == (3, [], None, None)
    assert said["reason"] == live.NOT_COUNTING
    assert stage.asked == 0
    stage.begin()
    assert stage.answer(10 + live.SETTLED_S)["reason"] == live.NOT_SETTLED


def test_figures_are_as_of_some_seconds_ago(run):
    stage = Stage(run, meta(limits=("requests > 5",)))
    stage.add(rows(np.arange(5, 40)))
    stage.begin(30 * SECOND_US)
    said = stage.answer(20)
    assert (said["at_us"], said["phase_s"]) == (20 * SECOND_US - SETTLED_US, 10 - live.SETTLED_S)
    assert said["requests"] == 10 - live.SETTLED_S
    assert said["throughput_rps"] == 1
    assert said["verdicts"][0]["observed"] == said["requests"]
    assert stage.answer(50)["requests"] == 20  # no more than the steady state's
    assert stage.answer(50)["samples"] == 35


def test_servers_are_divided_by_the_requests_of_the_same_time(run):
    stage = Stage(run, meta(limits=("db_calls_per_request <= 2",)))
    stage.add(rows(np.arange(5, 60)))
    stage.begin()
    first = stage.answer(20)  # two calls a second, but the last seconds' requests are not all known yet
    assert (first["db_calls_per_request"], first["servers_at_us"]) == (None, None)
    assert first["verdicts"][0]["outcome"] == "no_data"
    for now_s, as_of_s in ((20 + live.SETTLED_S, 20), (21 + live.SETTLED_S, 20), (40, 21 + live.SETTLED_S)):
        said = stage.answer(now_s)
        assert said["servers_at_us"] == as_of_s * SECOND_US
        assert said["db_calls_per_request"] == 2
        assert said["verdicts"][0]["outcome"] == "pass"
        assert said["pool_utilisation_pct"] == pytest.approx(0.5)
    # the harness's own reads are taken off: of 10 blocks hit per call 7 are its, of 4 asked for by others 3 were hit
    assert said["buffer_hit_pct"] == 100


def test_a_server_that_gives_no_snapshot_is_named_and_the_samples_are_judged(run):
    stage = Stage(run, meta(limits=("p95_ms < 200", "redis_hit_pct > 85")))
    stage.add(rows(np.arange(10, 60, 0.1)))
    stage.begin()
    stage.broken = True
    said = stage.answer(40)
    assert [one["outcome"] for one in said["verdicts"]] == ["pass", "no_data"]
    assert said["reason"] == "redis: no snapshot"
    stage.broken = False
    assert stage.answer(50)["reason"] is None


def test_a_damaged_run_directory_is_said_and_does_not_raise(run):
    stage = Stage(run, meta())
    stage.begin()
    (run.path / "endpoints.json").write_text("{}")
    said = stage.answer(40)
    assert "endpoints.json" in said["reason"]
    assert said["verdicts"] == []


def test_costly_answers_are_given_again_until_they_have_rested(run):
    stage = Stage(run, meta())
    stage.begin()

    def slow() -> Snapshot:
        stage.asked += 1
        stage.now_s += 2
        return servers_at(stage.now_s, 100)

    stage.snapshot = slow  # type: ignore[method-assign]
    first = stage.answer(40)
    rests_s = 2 / live.BUSY_RATIO
    assert stage.answer(40 + rests_s - 0.001) is first
    assert stage.asked == 1
    assert stage.answer(40 + rests_s) is not first


# --- ending early --------------------------------------------------------------------------------------------------

FAST = rows(np.arange(10, 40, 0.05))
SLOW = rows(np.arange(40, 100, 0.05), service_ms=300)


def window(
    run: RunDir, *limits: str, now_s: float, load: str = "closed", found: Any = None, seconds: Any = 10.0
) -> Any:
    stage = Stage(run, meta(load, limits, seconds))
    stage.add(np.concatenate([FAST, SLOW]) if found is None else found)
    stage.begin(95 * SECOND_US)
    stage.now_s = now_s + live.SETTLED_S
    return stage.live.broken_limit()


def test_a_limit_that_fails_over_the_window_ends_the_run(run):
    assert window(run, "p95_ms < 200", now_s=40) is None
    for load in LOADS:
        run.samples_path("local").unlink()
        found = window(run, "p50_ms < 900", "p95_ms < 200", "max_ms < 1", now_s=55, load=load)
        assert found == "p95_ms < 200 over the last 10 s: 301.0 ms"


def test_each_endpoint_is_named(run):
    found = np.concatenate([FAST, SLOW])
    found["endpoint"] = found["scheduled_us"] // 50_000 % 2
    found["service_us"][found["endpoint"] == 0] = 5000
    expected = "p95_ms[*] < 200 (odoo farm.animal.read) over the last 10 s: 301.0 ms"
    assert window(run, "p95_ms[*] < 200", now_s=60, found=found) == expected


@pytest.mark.parametrize(
    ("why", "limit", "asked"),
    [
        ("no window", "p95_ms < 200", {"now_s": 60, "seconds": None}),
        ("no full window of the steady state yet", "max_ms < 1", {"now_s": 19.9}),
        ("the steady state is over", "p95_ms < 200", {"now_s": 95.1}),
        ("too few samples", "p95_ms < 200", {"now_s": 60, "found": SLOW[:10]}),
        ("no sample", "failure_ratio < 0.01", {"now_s": 60, "found": SLOW[:0]}),
        ("nobody asked the endpoint", 'p95_ms["odoo farm.animal.read"] < 200', {"now_s": 60}),
        ("a count grows with time", "requests > 1000", {"now_s": 60}),
        ("the servers' counts have no window", "pool_utilisation_pct < 0.001", {"now_s": 60}),
        ("warm-up does not count", "max_ms < 1", {"now_s": 22, "found": rows(np.arange(0, 9.9, 0.1), 11_000)}),
    ],
)
def test_a_run_goes_on(run, why, limit, asked):
    assert window(run, limit, **asked) is None, why


def test_a_limit_of_another_profile_ends_nothing(run):
    of_day31 = replace(meta(window_s=10.0), profile="day31")
    limit = replace(threshold.parse("max_ms < 1"), profiles=("day40",))
    stage = Stage(run, replace(of_day31, scenario=replace(of_day31.scenario, thresholds=(limit,))))
    stage.add(SLOW)
    stage.begin()
    stage.now_s = 80
    assert stage.live.broken_limit() is None


def test_before_the_steady_state_nothing_ends_the_run(run):
    stage = Stage(run, meta(limits=("max_ms < 1",), window_s=1.0))
    stage.add(rows(np.arange(0, 9, 0.1)))
    stage.now_s = 9
    assert stage.live.broken_limit() is None
