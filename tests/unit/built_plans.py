"""The plans kept in tests/data/plans: taken from a real server at 255 head, of some of the 20 queries."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from harness import plan, rundir
from harness.model import Profile, QueryPlans

FOLDER = Path(__file__).parents[1] / "data" / "plans"


@functools.cache
def documents(profile: Profile) -> dict[str, Any]:
    found = rundir.read_plans(FOLDER / profile)
    assert found is not None
    return found


@functools.cache
def plans(profile: Profile) -> QueryPlans:
    return plan.read(documents(profile))
