"""What is read before the clock: everything users read, once per key; and what stops it."""

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
    server.addresses = SimpleNamespace(api_url=f"http://127.0.0.1:{server.server_port}", as_of="2026-02-03")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_key_reads_everything_once(api: Any) -> None:
    secrets = {"api_key": "a", "api_keys": {"manager": "a", "worker": "b"}}
    reads = cache_warmup.warm_up(api.addresses, secrets)
    found = api.asked[1:]
    assert len(found) == len(set(found)) == reads == 2 * (2 + 2 + 8 + 1)
    paths = {path.removeprefix("/api/v1/") for key, path in found if key == "b"}
    assert {"animals/SD-1", "milk-production/2/history", "milk-production/daily?date=2026-01-27"} < paths
    assert "animals?limit=50&offset=0" in paths


def test_an_api_that_fails_is_named(api: Any) -> None:
    api.broken = 503
    with pytest.raises(StackError, match="HTTP 503 while warming"):
        cache_warmup.warm_up(api.addresses, {"api_key": "a"})
    api.addresses.api_url = "http://127.0.0.1:1"
    with pytest.raises(StackError, match="while warming its cache; see its log"):
        cache_warmup.warm_up(api.addresses, {"api_key": "a"})
