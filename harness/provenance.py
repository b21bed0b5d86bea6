"""Writes down what a run is made with before it starts: scenario, host, versions, commit, data. Starts its run.json."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from harness import CHECKOUT, rundir, statements
from harness.model import RunMeta, Scenario, StackAddresses
from harness.rundir import RunDir


def begin(run: RunDir, scenario: Scenario, addresses: StackAddresses) -> None:
    """Writes the first run.json, state running, owned by the calling process."""
    run.write_meta(describe(run.path.name, scenario, addresses))


def describe(run_id: str, scenario: Scenario, addresses: StackAddresses) -> RunMeta:
    """What a run begins with that the calling process makes now."""
    pid, pid_started = rundir.this_process()
    queries = {file.stem: file.read_text() for file in sorted((CHECKOUT / "fixtures/queries").glob("*.sql"))}
    return RunMeta(
        schema_version=rundir.SCHEMA_VERSION,
        run_id=run_id,
        state="running",
        profile=addresses.profile,
        scenario=scenario,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ended_at=None,
        host=host(),
        versions={**addresses.versions, "locust": metadata.version("locust"), **commit()},
        herd={
            "head": addresses.herd,
            "seed": addresses.seed,
            "as_of": addresses.as_of,
            # proved by the reset alone
            "checksum": addresses.checksum if addresses.may_reset else None,
            "rows": dict(addresses.counts),
        },
        phases=None,
        counts=None,
        queries=statements.named_fingerprints(queries),
        warnings=(),
        reasons=(),
        pid=pid,
        pid_started=pid_started,
    )


def host() -> dict[str, Any]:
    """What the figures depend on. No host name and no user: reports are sent around."""
    return {
        "cpu_model": _cpu_model(),
        "cpu_count": psutil.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> dict[str, str]:
    """The checkout's commit, with "-dirty" when files differ from it; empty outside a repository."""
    # in a CI container the checkout may be another user's
    git = ["git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if head.returncode != 0:
        return {}
    return {"dairyperf": head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")}
