"""screenshot: what goes wrong names its place and a way on; test_report_browser takes a real picture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import screenshot
from harness.errors import StackError


def browser(folder: Path, script: str) -> Path:
    path = folder / "chromium"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_browser_that_makes_no_picture_is_quoted(tmp_path: Path):
    with pytest.raises(StackError, match=r"no picture \(exit code 7\); see below\n    no fonts"):
        screenshot.take(browser(tmp_path, "echo no fonts >&2; exit 7"), tmp_path / "a.html", tmp_path / "a.png")
    with pytest.raises(StackError, match="no picture"):
        screenshot.take(browser(tmp_path, "exit 0"), tmp_path / "a.html", tmp_path / "a.png")


def test_no_browser_and_no_place_for_the_picture(tmp_path: Path):
    with pytest.raises(StackError, match="install chromium"):
        screenshot.take(tmp_path / "none", tmp_path / "a.html", tmp_path / "a.png")
    writes = browser(tmp_path, 'for a; do case $a in --screenshot=*) echo png > "${a#*=}";; esac; done')
    with pytest.raises(StackError, match="name a file that can be written"):
        screenshot.take(writes, tmp_path / "a.html", tmp_path / "nowhere/a.png")
    screenshot.take(writes, tmp_path / "a.html", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "png\n"


def test_a_browser_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(screenshot, "TIMEOUT_S", 0.2)
    with pytest.raises(StackError, match="took longer"):
        screenshot.take(browser(tmp_path, "exec sleep 30"), tmp_path / "a.html", tmp_path / "a.png")


def test_one_picture_is_of_one_report(tmp_path: Path):
    command = [sys.executable, "-m", "harness", "report", tmp_path, os.curdir, "--screenshot", tmp_path / "a.png"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert (told.returncode, "name one directory" in told.stderr) == (2, True)
