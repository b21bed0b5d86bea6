from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from harness import probe


def test_metrics_are_read_by_name_and_labels() -> None:
    text = '# TYPE hits_total counter\nhits_total 3\n\ncalls_total{query="a b",x="}"} 1.5e3 1700000000000\nup NaN\n'
    found = probe.parse_metrics(text)
    assert found["hits_total"] == 3
    assert found['calls_total{query="a b",x="}"}'] == 1500
    assert "up" not in found


@pytest.mark.parametrize("line", ["<html>", "hits_total", "hits_total three", "9lives 1"])
def test_what_is_no_metric_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"no sample|could not convert"):
        probe.parse_metrics(line)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("9736646"), 9736646),
        (Decimal("1.5"), 1.5),
        (datetime(2026, 2, 3, tzinfo=UTC), "2026-02-03T00:00:00+00:00"),
        (timedelta(minutes=1), 60.0),
        ([Decimal(1), None], [1, None]),
        (float("nan"), None),
        (True, True),
    ],
)
def test_values_of_a_snapshot_survive_json(value: Any, expected: Any) -> None:
    assert json.loads(json.dumps(probe._json_value(value))) == expected


def test_processes_are_summed_over_the_tree_with_children_that_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {burn!r}])
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print("ready", flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        figures = probe.processes({"service": process.pid, "gone": 2**22 + 1})
        process.communicate(b"\n")
    assert set(figures) == {"service"}
    assert figures["service"]["cpu_s"] >= 0.3
    assert figures["service"]["rss_bytes"] > 8e6


def test_a_process_belongs_to_its_nearest_service() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        trees = probe._trees({"outer": os.getpid(), "inner": child.pid})
        child.communicate(b"\n")
    assert [one.pid for one in trees["inner"]] == [child.pid]
    assert os.getpid() in [one.pid for one in trees["outer"]]
    assert child.pid not in [one.pid for one in trees["outer"]]
