"""What can be said of stacks without starting one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import stack
from harness.errors import InputError, StackError


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "STATE", tmp_path)


def test_a_stack_is_for_one_run_at_a_time() -> None:
    with stack.reserved("day31"):
        with pytest.raises(StackError, match="another run is using this stack"), stack.reserved("day31"):
            pass
        with stack.reserved("day40"):
            pass
    with stack.reserved("day31"):
        pass


def test_without_a_stack_the_remedy_is_named() -> None:
    assert not stack.is_up("day31")
    assert stack.status("day31") == {"profile": "day31", "state": "down"}
    with pytest.raises(InputError, match=r"\./dairyperf up --profile day31"):
        stack.read("day31")
