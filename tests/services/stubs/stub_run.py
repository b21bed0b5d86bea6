"""Real Locust on stub servers, with an observer and a judge that need no stack: what tests of the load share."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from fixtures import herd
from harness import CHECKOUT, summary
from harness.model import Account, StackAddresses
from harness.rundir import RunDir

STUBS = Path(__file__).parent
PASSWORD = "correct-horse"
API_KEY = "battery-staple"
INPUTS = herd.inputs()
CLOSED = """
name = "tiny"
locustfile = "locustfiles/dairy_day.py"
users = 6
spawn_rate_per_s = 6
think_time_s = 0.1
warmup_s = 0.5
duration_s = 2
thresholds = []
"""


class Stub(BaseHTTPRequestHandler):
    """Answers as Odoo (HTTP/1.0, closes) or as the service (HTTP/1.1, keeps alive), whatever is asked."""

    wbufsize = -1  # head and body in one segment, or Nagle's algorithm waits for an acknowledgement in between
    delay_s = 0.0
    draw_s: Callable[[], float] | None = None  # instead of delay_s, called for each reply
    broken = ""
    # of CLOCK_MONOTONIC, in µs: when nothing is answered, and what was received and answered when
    stalled_us = (0, 0)
    served_us: list[tuple[int, int]]

    def do_GET(self) -> None:
        self.reply(
            200, b'{"id":1,"items":[{"id":1}],"morning":1,"daily_milk_litres":1}'.replace(b'g":1', b'g":"morning"')
        )

    def parse_request(self) -> bool:
        self.received_us = time.monotonic_ns() // 1000
        return super().parse_request()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.startswith("/xmlrpc"):
            return self.reply(201, b'{"id":1}')
        params, method = xmlrpc.client.loads(body)
        if method == "authenticate":
            return self.answer(2 if params[2] == PASSWORD else False)
        _database, _uid, password, model, call, _args, kwargs = params
        if password != PASSWORD:
            return self.answer(xmlrpc.client.Fault(3, "Access Denied"))
        if self.broken == f"{model}.{call}":
            return self.answer(xmlrpc.client.Fault(2, "no milk today"))
        if call == "search_read" and kwargs["fields"] == ["tag_number"]:
            animals = zip(INPUTS.active_ids, INPUTS.active_tags, strict=True)
            return self.answer([{"id": animal, "tag_number": tag} for animal, tag in animals], wait=False)
        return self.answer({"create": [1], "write": True, "daily_report": {"shift": "morning"}}.get(call, [{"id": 1}]))

    def answer(self, value: Any, wait: bool = True) -> None:
        value = value if isinstance(value, xmlrpc.client.Fault) else (value,)
        self.reply(200, xmlrpc.client.dumps(value, methodresponse=True).encode(), wait)

    def reply(self, status: int, body: bytes, wait: bool = True) -> None:
        if wait:
            time.sleep(self.delay_s if self.draw_s is None else self.draw_s())
            begin_us, end_us = self.stalled_us
            if begin_us <= (now_us := time.monotonic_ns() // 1000) < end_us:
                time.sleep((end_us - now_us) / 1e6)
            self.served_us.append((self.received_us, time.monotonic_ns() // 1000))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Stage:
    """Where one test plays: servers, addresses, environment."""

    def __init__(self, root: Path, odoo: type[Stub], api: type[Stub], host: str, ports: list[int]) -> None:
        self.root, self.odoo, self.api = root, odoo, api
        secrets = root / "secrets.json"
        logins = ("admin", "farm_manager", "farm_worker", "farm_auditor")
        secrets.write_text(
            json.dumps({"api_keys": dict.fromkeys(logins, API_KEY), "odoo": dict.fromkeys(logins, PASSWORD)})
        )
        roles = ("manager", "manager", "worker", "auditor")
        addresses = StackAddresses(
            **{f.name: None for f in dataclasses.fields(StackAddresses) if f.default is dataclasses.MISSING}
            | dict.fromkeys(("postgres_dsn", "admin_dsn", "passfile", "checksum", "log_dir"), "")
            | {
                "profile": "day40",
                "odoo_url": f"http://{host}:{ports[0]}",
                "api_url": f"http://{host}:{ports[1]}",
                "database": "smart_dairy",
                "accounts": [
                    Account(login, uid, role) for uid, (login, role) in enumerate(zip(logins, roles, strict=True), 2)
                ],
                "secrets_file": str(secrets),
                "as_of": "2026-02-03",
                "herd": 255,
                "seed": 42,
                "counts": {},
                "versions": {},
                "pids": {},
            }
        )
        (root / "addresses.json").write_text(json.dumps(dataclasses.asdict(addresses)))
        self.environment = os.environ | {
            "STUB_ADDRESSES": str(root / "addresses.json"),
            "PYTHONPATH": str(CHECKOUT),
        }

    def start(self, scenario: str = CLOSED, *options: str, **environment: str) -> subprocess.Popen[str]:
        (self.root / "tiny.toml").write_text(scenario)
        command = ["-m", "locust", "-f", str(STUBS / "locustfile.py"), "--headless", "--only-summary"]
        chosen = ["--scenario", str(self.root / "tiny.toml"), "--out", str(self.root / "runs"), *options]
        return subprocess.Popen(
            [sys.executable, *command, *chosen],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=CHECKOUT,
            env=self.environment | environment,
        )

    def run(self, scenario: str = CLOSED, *options: str, **environment: str) -> tuple[int, str, RunDir]:
        process = self.start(scenario, *options, **environment)
        output, _ = process.communicate(timeout=90)
        print(output)  # pytest shows it when the test fails
        return process.returncode, output, self.run_dir()

    def run_dir(self) -> RunDir:
        (path,) = (self.root / "runs").iterdir()
        return RunDir(path)


@contextlib.contextmanager
def stage_in(folder: Path, host: str = "127.0.0.1") -> Iterator[Stage]:
    """Two stub servers on `host`, which load reaches at that address, for the length of the block."""
    odoo = type("Odoo", (Stub,), {"protocol_version": "HTTP/1.0", "served_us": []})
    api = type("Api", (Stub,), {"protocol_version": "HTTP/1.1", "served_us": []})
    servers = []
    for handler in (odoo, api):
        server = ThreadingHTTPServer((host, 0), handler)
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
    yield Stage(folder, odoo, api, host, [server.server_port for server in servers])
    for server in servers:
        server.shutdown()
        server.server_close()


def messages(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "messages.jsonl").read_text().splitlines()]


def samples(run: RunDir) -> Any:
    found, torn = summary.read_samples(run.sample_blobs())
    assert not torn
    return found


def wait_for(what: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)
