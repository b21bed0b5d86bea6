"""Real Locust, real users, stub servers: what is counted, what is written, how a run ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from fixtures import herd
from harness import CHECKOUT, load, summary
from harness.model import Account, StackAddresses
from harness.rundir import RunDir

STUBS = Path(__file__).with_name("stubs")
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

    delay_s = 0.0
    broken = ""

    def do_GET(self) -> None:
        self.reply(
            200, b'{"id":1,"items":[{"id":1}],"morning":1,"daily_milk_litres":1}'.replace(b'g":1', b'g":"morning"')
        )

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
        return self.answer({"create": 1, "write": True, "daily_report": {"shift": "morning"}}.get(call, [{"id": 1}]))

    def answer(self, value: Any, wait: bool = True) -> None:
        value = value if isinstance(value, xmlrpc.client.Fault) else (value,)
        self.reply(200, xmlrpc.client.dumps(value, methodresponse=True).encode(), wait)

    def reply(self, status: int, body: bytes, wait: bool = True) -> None:
        if wait:
            time.sleep(self.delay_s)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Stage:
    """Where one test plays: servers, addresses, environment."""

    def __init__(self, root: Path, odoo: type[Stub], api: type[Stub], ports: list[int]) -> None:
        self.root, self.odoo, self.api = root, odoo, api
        secrets = root / "secrets.json"
        logins = ("admin", "farm_manager", "farm_worker", "farm_auditor")
        secrets.write_text(json.dumps({"api_key": API_KEY, "odoo": dict.fromkeys(logins, PASSWORD)}))
        roles = ("manager", "manager", "worker", "auditor")
        addresses = StackAddresses(
            **{field.name: None for field in dataclasses.fields(StackAddresses)}
            | dict.fromkeys(("postgres_dsn", "admin_dsn", "passfile", "checksum", "log_dir"), "")
            | {
                "profile": "day40",
                "odoo_url": f"http://127.0.0.1:{ports[0]}",
                "api_url": f"http://127.0.0.1:{ports[1]}",
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
        return process.returncode, output, self.run_dir()

    def run_dir(self) -> RunDir:
        (path,) = (self.root / "runs").iterdir()
        return RunDir(path)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    odoo = type("Odoo", (Stub,), {"protocol_version": "HTTP/1.0"})
    api = type("Api", (Stub,), {"protocol_version": "HTTP/1.1"})
    servers = []
    for handler in (odoo, api):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
    yield Stage(tmp_path, odoo, api, [server.server_port for server in servers])
    for server in servers:
        server.shutdown()
        server.server_close()


def messages(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "messages.jsonl").read_text().splitlines()]


def samples(run: RunDir) -> Any:
    found, torn = summary.read_samples(run.sample_blobs())
    assert not torn
    return found


def test_a_run_counts_every_request_three_times_and_ends_by_the_judge(stage: Stage) -> None:
    code, output, run = stage.run()
    assert code == 1, output
    assert output.rstrip().endswith("VERDICTS")
    steady, drained = messages(run)
    counts, phases = drained["counts"], drained["phases"]
    found = samples(run)
    endpoints, outcomes = run.read_names()
    in_files = Counter(endpoints[index] for index in found["endpoint"])
    assert counts["sent"] == counts["recorded"] == counts["locust"] == in_files
    assert sum(in_files.values()) > 60
    assert outcomes == ("ok",)
    assert steady["at_us"] == phases["steady_start_us"]
    assert phases["steady_end_us"] - phases["steady_start_us"] == pytest.approx(2e6, rel=0.1)
    assert (found["scheduled_us"] <= found["start_us"]).all()
    for user in np.unique(found["user"]):  # closed load: exactly the think time after each reply
        mine = np.sort(found[found["user"] == user], order="start_us")
        pauses_us = mine["scheduled_us"][1:] - (mine["start_us"] + mine["service_us"])[:-1]
        assert (pauses_us == 100_000).all()
    kept = output + "".join(path.read_text(errors="replace") for path in run.path.iterdir() if path.is_file())
    assert PASSWORD not in kept
    assert API_KEY not in kept


def test_what_is_in_flight_at_the_end_is_recorded(stage: Stage) -> None:
    stage.odoo.delay_s = stage.api.delay_s = 1.5
    _, output, run = stage.run()
    drained = messages(run)[-1]
    assert drained["counts"]["sent"] == drained["counts"]["locust"], output
    found, end_us = samples(run), drained["phases"]["steady_end_us"]
    in_flight = found[(found["start_us"] < end_us) & (found["start_us"] + found["service_us"] > end_us)]
    assert len(in_flight) > 0
    assert (in_flight["service_us"] > 1_500_000).all()
    assert (found["start_us"] < end_us).all()
    assert drained["phases"]["drained_us"] >= (found["start_us"] + found["service_us"]).max()


def test_a_stalled_generator_shows_in_latency_and_in_its_health(stage: Stage) -> None:
    _, _, run = stage.run(STUB_STALL_S="0.6")
    found = samples(run)
    late_us = found["start_us"] - found["scheduled_us"]
    assert late_us.max() > 400_000
    assert messages(run)[-1]["generator"]["lag_max_ms"] > 500


def test_failures_are_named_and_do_not_end_the_run(stage: Stage) -> None:
    stage.odoo.broken = "farm.milk_production.search_read"
    code, output, run = stage.run()
    assert code == 1, output
    assert set(run.read_names()[1]) == {"ok", "fault:2:UserError"}
    counts = messages(run)[-1]["counts"]
    assert counts["sent"] == counts["recorded"] == counts["locust"]


def test_a_ramp_of_stages_counts_everything(stage: Stage) -> None:
    ramp = CLOSED.split("users = 6")[0] + 'load = "stages"\nthink_time_s = 0.1\nthresholds = []\n'
    ramp += "".join(f"[[stages]]\nduration_s = 2\nusers = {users}\n" for users in (6, 6, 0))
    code, output, run = stage.run(ramp)
    assert code == 1, output
    steady, drained = messages(run)
    found = samples(run)
    assert steady["at_us"] < found["scheduled_us"].min()
    assert drained["counts"]["sent"] == drained["counts"]["locust"]
    assert len(np.unique(found["user"])) == 6
    assert drained["phases"]["steady_end_us"] - steady["at_us"] == pytest.approx(6e6, rel=0.05)
    assert len(found[found["start_us"] > steady["at_us"] + 5_900_000]) < 6 * 10 * 0.3


@pytest.mark.parametrize(
    ("point", "says"),
    [("at start", "cannot be reset"), ("in the middle", "postgres: gone"), ("at the end", "postgres: no snapshot")],
)
def test_a_failing_observer_is_a_failed_stack(stage: Stage, point: str, says: str) -> None:
    code, output, _ = stage.run(STUB_OBSERVER=point)
    assert code == 3
    assert says in output


def test_a_fault_in_a_locustfile_invalidates_the_run(stage: Stage) -> None:
    code, output, run = stage.run(STUB_BREAK="1")
    assert code == 4, output
    assert "broke: KeyError" in output
    assert (run.path / "abandoned").exists()


def test_with_the_web_interface_users_work_and_nothing_is_kept(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    page = f"http://127.0.0.1:{port}"
    process = stage.start(CLOSED, "--headful", "--web-host", "127.0.0.1", "--web-port", str(port))
    try:
        wait_for(lambda: reachable(page))
        assert '"num_users": 6' in httpx.get(page).text.replace("&#34;", '"')
        assert httpx.post(f"{page}/swarm", data={"user_count": 6, "spawn_rate": 6}).json()["success"]
        wait_for(lambda: httpx.get(f"{page}/stats/requests").json()["total_rps"] > 0)
        assert not httpx.get(f"{page}/stats/requests").json()["errors"]
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert "nothing is recorded or judged" in output
    assert process.returncode == 0, output
    assert not (stage.root / "runs").exists()


def reachable(page: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(page).status_code == 200
    return False


def test_bad_input_is_refused_before_anything_is_made(stage: Stage) -> None:
    process = stage.start(CLOSED, "-t", "1s")
    assert "no steady state" in process.communicate(timeout=30)[0]
    assert process.returncode == 2
    assert not (stage.root / "runs").exists()


def test_options_replace_the_scenario(stage: Stage) -> None:
    code, output, run = stage.run(CLOSED, "-u", "2", "-r", "4", "-t", "3s", "--threshold", "p95_ms < 100")
    assert code == 1, output
    asked = run.read_meta().scenario
    assert (asked.users, asked.spawn_rate_per_s, asked.duration_s) == (2, 4, 2)
    assert [limit.text for limit in asked.thresholds] == ["p95_ms < 100"]
    assert len(np.unique(samples(run)["user"])) == 2


def wait_for(what: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def counting(stage: Stage) -> bool:
    return any((stage.root / "runs").glob("*/messages.jsonl"))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_keeps_its_samples_and_is_invalid(stage: Stage, sent: signal.Signals) -> None:
    stage.odoo.delay_s = stage.api.delay_s = 0.3
    process = stage.start(CLOSED.replace("duration_s = 2", "duration_s = 60"))
    wait_for(lambda: counting(stage))
    process.send_signal(sent)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 4, output
    run = stage.run_dir()
    assert (run.path / "abandoned").exists()
    assert len(samples(run)) > 0


def test_nothing_outlives_a_killed_parent(stage: Stage) -> None:
    """The command line runs Locust through harness.load, which runs the observer: three processes in a row."""
    first = stage.start(CLOSED.replace("duration_s = 2", "duration_s = 60"))
    wait_for(lambda: counting(stage))
    first.kill()
    first.communicate()
    observer = int((stage.run_dir().path / "observer.pid").read_text())
    wait_for(lambda: not psutil.pid_exists(observer), 10)

    run = stage.run_dir()
    (run.path / "messages.jsonl").unlink()
    for blob in run.path.glob("samples-*"):
        blob.unlink()
    program = (
        "from pathlib import Path; from harness import load; "
        f"load.run({str(STUBS / 'locustfile.py')!r}, Path({str(run.path)!r}), Path({str(run.path / 'locust.log')!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], env=stage.environment, cwd=CHECKOUT)
    wait_for(lambda: counting(stage))
    family = [parent.pid, *(child.pid for child in psutil.Process(parent.pid).children(recursive=True))]
    assert len(family) == 3
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(psutil.pid_exists, family[1:])), 10)


def test_under_the_command_line_only_the_observer_is_needed(stage: Stage) -> None:
    _, _, run = stage.run()
    (run.path / "messages.jsonl").unlink()
    for blob in run.path.glob("samples-*"):
        blob.unlink()
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        for name, value in stage.environment.items():
            patched.setenv(name, value)
        code = load.run(str(STUBS / "locustfile.py"), run.path, run.path / "locust.log", lines.append)
    assert code == 0, lines
    assert "VERDICTS" not in lines
    assert [message["event"] for message in messages(run)] == ["steady", "drained"]


def test_logins(stage: Stage) -> None:
    code, output, run = stage.run(STUB_LOGIN="1")
    assert code == 1, output
    assert run.read_names() == (("odoo common.authenticate",), ("ok",))


SEQUENCE = """
import hashlib, sys
from locust.env import Environment
from pydantic import TypeAdapter
from harness import locust_plugin as plugin, scenario
from harness.model import StackAddresses
from locustfiles.dairy_day import AppUser, OdooStaff
addresses = TypeAdapter(StackAddresses).validate_json(open(sys.argv[1]).read())
environment = Environment(user_classes=[AppUser, OdooStaff])
farm = plugin.Farm(scenario.parse(open(sys.argv[2]).read(), "tiny"), addresses)
farm.look_around()
environment.dairyperf = plugin.Run(environment, farm)
digest = hashlib.sha256()
users = [kind(environment) for kind in (AppUser, OdooStaff) for _ in range(8)]
for user in users:
    for request in [user.random.choice(user.tasks)(user) for _ in range(50)]:
        digest.update(repr((request, request.body)).encode())
print(digest.hexdigest())
"""


def test_the_same_seed_gives_the_same_requests(stage: Stage) -> None:
    def sequence(seed: int, hash_seed: str) -> str:
        (stage.root / "tiny.toml").write_text(CLOSED.replace("thresholds", f"seed = {seed}\nthresholds"))
        command = [sys.executable, "-c", SEQUENCE, str(stage.root / "addresses.json"), str(stage.root / "tiny.toml")]
        environment = stage.environment | {"PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=CHECKOUT).stdout

    assert sequence(1, "1") == sequence(1, "2")
    assert sequence(2, "1") != sequence(1, "1")
