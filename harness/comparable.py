"""Whether two runs may be held against each other: the same machine, data, versions and load. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from harness.model import RunMeta

Kind = Literal["machine", "data", "versions", "load"]
# Limits judge a run and do not change it; the description is prose.
_NOT_LOAD = {"thresholds", "description", "strict", "abort_window_s"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same. before, after: as text."""

    kind: Kind
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what}: {self.before}, then {self.after}"


def differences(before: RunMeta, after: RunMeta) -> tuple[Difference, ...]:
    """Everything that keeps the second run's figures from being a fair comparison with the first's; empty = none.

    The harness's own commit is left out: it is what a pull request changes.
    """
    return (
        *_differing("machine", before.host, after.host),
        *_differing("data", before.herd, after.herd),
        *_differing("versions", _without_commit(before.versions), _without_commit(after.versions)),
        *_differing("load", _load(before), _load(after)),
    )


def of_one_benchmark(before: RunMeta, after: RunMeta) -> tuple[Difference, ...]:
    """As `differences`, between two runs of one benchmark or what they began with: the same commit made them too, but
    they may be of two profiles, of which each has services that the other lacks."""
    commits = (_commit(before), _commit(after))
    if before.profile != after.profile:
        shared = before.versions.keys() & after.versions.keys()
        before, after = (
            replace(one, profile="day40", versions={name: one.versions[name] for name in shared})
            for one in (before, after)
        )
    return (*differences(before, after), *_differing("versions", *commits))


def unlike(runs: Sequence[RunMeta]) -> tuple[str, ...]:
    """What keeps the runs of a benchmark from being taken together, each with the run's id; empty = nothing."""
    first_of = {run.profile: run for run in reversed(runs)}
    return tuple(
        f"{run.run_id}: {difference}"
        for run in runs
        for difference in of_one_benchmark(runs[0] if run is first_of[run.profile] else first_of[run.profile], run)
    )


def _differing(kind: Kind, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield Difference(kind, name, _text(old), _text(new))


def _text(value: object) -> str:
    return "not recorded" if value is None else str(value)


def _without_commit(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in versions.items() if name != "dairyperf"}


def _commit(meta: RunMeta) -> dict[str, str]:
    return {name: version for name, version in meta.versions.items() if name == "dairyperf"}


def _load(meta: RunMeta) -> dict[str, Any]:
    asked = {one.name: getattr(meta.scenario, one.name) for one in fields(meta.scenario)}
    return {"profile": meta.profile, **{name: value for name, value in asked.items() if name not in _NOT_LOAD}}
