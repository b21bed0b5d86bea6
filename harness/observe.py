"""The process beside the load: resets the stack, takes the snapshots before and after, samples the servers in between,
judges what is measured while it goes on.

Run by `harness.locust_plugin` as `python -m harness.observe RUN_DIR`, with JSON lines on its pipes:

    in   {"event": "steady", "at_us": …, "end_us": …}          the steady state begins (its end, if known): snapshot
         {"event": "live", "dropped": {endpoint: n}}           somebody looks: judge what was measured so far; dropped:
                                                               arrivals of an open load, may be left out
         {"event": "broken", "reason": …, "exit_code": …}      the load cannot go on, or not be trusted
         {"event": "drained", "phases": {…}, "counts": {…}, "aborted": …, "reasons": […], "warnings": […]}
                                                               no request is under way: snapshot. counts as in RunMeta;
                                                               aborted: the limit that ended the load early, or null;
                                                               reasons, warnings: why the load is known to be invalid
                                                               or in doubt
    out  {"event": "ready", "origin_monotonic_us": …}          the stack is reset and warm; the run's clock starts
         {"event": "live", …}                                  the answer, as `Live.answer` gives it
         {"event": "abort", "limit": …}                        once: a limit failed over the scenario's abort window
         {"event": "observed"}                                 everything is saved

An end of standard input before `drained` ends it: the run is then marked failed, and what was sampled stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import selectors
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from harness import odoo_log, plans, probe, reset, server_log, stack, statement_log
from harness.errors import HarnessError, RunInvalid, StackError
from harness.live import Live
from harness.model import Phases, Profile, RunMeta, Scenario, Snapshot, StackAddresses
from harness.rundir import RunDir

SAMPLE_EVERY_S = 1.0
QUIET_S = 11.0  # an idle PostgreSQL backend reports its table statistics up to 10 s late

# Beyond these the generator's own queueing is part of every latency. CPU: Locust's own warning is at 90 % of a core.
GENERATOR_CPU_LIMIT_PCT = 90.0
GENERATOR_LAG_LIMIT_MS = 50.0
# A share: what is left is for replies that take longer than they did so far.
GENERATOR_FDS_LIMIT_RATIO = 0.9
_HEALTH = ("cpu_p95_pct", "lag_p95_ms", "fds_max", "fds_limit")


def observe(run: RunDir) -> None:
    """One run, from reset to the last snapshot. Raises HarnessError; the run directory then says why."""
    meta = run.read_meta()
    addresses = stack.read(meta.profile)
    with stack.reserved(meta.profile):
        _observe(run, meta, addresses)


def _observe(run: RunDir, meta: RunMeta, addresses: StackAddresses) -> None:
    reset.check_may_write(addresses)
    if addresses.may_reset:
        reset.stack(addresses)
    else:
        reset.warm(addresses)
    origin_us = time.monotonic_ns() // 1000
    origin_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    _say({"event": "ready", "origin_monotonic_us": origin_us})
    with probe.Probes(addresses, load_generator=[os.getppid()]) as probes:
        live = Live(run, meta, origin_us, probes.snapshot, lambda: time.monotonic_ns() // 1000 - origin_us)
        aborted = False
        odoo_log_start: int | None = None

        def sample() -> None:
            nonlocal aborted
            run.append_probes(time.monotonic_ns() // 1000, probes.sample())
            if not aborted and (limit := live.broken_limit()) is not None:
                aborted = True
                _say({"event": "abort", "limit": limit})

        before: Snapshot | None = None
        drained: dict[str, Any] | None = None
        logged = _Logged(addresses, run)
        for message in _messages(sample):
            match message["event"]:
                case "steady":
                    odoo_log_start = probe.odoo_log_bytes(addresses)
                    before = probe.snapshot(addresses)
                    run.write_snapshot("before", before)
                    live.count_from(message["at_us"], message.get("end_us"), before)
                    logged.begin(before)
                case "live":
                    _say({"event": "live", **live.answer(message.get("dropped"))})
                case "broken":
                    error = RunInvalid if message["exit_code"] == RunInvalid.exit_code else StackError
                    raise error(message["reason"])
                case "drained":
                    drained = message
                    break
        if drained is None:
            raise RunInvalid("load: Locust ended before the run was drained; see locust.log")
        warnings = [*([] if addresses.may_reset else [reset.NOT_RESET]), *probes.warnings]
        if not probe.wait_for_quiet_statistics(addresses, QUIET_S):
            warnings.append("PostgreSQL did not fall quiet after the run: table statistics may lack the last seconds")
        after = probe.snapshot(addresses)
        run.write_snapshot("after", after)
        warnings += logged.keep(after)
        access_log = None if odoo_log_start is None else probe.odoo_log_since(addresses, odoo_log_start)
        if access_log is not None:
            run.write_odoo_requests(odoo_log.parse(access_log))
    if before is not None:
        warnings += plans.take(run, addresses, before, after, meta.queries)
    reasons = invalid_because(drained, meta.scenario, meta.profile)
    run.write_meta(
        dataclasses.replace(
            meta,
            state="invalid" if reasons else "complete",
            ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
            phases=Phases(origin_at=origin_at, **drained["phases"]),
            counts=drained["counts"],
            warnings=(*meta.warnings, *warnings, *doubts(drained)),
            reasons=tuple(reasons),
            aborted=drained["aborted"],
        )
    )
    _say({"event": "observed"})


class _Logged:
    """The server's statement log between the snapshots; what of it cannot be had is a warning, never a fault."""

    def __init__(self, addresses: StackAddresses, run: RunDir) -> None:
        self._addresses, self._run = addresses, run
        self._start: server_log.Position | None = None
        self._sampling: tuple[float | None, float | None] = (None, None)
        self._warnings: list[str] = []

    def begin(self, before: Snapshot) -> None:
        """Notes where the log ends now."""
        with self._warned():
            self._sampling = statement_log.sampling(before.postgres["settings"])
            self._start = server_log.position(self._admin_dsn())

    def keep(self, after: Snapshot) -> list[str]:
        """Saves what was logged since `begin`; the warnings."""
        if self._start is not None:
            with self._warned():
                self._save(self._start, after)
        return self._warnings

    def _admin_dsn(self) -> str:
        if self._addresses.admin_dsn is None:
            raise StackError("postgresql: its log cannot be read, the stack's file names no admin_dsn; add one")
        return self._addresses.admin_dsn

    def _save(self, start: server_log.Position, after: Snapshot) -> None:
        if statement_log.sampling(after.postgres["settings"]) != self._sampling:
            raise StackError("postgresql: the statement log's settings changed during the run; leave them alone")
        lines = server_log.since(self._admin_dsn(), start)
        self._run.write_statement_log(statement_log.read(lines, self._addresses.database, *self._sampling))

    @contextlib.contextmanager
    def _warned(self) -> Iterator[None]:
        try:
            yield
        except StackError as fault:
            self._warnings.append(f"{fault}; query_p95_ms and slow statements have no data")


def invalid_because(drained: Mapping[str, Any], asked: Scenario, profile: Profile) -> list[str]:
    """Why the load itself cannot be trusted: requests lost or counted twice, arrivals left out, a saturated generator;
    what the load generator found out itself comes first."""
    counts = drained["counts"]
    reasons = list(drained["reasons"])
    differing = _differing(counts)
    unexplained = sum(max(one) - min(one) for one in differing.values())
    if unexplained > _may_be_missing(counts, asked):
        reasons += [
            "{}: {} sent, {} in the samples, {} counted by Locust".format(endpoint, *one)
            for endpoint, one in differing.items()
        ]
    dropped = sum(counts["dropped"].values())
    if dropped and not any(
        limit.metric == "dropped_arrival_ratio" and (not limit.profiles or profile in limit.profiles)
        for limit in asked.thresholds
    ):
        reasons.append(
            f"{dropped} arrivals were dropped: all {asked.users} users were busy; give more users, or judge it by a "
            'limit such as "dropped_arrival_ratio < 0.01"'
        )
    return reasons + _saturated(counts)


def doubts(drained: Mapping[str, Any]) -> list[str]:
    """What readers must know even of a load that is valid; what the load generator found out itself comes first."""
    counts = drained["counts"]
    found = list(drained["warnings"])
    found += [
        f"{endpoint}: {wrong} of {counts['checked'].get(endpoint, 0)} replies compared with the seed were wrong; "
        "they count as failures"
        for endpoint, wrong in sorted(counts["wrong"].items())
        if wrong
    ]
    if drained["aborted"] is not None:
        found.append(f"the load was ended early: {drained['aborted']}; figures are of what was measured until then")
    return found


def _differing(counts: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Endpoint -> (sent, recorded, counted by Locust), of those where the three are not the same."""
    kinds = [counts[name] for name in ("sent", "recorded", "locust")]
    each = {name: tuple(kind.get(name, 0) for kind in kinds) for name in sorted({*kinds[0], *kinds[1], *kinds[2]})}
    return {name: cast(tuple[int, int, int], one) for name, one in each.items() if len(set(one)) > 1}


def _may_be_missing(counts: Mapping[str, Any], asked: Scenario) -> float:
    """By how much the three counts may differ: not at all, or by what died with workers that may be lost."""
    lost = [worker["missing_at_most"] for worker in counts["workers"].values() if worker["lost"]]
    if not lost or not asked.may_lose_workers:
        return 0
    return math.inf if None in lost else sum(lost)


def _saturated(counts: Mapping[str, Any]) -> list[str]:
    """The processes that generated load and were too busy for it, or never measured, with what to do."""
    reasons = []
    workers, health_of = counts["workers"], counts["generator"]
    if not health_of and sum(counts["sent"].values()):
        reasons.append("load generator: its CPU, loop lag and open files were never measured; give it a longer run")
    for name in sorted({*workers, *health_of}):
        worker = workers.get(name)
        if worker is not None and (worker["lost"] or not worker["samples"]):
            continue
        place, health = f"load generator {name}", {**dict.fromkeys(_HEALTH), **health_of.get(name, {})}
        if missing := [figure for figure in _HEALTH if health[figure] is None]:
            reasons.append(f"{place}: {', '.join(missing)} never measured; give it a longer run")
        if (cpu_pct := health["cpu_p95_pct"]) is not None and cpu_pct > GENERATOR_CPU_LIMIT_PCT:
            reasons.append(
                f"{place}: {cpu_pct:.0f} % of a core (p95), over {GENERATOR_CPU_LIMIT_PCT:.0f}; use --workers N, more "
                "workers or fewer users"
            )
        if (lag_ms := health["lag_p95_ms"]) is not None and lag_ms > GENERATOR_LAG_LIMIT_MS:
            reasons.append(
                f"{place}: its loop ran {lag_ms:.0f} ms late (p95), over {GENERATOR_LAG_LIMIT_MS:.0f}; end other "
                "programs, use --workers N, more workers or fewer users"
            )
        fds, limit = health["fds_max"], health["fds_limit"]
        # RLIM_INFINITY is -1
        if fds is not None and limit is not None and limit > 0 and fds > GENERATOR_FDS_LIMIT_RATIO * limit:
            reasons.append(
                f"{place}: {fds} of {limit} open files; raise the limit (ulimit -n), use --workers N, more workers or "
                "fewer users"
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
    # who listened may be gone; the end of standard input, which is read next, says so better
    with contextlib.suppress(BrokenPipeError):
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
