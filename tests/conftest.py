"""What tests share: both real stacks, started once for the whole run, and a real browser. Nothing here skips."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
# Before harness.stack is imported: tests do not meet the stack that a developer has up in this checkout.
os.environ["DAIRYPERF_STATE"] = str(ROOT / ".dairyperf" / "tests")
os.environ.pop("DAIRYPERF_STACK", None)  # nor another that he has chosen

from harness import stack as stacking  # noqa: E402
from harness.model import PROFILES, Profile, StackAddresses  # noqa: E402
from harness.services import provision  # noqa: E402

# How long an example takes is no property of the code: the machine is shared, with the other half of the tests for one.
hypothesis.settings.register_profile("dairyperf", deadline=None)
hypothesis.settings.load_profile("dairyperf")


class StacksInOneProcess(LoadScopeScheduling):
    """In several processes: tests/stacks/ in one of them, as the stacks are started once; every other file whole."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "stacks" if path.startswith("tests/stacks/") else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> StacksInOneProcess:
    return StacksInOneProcess(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


def say(text: str) -> None:
    """Progress past pytest's capture: a first start takes minutes."""
    print(text, file=sys.__stderr__, flush=True)


@pytest.fixture(scope="session")
def stacks() -> Iterator[dict[Profile, StackAddresses]]:
    """Both profiles, up for the whole test run."""
    with contextlib.ExitStack() as running:
        started = {profile: running.enter_context(stacking.up(profile, say)) for profile in PROFILES}
        for addresses in started.values():
            logs = Path(addresses.log_dir)
            shutil.copy(logs / "odoo.log", logs / "odoo-start.log")
        yield started


@pytest.fixture(scope="session", params=PROFILES)
def stack(request: pytest.FixtureRequest, stacks: dict[Profile, StackAddresses]) -> StackAddresses:
    """Each profile in turn."""
    return stacks[request.param]


@pytest.fixture(scope="session")
def secrets(stack: StackAddresses) -> dict[str, Any]:
    """The stack's secrets file."""
    content: dict[str, Any] = json.loads(Path(stack.secrets_file).read_text())
    return content


@pytest.fixture(scope="session")
def chromium() -> Path:
    """A real Chromium that runs as the current user."""
    return provision.browser(say)


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's script."""
    return provision.axe(say).read_text(encoding="utf-8")
