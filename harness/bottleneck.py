"""Names what a stack waits for at one load: rules with stated thresholds over the probes' series. Pure.

What was not measured is said; it never clears anybody.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Resource = Literal[
    "load generator", "Odoo CPU", "API CPU", "pool wait", "locks", "I/O", "PostgreSQL CPU", "host CPU", "none"
]
Series = Mapping[str, Sequence[tuple[float, float]]]

# A process with one core is saturated from here on: at 90 % utilisation an M/M/1 queue is ten service times long.
GENERATOR_CPU_PCT = 90.0
SATURATED_CORE_PCT = 85.0
HOST_CPU_PCT = 90.0
# A share of the backends that are at work which wait for the same kind of thing.
WAITING_PCT = 30.0
IOWAIT_PCT = 20.0
# Clients in a pool's queue, on average over the level: as many as a tenth of its links.
POOL_WAITING_RATIO = 0.1

_LOCK_WAITS = ("postgres.wait.Lock", "postgres.wait.LWLock", "postgres.wait.BufferPin")
_IO_WAITS = ("postgres.wait.IO",)
_RUNNING = ("postgres.wait.none", "postgres.wait.IPC", "postgres.wait.Timeout")


@dataclass(frozen=True, slots=True)
class Host:
    """odoo_workers: the processes that answer Odoo's requests, one core each; the API has one process."""

    cores: int
    odoo_workers: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule, held against one level. observed, limit: in `unit`; observed None = not measured. exceeded: whether
    this resource is short."""

    resource: Resource
    observed: float | None
    limit: float
    unit: str
    exceeded: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """resource: the first that is short, of the order in which one hides the next; "none" = no rule was met. findings:
    every rule, met or not. evidence: in words."""

    resource: Resource
    evidence: str
    findings: tuple[Finding, ...]


def name(series: Series, host: Host, from_s: float, to_s: float) -> Bottleneck:
    """What is short between from_s and to_s (seconds of the series' clock).

    series: as the probe's; cpu_pct.* in percent of one core, host.* in percent of all. The load generator comes first,
    because a saturated one says nothing of the stack. Locks and I/O come before pools and processors, as who holds a
    link while waiting makes others queue for it; a pool comes before PostgreSQL's CPU only while that is not saturated,
    since more links would not help it.
    """
    means = {
        key: statistics.fmean(values)
        for key, points in series.items()
        if (values := [value for at_s, value in points if from_s <= at_s < to_s])
    }
    findings = (
        _above("load generator", means.get("cpu_pct.load_generator"), GENERATOR_CPU_PCT, "% of a core"),
        _waits("locks", means, _LOCK_WAITS),
        _io(means),
        _processor("PostgreSQL CPU", "postgresql", means, host.cores),
        _pool(means),
        _processor("Odoo CPU", "odoo", means, min(host.odoo_workers, host.cores)),
        _processor("API CPU", "api", means, 1),
        _above("host CPU", means.get("host.cpu_pct"), HOST_CPU_PCT, "% of all cores"),
    )
    short = [finding for finding in findings if finding.exceeded]
    if not short:
        missing = [finding.resource for finding in findings if finding.observed is None]
        unknown = f"; not measured: {', '.join(missing)}" if missing else ""
        return Bottleneck("none", f"no resource was short{unknown}", findings)
    first = short[0]
    others = [finding.resource for finding in short[1:]]
    also = f"; also short: {', '.join(others)}" if others else ""
    return Bottleneck(first.resource, first.evidence + also, findings)


def _above(resource: Resource, observed: float | None, limit: float, unit: str) -> Finding:
    exceeded = observed is not None and observed >= limit
    figure = "not measured" if observed is None else f"{observed:.0f} {unit}, short from {limit:.0f}"
    return Finding(resource, observed, limit, unit, exceeded, f"{resource}: {figure}")


def _waits(resource: Resource, means: Mapping[str, float], kinds: Sequence[str]) -> Finding:
    """Of the backends that are at work, the share that waits for one of `kinds`. Idle ones wait for their client."""
    working = [*_LOCK_WAITS, *_IO_WAITS, *_RUNNING]
    if any(kind not in means for kind in kinds):
        return _above(resource, None, WAITING_PCT, "% of working backends")
    total = sum(means.get(kind, 0.0) for kind in working)
    # fewer than one backend at work on average: nobody stands in anybody's way
    share_pct = 100 * sum(means[kind] for kind in kinds) / total if total >= 1 else 0.0
    return _above(resource, share_pct, WAITING_PCT, "% of working backends")


def _io(means: Mapping[str, float]) -> Finding:
    backends = _waits("I/O", means, _IO_WAITS)
    host = _above("I/O", means.get("host.iowait_pct"), IOWAIT_PCT, "% of all cores waiting for disks")
    return host if host.exceeded and not backends.exceeded else backends


def _processor(resource: Resource, service: str, means: Mapping[str, float], cores: int) -> Finding:
    """CPU of a service against the cores that it can use; or, on a host that has none left, against all others."""
    used = means.get(f"cpu_pct.{service}")
    limit = SATURATED_CORE_PCT * cores
    finding = _above(resource, used, limit, f"% of a core, {cores} usable")
    rivals = [value for key, value in means.items() if key.startswith("cpu_pct.")]
    if used is None or finding.exceeded or means.get("host.cpu_pct", 0.0) < HOST_CPU_PCT or used < max(rivals):
        return finding
    evidence = f"{resource}: {used:.0f} % of a core, the most on a host {means['host.cpu_pct']:.0f} % busy"
    return replace(finding, exceeded=True, evidence=evidence)


def _pool(means: Mapping[str, float]) -> Finding:
    """The pool with the longest queue for its links."""
    waiting: dict[str, float] = {}
    for key, clients in means.items():
        if key.startswith("pool.") and key.endswith(".cl_waiting"):
            alias = key.removeprefix("pool.").removesuffix(".cl_waiting")
            links = means.get(f"pool.{alias}.sv_active", 0.0) + means.get(f"pool.{alias}.sv_idle", 0.0)
            waiting[alias] = clients / max(links, 1.0)
    if not waiting:
        return _above("pool wait", None, POOL_WAITING_RATIO, "clients waiting per link")
    alias = max(waiting, key=lambda name: waiting[name])
    finding = _above("pool wait", waiting[alias], POOL_WAITING_RATIO, "clients waiting per link")
    evidence = f"pool wait: {waiting[alias]:.2f} clients waiting per link of {alias}, short from {POOL_WAITING_RATIO:g}"
    return replace(finding, evidence=evidence)
