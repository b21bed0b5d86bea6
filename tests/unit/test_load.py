"""Times of a load, and Locust's life as a child process."""

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import load
from harness.errors import InputError, StackError
from harness.model import Scenario, Stage

CLOSED = Scenario(
    name="sustained",
    description="",
    locustfile="locustfiles/dairy_day.py",
    load="closed",
    users=50,
    spawn_rate_per_s=10,
    think_time_s=1,
    warmup_s=10,
    duration_s=300,
    seed=1,
    stages=(),
    thresholds=(),
)
STAGES = (Stage(60, 10), Stage(180, 50), Stage(60, 100), Stage(60, 0))  # the specification's K6 script
RAMP = dataclasses.replace(CLOSED, load="stages", stages=STAGES, users=100, duration_s=360, warmup_s=0)


def test_load_lasts_ramp_up_warm_up_and_steady_state() -> None:
    assert load.load_s(CLOSED) == 5 + 10 + 300
    assert load.load_s(RAMP) == 360


def test_run_time_covers_ramp_up_and_warm_up() -> None:
    assert load.steady_s(300, CLOSED) == 285
    assert load.load_s(dataclasses.replace(CLOSED, duration_s=load.steady_s(300, CLOSED))) == 300


@pytest.mark.parametrize("run_time_s", [1, 15])
def test_run_time_without_steady_state_is_refused(run_time_s: float) -> None:
    with pytest.raises(InputError, match="more than 15s"):
        load.steady_s(run_time_s, CLOSED)


@pytest.mark.parametrize(
    ("elapsed_s", "users"),
    [(0, 0), (30, 5), (60, 10), (150, 30), (240, 50), (270, 75), (300, 100), (330, 50), (400, 0)],
)
def test_users_follow_the_stages_linearly(elapsed_s: float, users: int) -> None:
    assert load.users_at(STAGES, elapsed_s) == users


@given(st.lists(st.builds(Stage, st.floats(0.1, 100), st.integers(0, 200)), min_size=1), st.floats(0, 2000))
def test_users_stay_between_what_the_stages_name(stages: list[Stage], elapsed_s: float) -> None:
    assert 0 <= load.users_at(stages, elapsed_s) <= max(stage.users for stage in stages)
    assert load.users_at(stages, sum(stage.duration_s for stage in stages) + 1) == stages[-1].users


@pytest.mark.parametrize(
    ("values", "ratio", "expected"),
    [([], 0.95, None), ([7], 0.95, 7), (list(range(1, 21)), 0.95, 19), ([1, 2], 0.5, 1)],
)
def test_percentile_is_an_order_statistic(values: list[float], ratio: float, expected: float | None) -> None:
    assert load.percentile(values, ratio) == expected


@pytest.fixture
def fake_locust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes `python -m locust` run the given program instead."""

    def install(program: str) -> None:
        (tmp_path / "locust.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(load, "CHECKOUT", tmp_path)

    return install


def test_run_hands_over_the_directory_and_returns_lines_and_code(fake_locust, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LOCUST_USERS", "7")
    fake_locust(
        "import os, sys\n"
        "print(os.environ['DAIRYPERF_RUN_DIR'], 'LOCUST_USERS' in os.environ, sys.argv[1:])\n"
        "print('to stderr', file=sys.stderr)\nraise SystemExit(4)\n"
    )
    lines: list[str] = []
    assert load.run("locustfiles/x.py", tmp_path, tmp_path / "locust.log", lines.append) == 4
    assert lines == [f"{tmp_path} False ['-f', 'locustfiles/x.py', '--headless', '--only-summary']", "to stderr"]
    assert (tmp_path / "locust.log").read_text().splitlines() == lines


def test_run_that_hangs_is_ended(fake_locust, tmp_path: Path) -> None:
    fake_locust("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    pids: list[str] = []
    with pytest.raises(StackError, match="did not end within 1 s"):
        load.run("x.py", tmp_path, tmp_path / "locust.log", pids.append, limit_s=1)
    assert not os.path.exists(f"/proc/{pids[0]}")


def test_an_exception_in_the_caller_ends_the_child(fake_locust, tmp_path: Path) -> None:
    fake_locust("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    pids: list[str] = []

    def interrupt(line: str) -> None:
        pids.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load.run("x.py", tmp_path, tmp_path / "locust.log", interrupt)
    assert not os.path.exists(f"/proc/{pids[0]}")
