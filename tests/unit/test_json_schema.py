"""The published schemas describe what is written: every file's keys, all the way down, and no others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import built_results as built
import pytest

from harness import baseline, cli, rundir
from harness.model import Baseline
from harness.rundir import BenchmarkDir, RunDir


def undescribed(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], place: str = "") -> list[str]:
    """Places in `value` that `schema` does not allow, as far as the harness's schemas go: objects with properties,
    maps, tuples, unions and plain values."""
    if "$ref" in schema:
        return undescribed(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, place)
    if "anyOf" in schema:
        faults = [undescribed(value, one, root, place) for one in schema["anyOf"]]
        return min(faults, key=len) if all(faults) else []
    if "enum" in schema or "const" in schema:
        return [] if value in schema.get("enum", [schema.get("const")]) else [f"{place}: {value!r}"]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    kind = schema.get("type")
    if kind == "null":
        return [] if value is None else [f"{place}: {value!r} is not null"]
    if kind is None:
        return []
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{place}: {value!r} is no {kind}"]
    if kind == "array":
        items = schema.get("items", {})
        return [fault for i, one in enumerate(value) for fault in undescribed(one, items, root, f"{place}[{i}]")]
    if kind != "object":
        return []
    named, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    faults = [f"{place}.{name}: missing" for name in schema.get("required", ()) if name not in value]
    for name, one in value.items():
        if name in named:
            faults += undescribed(one, named[name], root, f"{place}.{name}")
        elif isinstance(others, dict):
            faults += undescribed(one, others, root, f"{place}.{name}")
        elif named:
            faults.append(f"{place}.{name}: not described")
    return faults


@pytest.fixture
def files(tmp_path) -> dict[str, Any]:
    run, result = RunDir(tmp_path), built.result("day40")
    held = Baseline(rundir.SCHEMA_VERSION, (baseline.of_run(result),), baseline.DEFAULT_LIMITS, False, {"p95_ms": 4.5})
    run.write_meta(result.meta)
    run.write_baseline(held)
    run.write_verdicts((*result.verdicts, *baseline.evaluate(held, result.meta, result.metrics)))
    assert run.read_baseline() == held
    BenchmarkDir(tmp_path).write(built.quick_benchmark())
    return {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in rundir.JSON_FILES}


@pytest.mark.parametrize("name", ["run", "verdicts", "benchmark", "baseline"])
def test_what_is_written_is_what_the_schema_describes(files, name, capsys):
    assert cli.main(["schema", name]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert undescribed(files[name], schema, schema) == []
    assert undescribed({**files[name], "schema_version": "2"}, schema, schema) == [".schema_version: '2' is no integer"]
    assert undescribed({}, schema, schema)
