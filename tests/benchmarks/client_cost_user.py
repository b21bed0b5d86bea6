"""One client of client_cost.py in a process of its own: `client_cost_user.py CLIENT URL KEEP_ALIVE USERS REQUESTS`.

Its users share the requests evenly, send them one after the other without a pause, and the process ends after the
last reply. Locust's are ordinary users of an ordinary local runner, which calls one task per request.
"""

# Locust first: it patches the standard library, and what is imported before keeps the unpatched one.
import locust  # isort: skip

import json
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
from locust.contrib.fasthttp import FastHttpUser
from locust.env import Environment
from locust.exception import StopUser
from locust.user.users import HttpUser, User

PATH = "/xmlrpc/2/object"
CALL = ("farm", 2, "secret", "farm.animal", "search_read", [], {"domain": [["status", "=", "active"]], "limit": 80})
BODY = xmlrpc.client.dumps(CALL, "execute_kw").encode()


def transport_alone(url: str, keep_alive: bool, users: int, requests: int) -> None:
    """What the network costs dairyperf's user: its connection, without Locust, template, check and record."""
    from harness.transport import Connection

    host = url.removeprefix("http://")
    head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/xml\r\nContent-Length: {len(BODY)}\r\n\r\n"
    message = head.encode() + BODY

    def use() -> None:
        connection = Connection(url, keep_alive=keep_alive)
        for _ in range(requests // users):
            assert connection.exchange(message).status == 200
        connection.close()

    gevent.joinall([gevent.spawn(use) for _ in range(users)], raise_error=True)


def run(user_class: type[User], users: int, prepare: Callable[[Environment], None] = lambda _: None) -> None:
    """Locust with this one user class, until all of its users have stopped."""
    environment = Environment(user_classes=[user_class])
    runner = environment.create_local_runner()
    prepare(environment)
    runner.start(users, spawn_rate=100)
    runner.spawning_greenlet.join()
    runner.user_greenlets.join()
    runner.quit()
    assert not environment.stats.errors, environment.stats.errors
    assert not runner.exceptions, runner.exceptions


def dairyperf(url: str, keep_alive: bool, users: int, requests: int) -> None:
    """THE PLACE WHERE THE FULL USER IS PLUGGED IN: an OdooXmlRpcUser that fills a template, sends, checks (one reply in
    100 parsed in full), records, and fires Locust's event, in a load generator that is sampled and reports each second.
    """
    from harness.locust_plugin import OdooXmlRpcUser
    from harness.locust_plugin.clock import now_us
    from harness.locust_plugin.crew import Alone
    from harness.locust_plugin.farm import Farm
    from harness.model import Account, Scenario, StackAddresses
    from harness.odoo_calls import Call, Expect
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
        left = requests // users

        @locust.task
        def look(self) -> Any:
            if self.left == 0:
                raise StopUser
            self.left -= 1
            return self.request(call, offset=self.random.randrange(1000))

    folder = Path(tempfile.mkdtemp(prefix="client-cost-"))
    secrets = folder / "secrets.json"
    secrets.write_text(json.dumps({"odoo": {"reader": "secret"}, "odoo_keys": {}, "api_key": ""}))
    account = Account("reader", 2, "manager")
    asked = Scenario(
        name="client cost",
        description="",
        locustfile="",
        load="closed",
        users=users,
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
        odoo_url=url,
        api_url=url,
        postgres_dsn="",
        admin_dsn="",
        pgbouncer_dsn=None,
        redis_url=None,
        database="farm",
        accounts=(account,),
        passfile="",
        secrets_file=str(secrets),
        as_of="2026-06-30",
        herd=255,
        seed=42,
        checksum="",
        counts={},
        versions={},
        log_dir="",
        pids={},
    )
    visible = {account.uid: tuple((number, f"SD-{number}") for number in range(1, 256))}

    with SampleFiles(RunDir(folder)) as files:
        crew = Alone(
            Farm(asked, addresses, visible),
            now_us(),
            lambda name, report: files.append(name, Part.from_message(report["part"])),
        )

        def report_every_second() -> None:
            while True:
                gevent.sleep(1)
                crew.collect()

        def prepare(environment: Environment) -> None:
            environment.dairyperf = SimpleNamespace(generator=crew.generator)
            gevent.spawn(report_every_second)

        run(Reader, users, prepare)
        crew.collect()
        assert files.counts()["recorded"] == {call.endpoint: requests}
        crew.end()


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


def fast_http_user(url: str, keep_alive: bool, users: int, requests: int) -> None:
    class Reader(Shared, FastHttpUser):
        host = url
        left = requests // users

        def call(self) -> None:
            self.client.post(PATH, data=BODY, headers={"Content-Type": "text/xml"})

    run(Reader, users)


def http_user(url: str, keep_alive: bool, users: int, requests: int) -> None:
    class Reader(Shared, HttpUser):
        host = url
        left = requests // users

        def call(self) -> None:
            self.client.post(PATH, data=BODY, headers={"Content-Type": "text/xml"})

    run(Reader, users)


def server_proxy(url: str, keep_alive: bool, users: int, requests: int) -> None:
    """The standard library's client, which encodes every call and parses every reply, fires Locust's event."""

    class Reader(Shared):
        left = requests // users

        def on_start(self) -> None:
            self.proxy = xmlrpc.client.ServerProxy(url + PATH)

        def call(self) -> None:
            start_s, before_s, fault = time.time(), time.perf_counter(), None
            try:
                self.proxy.execute_kw(*CALL)
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

    run(Reader, users)


CLIENTS = {
    "dairyperf": dairyperf,
    "transport alone": transport_alone,
    "FastHttpUser": fast_http_user,
    "HttpUser": http_user,
    "xmlrpc.client": server_proxy,
}

if __name__ == "__main__":
    client, url, keep_alive, users, requests = sys.argv[1:]
    CLIENTS[client](url, keep_alive == "1", int(users), int(requests))
