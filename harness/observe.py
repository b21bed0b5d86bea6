"""The process beside the load: resets the stack, takes the snapshots before and after, samples the servers in between.

Run by `harness.locust_plugin` as `python -m harness.observe RUN_DIR`, with JSON lines on its pipes:

    in   {"event": "steady", "at_us": …}                       the steady state begins: snapshot before
         {"event": "drained", "phases": {…}, "counts": {…}, "generator": {…}}   no request is under way: snapshot after
    out  {"event": "ready", "origin_monotonic_us": …}          the stack is reset and warm; the run's clock starts
         {"event": "observed"}                                 everything is saved

An end of standard input before `drained` ends it: the run is then marked failed, and what was sampled stays.
"""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import probe, reset, stack
from harness.errors import HarnessError, RunInvalid
from harness.model import Phases, RunMeta, StackAddresses
from harness.rundir import RunDir

SAMPLE_EVERY_S = 1.0
QUIET_S = 11.0  # an idle PostgreSQL backend reports its table statistics up to 10 s late

# Beyond these the generator's own queueing is part of every latency. CPU: Locust's own warning is at 90 % of a core.
GENERATOR_CPU_LIMIT_PCT = 90.0
GENERATOR_LAG_LIMIT_MS = 50.0


def observe(run: RunDir) -> None:
    """One run, from reset to the last snapshot. Raises HarnessError; the run directory then says why."""
    meta = run.read_meta()
    addresses = stack.read(meta.profile)
    with stack.reserved(meta.profile):
        _observe(run, meta, addresses)


def _observe(run: RunDir, meta: RunMeta, addresses: StackAddresses) -> None:
    reset.stack(addresses)
    origin_us = time.monotonic_ns() // 1000
    origin_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    _say({"event": "ready", "origin_monotonic_us": origin_us})
    with probe.Probes(addresses, load_generator=[os.getppid()]) as probes:

        def sample() -> None:
            run.append_probes(time.monotonic_ns() // 1000, probes.sample())

        drained: dict[str, Any] | None = None
        for message in _messages(sample):
            if message["event"] == "steady":
                run.write_snapshot("before", probe.snapshot(addresses))
            elif message["event"] == "drained":
                drained = message
                break
        if drained is None:
            raise RunInvalid("load: Locust ended before the run was drained; see locust.log")
        warnings = list(probes.warnings)
        if not probe.wait_for_quiet_statistics(addresses, QUIET_S):
            warnings.append("PostgreSQL did not fall quiet after the run: table statistics may lack the last seconds")
        run.write_snapshot("after", probe.snapshot(addresses))
    reasons = invalid_because(drained)
    run.write_meta(
        dataclasses.replace(
            meta,
            state="invalid" if reasons else "complete",
            ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
            phases=Phases(origin_at=origin_at, **drained["phases"]),
            counts={**drained["counts"], "generator": drained["generator"]},
            warnings=(*meta.warnings, *warnings),
            reasons=tuple(reasons),
        )
    )
    _say({"event": "observed"})


def invalid_because(drained: dict[str, Any]) -> list[str]:
    """Why the load itself cannot be trusted: requests lost or counted twice, or a saturated generator."""
    reasons = []
    sent, recorded, locust = (drained["counts"][name] for name in ("sent", "recorded", "locust"))
    for endpoint in sorted({*sent, *recorded, *locust}):
        counts = [counts.get(endpoint, 0) for counts in (sent, recorded, locust)]
        if len(set(counts)) != 1:
            reasons.append("{}: {} sent, {} in the samples, {} counted by Locust".format(endpoint, *counts))
    generator = drained["generator"]
    if (cpu_pct := generator.get("cpu_p95_pct")) is not None and cpu_pct > GENERATOR_CPU_LIMIT_PCT:
        reasons.append(
            f"load generator: {cpu_pct:.0f} % of a core, over {GENERATOR_CPU_LIMIT_PCT:.0f}; use fewer users"
        )
    if (lag_ms := generator.get("lag_p95_ms")) is not None and lag_ms > GENERATOR_LAG_LIMIT_MS:
        reasons.append(
            f"load generator: its loop ran {lag_ms:.0f} ms late (p95); end other programs or use fewer users"
        )
    return reasons


def _messages(between: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yields the messages of standard input; calls `between` every SAMPLE_EVERY_S while waiting."""
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    due = time.monotonic()
    buffer = b""
    while True:
        if selector.select(max(0.0, due - time.monotonic())):
            chunk = os.read(sys.stdin.fileno(), 1 << 16)
            if not chunk:
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
        if time.monotonic() >= due:
            between()
            due = max(due + SAMPLE_EVERY_S, time.monotonic())


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> int:
    run = RunDir(Path(sys.argv[1]))
    try:
        observe(run)
    except HarnessError as error:
        meta = run.read_meta()
        run.write_meta(
            dataclasses.replace(
                meta,
                state="invalid" if isinstance(error, RunInvalid) else "failed",
                reasons=(*meta.reasons, str(error)),
            )
        )
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
