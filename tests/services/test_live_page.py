"""The page of live verdicts, in a real browser, from a real Locust web interface whose run is made up."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chrome import Browser

from harness import CHECKOUT

HOSTILE = "odoo <script>document.title = 'hacked'</script><img src=x onerror=\"document.title = 'hacked'\">"
LOCUSTFILE = """
import importlib.util, json, os, pathlib
from locust import User, events, task

# the module alone: its package begins a run
spec = importlib.util.spec_from_file_location("page", os.environ["PAGE"])
page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)

class Nobody(User):
    @task
    def nothing(self):
        pass

@events.init.add_listener
def attach(environment, **_):
    if environment.web_ui.web_login:
        environment.web_ui.app.secret_key = "for the session of whoever logs in"
        environment.web_ui.login_manager.user_loader(lambda _: None)
    status = pathlib.Path(os.environ["STATUS"])
    print("page at", page.attach(environment, lambda: json.loads(status.read_text())), flush=True)
"""
HEALTH = {
    "cpu_p95_pct": 12.345,
    "cpu_max_pct": 20.0,
    "lag_p95_ms": None,
    "lag_max_ms": None,
    "fds_max": 64,
    "fds_limit": 1024,
}
LIVE = {
    "event": "live",
    "at_us": 47_000_000,
    "servers_at_us": 45_000_000,
    "phase_s": 37.0,
    "samples": 2400,
    "verdicts": [
        {"text": "p95_ms < 200", "endpoint": None, "observed": 151.25, "shown": "151.2 ms", "outcome": "pass"},
        {"text": "p95_ms[*] < 200", "endpoint": HOSTILE, "observed": 512.3, "shown": "512.3 ms", "outcome": "fail"},
        {"text": "redis_hit_pct > 85", "endpoint": None, "observed": None, "shown": "–", "outcome": "no_data"},
    ],
    "pool_utilisation_pct": 41.23,
    "redis_hit_pct": None,
    "db_calls_per_request": 2.5,
    "buffer_hit_pct": 99.9,
    "requests": 1850,
    "failures": 3,
    "throughput_rps": 50.04,
    "p50_ms": 31.5,
    "p95_ms": 151.25,
    "reason": "redis: no snapshot",
}
COUNTING = {
    "state": "counting 37 s of 60",
    "live": LIVE,
    "generator": {"local": HEALTH},
    "run_dir": None,
    "exit_code": None,
    "error": None,
}
IDLE = {"state": "idle"}


class Locust:
    """A web interface whose run says what `status` was given."""

    def __init__(self, root: Path, *options: str) -> None:
        (root / "locustfile.py").write_text(LOCUSTFILE)
        self._status = root / "status.json"
        self.status(IDLE)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        command = ["-m", "locust", "-f", str(root / "locustfile.py"), "--web-host", "127.0.0.1", *options]
        places = {"PAGE": str(CHECKOUT / "harness/locust_plugin/page.py"), "STATUS": str(self._status)}
        self.process = subprocess.Popen(
            [sys.executable, *command, "--web-port", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=root,
            env=os.environ | places | {"PYTHONPATH": str(CHECKOUT)},
        )

    def status(self, status: dict[str, Any]) -> None:
        beside = self._status.with_suffix(".new")
        beside.write_text(json.dumps(status))
        beside.replace(self._status)

    def get(self, path: str) -> httpx.Response:
        """Once it answers."""
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False)
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> str:
        self.process.terminate()
        return self.process.communicate(timeout=30)[0]


@pytest.fixture(scope="module")
def locust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locust]:
    running = Locust(tmp_path_factory.mktemp("locust"), "--web-base-path", "/perf")
    yield running
    assert "page at /perf/dairyperf" in running.end()


def rows(browser: Browser, table: str) -> list[list[str]]:
    text = f"[...document.querySelectorAll('#{table} tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    return browser.evaluate(text)


def test_the_page_shows_a_run_from_idle_to_its_report(locust: Locust, browser: Browser, tmp_path: Path) -> None:
    locust.status(IDLE)
    assert locust.get("/perf/dairyperf").status_code == 200
    home = f"http://127.0.0.1:{locust.port}/perf/"
    browser.open(f"{home}dairyperf", "document.getElementById('state').textContent == 'idle'")
    assert rows(browser, "verdicts") == []
    assert ["Pool utilisation", "cannot say"] in rows(browser, "figures")

    locust.status(COUNTING)
    browser.wait("document.getElementById('state').textContent == 'counting 37 s of 60'")
    assert rows(browser, "verdicts") == [
        ["p95_ms < 200", "PASS", "151.2 ms", "all together"],
        ["p95_ms[*] < 200", "FAIL", "512.3 ms", HOSTILE],
        ["redis_hit_pct > 85", "NO DATA", "cannot say", "all together"],
    ]
    assert rows(browser, "figures") == [
        ["Pool utilisation", "41.2 %"],
        ["Redis hits", "cannot say"],
        ["Database calls per request", "2.50"],
        ["Buffer hits", "99.9 %"],
        ["Throughput", "50.0/s"],
        ["Requests", "1,850"],
        ["Failures", "3"],
        ["Median latency", "31.50 ms"],
        ["95th percentile of latency", "151.2 ms"],
    ]
    assert rows(browser, "generator") == [["local", "12.3 %", "cannot say", "64 of 1,024"]]
    seen = browser.evaluate("document.body.innerText")
    assert "1 PASS, 1 FAIL, 1 NO DATA" in seen
    assert "after 37 s of the steady state; the servers' figures are 2 s older" in seen
    assert "redis: no snapshot" in seen
    assert browser.evaluate("document.title") == "dairyperf: live verdicts"
    assert browser.evaluate("document.querySelectorAll('script, img').length") == 1
    # a mark of its own beside the colour, and headers for every cell
    marks = "[...document.querySelectorAll('td.status')].map(one => getComputedStyle(one, '::before').content)"
    assert len(set(browser.evaluate(marks))) == 3
    assert browser.evaluate("document.querySelectorAll('tbody tr > :first-child:not(th[scope=row])').length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    assert not browser.evaluate("document.getElementById('report').checkVisibility()")

    (tmp_path / "report.html").write_text("<!DOCTYPE html><title>the run</title><p>its report")
    locust.status(COUNTING | {"state": "judged", "run_dir": str(tmp_path), "exit_code": 1})
    browser.wait("document.getElementById('report').checkVisibility()")
    assert "exit code 1: failed: a limit was missed" in browser.evaluate("document.body.innerText")
    browser.evaluate("document.querySelector('#report a').click()")
    browser.wait("document.title == 'the run'")

    asked = [request["request"]["url"] for request in browser.said("Network.requestWillBeSent")]
    assert {url.removeprefix(home) for url in asked} == {"dairyperf", "dairyperf/live.json", "dairyperf/report"}
    assert browser.said("Runtime.exceptionThrown") == []
    assert browser.said("Runtime.consoleAPICalled") == []
    assert browser.said("Log.entryAdded") == []


def test_nobody_looks_and_nothing_is_asked(locust: Locust, browser: Browser) -> None:
    locust.status(IDLE)
    locust.get("/perf/dairyperf")
    browser.open(
        f"http://127.0.0.1:{locust.port}/perf/dairyperf", "document.getElementById('state').textContent == 'idle'"
    )
    browser.wait("!asking")
    asked = browser.evaluate(
        """(async () => {
          let asked = 0;
          window.fetch = async () => { asked += 1; return { ok: false, status: 503 }; };
          Object.defineProperty(document, "hidden", { value: true, configurable: true });
          await ask();
          const unseen = asked;
          Object.defineProperty(document, "hidden", { value: false, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
          return [unseen, asked];
        })()"""
    )
    assert asked == [0, 1]
    browser.wait("document.getElementById('fault').textContent.includes('HTTP 503')")


def test_locusts_own_page_leads_there(locust: Locust, browser: Browser) -> None:
    locust.get("/perf/dairyperf")
    link = "document.querySelector('a[href=dairyperf]')"
    browser.open(f"http://127.0.0.1:{locust.port}/perf/", f"{link} && document.querySelector('#root').children.length")
    # on top of whatever Locust's script draws
    centre = f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({link}.getBoundingClientRect())"
    assert browser.evaluate(f"document.elementFromPoint(...{centre}).textContent") == "dairyperf: live verdicts"
    browser.evaluate(f"setTimeout(() => {link}.click())")  # an answer before the page is left
    browser.wait("location.pathname == '/perf/dairyperf' && document.getElementById('state')")


def test_there_is_no_report_before_a_run_was_judged(locust: Locust, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of an earlier judgement")
    locust.status(COUNTING | {"run_dir": str(tmp_path)})
    assert locust.get("/perf/dairyperf/report").status_code == 404
    assert locust.get("/perf/dairyperf/live.json").json()["report"] is False
    locust.status(COUNTING | {"run_dir": str(tmp_path), "exit_code": 0})
    answer = locust.get("/perf/dairyperf/report")
    assert answer.text == "of an earlier judgement"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_locusts_login_guards_every_part_of_it(tmp_path: Path) -> None:
    guarded = Locust(tmp_path, "--web-login")
    try:
        for path in ("/dairyperf", "/dairyperf/live.json", "/dairyperf/report"):
            answer = guarded.get(path)
            assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (302, "/login")
    finally:
        guarded.end()


def test_dark_and_light_follow_the_reader(locust: Locust, browser: Browser) -> None:
    locust.status(COUNTING)
    locust.get("/perf/dairyperf")
    browser.open(f"http://127.0.0.1:{locust.port}/perf/dairyperf", "document.querySelector('td.status.fail')")
    look: Callable[[], Any] = lambda: browser.evaluate(  # noqa: E731
        "[document.body, document.querySelector('td.status.fail')].map(one => getComputedStyle(one).color)"
    )
    found = []
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        found.append(look())
    assert all(light != dark for light, dark in zip(*found, strict=True))
