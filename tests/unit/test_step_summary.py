"""GitHub's page of a step gets the judgement as markdown; what goes wrong with it changes no verdict."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from built_results import result as built

from harness import cli, runner, verdict_text
from harness.runner import Judged


@pytest.fixture
def judged() -> Judged:
    result = built("day40")
    aborted = dataclasses.replace(result, meta=dataclasses.replace(result.meta, aborted="p95_ms < 200: 512.3 ms"))
    return runner.judged("the run", aborted, (), Path("report.html"))


def test_every_judgement_of_a_step_is_on_its_page(judged, tmp_path, monkeypatch):
    page = tmp_path / "step.md"
    page.write_text("what was there\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    assert [cli._show(judged), cli._show(judged)] == [judged.exit_code] * 2
    text = verdict_text.markdown("the run", judged.verdicts, (), judged.aborted)
    assert page.read_text() == "what was there\n" + 2 * f"{text}\n"
    assert "**ENDED EARLY**" in text


@pytest.mark.parametrize("path", ["", "directory", "no/such/file"])
def test_a_page_that_cannot_be_written_costs_no_verdict(judged, tmp_path, monkeypatch, capsys, path):
    (tmp_path / "directory").mkdir()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / path) if path else "")
    # a console keeps the stream that it was made with
    monkeypatch.setattr(cli.err, "file", None)
    assert cli._show(judged) == judged.exit_code == 1
    shown = capsys.readouterr()
    assert "ENDED EARLY: p95_ms < 200: 512.3 ms" in shown.out
    assert ("GITHUB_STEP_SUMMARY" in shown.err) == bool(path)


@pytest.mark.parametrize(
    ("aborted", "reasons", "code"), [(None, (), 0), ("p95_ms < 200", (), 1), ("p95_ms < 200", ("lost",), 4)]
)
def test_a_load_that_was_ended_early_has_failed_whatever_its_verdicts_say(aborted, reasons, code):
    result = built("day40")
    passed = tuple(one for one in result.verdicts if one.outcome == "pass")
    meta = dataclasses.replace(result.meta, aborted=aborted)
    of = runner.judged("the run", dataclasses.replace(result, verdicts=passed, meta=meta), reasons, Path("report.html"))
    assert (of.exit_code, of.aborted) == (code, aborted)
