"""The ready-made CI jobs, and the README, say only what the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harness import cli

ROOT = Path(__file__).parents[2]
CALL = re.compile(r"^\s*(?:-\s+)?(?:run:\s+)?\./dairyperf (.+?)(?:\s+#.*)?$", re.MULTILINE)
CALLS = [
    (path.name, call)
    for path in (ROOT / "ci/github.yml", ROOT / "ci/gitlab.yml", ROOT / "README.md")
    for call in CALL.findall(path.read_text())
]


def test_they_are_found():
    assert {name for name, _ in CALLS} == {"github.yml", "gitlab.yml", "README.md"}
    assert len([name for name, _ in CALLS if name.startswith("git")]) == 4


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_every_call_is_one(name, call):
    arguments = cli._parser().parse_args(shlex.split(call.split(" > ")[0].rstrip("\\")))
    assert callable(arguments.command)
