"""What is read before the clock: everything users read, once for all who share results; and what stops it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cache_warmup
from harness.errors import StackError
from harness.model import Account

ROLES = {"admin": "manager", "manager": "manager", "worker": "worker", "other": "worker", "auditor": "auditor"}
KEYS = {login: f"key of {login}" for login in ROLES}
HERD = [{"id": 1, "tag_number": "SD-1"}, {"id": 2, "tag_number": "SD-2"}]


@pytest.fixture
def api() -> Iterator[Any]:
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.headers["X-API-Key"], self.path))
            self.send_response(server.broken or (404 if "/2/history" in self.path else 200))
            self.end_headers()
            self.wfile.write(json.dumps({"items": HERD}).encode())

        def log_message(self, *_: object) -> None: ...

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.broken = asked, None
    accounts = [Account(login, uid, role) for uid, (login, role) in enumerate(ROLES.items())]
    server.addresses = SimpleNamespace(
        api_url=f"http://127.0.0.1:{server.server_port}", as_of="2026-02-03", accounts=accounts
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_everything_is_read_once_for_all_who_share_results(api: Any) -> None:
    reads = cache_warmup.warm_up(api.addresses, {"api_keys": KEYS})
    found = api.asked[1:]
    assert len(found) == len(set(found)) == reads == 4 * (2 + 2 + 8 + 1)
    assert {key for key, _path in found} == {KEYS[one] for one in ("manager", "worker", "other", "auditor")}
    paths = {path.removeprefix("/api/v1/") for key, path in found if key == KEYS["worker"]}
    assert {"animals/SD-1", "milk-production/2/history", "milk-production/daily?date=2026-01-27"} < paths
    assert "animals?limit=50&offset=0" in paths


def test_an_api_that_fails_is_named(api: Any) -> None:
    api.broken = 503
    with pytest.raises(StackError, match="HTTP 503 while warming"):
        cache_warmup.warm_up(api.addresses, {"api_keys": KEYS})
    api.addresses.api_url = "http://127.0.0.1:1"
    with pytest.raises(StackError, match="while warming its cache; see its log"):
        cache_warmup.warm_up(api.addresses, {"api_keys": KEYS})
