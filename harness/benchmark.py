"""Day 31 against Day 40: interleaved runs of both stacks, each side judged as a whole, and their report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness import compare, report, reset, rundir, runner, server_csv, stack, tables
from harness.errors import InputError
from harness.model import PROFILES, Benchmark, Profile, RunResult, Scenario
from harness.rundir import BenchmarkDir
from harness.runner import Evidence, Judged

# What the milestone's day40 has and this one does not yet; the report lists it.
MISSING_IN_DAY40 = ("WAL archiving drills: RPO, RTO and failover are not measured",)


def order(pairs: int) -> list[Profile]:
    """A B, B A, A B, …: a machine that drifts does so against both sides alike."""
    return [profile for pair in range(pairs) for profile in (PROFILES if pair % 2 == 0 else PROFILES[::-1])]


def run(root: Path, asked: Scenario, pairs: int, say: Callable[[str], None]) -> BenchmarkDir:
    """Makes all runs, on stacks that are up. Each is saved when it ends; a broken one ends the benchmark."""
    for profile in PROFILES:
        reset.check_may_write(stack.read(profile))
    directory = rundir.create_benchmark(root, datetime.now(UTC))
    profiles = order(pairs)
    for number, profile in enumerate(profiles, 1):
        say(f"run {number} of {len(profiles)}: {profile}")
        runner.run_into(directory.new_run(profile), asked, profile, say)
    return directory


def judge(directory: BenchmarkDir) -> Judged:
    """Judges every run and both sides from their files, compares the sides, writes the report.

    The exit code is day40's verdicts and the validity of all runs. InputError unless both sides have runs.
    """
    evidence = [runner.read(run) for run in directory.runs()]
    results = [runner.write_judgement(run, one) for run, one in zip(directory.runs(), evidence, strict=True)]
    sides = {profile: [one for one in evidence if one.meta.profile == profile] for profile in PROFILES}
    for profile, of_side in sides.items():
        if not of_side:
            raise InputError(f"{directory.path}: no run of {profile}; a benchmark needs both sides, run it again")
    day31, day40 = (_side(sides[profile]) for profile in PROFILES)
    for profile, of_side in sides.items():
        table = server_csv.pg_stats_csv([(one.before, one.after) for one in of_side])
        rundir.write_atomic(directory.path / f"{profile}_pg_stats.csv", table)
    pairs = min(len(of_side) for of_side in sides.values())
    assert day31.servers is not None
    assert day40.servers is not None
    benchmark = Benchmark(
        schema_version=rundir.SCHEMA_VERSION,
        benchmark_id=directory.path.name,
        started_at=evidence[0].meta.started_at,
        ended_at=evidence[-1].meta.ended_at or "",
        pairs=pairs,
        runs=tuple(results),
        day31=day31,
        day40=day40,
        targets=compare.targets(day31, day40),
        endpoints=compare.endpoints(day31.summary, day40.summary, pairs),
        statements=compare.statements(
            day31.servers, day40.servers, _requests(sides["day31"]), _requests(sides["day40"])
        ),
        missing_in_day40=MISSING_IN_DAY40,
        conclusion=conclusion(pairs),
    )
    directory.write(benchmark)
    directory.write_tables(tables.csv_texts(tables.benchmark_tables(benchmark)))
    directory.write_report(report.render_benchmark(benchmark))
    reasons = tuple(f"{one.meta.run_id}: {reason}" for one in evidence for reason in one.meta.reasons)
    return runner.judged(f"{directory.path.name}, day40", day40, reasons, directory.report_path)


def conclusion(pairs: int) -> str:
    if pairs < compare.PAIRS_NEEDED:
        return (
            f"Limits are judged. Whether Day 40 is faster than Day 31 cannot be said from {pairs} "
            f"pair{'s' if pairs > 1 else ''} of runs: {compare.PAIRS_NEEDED} are needed. Differences below are what "
            "these runs showed, not effects."
        )
    return (
        "Limits are judged. Effects with intervals and a noise floor are not computed yet: differences are descriptive."
    )


def _side(runs: Sequence[Evidence]) -> RunResult:
    first, last = runs[0].meta, runs[-1].meta
    aborted = "; ".join(f"{one.meta.run_id}: {one.meta.aborted}" for one in runs if one.meta.aborted) or None
    name = f"{first.profile}: {len(runs)} runs"
    meta = dataclasses.replace(first, run_id=name, ended_at=last.ended_at, aborted=aborted)
    return runner.side(runs, first.scenario, meta)


def _requests(runs: Sequence[Evidence]) -> int:
    return sum(sum(one.requests.values()) for one in runs)
