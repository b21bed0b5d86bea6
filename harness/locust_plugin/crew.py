"""The load generators of a run, as the process sees them that leads it: itself, or Locust's workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gevent.queue import Empty, Queue
from locust.runners import STATE_MISSING
from pydantic import TypeAdapter

from harness import scenario
from harness.errors import HarnessError, InputError, RunInvalid, StackError
from harness.locust_plugin import clock
from harness.locust_plugin.farm import Farm
from harness.locust_plugin.generator import Generator
from harness.locust_plugin.health import Record
from harness.model import StackAddresses

# Messages between master and workers; reports travel in Locust's own, under REPORT.
BEGIN, READY, FAILED, ARRIVE, CLOSE, CLOCK, LEAVE = (
    f"dairyperf {word}" for word in ("begin", "ready", "failed", "arrive", "close", "clock", "leave")
)
REPORT = "dairyperf"
REPORT_INTERVAL_S = 1.0
# Locust's master calls a worker missing after 3 missed heartbeats of 1 s; ours come with the reports.
LOST_AFTER_S = 5.0
# What a worker needs before it can begin: the seed's answers, for a large herd some seconds of work.
_READY_TIMEOUT_S = 120.0

log = logging.getLogger("dairyperf")

Hear = Callable[[str, Mapping[str, Any]], None]


@dataclass
class Member:
    """One load generator, as of its last report."""

    name: str
    index: int
    heard_at: float = field(default_factory=time.monotonic)
    begun: bool = False
    users: int = 0  # ever started
    running: int = 0
    single: bool = True  # a user sends one request, then waits
    drained: bool = False
    gone: bool = False  # it left before the end
    lost: bool = False  # it was silent for too long, whatever came later
    connections: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    health: Record = field(default_factory=Record)
    clock_error_us: int = 0

    def hear(self, report: Mapping[str, Any]) -> None:
        self.heard_at = time.monotonic()
        self.users, self.running, self.drained = report["users"], report["running"], report["drained"]
        self.single = report["single"]
        self.connections = report["connections"]
        self.health.add(report["health"])
        self.clock_error_us = report.get("clock_error_us", 0)

    def is_done(self) -> bool:
        """Whether nothing more is to be waited for."""
        return self.drained or self.lost or not self.begun

    def silent(self) -> bool:
        return self.gone or (not self.drained and time.monotonic() - self.heard_at > LOST_AFTER_S)


class Crew(Protocol):
    """members: by name. Each report of one is handed to the run's `hear`."""

    members: dict[str, Member]

    def begin(self) -> None: ...
    def arrive_from(self, start_us: int) -> None: ...
    def close_at(self, at_us: int) -> None: ...
    def close(self) -> None: ...
    def forget(self, name: str) -> None: ...
    def collect(self) -> None:
        """Hands over what is at hand; called about every second, and often while the last replies come in."""

    def end(self) -> None: ...


class Alone:
    """One process: leads the run and generates its load."""

    NAME = "local"

    def __init__(self, farm: Farm, origin_us: int, hear: Hear) -> None:
        self.generator = Generator(farm, origin_us)
        self.members = {self.NAME: Member(self.NAME, 0, begun=True)}
        self._hear = hear
        self.arrive_from = self.generator.arrive_from
        self.close_at = self.generator.close_at
        self.close = self.generator.close

    def begin(self) -> None:
        pass

    def forget(self, name: str) -> None:
        pass

    def collect(self) -> None:
        self._hear(self.NAME, self.generator.report())

    def end(self) -> None:
        self.generator.stop()


class Workers:
    """Locust's master: its workers generate the load, and report in Locust's own messages."""

    def __init__(
        self,
        environment: Any,
        farm: Farm,
        origin_us: int,
        hear: Hear,
        breaks: Callable[[str], None],
        run: str,
    ) -> None:
        """breaks: how the run learns that a worker joined too late. run: its name, which reports repeat."""
        self._runner, self._events = environment.runner, environment.events
        self._farm, self._origin_us = farm, origin_us
        self._hear, self._breaks, self._run = hear, breaks, run
        self.members: dict[str, Member] = {}
        self._names: dict[str, str] = {}  # by Locust's id of the worker
        self._answers: Queue[tuple[str, HarnessError | None]] = Queue()
        self._closing = False
        self._messages = {
            READY: self._on_ready,
            FAILED: self._on_failed,
            CLOCK: self._on_clock,
            LEAVE: self._on_leave,
        }

    def begin(self) -> None:
        """Tells every worker what to do and waits until all are ready; their first users come after this. Raises
        HarnessError when one cannot."""
        ids = sorted(client.id for client in self._runner.clients.ready)
        if self._farm.scenario.users < len(ids):
            raise InputError(
                f"{len(ids)} workers for {self._farm.scenario.users} users: some would have none; use fewer workers"
            )
        for name, listener in self._messages.items():
            self._runner.register_message(name, listener)
        self._events.worker_report.add_listener(self._on_report)
        self._events.worker_connect.add_listener(self._on_connect)
        self._names = {client_id: f"worker-{index}" for index, client_id in enumerate(ids)}
        self.members = {name: Member(name, index) for index, name in enumerate(self._names.values())}
        for client_id, name in self._names.items():
            log.info("%s is %s", name, client_id)
        self._await_ready()

    def _await_ready(self) -> None:
        waiting = dict(self._names)
        begun_at, repeat_at = time.monotonic(), 0.0
        while waiting and not self._closing:
            now = time.monotonic()
            if now - begun_at > _READY_TIMEOUT_S:
                names = ", ".join(sorted(waiting.values()))
                raise StackError(f"{names}: not ready within {_READY_TIMEOUT_S:g} s; see the workers' logs")
            if now >= repeat_at:  # one that is still starting may not listen yet
                repeat_at = now + LOST_AFTER_S
                for client_id in waiting:
                    self._runner.send_message(BEGIN, self._order(client_id), client_id)
            try:
                client_id, fault = self._answers.get(timeout=1)
            except Empty:
                for client_id, name in waiting.items():
                    client = self._runner.clients.get(client_id)
                    if client is None or client.state == STATE_MISSING:
                        raise RunInvalid(f"{name}: ended before it was ready; see its log, and run again") from None
                continue
            if fault is not None:
                raise fault
            self.members[waiting.pop(client_id)].begun = True
        for member in self.members.values():
            member.heard_at = time.monotonic()

    def _order(self, client_id: str) -> dict[str, Any]:
        return {
            "scenario": scenario.to_json(self._farm.scenario),
            "addresses": TypeAdapter(StackAddresses).dump_python(self._farm.addresses, mode="json"),
            "visible": {uid: [list(animal) for animal in seen] for uid, seen in self._farm.visible.items()},
            "origin_us": self._origin_us,
            "boot_id": clock.boot_id(),
            "worker": self.members[self._names[client_id]].index,
            "workers": len(self._names),
            "run": self._run,
        }

    def forget(self, name: str) -> None:
        """Of a worker that is lost: or Locust would start all users anew after a minute, to make up for its own."""
        for client_id, own in self._names.items():
            if own == name:
                self._runner.clients.pop(client_id, None)

    def arrive_from(self, start_us: int) -> None:
        self._runner.send_message(ARRIVE, {"at_us": start_us})

    def close_at(self, at_us: int) -> None:
        self._runner.send_message(CLOSE, {"at_us": at_us})

    def close(self) -> None:
        self._closing = True
        self._runner.send_message(CLOSE, {"at_us": None})

    def collect(self) -> None:
        pass

    def end(self) -> None:
        if not self._names:  # it has not begun
            return
        for name in self._messages:
            self._runner.custom_messages.pop(name, None)
        self._events.worker_report.remove_listener(self._on_report)
        self._events.worker_connect.remove_listener(self._on_connect)

    def _on_report(self, client_id: str, data: Mapping[str, Any], **_: object) -> None:
        # a report of an earlier run may come late
        if data.get(REPORT, {}).get("run") == self._run and (name := self._names.get(client_id)) is not None:
            self._hear(name, data[REPORT])

    def _on_connect(self, client_id: str, **_: object) -> None:
        # a client that repeats itself has not heard our acknowledgement yet
        if self._names and client_id not in self._names:
            self._breaks(f"worker {client_id} joined in the middle of the run; start all workers before it")

    def _on_clock(self, msg: Any, **_: object) -> None:
        answer = {"sent_us": msg.data["sent_us"], "master_us": clock.now_us()}
        self._runner.send_message(CLOCK, answer, msg.node_id)

    def _on_leave(self, msg: Any, **_: object) -> None:
        """A worker that was asked to end before the run did."""
        if msg.data["run"] == self._run and (name := self._names.get(msg.node_id)) is not None:
            self._hear(name, msg.data)
            self.members[name].gone = not self._closing

    def _on_ready(self, msg: Any, **_: object) -> None:
        self._answers.put((msg.node_id, None))

    def _on_failed(self, msg: Any, **_: object) -> None:
        kinds = {kind.exit_code: kind for kind in HarnessError.__subclasses__()}
        text = f"{self._names[msg.node_id]}: {msg.data['error']}"
        self._answers.put((msg.node_id, kinds[msg.data["exit_code"]](text)))
