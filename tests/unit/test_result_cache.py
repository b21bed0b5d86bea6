"""What the addon tells the API's result cache, without an Odoo: what a broken Redis costs, and is told later."""

from __future__ import annotations

import importlib.util
import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fixtures.api import cache
from harness.services import odoo

PASSWORD = "secret-of-test"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A fresh copy of models/result_cache.py, as in a new worker; Redis is at a port where nobody listens."""
    stub: Any = ModuleType("odoo")
    stub.api = SimpleNamespace(model_create_multi=lambda method: method)
    stub.models = SimpleNamespace(AbstractModel=object)
    monkeypatch.setitem(sys.modules, "odoo", stub)
    (tmp_path / "secrets.json").write_text(json.dumps({"redis": PASSWORD}))
    monkeypatch.setenv("DAIRYPERF_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("DAIRYPERF_SECRETS", str(tmp_path / "secrets.json"))
    spec = importlib.util.spec_from_file_location(
        "addon_result_cache", odoo.ADDONS / "smart_dairy/models/result_cache.py"
    )
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class Client:
    """A Redis that answers."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[str, int]] = {}

    def pipeline(self) -> Client:
        return self

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None: ...

    def set(self, key: str, token: str, ex: int) -> None:
        self.stored[key] = (token, ex)

    def execute(self) -> None: ...


@pytest.fixture
def hung() -> Iterator[str]:
    """The URL of a server that the kernel accepts for, and that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@pytest.mark.parametrize("broken", ["nobody listens", "hangs", "no secrets file", "bad secrets file"])
def test_a_broken_redis_costs_little_and_is_told_once(
    module: ModuleType,
    broken: str,
    hung: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if broken == "hangs":
        monkeypatch.setattr(module, "URL", hung)
    if broken == "no secrets file":
        (tmp_path / "secrets.json").unlink()
    if broken == "bad secrets file":
        (tmp_path / "secrets.json").write_text(f'["{PASSWORD}"]')
    began = time.monotonic()
    module.renew({"sd:gen:a:any"})
    module.renew({"sd:gen:b:any"})
    assert time.monotonic() - began < 2 * module.PATIENCE_S + 0.3
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    assert "Redis: " in caplog.text
    assert PASSWORD not in caplog.text

    answering = Client()
    monkeypatch.setattr(module, "_client", lambda: answering)
    module.renew({"sd:gen:c:any"})
    assert set(answering.stored) == {"sd:gen:a:any", "sd:gen:b:any", "sd:gen:c:any"}
    assert len(caplog.records) == 2
    answering.stored.clear()
    module.renew({"sd:gen:a:any"})
    assert set(answering.stored) == {"sd:gen:a:any"}, "what is confirmed is not sent again"
    assert len(caplog.records) == 2


def test_tokens_are_those_of_the_api(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = Client()
    monkeypatch.setattr(module, "_client", lambda: answering)
    module.renew({"a"})
    first, ttl_s = answering.stored["a"]
    module.renew({"a"})
    assert ttl_s == cache.GENERATION_TTL_S
    assert len(first.encode()) == len(cache._token())
    assert answering.stored["a"][0] != first


@pytest.mark.parametrize("parts", [(), ("animal", 7), ("day", "2026-02-03")])
def test_keys_are_those_of_the_api(module: ModuleType, parts: tuple[Any, ...]) -> None:
    model = module.ResultCacheMixin()
    model._pg_table = ("farm", "milk_production")
    assert model._generation_key(*parts) == cache.generation_key("farm.milk_production", *parts)
