"""Where a machine keeps its noise floors: $DAIRYPERF_HOME/noise/, one for each machine, data, versions and load."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from harness import rundir
from harness.comparable import Difference, differences
from harness.errors import InputError, StackError
from harness.model import NoiseFloor, RunMeta

REMEDY = "Measure one by ./dairyperf noise, with the same options"


def store(home: Path, floor: NoiseFloor) -> Path:
    """Keeps it, in place of an earlier one of the same conditions; returns its file. Raises StackError."""
    versions = {name: version for name, version in floor.versions.items() if name != "dairyperf"}
    conditions = [floor.profile, floor.host, floor.herd, versions, dataclasses.asdict(floor.scenario)]
    key = hashlib.sha256(json.dumps(conditions, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = home / "noise" / f"{key}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise StackError(
            f"{path.parent}: {fault.strerror}; set DAIRYPERF_HOME to a folder that can be written"
        ) from fault
    rundir.write_noise_floor(path, floor)
    return path


def read(home: Path, like: RunMeta) -> NoiseFloor | None:
    """The newest floor that was measured under the conditions of `like`, a run of its profile; None: see `why_none`."""
    fitting = [floor for floor in _stored(home)[0] if not unlike(floor, like)]
    return max(fitting, key=lambda floor: floor.measured_at, default=None)


def why_none(home: Path, like: RunMeta) -> str:
    """Why `read` found none: none is kept, or how the one that comes nearest differs."""
    floors, faults = _stored(home)
    if not floors:
        return "; ".join(["none was measured on this machine", *faults])
    nearest = min((unlike(floor, like) for floor in floors), key=len)
    return "; ".join([f"none of {len(floors)} fits, the nearest by {', '.join(map(str, nearest))}", *faults])


def unlike(floor: NoiseFloor, like: RunMeta) -> Sequence[Difference]:
    """What keeps the floor from being that of the run's conditions."""
    measured = dataclasses.replace(
        like,
        host=floor.host,
        versions=floor.versions,
        herd=floor.herd,
        scenario=floor.scenario,
        profile=floor.profile,
    )
    return differences(measured, like)


def _stored(home: Path) -> tuple[list[NoiseFloor], list[str]]:
    """Every floor that can be read, and what is wrong with the others."""
    floors, faults = [], []
    for path in sorted((home / "noise").glob("*.json")):
        try:
            floors.append(rundir.read_noise_floor(path))
        except InputError as fault:
            faults.append(str(fault))
    return floors, faults
