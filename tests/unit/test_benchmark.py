"""What is resumed, refused and kept, on directories whose runs hold nothing but their description."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import built_results as built
import pytest

from harness import benchmark, benchmark_plan, noise, rundir
from harness.benchmark_plan import Kind, Plan
from harness.errors import InputError, RunInvalid
from harness.model import RunMeta
from harness.rundir import BenchmarkDir

META = dataclasses.replace(built.result("day40").meta, schema_version=rundir.SCHEMA_VERSION)
NOW = datetime(2026, 2, 3, 10, 11, 12, tzinfo=UTC)


def session(root: Path, states: str, kind: Kind = "noise", stack: str = "embedded") -> BenchmarkDir:
    """Of 2 pairs, with a run for each letter of states: c = complete, i = invalid, r = running, - = nothing saved."""
    directory = rundir.create_benchmark(root, NOW, kind)
    order = benchmark_plan.order(2, benchmark_plan.SIDES[kind])
    begun = {profile: dataclasses.replace(META, profile=profile) for profile in benchmark_plan.SIDES[kind]}
    directory.write_plan(Plan(rundir.SCHEMA_VERSION, kind, stack, order, begun))
    pid, pid_started = rundir.this_process()
    names: dict[str, Any] = {"c": "complete", "i": "invalid", "r": "running"}
    profiles = [profile for pair in order for profile in pair]
    for number, (state, profile) in enumerate(zip(states, profiles, strict=False), 1):
        run = directory.new_run(number, profile)
        if state in names:
            run.write_meta(
                dataclasses.replace(
                    META,
                    run_id=run.path.name,
                    profile=profile,
                    state=names[state],
                    pid=pid,
                    pid_started=pid_started,
                )
            )
    return directory


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Runs are read as their description and judged as built ones; returns the home that noise floors are kept in."""
    monkeypatch.setattr(benchmark.runner, "read", lambda run: SimpleNamespace(meta=run.read_meta()))
    monkeypatch.setattr(
        benchmark.runner,
        "write_judgement",
        lambda run, one: dataclasses.replace(built.result(one.meta.profile), meta=one.meta),
    )
    monkeypatch.setattr(benchmark.provision, "cache_root", lambda: tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize("states", ["", "-", "c", "c-", "ci", "cc", "ccc", "cccr"])
def test_what_lacks_a_pair_is_resumed_and_its_command_named(tmp_path: Path, states: str) -> None:
    directory = session(tmp_path, states)
    assert benchmark.open_plan(directory, "noise") == directory.read_plan()
    assert benchmark.resume_command(directory) == f"./dairyperf noise --resume {directory.path}"


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    whole = session(tmp_path, "cccc")
    elsewhere = session(tmp_path, "cc", stack="external:a b.toml")
    unplanned = rundir.create_benchmark(tmp_path, NOW)
    table: list[tuple[BenchmarkDir, Kind, str]] = [
        (BenchmarkDir(tmp_path), "noise", "no benchmark directory; name one"),
        (unplanned, "benchmark", "has no plan, .*; start a new one"),
        (whole, "noise", "complete, nothing is left to make; ./dairyperf report judges it"),
        (whole, "benchmark", "is a noise session; ./dairyperf noise --resume .* goes on"),
        (elsewhere, "noise", "begun on stack external:a b.toml; add --stack 'external:a b.toml'"),
    ]
    for directory, kind, text in table:
        with pytest.raises(InputError, match=text):
            benchmark.open_plan(directory, kind)
    assert benchmark.resume_command(elsewhere).endswith(" --stack 'external:a b.toml'")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"host": {**META.host, "kernel": "7.0"}}, "kernel: .*, then 7.0"),
        ({"herd": {**META.herd, "checksum": "beef"}}, "checksum: .*, then beef"),
        ({"versions": {**META.versions, "odoo": "20.0"}}, "odoo: .*, then 20.0"),
        ({"versions": {**META.versions, "dairyperf": "beef"}}, "dairyperf: .*, then beef"),
        ({"scenario": dataclasses.replace(META.scenario, users=7)}, "users: 50, then 7"),
    ],
)
def test_runs_under_other_conditions_are_not_added(changed: dict[str, Any], text: str) -> None:
    benchmark.check_alike(Path("b"), {"day40": META}, {"day40": META})
    with pytest.raises(InputError, match=f"b: day40: {text}; put that back, or start a new one"):
        benchmark.check_alike(Path("b"), {"day40": META}, {"day40": dataclasses.replace(META, **changed)})


def test_a_noise_session_s_floor_is_kept_for_the_machine_and_beside_its_runs(tmp_path: Path, readable: Path) -> None:
    directory = session(tmp_path, "cccc")
    floor, path = benchmark.measure_noise(directory)
    assert (floor.pairs, floor.profile, floor.scenario) == (2, "day40", META.scenario)
    assert floor.floor_pct["p50_ms"] == 0  # the same run over and over
    assert path.is_relative_to(readable)
    assert noise.read(readable, META) == directory.read_noise_floor() == floor


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ("ccc", "1 of 2 pairs were made; go on with ./dairyperf noise --resume .*; 03-day40 is not counted"),
        ("ccci", "1 of 2 pairs were made; .*; 03-day40 is not counted.*; 04-day40 is not counted"),
        ("c-", "no pair of runs is complete; go on with ./dairyperf noise --resume"),
        ("cccr", "04-day40: still running"),
    ],
)
def test_an_incomplete_session_gives_no_floor(tmp_path: Path, readable: Path, states: str, text: str) -> None:
    directory = session(tmp_path, states)
    with pytest.raises(InputError if "r" in states else RunInvalid, match=text):
        benchmark.measure_noise(directory)
    assert directory.read_noise_floor() is None
    assert not readable.exists()


def spoilt(directory: BenchmarkDir, number: int, **changes: Any) -> None:
    run = directory.runs()[number]
    run.write_meta(dataclasses.replace(run.read_meta(), **changes))


def test_runs_that_do_not_belong_together_are_not_judged(tmp_path: Path, readable: Path) -> None:
    copied, invalid, mixed = (session(tmp_path, "cccc") for _ in range(3))
    spoilt(copied, 3, host={**META.host, "cpu_count": 640})
    with pytest.raises(RunInvalid, match=r"not of one machine, .*: 03-day40: cpu_count: \d+, then 640; remove those"):
        benchmark.measure_noise(copied)
    spoilt(invalid, 2, reasons=("parts are missing: probes.csv",))
    with pytest.raises(RunInvalid, match=r"02-day40: parts are missing: .*; measure the noise again"):
        benchmark.measure_noise(invalid)
    spoilt(mixed, 4, profile="day31")
    with pytest.raises(RunInvalid, match="pair 2 is of day31 and day40, not of day40 and day40"):
        benchmark.measure_noise(mixed)
    with pytest.raises(RunInvalid, match="pair 1 is of day40 and day40, not of day31 and day40"):
        benchmark.judge(session(tmp_path, "cc"))
    assert not readable.exists()


def like() -> RunMeta:
    return dataclasses.replace(META, run_id="day40: 2 runs")


def test_a_benchmark_keeps_the_floor_that_it_was_judged_by(tmp_path: Path, readable: Path) -> None:
    directory = session(tmp_path, "cccc", "benchmark")
    assert benchmark.floor_for(directory, like(), 2) == (None, ())  # so few pairs show no effect anyway
    none, (doubt,) = benchmark.floor_for(directory, like(), 10)
    assert none is None
    assert "none was measured on this machine" in doubt
    floor, path = benchmark.measure_noise(session(tmp_path, "cccc"))
    assert benchmark.floor_for(directory, like(), 10) == (floor, ())
    path.unlink()
    assert benchmark.floor_for(directory, like(), 10) == (floor, ())
    spoilt_floor = dataclasses.replace(floor, host={**floor.host, "cpu_count": 640})
    directory.write_noise_floor(spoilt_floor)
    none, (doubt,) = benchmark.floor_for(directory, like(), 10)
    assert none is None
    assert "the one beside the runs is of others: cpu_count: 640, then" in doubt
