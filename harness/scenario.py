"""Scenario files: TOML text to a checked `Scenario`, with every fault reported at once. Pure; opens no file."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast

from pydantic import TypeAdapter, ValidationError

from harness import threshold
from harness.errors import InputError
from harness.model import PROFILES, Profile, Scenario, Stage, Step, Threshold


class _Key(NamedTuple):
    """How one key is checked. low: the least value a number may have; above: it must exceed `low`."""

    type: type
    remedy: str
    default: object = None
    required: bool = False
    low: float = 0
    above: bool = False


_KEYS: Mapping[str, _Key] = {
    "name": _Key(str, 'write a name of a-z, 0-9, _ and -, such as name = "sustained"', required=True),
    "description": _Key(str, "write one sentence in quotes", default=""),
    "locustfile": _Key(
        str, 'write a path from the checkout, such as locustfile = "locustfiles/dairy_day.py"', required=True
    ),
    "load": _Key(
        str, 'write "closed" (a steady state), "stages" (a ramp) or "open" (an arrival rate)', default="closed"
    ),
    "users": _Key(int, "write a whole number of users, such as users = 50", low=1),
    "spawn_rate_per_s": _Key(float, "write users per second, such as 10", default=10.0, above=True),
    "think_time_s": _Key(float, "write seconds as a number, such as 1.0", default=1.0),
    "pacing_s": _Key(float, "write seconds as a number, such as 30", above=True),
    "arrivals": _Key(str, 'write "constant" or "poisson"', default="constant"),
    "rate_rps": _Key(float, "write arrivals per second, such as 50", above=True),
    "warmup_s": _Key(float, "write seconds as a number, such as 10", default=10.0),
    "duration_s": _Key(float, "write seconds as a number, such as 300", above=True),
    "seed": _Key(int, "write a whole number", default=1),
    "stages": _Key(list, "write [[stages]] tables with duration_s and users", default=()),
    "steps": _Key(list, "write [[steps]] tables with duration_s and rate_rps", default=()),
    "thresholds": _Key(list, "write a list of limits; [] judges nothing", required=True),
    "strict": _Key(bool, "write true or false", default=False),
    "check_one_in": _Key(int, "write how many replies there are for each that is parsed in full", default=200, low=1),
    "abort_window_s": _Key(float, "write seconds as a number, such as 30", above=True),
    "may_lose_workers": _Key(bool, "write true or false", default=False),
}
_STAGE_KEYS = {
    "duration_s": _Key(float, "write seconds as a number, such as 60", required=True, above=True),
    "users": _Key(int, "write a whole number of users", required=True),
}
_STEP_KEYS = {
    "duration_s": _Key(float, "write seconds as a number, such as 60", required=True, above=True),
    "rate_rps": _Key(float, "write arrivals per second, such as 50", required=True, above=True),
}
_LOADS = ("closed", "stages", "open")
# keys that belong to some load models only
_USED_BY: Mapping[str, tuple[str, ...]] = {
    "stages": ("stages",),
    "think_time_s": ("closed", "stages"),
    "pacing_s": ("closed", "stages"),
    "arrivals": ("open",),
    "rate_rps": ("open",),
    "steps": ("open",),
}
# what the stages themselves decide
_FOLLOWS_STAGES = ("users", "spawn_rate_per_s", "warmup_s", "duration_s")
_OF_ARRIVALS = ("late_arrival_ratio", "dropped_arrival_ratio")
_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", list: "a list", bool: "true or false"}


def parse(text: str, source: str) -> Scenario:
    """The scenario that `text` writes; `source` is how errors name the file.

    Raises one InputError that lists every fault, each with key, value and remedy.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise InputError(f"{source}: not valid TOML: {fault}; correct the syntax at that place") from None
    faults: list[str] = []
    values = _checked(table, _KEYS, "", faults)
    load = values["load"]
    stages = _stages(values["stages"] or (), faults)
    steps = tuple(Step(**leg) for leg in _legs("steps", values["steps"] or (), _STEP_KEYS, faults))
    limits = _thresholds(values["thresholds"] or (), faults)
    _check_text(table, values, faults)
    _check_load(table, load, faults)
    if len(limits) == len(values["thresholds"] or ()):
        faults += _limit_faults(load, values["abort_window_s"], limits)
    if faults:
        raise InputError(
            f"{source}: {len(faults)} fault{'s' if len(faults) > 1 else ''}\n" + "\n".join(f"  {f}" for f in faults)
        )
    rate_rps = values.pop("rate_rps")
    if load == "stages":
        values |= _ramp(stages)
    elif load == "open":
        steps = steps or (Step(values["duration_s"], rate_rps),)
        values["duration_s"] = math.fsum(step.duration_s for step in steps)
    if load == "open" or values["pacing_s"] is not None:
        values["think_time_s"] = 0.0
    return Scenario(**(values | {"stages": stages, "steps": steps, "thresholds": limits}))


def override(
    scenario: Scenario,
    users: int | None = None,
    duration_s: float | None = None,
    thresholds: Sequence[str] = (),
    abort_window_s: float | None = None,
) -> Scenario:
    """`scenario` with what the command line says instead. A threshold replaces all those of the same metric and keeps
    their profiles, if they agree; else it is added. Raises InputError."""
    if scenario.load == "stages" and (users is not None or duration_s is not None):
        raise InputError(f"scenario {scenario.name}: users and duration follow its stages; edit the stages instead")
    if len(scenario.steps) > 1 and duration_s is not None:
        raise InputError(f"scenario {scenario.name}: its duration follows its steps; edit the steps instead")
    if users is not None and users < 1:
        raise InputError(f"users: {users} is too few; give 1 or more")
    if duration_s is not None and not 0 < duration_s < math.inf:
        raise InputError(f"duration: {duration_s} s is no steady state; give more than 0 s")
    if abort_window_s is not None and not 0 < abort_window_s < math.inf:
        raise InputError(f"abort window: {abort_window_s} s holds no request; give more than 0 s")
    given = tuple(_with_profiles(threshold.parse(text), scenario.thresholds) for text in thresholds)
    replaced = {limit.metric for limit in given}
    limits = tuple(limit for limit in scenario.thresholds if limit.metric not in replaced) + given
    window_s = scenario.abort_window_s if abort_window_s is None else abort_window_s
    if found := _limit_faults(scenario.load, window_s, limits):
        raise InputError(f"scenario {scenario.name}: {'; '.join(found)}")
    steps = scenario.steps
    if steps and duration_s is not None:
        steps = (dataclasses.replace(steps[0], duration_s=duration_s),)
    return dataclasses.replace(
        scenario,
        users=scenario.users if users is None else users,
        duration_s=scenario.duration_s if duration_s is None else duration_s,
        steps=steps,
        thresholds=limits,
        abort_window_s=window_s,
    )


def _with_profiles(limit: Threshold, existing: Sequence[Threshold]) -> Threshold:
    scopes = {old.profiles for old in existing if old.metric == limit.metric}
    return dataclasses.replace(limit, profiles=scopes.pop()) if len(scopes) == 1 else limit


def to_json(scenario: Scenario) -> dict[str, Any]:
    """Plain JSON values, as run.json holds them."""
    return cast(dict[str, Any], TypeAdapter(Scenario).dump_python(scenario, mode="json"))


def from_json(mapping: Mapping[str, Any]) -> Scenario:
    """The inverse of `to_json`. Raises InputError."""
    try:
        return TypeAdapter(Scenario).validate_python(mapping)
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"scenario: {place}: {first['msg']}; the run's file was edited or is damaged") from None


def _checked(table: Mapping[str, Any], keys: Mapping[str, _Key], prefix: str, faults: list[str]) -> dict[str, Any]:
    """Every known key with its value, its default, or None where a fault was noted."""
    for name in table.keys() - keys.keys():
        near = get_close_matches(name, keys, n=1)
        remedy = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(keys)}"
        faults.append(f"{prefix}{name}: unknown key; {remedy}")
    faults.sort()
    values: dict[str, Any] = {}
    for name, key in keys.items():
        values[name] = key.default
        if name not in table:
            if key.required:
                faults.append(f"{prefix}{name}: missing; {key.remedy}")
        elif (fault := _value_fault(table[name], key)) is not None:
            faults.append(f"{prefix}{name}: {table[name]!r} {fault}; {key.remedy}")
            values[name] = None
        else:
            values[name] = float(table[name]) if key.type is float else table[name]
    return values


def _value_fault(value: object, key: _Key) -> str | None:
    accepted = (int, float) if key.type is float else key.type
    # bool is a subclass of int, and `users = true` is no number of users
    if not isinstance(value, accepted) or (isinstance(value, bool) and key.type is not bool):
        return f"is not {_TYPE_NAMES[key.type]}"
    if key.type in (int, float):
        number = cast(float, value)
        if not math.isfinite(number):
            return "is not finite"
        if number < key.low or (key.above and number == key.low):
            return f"is too small (must be {'above' if key.above else 'at least'} {key.low:g})"
    return None


def _check_text(table: Mapping[str, Any], values: Mapping[str, Any], faults: list[str]) -> None:
    if isinstance(name := table.get("name"), str) and not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        # the name becomes part of the run directory's name
        faults.append(f"name: {name!r} cannot name a folder; {_KEYS['name'].remedy}")
    path = PurePosixPath(values["locustfile"] or "x.py")
    if path.suffix != ".py" or path.is_absolute() or ".." in path.parts:
        faults.append(
            f"locustfile: {values['locustfile']!r} is not a .py file of the checkout; {_KEYS['locustfile'].remedy}"
        )


def _check_load(table: Mapping[str, Any], load: object, faults: list[str]) -> None:
    if load not in _LOADS:
        if load is not None:
            faults.append(f"load: {load!r} is no load model; {_KEYS['load'].remedy}")
        return
    faults += [
        f'{name}: unused while load = "{load}"; remove it or write load = "{loads[0]}"'
        for name, loads in _USED_BY.items()
        if name in table and load not in loads
    ]
    required = {"closed": ("users", "duration_s"), "stages": (), "open": ("users",)}[load]
    if load == "stages":
        if not table.get("stages"):
            faults.append(f'stages: missing while load = "stages"; {_KEYS["stages"].remedy}')
        faults += [
            f'{name}: follows from the stages when load = "stages"; remove it'
            for name in _FOLLOWS_STAGES
            if name in table
        ]
    elif load == "open":
        required += () if "steps" in table else ("rate_rps", "duration_s")
        _check_rate(table, faults)
    if table.get("may_lose_workers") is True and (
        load == "open" or "pacing_s" in table or table.get("think_time_s") == 0
    ):
        faults.append(
            "may_lose_workers: only think_time_s above 0 bounds what is lost with a worker; remove it, or pace by that"
        )
    if load != "open" and "pacing_s" in table and "think_time_s" in table:
        faults.append("pacing_s: given beside think_time_s; keep the one that spaces the requests")
    faults += [f"{name}: missing; {_KEYS[name].remedy}" for name in required if name not in table]


def _check_rate(table: Mapping[str, Any], faults: list[str]) -> None:
    arrivals = table.get("arrivals", "constant")
    if isinstance(arrivals, str) and arrivals not in ("constant", "poisson"):
        faults.append(f"arrivals: {arrivals!r} is no way to arrive; {_KEYS['arrivals'].remedy}")
    if "steps" not in table:
        return
    if table["steps"] == []:
        faults.append(f"steps: empty; {_KEYS['steps'].remedy}, or rate_rps and duration_s")
    if "rate_rps" in table:
        faults.append("rate_rps: given beside steps; keep one of them")
    if "duration_s" in table:
        faults.append("duration_s: follows from the steps; remove it")


def _limit_faults(load: object, abort_window_s: float | None, limits: Sequence[Threshold]) -> list[str]:
    """What is wrong with limits that are right each by itself."""
    found = [
        f'thresholds: {limit.text!r} judges arrivals, and only load = "open" has a schedule of them; remove it'
        for limit in limits
        if limit.metric in _OF_ARRIVALS and load in ("closed", "stages")
    ]
    if abort_window_s is not None and not any(threshold.on_samples(limit) for limit in limits):
        found.append('abort_window_s: no limit is on samples, so that none can break; add one, such as "p95_ms < 200"')
    return found


def _stages(tables: Sequence[object], faults: list[str]) -> tuple[Stage, ...]:
    stages = tuple(Stage(**leg) for leg in _legs("stages", tables, _STAGE_KEYS, faults))
    if stages and len(stages) == len(tables) and not any(stage.users for stage in stages):
        faults.append("stages: none has users; give one of them users = 1 or more")
    return stages


def _legs(
    key: str, tables: Sequence[object], keys: Mapping[str, _Key], faults: list[str]
) -> Iterator[Mapping[str, Any]]:
    """The values of each faultless table under `key`."""
    for number, table in enumerate(tables, start=1):
        place = f"{key}[{number}]"
        if not isinstance(table, dict):
            faults.append(f"{place}: {table!r} is not a table; {_KEYS[key].remedy}")
            continue
        found: list[str] = []
        values = _checked(table, keys, f"{place}.", found)
        faults += found
        if not found:
            yield values


def _ramp(stages: Sequence[Stage]) -> dict[str, Any]:
    starts = (0, *(stage.users for stage in stages[:-1]))
    slopes = [abs(stage.users - start) / stage.duration_s for start, stage in zip(starts, stages, strict=True)]
    return {
        "users": max(stage.users for stage in stages),
        "spawn_rate_per_s": max(slopes),
        "warmup_s": 0.0,
        "duration_s": math.fsum(stage.duration_s for stage in stages),
    }


def _thresholds(entries: Sequence[object], faults: list[str]) -> tuple[Threshold, ...]:
    limits: list[Threshold] = []
    for number, entry in enumerate(entries, start=1):
        place = f"thresholds[{number}]"
        try:
            limit = _threshold(entry, place)
        except InputError as fault:
            faults.append(f"{place}: {fault}" if not str(fault).startswith(place) else str(fault))
            continue
        if limit in limits:
            faults.append(f"{place}: {limit.text!r} is written twice; remove one")
        limits.append(limit)
    return tuple(limits)


def _threshold(entry: object, place: str) -> Threshold:
    if isinstance(entry, str):
        return threshold.parse(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("limit"), str) or entry.keys() - {"limit", "profiles"}:
        raise InputError(
            f"{place}: {entry!r} is no limit; "
            'write "p95_ms < 200" or { limit = "redis_hit_pct > 85", profiles = ["day40"] }'
        )
    profiles = entry.get("profiles", [])
    if not isinstance(profiles, list) or not all(profile in PROFILES for profile in profiles):
        raise InputError(f"{place}.profiles: {profiles!r} is no list of profiles; use {' and '.join(PROFILES)}")
    return dataclasses.replace(
        threshold.parse(entry["limit"]), profiles=cast(tuple[Profile, ...], tuple(sorted(set(profiles))))
    )
