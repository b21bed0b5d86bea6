"""Each bottleneck is named from series in which it alone, or with those that it causes, is short."""

from __future__ import annotations

import pytest

from harness.bottleneck import Host, Resource, name

HOST = Host(cores=4, odoo_workers=4)
QUIET = {
    "cpu_pct.load_generator": 30.0,
    "cpu_pct.odoo": 120.0,
    "cpu_pct.api": 20.0,
    "cpu_pct.postgresql": 60.0,
    "host.cpu_pct": 55.0,
    "host.iowait_pct": 1.0,
    "pool.smart_dairy.cl_waiting": 0.0,
    "pool.smart_dairy.sv_active": 4.0,
    "pool.smart_dairy.sv_idle": 16.0,
    "postgres.wait.Lock": 0.0,
    "postgres.wait.LWLock": 0.1,
    "postgres.wait.BufferPin": 0.0,
    "postgres.wait.IO": 0.1,
    "postgres.wait.none": 2.0,
    "postgres.wait.Client": 30.0,
}


def series(**changes: float) -> dict[str, list[tuple[float, float]]]:
    """Every probe once a second for ten seconds, and five more after the level in which everything is short."""
    values = QUIET | {key.replace("__", "."): value for key, value in changes.items()}
    return {key: [(float(s), value if s < 10 else 1e4) for s in range(15)] for key, value in values.items()}


@pytest.mark.parametrize(
    ("resource", "changes"),
    [
        ("none", {}),
        ("load generator", {"cpu_pct__load_generator": 97.0, "cpu_pct__odoo": 390.0}),
        ("locks", {"postgres__wait__Lock": 6.0, "pool__smart_dairy__cl_waiting": 9.0}),
        ("I/O", {"postgres__wait__IO": 4.0}),
        ("I/O", {"host__iowait_pct": 35.0}),
        ("PostgreSQL CPU", {"cpu_pct__postgresql": 350.0, "pool__smart_dairy__cl_waiting": 9.0}),
        ("pool wait", {"pool__smart_dairy__cl_waiting": 9.0}),
        ("Odoo CPU", {"cpu_pct__odoo": 385.0, "host__cpu_pct": 98.0}),
        ("API CPU", {"cpu_pct__api": 96.0}),
        ("PostgreSQL CPU", {"cpu_pct__postgresql": 200.0, "host__cpu_pct": 98.0}),
        ("Odoo CPU", {"cpu_pct__odoo": 200.0, "host__cpu_pct": 98.0}),
        ("host CPU", {"cpu_pct__redis": 200.0, "host__cpu_pct": 98.0}),
    ],
)
def test_what_is_short_is_named(resource: Resource, changes: dict[str, float]) -> None:
    found = name(series(**changes), HOST, 0, 10)
    assert found.resource == resource
    assert found.evidence.startswith(resource if resource != "none" else "no resource was short")
    assert [finding.exceeded for finding in found.findings].count(True) >= (resource != "none")


def test_what_else_is_short_is_said() -> None:
    found = name(series(postgres__wait__Lock=6.0, pool__smart_dairy__cl_waiting=9.0), HOST, 0, 10)
    assert found.evidence == "locks: 74 % of working backends, short from 30; also short: pool wait"


def test_waits_of_less_than_one_backend_are_nobodys() -> None:
    assert name(series(postgres__wait__Lock=0.5, postgres__wait__none=0.2), HOST, 0, 10).resource == "none"


def test_the_pool_with_the_longest_queue_is_named() -> None:
    found = name(series(pool__smart_dairy_api__cl_waiting=3.0, pool__smart_dairy_api__sv_active=5.0), HOST, 0, 10)
    assert found.evidence == "pool wait: 0.60 clients waiting per link of smart_dairy_api, short from 0.1"


def test_what_was_not_measured_clears_nobody() -> None:
    found = name({"cpu_pct.odoo": [(1.0, 100.0)]}, HOST, 0, 10)
    assert found.resource == "none"
    missing = "load generator, locks, I/O, PostgreSQL CPU, pool wait, API CPU, host CPU"
    assert found.evidence == f"no resource was short; not measured: {missing}"


def test_one_worker_of_odoo_can_use_one_core() -> None:
    assert name(series(cpu_pct__odoo=95.0), Host(cores=4, odoo_workers=1), 0, 10).resource == "Odoo CPU"
