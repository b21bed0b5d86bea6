"""What can be said of stacks without starting one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import stack
from harness.errors import InputError, StackError
from harness.services import compose, embedded
from harness.services.external import External


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STATE", tmp_path)
    monkeypatch.setenv(stack.VARIABLE, "")  # so that what `choose` sets is taken back


def test_a_stack_is_for_one_run_at_a_time() -> None:
    with stack.reserved("day31"):
        with pytest.raises(StackError, match="another run is using this stack"), stack.reserved("day31"):
            pass
        with stack.reserved("day40"):
            pass
    with stack.reserved("day31"):
        pass


def test_stacks_of_different_kinds_do_not_keep_each_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with stack.reserved("day31"):
        for other in ("compose", "external:one.toml"):
            monkeypatch.setenv(stack.VARIABLE, other)
            with stack.reserved("day31"):
                pass
        with stack.reserved("day31"):
            monkeypatch.setenv(stack.VARIABLE, "external:two.toml")
            with stack.reserved("day31"):
                pass


def test_without_a_stack_the_remedy_is_named() -> None:
    assert not stack.is_up("day31")
    assert stack.status("day31") == {"profile": "day31", "state": "down"}
    with pytest.raises(InputError, match=r"\./dairyperf up --profile day31"):
        stack.read("day31")


def test_the_choice_is_embedded_until_another_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert stack.chosen() is embedded
    monkeypatch.setenv(stack.VARIABLE, "compose")
    assert stack.chosen() is compose
    stack.choose("embedded")
    assert stack.chosen() is embedded
    monkeypatch.chdir(tmp_path)
    stack.choose("external:staging.toml")
    # child processes get the choice, and run elsewhere
    assert os.environ[stack.VARIABLE] == f"external:{tmp_path}/staging.toml"
    assert stack.chosen() == External(tmp_path / "staging.toml")


@pytest.mark.parametrize("text", ["docker", "external", "external:", "compose:file", "EMBEDDED", " "])
def test_another_kind_is_refused_with_the_known_ones(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="give embedded, compose or external:FILE"):
        stack.choose(text)
    monkeypatch.setenv(stack.VARIABLE, text)
    with pytest.raises(InputError, match="no such kind"):
        stack.read("day31")
