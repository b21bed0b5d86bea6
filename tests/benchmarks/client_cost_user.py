"""One client of client_cost.py within Locust, in a process of its own.

client_cost_user.py CLIENT URL KEEP_ALIVE USERS REQUESTS BODY_FILE [PROFILE_FILE]

Its users share the requests evenly, send them one after the other without a pause, and the process ends after the
last reply. They are ordinary users of an ordinary local runner, which calls one task per request.
"""

# Locust first: it patches the standard library, and what is imported before keeps the unpatched one.
import locust  # isort: skip

import dataclasses
import json
import resource
import signal
import sys
import tempfile
import time
import xmlrpc.client
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
from locust.contrib.fasthttp import FastHttpUser
from locust.env import Environment
from locust.exception import StopUser
from locust.user.users import HttpUser, User

PATH = "/xmlrpc/2/object"
HEADERS = {"Content-Type": "text/xml"}


@dataclass(frozen=True)
class Work:
    """What a client has to do."""

    url: str
    keep_alive: bool
    users: int
    requests: int
    body: bytes

    @property
    def share(self) -> int:
        """Requests of each user."""
        return self.requests // self.users


def before_load() -> None:
    """Where a profile begins."""


def run(user_class: type[User], users: int, prepare: Callable[[Environment], None] = lambda _: None) -> None:
    """Locust with this one user class, until all of its users have stopped."""
    environment = Environment(user_classes=[user_class])
    runner = environment.create_local_runner()
    prepare(environment)
    before_load()
    runner.start(users, spawn_rate=100)
    runner.spawning_greenlet.join()
    runner.user_greenlets.join()
    runner.quit()
    assert not environment.stats.errors, [error.to_dict() for error in environment.stats.errors.values()]
    assert not runner.exceptions, runner.exceptions


def dairyperf(work: Work) -> None:
    """The whole user, within a load generator that is watched and whose samples are written down every second."""
    from harness.locust_plugin import OdooXmlRpcUser
    from harness.locust_plugin.clock import now_us
    from harness.locust_plugin.crew import Alone
    from harness.odoo_calls import Call, Expect, XmlRpc
    from harness.recorder import Part, SampleFiles
    from harness.rundir import RunDir
    from harness.wire import Slot

    call = Call(
        "farm.animal",
        "search_read",
        {"domain": [["status", "=", "active"]], "limit": 80, "offset": Slot("offset")},
        expect=Expect.ROWS,
        check=lambda _answers, _values, rows: None if rows else "no rows",
    )

    class Reader(OdooXmlRpcUser):
        left = work.share

        def speak(self) -> XmlRpc:
            return dataclasses.replace(super().speak(), keep_alive=work.keep_alive)

        @locust.task
        def look(self) -> Any:
            if self.left == 0:
                raise StopUser
            self.left -= 1
            return self.request(call, offset=self.random.randrange(1000))

    with tempfile.TemporaryDirectory() as folder, SampleFiles(RunDir(Path(folder))) as files:

        def hear(name: str, report: Mapping[str, Any]) -> None:
            files.append(name, Part.from_message(report["part"]))

        crew = Alone(farm(work, Path(folder)), now_us(), hear)

        def report_every_second() -> None:
            while True:
                gevent.sleep(1)
                crew.collect()

        def prepare(environment: Environment) -> None:
            environment.dairyperf = SimpleNamespace(generator=crew.generator)
            gevent.spawn(report_every_second)

        run(Reader, work.users, prepare)
        crew.collect()
        crew.end()
        assert files.counts()["recorded"] == {call.endpoint: work.requests}


def farm(work: Work, folder: Path) -> Any:
    """What such a user knows of a stack, with the stub for Odoo."""
    from harness.locust_plugin.farm import Farm
    from harness.model import Account, Scenario, StackAddresses

    secrets = folder / "secrets.json"
    secrets.write_text(json.dumps({"odoo": {"reader": "secret"}}))
    account = Account("reader", 2, "manager")
    asked = Scenario(
        name="client cost",
        description="",
        locustfile="",
        load="closed",
        users=work.users,
        spawn_rate_per_s=100,
        think_time_s=0,
        warmup_s=0,
        duration_s=60,
        seed=42,
        stages=(),
        thresholds=(),
    )
    addresses = StackAddresses(
        profile="day40",
        odoo_url=work.url,
        api_url=work.url,
        postgres_dsn="",
        admin_dsn="",
        pgbouncer_dsn=None,
        redis_url=None,
        database="farm",
        accounts=(account,),
        passfile="",
        secrets_file=str(secrets),
        as_of="2026-06-30",
        herd=20,
        seed=42,
        checksum="",
        counts={},
        versions={},
        log_dir="",
        pids={},
    )
    return Farm(asked, addresses, {account.uid: tuple((number, f"SD-{number}") for number in range(1, 21))})


class Shared(User):
    """A user that stops when it has done its share."""

    abstract = True
    left = 0

    @locust.task
    def turn(self) -> None:
        if self.left == 0:
            raise StopUser
        self.left -= 1
        self.call()

    def call(self) -> None:
        raise NotImplementedError


def fast_http_user(work: Work) -> None:
    class Reader(Shared, FastHttpUser):
        host = work.url
        left = work.share

        def call(self) -> None:
            self.client.post(PATH, data=work.body, headers=HEADERS)

    run(Reader, work.users)


def http_user(work: Work) -> None:
    class Reader(Shared, HttpUser):
        host = work.url
        left = work.share

        def call(self) -> None:
            self.client.post(PATH, data=work.body, headers=HEADERS)

    run(Reader, work.users)


def server_proxy(work: Work) -> None:
    """The standard library's client, which encodes every call and parses every reply, fires Locust's event."""

    parameters, _method = xmlrpc.client.loads(work.body)

    class Reader(Shared):
        left = work.share

        def on_start(self) -> None:
            self.proxy = xmlrpc.client.ServerProxy(work.url + PATH)

        def call(self) -> None:
            start_s, before_s, fault = time.time(), time.perf_counter(), None
            try:
                self.proxy.execute_kw(*parameters)
            except xmlrpc.client.Fault as error:
                fault = error
            self.environment.events.request.fire(
                request_type="xmlrpc",
                name="search_read",
                start_time=start_s,
                response_time=(time.perf_counter() - before_s) * 1000,
                response_length=0,
                response=None,
                context={},
                exception=fault,
            )

    run(Reader, work.users)


CLIENTS = {
    "dairyperf": dairyperf,
    "FastHttpUser": fast_http_user,
    "HttpUser": http_user,
    "xmlrpc.client": server_proxy,
}


class Sampler:
    """Which lines the CPU is at, from `begin` on. What a line calls in C, system calls too, counts as its own.

    Greenlets that switch would mislead a tracing profiler.
    """

    def __init__(self) -> None:
        self.lines: Counter[tuple[str, int, str]] = Counter()

    def begin(self) -> None:
        self.before = resource.getrusage(resource.RUSAGE_SELF)
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)

    def end(self, path: Path) -> None:
        """Writes what was seen as JSON."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        after = resource.getrusage(resource.RUSAGE_SELF)
        seen = {
            "user_s": after.ru_utime - self.before.ru_utime,
            "system_s": after.ru_stime - self.before.ru_stime,
            "lines": [[*line, count] for line, count in self.lines.most_common()],
        }
        path.write_text(json.dumps(seen))

    def _sample(self, _signal: int, frame: Any) -> None:
        code = frame.f_code
        self.lines[code.co_filename, frame.f_lineno, code.co_qualname] += 1


if __name__ == "__main__":
    name, url, keep_alive, users, requests, body_file, *profile = sys.argv[1:]
    asked = Work(url, keep_alive == "1", int(users), int(requests), Path(body_file).read_bytes())
    sampler = Sampler()
    if profile:
        before_load = sampler.begin
    CLIENTS[name](asked)
    if profile:
        sampler.end(Path(profile[0]))
