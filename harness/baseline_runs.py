"""Reads stored runs as a baseline, and puts it into the directory of the run that is held against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import baseline, noise, rundir, runner
from harness.errors import HarnessError, InputError
from harness.model import Baseline, Profile
from harness.rundir import RunDir
from harness.services import provision


def asked(
    paths: Sequence[Path],
    profile: Profile,
    *,
    limits: Sequence[str] = (),
    historical: bool = False,
    judged: RunDir | None = None,
) -> Baseline | None:
    """What the command line asks for; None = no baseline. judged: as in `read`. Raises InputError."""
    if paths:
        return read(paths, profile, limits=limits, historical=historical, judged=judged)
    if limits or historical:
        raise InputError("--baseline-limit and --historical go with --baseline DIR; add it, or leave them out")
    return None


def read(
    paths: Sequence[Path],
    profile: Profile,
    *,
    limits: Sequence[str] = (),
    historical: bool = False,
    judged: RunDir | None = None,
) -> Baseline:
    """The baseline of `paths`: runs, or folders of runs such as a benchmark, of which those of `profile` count, and not
    the run to be judged, which would always be as good as itself. limits: as in `harness.baseline`. The noise floor is
    that of the last run's conditions, if this machine has one. Raises InputError unless every run can be judged."""
    parsed = baseline.parse_limits(limits)
    runs = []
    floor_pct: dict[str, float] = {}
    for directory in [run for path in paths for run in _runs(path, profile, judged)]:
        try:
            evidence = runner.read(directory)
            runs.append(baseline.of_run(runner.side([evidence], evidence.meta.scenario, evidence.meta)))
            floor = noise.read(provision.cache_root(), evidence.meta)
            floor_pct = {} if floor is None else baseline.floor_pct(floor)
        except InputError as fault:
            raise InputError(f"--baseline: {fault}") from fault
        except HarnessError as fault:
            raise InputError(f"--baseline: {fault}; name a complete run") from fault
    return Baseline(rundir.SCHEMA_VERSION, tuple(runs), parsed, historical, floor_pct)


def _runs(path: Path, profile: Profile, judged: RunDir | None) -> list[RunDir]:
    itself = None if judged is None else judged.path.resolve()
    if rundir.is_run(path):
        if path.resolve() == itself:
            raise InputError(f"--baseline: {path}: is the run to be judged; name another one")
        return [RunDir(path)]
    others = [run for run in rundir.runs_within(path) if run.path.resolve() != itself]
    found = [run for run in others if run.read_meta().profile == profile]
    if not found:
        raise InputError(
            f"--baseline: {path}: no other run of {profile} in it; name a run directory or a folder of them"
        )
    return found


def attach(directory: RunDir, held: Baseline) -> None:
    """From now on the run is judged against `held` as well, by its own files. Raises InputError if it cannot be."""
    baseline.check_comparable(held, directory.read_meta())
    directory.write_baseline(held)
