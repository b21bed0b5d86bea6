from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import built_results as built
import pytest

from harness import baseline, baseline_runs, rundir
from harness.errors import InputError
from harness.model import Baseline
from harness.rundir import RunDir

META = built.result("day40").meta


@pytest.fixture
def stored(tmp_path: Path) -> RunDir:
    """A run that never came to its end."""
    run = RunDir(tmp_path / "main" / "run")
    run.path.mkdir(parents=True)
    run.write_meta(dataclasses.replace(META, state="running", phases=None))
    return run


def damage(run: RunDir, **changes: object) -> None:
    path = run.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("folder", [False, True])
def test_a_run_that_never_ended_is_no_baseline(stored, folder):
    path = stored.path.parent if folder else stored.path
    with pytest.raises(InputError, match=r"--baseline: .*interrupted, cannot be judged.*name a complete run"):
        baseline_runs.read([path], "day40")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_version": rundir.SCHEMA_VERSION + 1}, "newer than"),
        ({"phases": 7}, "the file is damaged"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_file(stored, changes, says):
    damage(stored, **changes)
    with pytest.raises(InputError, match=rf"run\.json.*{says}"):
        baseline_runs.read([stored.path], "day40")


def test_a_folder_without_runs_of_the_profile_is_refused(stored, tmp_path):
    for path, profile in ((tmp_path, "day40"), (tmp_path / "no", "day40"), (stored.path.parent, "day31")):
        with pytest.raises(InputError, match=f"no other run of {profile} in it"):
            baseline_runs.read([path], profile)


def test_its_options_alone_ask_for_nothing():
    assert baseline_runs.asked([], "day40") is None
    for options in ({"limits": ["p95_ms <= 2"]}, {"historical": True}):
        with pytest.raises(InputError, match="go with --baseline DIR"):
            baseline_runs.asked([], "day40", **options)


def test_what_a_run_is_held_against_stays_in_its_directory(stored):
    held = Baseline(2, (baseline.of_run(built.result("day40")),), baseline.DEFAULT_LIMITS, False, {})
    other = dataclasses.replace(META, host={**META.host, "cpu_count": 64})
    stored.write_meta(other)
    with pytest.raises(InputError, match="cpu_count"):
        baseline_runs.attach(stored, held)
    assert stored.read_baseline() is None
    stored.write_meta(META)
    baseline_runs.attach(stored, held)
    assert stored.read_baseline() == held
