"""The cache library is covered by its own tests, branches included, as far as pyproject.toml demands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ("tests/unit/test_cache_steps.py", "tests/unit/test_cache_ahead.py", "tests/services/test_result_cache.py")


def test_the_librarys_own_tests_cover_it(tmp_path: Path) -> None:
    environment = os.environ | {"COVERAGE_FILE": str(tmp_path / "coverage")}
    quietly = ["-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "tests")]
    commands = (["run", "-m", "pytest", *quietly, *TESTS], ["report"])
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "coverage", *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "fixtures/cache/steps.py" in done.stdout
