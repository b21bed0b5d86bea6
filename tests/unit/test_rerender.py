"""Reports of saved runs, made again from their files alone: the present schema, older ones, and one that is too new.

tests/data/runs holds real runs, made small by tests/data/trim_run.py: `benchmark` of schema 2, one pair; `schema-1` as
the first version wrote it (no workers, no open load, no statement log, no plans, no WAL archive).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import rundir

RUNS = Path(__file__).parent.parent / "data" / "runs"


def report(*directories: Path) -> tuple[int, str]:
    """As a reader calls it: exit code, and what it says."""
    told = subprocess.run([sys.executable, "-m", "harness", "report", *directories], capture_output=True, text=True)
    return told.returncode, re.sub(r"\s+", " ", told.stdout + told.stderr)


@pytest.fixture
def runs(tmp_path) -> Path:
    return Path(shutil.copytree(RUNS, tmp_path / "runs"))


def test_several_directories_of_any_schema_in_one_call(runs):
    newer = Path(shutil.copytree(runs / "schema-1", runs / "newer"))
    document = json.loads((newer / "run.json").read_text())
    assert document["schema_version"] == 1
    (newer / "run.json").write_text(json.dumps(document | {"schema_version": rundir.SCHEMA_VERSION + 1}))
    code, told = report(newer, runs / "schema-1", runs / "benchmark")
    assert code == 2
    versions = f"written with schema {rundir.SCHEMA_VERSION + 1}, newer than {rundir.SCHEMA_VERSION}"
    assert f"{versions}; read it with a newer dairyperf" in told
    assert not (newer / "report.html").exists()
    older, _ = pages = [(runs / name / "report.html").read_text() for name in ("schema-1", "benchmark")]
    for html in pages:
        assert html.rstrip().endswith("</html>")
        assert html.count("<svg") >= 10
        assert "Latency distributions per endpoint" in html
        assert len(html.encode()) < 3_000_000
    assert "Process of the load" in older
    assert "statement log was not read" in older
    assert "INVALID" not in told
    for run in ("01-day31", "02-day40"):
        assert (runs / "benchmark/runs" / run / "report.html").exists()
    saved = rundir.BenchmarkDir(runs / "benchmark").read()
    assert [sum(result.meta.counts["recorded"].values()) for result in saved.runs] == [
        sum(bucket.requests for bucket in result.summary.timeline) for result in saved.runs
    ]
    report(runs / "schema-1")
    assert (runs / "schema-1/report.html").read_text() == older, "the same files, another page"


@pytest.mark.parametrize("name", ["run.json", "snapshot-after.json", "endpoints.json"])
def test_what_cannot_be_read_leaves_the_old_page(name, runs):
    page = runs / "schema-1/report.html"
    page.write_text("the old page")
    (runs / "schema-1" / name).write_text("{")
    code, told = report(runs / "schema-1")
    assert code == 2
    assert f"{name}: not valid JSON" in told
    assert page.read_text() == "the old page"


def test_rendering_needs_no_load_generator():
    script = (
        "import sys, harness.benchmark; sys.exit(bool({'gevent', 'locust', 'pandas', 'requests'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_saved_runs_name_no_machine():
    for path in RUNS.rglob("*.json"):
        assert not re.search(r"/(work|tmp|root|home|var/cache)\b", path.read_text()), path
