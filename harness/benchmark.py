"""Day 31 against Day 40: interleaved pairs of runs, made, resumed and judged as a whole; the noise of the machine."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness import (
    benchmark_plan,
    comparable,
    compare,
    effects,
    load,
    noise,
    provenance,
    report,
    report_effects,
    reset,
    rundir,
    runner,
    server_csv,
    stack,
    tables,
)
from harness.benchmark_plan import Kind, Made, Plan
from harness.errors import InputError, RunInvalid
from harness.model import PROFILES, Benchmark, NoiseFloor, Profile, RunMeta, RunResult, Scenario
from harness.rundir import BenchmarkDir, RunDir
from harness.runner import Evidence, Judged
from harness.services import provision
from harness.units import format_duration

# What the milestone's day40 has and this one does not yet; the report lists it.
MISSING_IN_DAY40 = ("WAL archiving drills: RPO, RTO and failover are not measured",)
# Of a run, beside its load: reset and warm caches, the start of Locust, 11 s until PostgreSQL's statistics are quiet,
# plans. Measured with 255 head on 2 cores.
OUTSIDE_LOAD_S = 20.0
UNLIKE_SHOWN = 6


# --- runs ----------------------------------------------------------------------------------------------------------


def begin(root: Path, asked: Scenario, pairs: int, kind: Kind = "benchmark") -> BenchmarkDir:
    """A new directory with its plan, for stacks that are up. `make` fills it."""
    sides = benchmark_plan.SIDES[kind]
    for profile in sides:
        reset.check_may_write(stack.read(profile))
    directory = rundir.create_benchmark(root, datetime.now(UTC), kind)
    plan = Plan(
        schema_version=rundir.SCHEMA_VERSION,
        kind=kind,
        stack=stack.name(),
        order=benchmark_plan.order(pairs, sides),
        begun={profile: provenance.describe(directory.path.name, asked, stack.read(profile)) for profile in sides},
    )
    directory.write_plan(plan)
    return directory


def open_plan(directory: BenchmarkDir, kind: Kind) -> Plan:
    """The plan of what is to be resumed. InputError when there is none, it is complete, or another stack is chosen."""
    if not rundir.is_benchmark(directory.path):
        raise InputError(f"--resume {directory.path}: no benchmark directory; name one under reports/runs")
    plan = directory.read_plan()
    if plan is None:
        raise InputError(f"--resume {directory.path}: has no plan, so nothing says what is left; start a new one")
    if plan.kind != kind:
        raise InputError(f"--resume {directory.path}: is a {plan.kind} session; {resume_command(directory)} goes on")
    if plan.stack != stack.name():
        raise InputError(
            f"--resume {directory.path}: begun on stack {plan.stack}; add --stack {shlex.quote(plan.stack)}"
        )
    if not benchmark_plan.to_make(plan, _made(directory)):
        raise InputError(f"--resume {directory.path}: complete, nothing is left to make; ./dairyperf report judges it")
    return plan


def resume_command(directory: BenchmarkDir) -> str:
    plan = directory.read_plan()
    assert plan is not None
    words = ["./dairyperf", plan.kind, "--resume", str(directory.path)]
    return shlex.join(words if plan.stack == "embedded" else [*words, "--stack", plan.stack])


def make(directory: BenchmarkDir, say: Callable[[str], None]) -> None:
    """Makes the runs that the plan lacks, on stacks that are up. Each is saved when it ends; a broken one ends this.

    Of a pair that is not whole both runs are put aside and made again. InputError when what is there now is not what
    the plan began with, StackError while another process makes the runs.
    """
    taken = f"{directory.path}: another process makes its runs; wait for its end"
    with provision.locked(directory.lock_path, refusal=taken):
        plan = directory.read_plan()
        assert plan is not None
        for profile in plan.begun:
            # what a killed one started ends by itself
            with stack.reserved(profile, waiting=lambda: say("waiting for another run's end")):
                pass
        check_alike(directory.path, plan.begun, _now(plan))
        made = _made(directory)
        pairs = benchmark_plan.to_make(plan, made)
        for one in benchmark_plan.broken(made):
            place = directory.put_aside(directory.runs()[one.number])
            why = "its pair was interrupted" if one.complete else "it is not complete"
            say(f"{one.number:02d}-{one.profile}: {why}; kept in {place}, not counted")
        _make_pairs(directory, plan, pairs, say)


def _make_pairs(directory: BenchmarkDir, plan: Plan, pairs: Sequence[int], say: Callable[[str], None]) -> None:
    count, asked, left = len(plan.order), plan.scenario, 2 * len(pairs)
    run_s = load.load_s(asked) + OUTSIDE_LOAD_S
    say(
        f"{directory.path}: pairs left: {len(pairs)} of {count}, {left} runs of {format_duration(asked.duration_s)} "
        f"each after ramp-up and warm-up; about {_minutes(left * run_s)}"
    )
    started = time.monotonic()
    for pair in pairs:
        for number, profile in zip(benchmark_plan.numbers(pair), plan.order[pair], strict=True):
            say(f"pair {pair + 1} of {count}, run {number} of {2 * count}: {profile}")
            runner.run_into(directory.new_run(number, profile), asked, profile, say)
            left -= 1
            run_s = (time.monotonic() - started) / (2 * len(pairs) - left)
            if left:
                say(f"run {number} of {2 * count} is made; about {_minutes(left * run_s)} left")


def check_alike(place: Path, begun: Mapping[Profile, RunMeta], now: Mapping[Profile, RunMeta]) -> None:
    """Raises InputError when runs made now would not be comparable with those that began with the plan."""
    found = [
        f"{profile}: {difference}"
        for profile, before in begun.items()
        for difference in comparable.of_one_benchmark(before, now[profile])
    ]
    if found:
        raise InputError(f"{place}: {_first_few(found)}; put that back, or start a new one")


def _now(plan: Plan) -> dict[Profile, RunMeta]:
    return {profile: provenance.describe("now", plan.scenario, stack.read(profile)) for profile in plan.begun}


def _made(directory: BenchmarkDir) -> tuple[Made, ...]:
    return tuple(_one_made(number, run) for number, run in directory.runs().items())


def _one_made(number: int, run: RunDir) -> Made:
    profile: Profile = "day31" if run.path.name.endswith("day31") else "day40"
    return Made(number, profile, rundir.is_run(run.path) and rundir.state(run.read_meta()) == "complete")


def _minutes(seconds: float) -> str:
    """To the minute; below two to ten seconds."""
    return format_duration(60 * round(seconds / 60) if seconds >= 120 else 10 * max(1, round(seconds / 10)))


def _first_few(texts: Sequence[str]) -> str:
    more = len(texts) - UNLIKE_SHOWN
    return "; ".join([*texts[:UNLIKE_SHOWN], *([f"and {more} more"] if more > 0 else [])])


# --- judgement -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Counted:
    """The runs of the whole pairs by their numbers, and why the session lacks others."""

    evidence: Mapping[int, Evidence]
    pairs: tuple[int, ...]
    reasons: tuple[str, ...]


def _counted(directory: BenchmarkDir, kind: Kind) -> _Counted:
    """Reads the whole pairs. InputError while a run goes on, RunInvalid when there is none or they are not alike."""
    runs, made, plan = directory.runs(), _made(directory), directory.read_plan()
    for run in runs.values():
        if rundir.is_run(run.path) and rundir.state(run.read_meta()) == "running":
            raise InputError(f"{run.path}: still running (process {run.read_meta().pid}); wait for its end")
    pairs = benchmark_plan.whole_pairs(made)
    remedy = f"go on with {resume_command(directory)}" if plan else "make it again"
    if not pairs:
        raise RunInvalid(f"{directory.path}: no pair of runs is complete; {remedy}")
    evidence = {number: runner.read(runs[number]) for pair in pairs for number in benchmark_plan.numbers(pair)}
    for pair in pairs:
        found_sides = tuple(evidence[number].meta.profile for number in benchmark_plan.sides(pair))
        if found_sides != benchmark_plan.SIDES[kind]:
            raise RunInvalid(
                f"{directory.path}: pair {pair + 1} is of {' and '.join(found_sides)}, not of "
                f"{' and '.join(benchmark_plan.SIDES[kind])}; {remedy}"
            )
    if found := comparable.unlike([one.meta for one in evidence.values()]):
        raise RunInvalid(
            f"{directory.path}: its runs are not of one machine, data, versions and load: {_first_few(found)}; remove "
            "those that do not belong, or make it again"
        )
    reasons = [
        f"{runs[one.number].path.name} is not counted, its pair is not whole" for one in benchmark_plan.broken(made)
    ]
    if plan and len(pairs) < len(plan.order):
        reasons.insert(0, f"{len(pairs)} of {len(plan.order)} pairs were made; {remedy}")
    return _Counted(evidence, pairs, tuple(reasons))


def judge(directory: BenchmarkDir) -> Judged:
    """Judges the runs of every whole pair and both sides from their files, compares the sides, writes the report.

    The exit code is day40's verdicts, the validity of all runs and that no pair is missing. InputError while a run
    goes on, RunInvalid when no pair is whole or the runs are not alike.
    """
    counted = _counted(directory, "benchmark")
    runs, evidence = directory.runs(), list(counted.evidence.values())
    results = {number: runner.write_judgement(runs[number], one) for number, one in counted.evidence.items()}
    sides = {profile: [one for one in evidence if one.meta.profile == profile] for profile in PROFILES}
    day31, day40 = (_side(sides[profile]) for profile in PROFILES)
    for profile, of_side in sides.items():
        table = server_csv.pg_stats_csv([(one.before, one.after) for one in of_side])
        rundir.write_atomic(directory.path / f"{profile}_pg_stats.csv", table)
    pairs = len(counted.pairs)
    noise_floor, doubts = floor_for(directory, day40.meta, pairs)
    paired = effects.paired(results.values(), [pair + 1 for pair in counted.pairs])
    found = effects.effects(paired.pairs, noise_floor)
    endpoints = compare.endpoints(day31.summary, day40.summary, found)
    pooled = compare.pooled(day31.summary, day40.summary, found)
    assert day31.servers is not None
    assert day40.servers is not None
    benchmark = Benchmark(
        schema_version=rundir.SCHEMA_VERSION,
        benchmark_id=directory.path.name,
        started_at=evidence[0].meta.started_at,
        ended_at=evidence[-1].meta.ended_at or "",
        pairs=pairs,
        runs=tuple(results.values()),
        day31=day31,
        day40=day40,
        targets=compare.targets(day31, day40),
        endpoints=endpoints,
        statements=compare.statements(
            day31.servers, day40.servers, _requests(sides["day31"]), _requests(sides["day40"])
        ),
        missing_in_day40=MISSING_IN_DAY40,
        conclusion=report_effects.conclusion(paired, len(endpoints)),
        pooled=pooled,
        noise_floor=noise_floor,
        warnings=(*_interrupted(directory), *doubts),
        reasons=counted.reasons,
    )
    directory.write(benchmark)
    directory.write_tables(tables.csv_texts(tables.benchmark_tables(benchmark)))
    digest = rundir.evidence_sha256(tuple(directory.runs().values()), directory.evidence_paths())
    directory.write_report(report.render_benchmark(benchmark, digest))
    of_runs = tuple(f"{one.meta.run_id}: {reason}" for one in evidence for reason in one.meta.reasons)
    reasons = (*counted.reasons, *of_runs)
    made = runner.judged(f"{directory.path.name}, day40", day40, reasons, directory.report_path)
    return dataclasses.replace(made, evidence_sha256=digest)


def _interrupted(directory: BenchmarkDir) -> tuple[str, ...]:
    aside = directory.aside()
    text = f"Interrupted: {', '.join(aside)}, kept in aside/ and not counted; their pairs are made again as a whole."
    return (text,) if aside else ()


def floor_for(directory: BenchmarkDir, like: RunMeta, pairs: int) -> tuple[NoiseFloor | None, tuple[str, ...]]:
    """The noise floor to judge by, and the doubt where there is none. The machine's is copied into the directory when
    this is judged first; afterwards only the directory counts, so that what was signed stays as it was."""
    floor, home = directory.read_noise_floor(), provision.cache_root()
    if floor is not None and (found := noise.unlike(floor, like)):
        return None, (f"Noise floor: the one beside the runs is of others: {'; '.join(map(str, found))}. Remove it.",)
    judged_before = directory.was_judged()
    if floor is None and not judged_before and (floor := noise.read(home, like)) is not None:
        directory.write_noise_floor(floor)
    if floor is not None or pairs < benchmark_plan.PAIRS:
        return floor, ()
    why = "none was at hand when this was judged first" if judged_before else noise.why_none(home, like)
    return None, (f"Noise floor: {why}; effects are held against the least that counts anywhere. {noise.REMEDY}.",)


def _side(runs: Sequence[Evidence]) -> RunResult:
    first, last = runs[0].meta, runs[-1].meta
    aborted = "; ".join(f"{one.meta.run_id}: {one.meta.aborted}" for one in runs if one.meta.aborted) or None
    invalid = [one.meta for one in runs if one.meta.state != "complete" or one.meta.reasons]
    meta = dataclasses.replace(
        first,
        run_id=f"{first.profile}: {len(runs)} runs",
        state="invalid" if invalid else "complete",
        reasons=tuple(f"{one.run_id}: {reason}" for one in invalid for reason in one.reasons or (one.state,)),
        ended_at=last.ended_at,
        aborted=aborted,
        counts=None,
    )
    return runner.side(runs, first.scenario, meta)


def _requests(runs: Sequence[Evidence]) -> int:
    return sum(sum(one.requests.values()) for one in runs)


# --- noise ---------------------------------------------------------------------------------------------------------


def measure_noise(directory: BenchmarkDir) -> tuple[NoiseFloor, Path]:
    """What a complete noise session found, and the file where this machine now keeps it.

    RunInvalid when pairs are missing, a run is invalid or no figure has enough data, InputError while a run goes on.
    """
    counted = _counted(directory, "noise")
    runs = directory.runs()
    results = {number: runner.write_judgement(runs[number], one) for number, one in counted.evidence.items()}
    if counted.reasons:
        raise RunInvalid(f"{directory.path}: {'; '.join(counted.reasons)}")
    faults = {one.meta.run_id: (*one.meta.reasons, *filter(None, [one.meta.aborted])) for one in results.values()}
    if found := [f"{name}: {fault}" for name, of_run in faults.items() for fault in of_run]:
        raise RunInvalid(f"{directory.path}: {_first_few(found)}; measure the noise again")
    last = list(results.values())[-1].meta
    pairs = [(results[a], results[b]) for a, b in map(benchmark_plan.sides, counted.pairs)]
    floor = NoiseFloor(
        measured_at=last.ended_at or last.started_at,
        host=last.host,
        versions=last.versions,
        herd=last.herd,
        profile=last.profile,
        scenario=last.scenario,
        pairs=len(pairs),
        floor_pct=effects.floor_pct(pairs),
    )
    if not floor.floor_pct:
        raise RunInvalid(
            f"{directory.path}: no figure has enough data for a noise floor; give more --pairs or --duration"
        )
    directory.write_noise_floor(floor)
    return floor, noise.store(provision.cache_root(), floor)


def is_noise(directory: BenchmarkDir) -> bool:
    plan = directory.read_plan()
    return plan is not None and plan.kind == "noise"
