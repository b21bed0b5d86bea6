from __future__ import annotations

import dataclasses
from typing import Any

import built_results as built
import pytest

from harness.comparable import differences, unlike
from harness.model import Profile, RunMeta

META = built.result("day40").meta


@pytest.mark.parametrize(
    ("changed", "kind", "text"),
    [
        ({"host": {**META.host, "cpu_count": 64}}, "machine", "cpu_count"),
        ({"herd": {**META.herd, "seed": 99}}, "data", "seed"),
        ({"versions": {**META.versions, "odoo": "20.0"}}, "versions", "odoo"),
        ({"versions": {}}, "versions", "not recorded"),
        ({"profile": "day31"}, "load", "profile: day40, then day31"),
        ({"scenario": dataclasses.replace(META.scenario, users=7)}, "load", "users: 50, then 7"),
    ],
)
def test_what_keeps_two_runs_apart_is_named(changed: dict[str, Any], kind: str, text: str) -> None:
    found = differences(META, dataclasses.replace(META, **changed))

    assert {one.kind for one in found} == {kind}
    assert any(text in str(one) for one in found)


def test_limits_and_the_harness_own_commit_do_not() -> None:
    other = dataclasses.replace(
        META,
        run_id="another",
        versions={**META.versions, "dairyperf": "0123456789ab"},
        scenario=dataclasses.replace(META.scenario, thresholds=(), description="other words"),
    )

    assert differences(META, other) == ()


def of_profile(profile: Profile, run_id: str, **changes: Any) -> RunMeta:
    extra = {"pgbouncer": "1.18.0", "redis": "7.0.15"} if profile == "day40" else {}
    versions = {"postgresql": "16.14", "dairyperf": "cafe", **extra, **changes.pop("versions", {})}
    return dataclasses.replace(META, profile=profile, run_id=run_id, versions=versions, **changes)


def test_runs_of_one_benchmark_are_alike_though_their_profiles_have_other_services() -> None:
    runs = [of_profile("day31", "1"), of_profile("day40", "2"), of_profile("day40", "3"), of_profile("day31", "4")]
    assert unlike(runs) == ()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"host": {**META.host, "cpu_count": 64}}, "3: cpu_count: "),
        ({"herd": {**META.herd, "seed": 99}}, "3: seed: "),
        ({"versions": {"redis": "8.0"}}, "3: redis: 7.0.15, then 8.0"),
        ({"versions": {"dairyperf": "beef-dirty"}}, "3: dairyperf: cafe, then beef-dirty"),
        ({"scenario": dataclasses.replace(META.scenario, duration_s=5.0)}, "3: duration_s: 60.0, then 5.0"),
    ],
)
def test_a_run_from_elsewhere_is_named(changed: dict[str, Any], text: str) -> None:
    runs = [of_profile("day31", "1"), of_profile("day40", "2"), of_profile("day40", "3", **changed)]
    (found,) = unlike(runs)
    assert found.startswith(text)


def test_the_two_sides_are_held_against_each_other_too() -> None:
    (found,) = unlike([of_profile("day31", "1"), of_profile("day40", "2", versions={"postgresql": "17"})])
    assert found == "2: postgresql: 16.14, then 17"
