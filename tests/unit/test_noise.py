from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import built_results as built
import pytest

from harness import noise
from harness.model import NoiseFloor, RunMeta

META = built.result("day40").meta


def floor_of(meta: RunMeta, **changes: Any) -> NoiseFloor:
    floor = NoiseFloor(
        measured_at="2026-02-03T10:00:00+00:00",
        host=meta.host,
        versions=meta.versions,
        herd=meta.herd,
        profile=meta.profile,
        scenario=meta.scenario,
        pairs=10,
        floor_pct={"p50_ms": 3.25, "db_calls_per_request": 0.0},
    )
    return dataclasses.replace(floor, **changes)


def test_a_floor_survives_and_the_newest_of_its_conditions_is_used(tmp_path: Path) -> None:
    assert noise.read(tmp_path, META) is None
    assert noise.why_none(tmp_path, META) == "none was measured on this machine"
    first = floor_of(META)
    later = floor_of(META, measured_at="2026-03-01T10:00:00+00:00", versions={**META.versions, "dairyperf": "cafe"})
    path = noise.store(tmp_path, first)
    assert noise.read(tmp_path, META) == first
    assert noise.store(tmp_path, later) == path
    assert noise.read(tmp_path, META) == later


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"host": {**META.host, "cpu_count": 64}}, "cpu_count: 64, then"),
        ({"herd": {**META.herd, "head": 2550}}, "head: 2550, then"),
        ({"versions": {**META.versions, "postgresql": "17"}}, "postgresql: 17, then"),
        ({"scenario": dataclasses.replace(META.scenario, users=7)}, "users: 7, then 50"),
        ({"profile": "day31"}, "profile: day31, then day40"),
    ],
)
def test_one_of_other_conditions_is_not_used_and_why_is_said(
    tmp_path: Path, changed: dict[str, Any], text: str
) -> None:
    noise.store(tmp_path, floor_of(META, **changed))
    noise.store(tmp_path, floor_of(META, host={}, herd={}))  # further away
    assert noise.read(tmp_path, META) is None
    assert f"none of 2 fits, the nearest by {text}" in noise.why_none(tmp_path, META)


def test_a_damaged_one_is_named_and_hides_no_other(tmp_path: Path) -> None:
    noise.store(tmp_path, floor_of(META)).write_text("{")
    assert noise.read(tmp_path, META) is None
    assert "not valid JSON" in noise.why_none(tmp_path, META)
    noise.store(tmp_path, floor_of(META, scenario=dataclasses.replace(META.scenario, users=7)))
    noise.store(tmp_path, floor_of(META))
    assert noise.read(tmp_path, META) == floor_of(META)
