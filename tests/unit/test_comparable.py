from __future__ import annotations

import dataclasses
from typing import Any

import built_results as built
import pytest

from harness.comparable import differences

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
