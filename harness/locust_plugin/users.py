"""Users that send on a schedule, once, and record every request: what locustfiles derive their own from."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import cached_property
from random import Random
from typing import Any, Protocol, TypeVar, cast

from locust import User
from locust.env import Environment
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_RUNNING

from fixtures.answers.seeded import Answers
from harness import odoo_web, wire
from harness.api_calls import Route
from harness.locust_plugin.farm import Farm
from harness.locust_plugin.generator import Generator as LoadGenerator
from harness.model import Account
from harness.odoo_calls import Call, Json2, XmlRpc
from harness.transport import Connection
from harness.wire import Check, Reply, Request, Template

T = TypeVar("T")
TaskT = TypeVar("TaskT", bound=Callable[..., object])
Turn = Generator[Request, Reply, None]

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, spread any number of users evenly

log = logging.getLogger("dairyperf")


class Speech(Protocol):
    """How a user speaks: `odoo_calls.XmlRpc` and `Json2`, `odoo_web.WebRpc`, `api_calls.Api`."""

    @property
    def request_type(self) -> str: ...
    @property
    def keep_alive(self) -> bool: ...
    def encode(self, call: Any) -> Template: ...
    def outcome(self, reply: Reply, expect: re.Pattern[bytes]) -> str: ...
    def result(self, reply: Reply) -> Any: ...


class RequestFailed(Exception):
    """The outcome's name, as Locust's statistics show it."""


class DairyUser(User):
    """One user: a task returns the next request; it is sent when its time has come, once, and recorded.

    In a closed load the next request is scheduled exactly think_time_s after the previous reply, or pacing_s after
    the previous schedule; in an open one the clock alone decides. Everything a user chooses comes from its own
    `random`, and from nothing that a server says: the same seed gives the same requests. Locust's on_start, on_stop and
    wait_time have no place here.
    """

    abstract = True
    protocol: Speech
    farm: Farm
    answers: Answers
    single_requests = True  # each visit is one request

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.generator: LoadGenerator = environment.dairyperf.generator  # type: ignore[attr-defined]
        self.farm = self.generator.farm
        self.inputs = self.farm.inputs
        self.ended = False
        self.number, self.ordinal = self.generator.number(self)
        # seeding by text is the same in every process, which hash() is not
        self.random = Random(f"{self.farm.scenario.seed}/{type(self).__name__}/{self.ordinal}")
        self._templates: dict[int, Template] = {}
        self.answers = self.farm.answers
        self.protocol, url = self.reach()
        self.connection = Connection(url, keep_alive=self.protocol.keep_alive)

    def reach(self) -> tuple[Speech, str]:
        """How this user speaks, and to which URL."""
        raise NotImplementedError

    def turn(self) -> Turn:
        """The requests of one visit: the first is scheduled, each further one follows the reply to the one before."""
        tasks = cast("Sequence[Callable[[DairyUser], Request]]", self.tasks)  # quoted: making a type takes 3 µs
        yield self.random.choice(tasks)(self)

    def request(self, call: Call | Route, **values: object) -> Request:
        """`call` with its slots filled; all that never changes is encoded when a user makes it for the first time."""
        template = self._templates.get(id(call))
        if template is None:
            template = self._templates[id(call)] = self.protocol.encode(call)
        return template.fill(values)

    def often(self, values: Sequence[T]) -> T:
        """One of the values, the earlier the likelier: half of the choices fall on the first quarter, as people look
        again and again at the same few animals."""
        return values[int(self.random.random() ** 2 * len(values))]

    def recent_day(self) -> date:
        """The last day of data half of the time, else one of the week before."""
        ago = self.random.randint(1, 7) if self.random.random() < 0.5 else 0
        last: date = self.inputs.as_of
        return last - timedelta(days=ago)

    def traffic(self) -> Mapping[str, int]:
        """Connections made, those made again because one was lost, and bytes on the wire, so far."""
        return {name: getattr(self.connection, name) for name in ("connects", "reconnects", "bytes_out", "bytes_in")}

    def run(self) -> None:  # type: ignore[misc]
        """Instead of Locust's own loop, which chooses by the global random and pauses without a schedule."""
        self._state = LOCUST_STATE_RUNNING
        self.generator.enter(self)
        schedule = self._open_schedule() if self.farm.scenario.load == "open" else self._closed_schedule()
        try:
            for scheduled_us in schedule:
                self._visit(scheduled_us)
        except StopUser:
            pass
        except Exception as error:
            log.exception("user %s #%d", type(self).__name__, self.ordinal)
            self.generator.breaks(
                f"user {type(self).__name__} #{self.ordinal} broke: {type(error).__name__}; see the log"
            )
        finally:
            self.connection.close()
            self.ended = True

    def _closed_schedule(self) -> Iterator[int]:
        asked = self.farm.scenario
        interval_us = round((asked.think_time_s if asked.pacing_s is None else asked.pacing_s) * 1e6)
        # Users come in groups and all pause alike: without this they would stay in step, and queue on each other.
        scheduled_us = self.generator.now_us() + round(self.number * _GOLDEN % 1 * interval_us)
        while True:
            yield scheduled_us
            if self._state != LOCUST_STATE_RUNNING or self.generator.closed.is_set():
                return
            scheduled_us = (self._ended_us if asked.pacing_s is None else scheduled_us) + interval_us

    def _open_schedule(self) -> Iterator[int]:
        for due_us in self.generator.arrivals_us(self):
            if self.generator.is_over(due_us):
                return
            yield due_us

    def _visit(self, scheduled_us: int) -> None:
        turn = self.turn()
        request = next(turn)
        if not self.generator.wait_until(scheduled_us) or self._state != LOCUST_STATE_RUNNING:
            self.generator.drop(request.endpoint, scheduled_us)
            return
        while True:
            reply = self._send(request, scheduled_us)
            try:
                request = turn.send(reply)
            except StopIteration:
                return
            if self.generator.closed.is_set():
                return
            scheduled_us = self._ended_us

    def _send(self, request: Request, scheduled_us: int) -> Reply:
        """Sends once and records it."""
        generator, samples = self.generator, self.generator.samples
        endpoint = samples.endpoint_id(request.endpoint)
        before = samples.count_sent(endpoint)
        start_s, start_us = time.time(), generator.now_us()
        reply = self.connection.exchange(request.message)
        self._ended_us = generator.now_us()
        outcome = self.protocol.outcome(reply, request.expect)
        if outcome == wire.OK and before % self.farm.scenario.check_one_in == 0 and request.check is not None:
            outcome = self._check(request.check, request, reply, endpoint)
        self.outcome = outcome
        service_us = self._ended_us - start_us
        samples.record(
            scheduled_us, start_us, service_us, endpoint, samples.outcome_id(outcome), reply.wire_bytes, self.number
        )
        self.environment.events.request.fire(
            request_type=self.protocol.request_type,
            name=request.endpoint,
            response_time=service_us / 1000,
            response_length=len(reply.body),
            response=None,
            context=self.context(),
            exception=None if outcome == wire.OK else RequestFailed(outcome),
            start_time=start_s,
            url=None,
        )
        return reply

    def _check(self, check: Check, request: Request, reply: Reply, endpoint: int) -> str:
        """Parses the whole reply, its time being taken, and compares it with the seed; the outcome."""
        samples = self.generator.samples
        samples.count("checked", endpoint)
        try:
            complaint = check(self.answers, request.values, self.protocol.result(reply))
        except ValueError as error:
            complaint = str(error)
        if complaint is None:
            return wire.OK
        samples.count("wrong", endpoint)
        log.error("wrong reply to %s: %s", request.endpoint, complaint)
        return "wrong"


def roles(*names: str) -> Callable[[TaskT], TaskT]:
    """Marks a task as one for accounts of these roles; the others lack the right to it."""

    def mark(task: TaskT) -> TaskT:
        task.roles = names  # type: ignore[attr-defined]
        return task

    return mark


class AccountUser(DairyUser):
    """Works as one of the shared accounts, does what that account may do, and asks about animals that it may see.

    animals: the active ones, (id, tag); lactating_ids: those milked on as_of.
    """

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tasks = [task for task in self.tasks if self.account.role in getattr(task, "roles", (self.account.role,))]
        self.answers = self.farm.answers_to(self.account)
        self.animals = self.farm.visible[self.account.uid]
        self.lactating_ids = self.farm.milked[self.account.uid]

    @cached_property
    def account(self) -> Account:
        accounts: Sequence[Account] = self.farm.addresses.accounts
        turn: int = self.ordinal % len(accounts)
        return accounts[turn]


class OdooUser(AccountUser):
    """Its account's uid is known: nobody logs in while the clock runs."""

    abstract = True

    def reach(self) -> tuple[Speech, str]:
        return self.speak(), self.farm.addresses.odoo_url

    def speak(self) -> Speech:
        """The protocol, with the account's way to log in."""
        raise NotImplementedError


class OdooXmlRpcUser(OdooUser):
    """Speaks XML-RPC; Odoo closes the connection after each call."""

    abstract = True

    protocol: XmlRpc

    def speak(self) -> XmlRpc:
        return self.farm.xmlrpc(self.account)

    @cached_property
    def log_in_request(self) -> Request:
        """A log-in with the account's password."""
        return self.protocol.authenticate(self.account.login).fill({})


class OdooJson2User(OdooUser):
    """Speaks JSON-2, which replaces XML-RPC in Odoo 22."""

    abstract = True

    def speak(self) -> Json2:
        return self.farm.json2(self.account)


class OdooWebUser(OdooUser):
    """A browser that was left open: logs in through the page when it has no session, then polls its dashboard. It has
    no place in an open load, whose arrivals are single requests."""

    abstract = True
    single_requests = False
    protocol: odoo_web.WebRpc

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._polls: list[Request] = []  # those of the session, none without one

    def speak(self) -> odoo_web.WebRpc:
        return self.farm.web()

    def dashboard(self) -> Iterable[tuple[Call, Mapping[str, object]]]:
        """What one poll asks for, with the values of the slots."""
        raise NotImplementedError

    def turn(self) -> Turn:
        if not self._polls:
            yield from self._log_in()
        for request in self._polls:
            yield request
            if self.outcome == "fault:100:SessionExpired":
                self._polls = []
                return

    def _log_in(self) -> Turn:
        page = yield self.protocol.login_page()
        token, anonymous = odoo_web.csrf_token(page.body), odoo_web.session_id(page.head)
        if token is None or anonymous is None:
            return
        password = self.farm.password(self.account)
        welcome = yield self.protocol.login(token, self.account.login, password, anonymous)
        session = odoo_web.session_id(welcome.head)
        if self.outcome == wire.OK and session is not None:
            cookie = {odoo_web.SESSION: session}
            self._polls = [self.protocol.encode(call).bind(cookie).fill(values) for call, values in self.dashboard()]


class ApiUser(AccountUser):
    """Speaks JSON to the FastAPI service over one connection that is kept alive."""

    abstract = True

    def reach(self) -> tuple[Speech, str]:
        return self.farm.api(self.account), self.farm.addresses.api_url
