from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import benchmark_plan, rundir, scenario, summary, threshold
from harness.benchmark_plan import Plan
from harness.errors import InputError, StackError
from harness.model import (
    Benchmark,
    Estimate,
    LoggedPlan,
    LoggedStatement,
    NoiseFloor,
    Phases,
    RunMeta,
    RunResult,
    Snapshot,
    StatementLog,
    TargetRow,
    Verdict,
)
from harness.odoo_log import OdooRequest
from harness.rundir import RunDir

NOW = datetime(2026, 2, 3, 10, 11, 12, tzinfo=UTC)
SCENARIOS = Path(__file__).parents[2] / "scenarios"


def make_meta(**changes) -> RunMeta:
    pid, started = rundir.this_process()
    meta = RunMeta(
        schema_version=rundir.SCHEMA_VERSION,
        run_id="20260203T101112Z-quick-day40",
        state="running",
        profile="day40",
        scenario=scenario.parse((SCENARIOS / "sustained.toml").read_text(), "sustained.toml"),
        started_at="2026-02-03T10:11:12Z",
        ended_at=None,
        host={"cpu_count": 2, "memory_bytes": 2**33, "cpu_model": "Æ <x>"},
        versions={"postgres": "16.14"},
        herd={"seed": 1, "counts": {"farm.animal": 300}},
        phases=Phases("2026-02-03T10:11:12Z", 5, 10, None, None),
        counts={"sent": {"a": 1}},
        queries={"f00d": "animal by tag"},
        warnings=("w",),
        reasons=(),
        pid=pid,
        pid_started=started,
    )
    return dataclasses.replace(meta, **changes)


def make_snapshot(**changes) -> Snapshot:
    postgres = {"statements": [{"queryid": -(2**62), "mean": 0.1}], "info": None}
    return dataclasses.replace(Snapshot("2026-02-03T10:11:12Z", 7, postgres, None, {"info": {}}, None, {}), **changes)


def make_verdicts() -> tuple[Verdict, ...]:
    limit = dataclasses.replace(threshold.parse("p95_ms[*] < 200"), profiles=("day40",))
    return (
        Verdict(limit, "a", Estimate(0.1 + 0.2, 0.1, None, 30), "pass", "too_few"),
        Verdict(limit, None, None, "no_data", None),
    )


@pytest.fixture
def run(tmp_path) -> RunDir:
    return rundir.create(tmp_path / "runs", "quick", "day40", NOW)


def test_the_name_is_utc_and_never_taken_twice(tmp_path):
    there = NOW.astimezone(timezone(timedelta(hours=6)))
    names = [rundir.create(tmp_path / "a" / "b", "quick", "day31", now).path.name for now in (NOW, there, NOW)]
    assert names == ["20260203T101112Z-quick-day31", "20260203T101112Z-quick-day31-2", "20260203T101112Z-quick-day31-3"]


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is not a directory; name another place"):
        rundir.create(tmp_path / "file", "quick", "day31", NOW)


def test_round_trips(run):
    meta, snapshot, verdicts = make_meta(), make_snapshot(), make_verdicts()
    run.write_meta(meta)
    run.write_snapshot("before", snapshot)
    run.write_verdicts(verdicts)
    run.write_names(["a", "ü"], ["ok", "fault 2"])
    assert run.read_meta() == meta
    assert run.read_snapshot("before") == snapshot
    assert run.read_snapshot("after") is None
    assert run.read_verdicts() == verdicts
    assert run.read_names() == (("a", "ü"), ("ok", "fault 2"))
    assert rundir.is_run(run.path)
    assert not rundir.is_run(run.path.parent)


def test_what_a_new_run_has_not_yet(run):
    assert run.read_names() == ((), ("ok",))
    assert run.read_verdicts() == ()
    assert run.read_probes(0) == {}
    assert list(run.sample_blobs()) == []


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    )
)
@settings(max_examples=25)
def test_rows_of_any_server_survive(tmp_path_factory, row):
    run = RunDir(tmp_path_factory.mktemp("run"))
    snapshot = make_snapshot(postgres={"statements": [row]})
    run.write_snapshot("after", snapshot)
    assert run.read_snapshot("after") == snapshot


def test_what_psycopg_returns_becomes_json(run):
    row = {"calls": Decimal(2**70), "ms": Decimal("0.5"), "at": NOW}
    run.write_snapshot("after", make_snapshot(postgres={"database": row}))
    expected = {"calls": 2**70, "ms": 0.5, "at": "2026-02-03T10:11:12+00:00"}
    assert run.read_snapshot("after").postgres["database"] == expected


def test_a_failed_write_keeps_the_old_file(run):
    run.write_snapshot("after", make_snapshot())
    for value in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            run.write_snapshot("after", make_snapshot(postgres={"x": value}))
    assert run.read_snapshot("after") == make_snapshot()
    assert [path.name for path in run.path.iterdir()] == ["snapshot-after.json"]


def test_a_vanished_directory_is_a_clear_error(tmp_path):
    with pytest.raises(StackError, match=r"run\.json: No such file"):
        RunDir(tmp_path / "gone").write_meta(make_meta())
    with pytest.raises(StackError, match=r"probes\.csv: No such file"):
        RunDir(tmp_path / "gone").append_probes(1, {"a": 1})


def test_no_run_directory(tmp_path):
    with pytest.raises(InputError, match=r"no run directory \(it has no run.json\); name one"):
        RunDir(tmp_path).read_meta()
    with pytest.raises(InputError, match=r"no benchmark directory"):
        rundir.BenchmarkDir(tmp_path).read()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:100], r"run\.json: not valid JSON: .*; restore the file"),
        (lambda _: "", r"not valid JSON"),
        (lambda _: "[]", r"damaged or of another kind"),
        (
            lambda text: text.replace(f'"schema_version": {rundir.SCHEMA_VERSION}', '"schema_version": 99'),
            rf"schema 99, newer than {rundir.SCHEMA_VERSION}; read it",
        ),
        (lambda text: text.replace('"running"', '"walking"'), r"state: Input should be"),
        (lambda text: text.replace('"users": 50', '"users": "many"'), r"scenario\.users: "),
        (lambda text: text.replace('"pid_started"', '"x"'), r"pid_started: "),
    ],
)
def test_damaged_files_are_named(run, damage, said):
    run.write_meta(make_meta())
    path = run.path / "run.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=said):
        run.read_meta()


@pytest.mark.parametrize("text", ['{"endpoints": []}', '{"endpoints": [], "outcomes": ["fault"]}', '{"outcomes": []}'])
def test_names_without_ok_are_refused(run, text):
    (run.path / "endpoints.json").write_text(text)
    with pytest.raises(InputError, match=r"endpoints\.json: lists no endpoints and outcomes"):
        run.read_names()


def test_newer_verdicts_are_refused(run):
    (run.path / "verdicts.json").write_text(json.dumps({"schema_version": rundir.SCHEMA_VERSION + 1, "verdicts": []}))
    with pytest.raises(InputError, match="newer"):
        run.read_verdicts()


def test_state_of_the_living_and_the_dead():
    assert rundir.state(make_meta()) == "running"
    assert rundir.state(make_meta(pid_started=make_meta().pid_started - 3600)) == "interrupted"
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    started = rundir.psutil.Process(child.pid).create_time()
    zombie = make_meta(pid=child.pid, pid_started=started)
    assert rundir.state(zombie) == "interrupted"
    child.wait()
    assert rundir.state(zombie) == "interrupted"
    assert rundir.state(dataclasses.replace(zombie, state="complete")) == "complete"


def test_probes_from_two_writers_with_a_torn_end(run):
    run.append_probes(2_000_000, {"pool, a": 1.5, "b": 2})
    run.append_probes(1_000_000, {"b": 1, "gap": float("nan")})
    with (run.path / "probes.csv").open("a") as file:
        file.write("monotonic_us,series,value\n3000000,b,3")
    assert run.read_probes(500_000) == {"b": ((0.5, 1.0), (1.5, 2.0)), "pool, a": ((1.5, 1.5),)}


@pytest.mark.parametrize("line", ["1,b", "x,b,1", "1,b,x"])
def test_a_damaged_probe_line_is_named(run, line):
    run.append_probes(1, {"b": 1})
    with (run.path / "probes.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"probes\.csv: line 3 is not monotonic_us,series,value; remove it"):
        run.read_probes(0)


def test_odoo_requests_come_back_and_a_damaged_line_is_named(run):
    assert run.read_odoo_requests() is None
    requests = (OdooRequest("a.read", 4, 3.0, 10.5), OdooRequest("b.write", 0, 0.0, 1.0))
    run.write_odoo_requests(requests)
    assert run.read_odoo_requests() == requests
    for line in ("a.read,4,3.0", "a.read,4,x,1.0"):
        run.write_odoo_requests(requests)
        with (run.path / "odoo-requests.csv").open("a") as file:
            file.write(line + "\n")
        with pytest.raises(InputError, match=r"line 4 is not method,queries,query_ms,remaining_ms; restore the file"):
            run.read_odoo_requests()
    (run.path / "odoo-requests.csv").write_text("")
    with pytest.raises(InputError, match="line 0 is not method"):
        run.read_odoo_requests()


def test_missing_parts(run):
    measured = ["run.json", "endpoints.json", "snapshot-before.json", "snapshot-after.json", "probes.csv"]
    derived = ["verdicts.json", "junit.xml", "summary.md", "report.html"]
    assert run.missing_parts() == [*measured, *derived, "samples-*.bin"]
    run.write_meta(make_meta())
    run.write_names([], ["ok"])
    run.write_snapshot("before", make_snapshot())
    run.write_snapshot("after", make_snapshot())
    run.append_probes(1, {"a": 1})
    run.samples_path("1").write_bytes(b"")
    assert run.missing_parts(derived=False) == ["samples-*.bin"]
    run.samples_path("2").write_bytes(bytes(32))
    assert run.missing_parts() == derived
    run.write_verdicts(())
    run.write_junit("x")
    run.write_markdown("")
    run.write_report("x")
    assert run.missing_parts() == ["summary.md"]


def test_sample_files_come_by_name(run):
    for pid in (3, 1, 2):
        run.samples_path(str(pid)).write_bytes(bytes([pid]))
    assert list(run.sample_blobs()) == [b"\1", b"\2", b"\3"]


def test_runs_of_a_benchmark_keep_their_order(tmp_path):
    benchmark = rundir.create_benchmark(tmp_path, NOW)
    profiles = ["day31", "day40", "day40", "day31"] * 26
    made = [benchmark.new_run(number, profile) for number, profile in enumerate(profiles, 1)]
    assert [run.path.name for run in made[:3]] == ["01-day31", "02-day40", "03-day40"]
    assert list(benchmark.runs().items()) == list(enumerate(made, 1))
    assert rundir.is_benchmark(benchmark.path)
    assert not rundir.is_benchmark(made[0].path)


def test_two_runs_of_one_number_are_refused(tmp_path):
    benchmark = rundir.create_benchmark(tmp_path, NOW)
    benchmark.new_run(3, "day31")
    benchmark.new_run(3, "day40")
    with pytest.raises(InputError, match="03-day40: 03-day31 is run 3 too; remove the wrong one"):
        benchmark.runs()


def test_a_run_put_aside_is_kept_and_makes_room(tmp_path):
    benchmark = rundir.create_benchmark(tmp_path, NOW)
    for name in ("02-day40", "02-day40-2"):
        run = benchmark.new_run(2, "day40")
        run.write_meta(make_meta())
        place = benchmark.put_aside(run)
        assert place == benchmark.path / "aside" / name
        assert RunDir(place).read_meta() == make_meta()
    assert benchmark.runs() == {}
    assert benchmark.aside() == ("02-day40", "02-day40-2")


def test_a_plan_and_a_noise_floor_survive(tmp_path):
    benchmark = rundir.create_benchmark(tmp_path, NOW, "noise")
    assert benchmark.path.name == "20260203T101112Z-noise"
    assert benchmark.read_plan() is None
    assert benchmark.read_noise_floor() is None
    meta = make_meta()
    plan = Plan(
        rundir.SCHEMA_VERSION, "noise", "embedded", benchmark_plan.order(3, ("day40", "day40")), {"day40": meta}
    )
    floor = NoiseFloor(
        "t", meta.host, meta.versions, meta.herd, "day40", meta.scenario, 3, {"p50_ms": 2.5, "throughput_rps": 1.0}
    )
    benchmark.write_plan(plan)
    benchmark.write_noise_floor(floor)
    assert benchmark.read_plan() == plan
    assert benchmark.read_noise_floor() == floor


def make_benchmark() -> Benchmark:
    estimate = Estimate(1.5, 1.0, 2.0, 30)
    result = RunResult(
        meta=make_meta(),
        summary=summary.summarise(
            summary.read_samples([])[0], (), ("ok",), Phases("", 0, 0, 1_000_000, None), "closed", 200, 1
        ),
        servers=None,
        settings={"work_mem": "4MB"},
        metrics={"p95_ms": {None: estimate, "a": None}},
        verdicts=make_verdicts(),
        probes={"cpu_pct": ((0.0, 1.0), (1.0, 2.5))},
        warnings=(),
    )
    targets = (TargetRow("x", "ms", "< 5", estimate, "", None, "not measured", "no_data"),)
    return Benchmark(1, "b", "t", "t", 1, (result, result), result, result, targets, (), (), ("idx",), "no conclusion")


def test_a_benchmark_survives_with_its_pooled_metrics(tmp_path):
    directory = rundir.create_benchmark(tmp_path, NOW)
    directory.write(make_benchmark())
    assert directory.read() == make_benchmark()
    document = json.loads((directory.path / "benchmark.json").read_text())
    assert document["day40"]["metrics"]["p95_ms"]["null"]["value"] == 1.5


@pytest.mark.parametrize("text", ["{}", "[]", '{"runs": [1], "day31": {}, "day40": {}}'])
def test_a_damaged_benchmark_is_named(tmp_path, text):
    directory = rundir.create_benchmark(tmp_path, NOW)
    (directory.path / "benchmark.json").write_text(text)
    with pytest.raises(InputError, match=r"benchmark\.json: "):
        directory.read()


def test_plans_are_written_read_again_and_a_damaged_one_is_told(tmp_path):
    run = RunDir(tmp_path)
    assert run.read_plans() is None
    documents = {"milk_trend": {"number": 1, "explain": [{"Plan": {}}]}, "_statements": []}
    run.write_plans(documents, {"milk_trend": "Limit\n", "_statements": ""})
    assert run.read_plans() == documents
    assert (run.plans_path / "milk_trend.txt").read_text() == "Limit\n"
    assert not (run.plans_path / "_statements.txt").exists()
    (run.plans_path / "milk_trend.json").write_text('{"number"')
    assert "cannot be read" in run.read_plans()["milk_trend"]["error"]
    (run.plans_path / "milk_trend.json").unlink()
    (run.plans_path / "_statements.json").unlink()
    assert run.read_plans() is None


def test_a_statement_log_survives_and_a_run_may_have_none(tmp_path):
    directory = RunDir(tmp_path)
    assert directory.read_statement_log() is None
    log = StatementLog(
        0.1,
        None,
        (LoggedStatement("2026-02-03 10:00:00.000 UTC", "odoo", "statement", 0.125, "f"),),
        {"f": "SELECT $1, …"},
        (LoggedPlan("", "api", 250.0, "g", {"Plan": {"Plans": [{"Total Cost": 1.5}]}}),),
    )
    directory.write_statement_log(log)
    assert directory.read_statement_log() == log


def test_evidence_is_what_was_measured_and_nothing_else(run, tmp_path):
    run.write_meta(make_meta())
    run.samples_path("7").write_bytes(b"\x00" * 64)
    run.write_plans({"herd": {"Plan": {}}}, {"herd": "Seq Scan"})
    before = rundir.evidence_sha256([run])
    run.write_verdicts(make_verdicts())
    run.write_report("<html>")
    run.log_path.write_text("still written to")
    assert rundir.evidence_sha256([run]) == before
    copied = RunDir(tmp_path / "elsewhere" / run.path.name)
    shutil.copytree(run.path, copied.path)
    assert rundir.evidence_sha256([copied]) == before
    copied.samples_path("7").write_bytes(b"\x00" * 63 + b"\x01")
    assert rundir.evidence_sha256([copied]) != before
    assert len({before, rundir.evidence_sha256([run, copied]), rundir.evidence_sha256([])}) == 3


def test_evidence_is_the_digest_that_sha256sum_gives(run):
    run.write_meta(make_meta())
    run.samples_path("7").write_bytes(b"\x00" * 64)
    command = f"sha256sum {run.path.name}/run.json {run.path.name}/samples-7.bin | sha256sum"
    said = subprocess.run(["sh", "-c", command], cwd=run.path.parent, capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == rundir.evidence_sha256([run])
