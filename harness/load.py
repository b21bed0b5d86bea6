"""Locust as a child process, the scenario it runs, and the arithmetic of its time: ramp-up, stages, limits."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from harness import CHECKOUT
from harness.errors import InputError, StackError
from harness.model import Scenario, Stage
from harness.scenario import parse as parse_scenario
from harness.services.process import die_with_parent, free_port
from harness.wire import TIMEOUT_S

RUN_DIR_VARIABLE = "DAIRYPERF_RUN_DIR"

# The stack is put back into the seeded state and warmed before the first user: seconds, or minutes of a large herd.
READY_TIMEOUT_S = 600.0
# After the last request is sent: its reply (or its time-out), and the greenlets that write it down.
DRAIN_TIMEOUT_S = TIMEOUT_S + 5
# Statistics views lag by a second, then every row is read and written.
SNAPSHOT_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = DRAIN_TIMEOUT_S + 15


def read_scenario(name: str) -> Scenario:
    """A scenario by its name in scenarios/, or by the path of a TOML file. Raises InputError."""
    path = Path(name) if name.endswith(".toml") else CHECKOUT / "scenarios" / f"{name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        known = ", ".join(sorted(file.stem for file in (CHECKOUT / "scenarios").glob("*.toml")))
        raise InputError(f"scenario {name}: {fault.strerror}; known are {known}, or give a .toml file") from fault
    return parse_scenario(text, str(path))


def ramp_up_s(scenario: Scenario) -> float:
    """Seconds from the first user to the last."""
    return scenario.users / scenario.spawn_rate_per_s


def load_s(scenario: Scenario) -> float:
    """Seconds from the first user to the end of new requests."""
    if scenario.load == "stages":
        return scenario.duration_s
    return ramp_up_s(scenario) + scenario.warmup_s + scenario.duration_s


def steady_s(run_time_s: float, scenario: Scenario) -> float:
    """The steady state that Locust's run time leaves after ramp-up and warm-up. Raises InputError when none is left."""
    before_s = ramp_up_s(scenario) + scenario.warmup_s
    if run_time_s <= before_s:
        raise InputError(
            f"--run-time: {run_time_s:g} s leaves no steady state after {ramp_up_s(scenario):g} s of ramp-up and "
            f"{scenario.warmup_s:g} s of warm-up; give more than {before_s:g}s"
        )
    return run_time_s - before_s


def users_at(stages: Iterable[Stage], elapsed_s: float) -> int:
    """Users that a ramp of stages wants at elapsed_s: linear within each stage, from 0; the last value afterwards."""
    users = 0
    for stage in stages:
        if elapsed_s < stage.duration_s:
            return round(users + (stage.users - users) * elapsed_s / stage.duration_s)
        elapsed_s -= stage.duration_s
        users = stage.users
    return users


def percentile(values: Sequence[float], ratio: float) -> float | None:
    """Exact order statistic (inverted CDF); None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(ratio * len(values)) - 1)]


def timeout_s(scenario: Scenario) -> float:
    """What a run of the scenario may take in all before it must be taken for hung."""
    return READY_TIMEOUT_S + load_s(scenario) + DRAIN_TIMEOUT_S + SNAPSHOT_TIMEOUT_S


def run(
    locustfile: str,
    run_dir: Path,
    log: Path,
    on_line: Callable[[str], None] = lambda line: None,
    limit_s: float = math.inf,
    workers: int = 0,
) -> int:
    """Run Locust headless on a prepared run directory until it ends; returns its exit code (see locust_plugin).

    Every line of its output goes to the file `log` and to on_line. Users, duration and the rest come from the run
    directory. workers: processes that generate the load; 0 = Locust's own one. Locust ends with this thread, however
    that ends; call from the main thread.
    StackError: it ran longer than limit_s seconds and was ended.
    """
    command = [sys.executable, "-m", "locust", "-f", locustfile, "--headless", "--only-summary"]
    if workers:
        port = str(free_port())
        command += ["--processes", str(workers), "--master-bind-host", "127.0.0.1"]
        command += ["--master-bind-port", port, "--master-port", port]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    environment |= {RUN_DIR_VARIABLE: str(run_dir), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=CHECKOUT,
        env=environment,
        start_new_session=True,  # Ctrl-C is ours: the child is asked to end, with time to record its last replies
        preexec_fn=die_with_parent(signal.SIGTERM),
    )
    overrun = threading.Event()

    def give_up() -> None:
        overrun.set()
        _end(process)

    watchdog = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), give_up)
    watchdog.daemon = True
    watchdog.start()
    assert process.stdout is not None
    with process.stdout as output, log.open("a", encoding="utf-8") as kept:
        try:
            for line in output:
                kept.write(line)
                kept.flush()
                on_line(line.rstrip("\n"))
            code = process.wait()
        finally:
            watchdog.cancel()
            _end(process)
            kept.writelines(output)
    if overrun.is_set():
        raise StackError(f"{log}: Locust did not end within {limit_s:.0f} s and was stopped; its last lines say where")
    return code


def _end(process: subprocess.Popen[str]) -> None:
    """SIGTERM, which lets it record what is in flight; SIGKILL when that takes too long."""
    if process.poll() is not None:
        return
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
