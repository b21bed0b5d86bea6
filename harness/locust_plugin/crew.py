"""The load generators of a run, as the process sees them that leads it: itself, or Locust's workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import TypeAdapter

from harness import scenario
from harness.errors import HarnessError, InputError
from harness.locust_plugin import clock
from harness.locust_plugin.farm import Farm
from harness.locust_plugin.generator import Generator
from harness.locust_plugin.health import Record
from harness.model import StackAddresses

# Messages between master and workers; reports travel in Locust's own, under REPORT.
BEGIN, ARRIVE, CLOSE, CLOCK, LEAVE, FAILED = (
    f"dairyperf {word}" for word in ("begin", "arrive", "close", "clock", "leave", "failed")
)
REPORT = "dairyperf"
REPORT_INTERVAL_S = 1.0
# Locust's master calls a worker missing after 3 missed heartbeats of 1 s; ours come with the reports.
LOST_AFTER_S = 5.0

log = logging.getLogger("dairyperf")

Hear = Callable[[str, Mapping[str, Any]], None]


@dataclass
class Member:
    """One load generator, as of its last report."""

    name: str
    index: int
    heard_at: float = field(default_factory=time.monotonic)
    users: int = 0
    drained: bool = False
    lost: bool = False
    connections: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    health: Record = field(default_factory=Record)
    clock_error_us: int = 0

    def hear(self, report: Mapping[str, Any]) -> None:
        self.heard_at = time.monotonic()
        self.users, self.drained, self.lost = report["users"], report["drained"], False
        self.connections = report["connections"]
        self.health.add(report["health"])
        self.clock_error_us = report.get("clock_error_us", 0)

    def silent(self) -> bool:
        return not self.drained and time.monotonic() - self.heard_at > LOST_AFTER_S


class Crew(Protocol):
    """members: by name. Each report of one is handed to the run's `hear`."""

    members: dict[str, Member]

    def begin(self) -> None: ...
    def arrive_from(self, start_us: int) -> None: ...
    def close_at(self, at_us: int) -> None: ...
    def close(self) -> None: ...
    def collect(self) -> None:
        """Hands over what is at hand; called about every second, and often while the last replies come in."""

    def end(self) -> None: ...


class Alone:
    """One process: leads the run and generates its load."""

    NAME = "local"

    def __init__(self, farm: Farm, origin_us: int, hear: Hear) -> None:
        self.generator = Generator(farm, origin_us)
        self.members = {self.NAME: Member(self.NAME, 0)}
        self._hear = hear
        self.arrive_from = self.generator.arrive_from
        self.close_at = self.generator.close_at
        self.close = self.generator.close

    def begin(self) -> None:
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
        fails: Callable[[HarnessError], None],
    ) -> None:
        """breaks, fails: how the run learns that a worker left, joined too late, or cannot work."""
        self._runner, self._events = environment.runner, environment.events
        self._farm, self._origin_us = farm, origin_us
        self._hear, self._breaks, self._fails = hear, breaks, fails
        self.members: dict[str, Member] = {}
        self._names: dict[str, str] = {}  # by Locust's id of the worker
        self._runner.register_message(CLOCK, self._on_clock)
        self._runner.register_message(LEAVE, self._on_leave)
        self._runner.register_message(FAILED, self._on_failed)
        self._events.worker_report.add_listener(self._on_report)
        self._events.worker_connect.add_listener(self._on_connect)

    def begin(self) -> None:
        """Tells every worker what to do; their first users come after this."""
        ids = sorted(client.id for client in self._runner.clients.ready)
        if self._farm.scenario.users < len(ids):
            raise InputError(
                f"{len(ids)} workers for {self._farm.scenario.users} users: some would have none; use fewer workers"
            )
        self._names = {client_id: f"worker-{index}" for index, client_id in enumerate(ids)}
        self.members = {name: Member(name, index) for index, name in enumerate(self._names.values())}
        for index, client_id in enumerate(ids):
            log.info("%s is %s", self._names[client_id], client_id)
            message = {
                "scenario": scenario.to_json(self._farm.scenario),
                "addresses": TypeAdapter(StackAddresses).dump_python(self._farm.addresses, mode="json"),
                "visible": {uid: [list(animal) for animal in seen] for uid, seen in self._farm.visible.items()},
                "origin_us": self._origin_us,
                "boot_id": clock.boot_id(),
                "worker": index,
                "workers": len(ids),
            }
            self._runner.send_message(BEGIN, message, client_id)

    def arrive_from(self, start_us: int) -> None:
        self._runner.send_message(ARRIVE, {"at_us": start_us})

    def close_at(self, at_us: int) -> None:
        self._runner.send_message(CLOSE, {"at_us": at_us})

    def close(self) -> None:
        self._runner.send_message(CLOSE, {"at_us": None})

    def collect(self) -> None:
        pass

    def end(self) -> None:
        self._events.worker_report.remove_listener(self._on_report)
        self._events.worker_connect.remove_listener(self._on_connect)

    def _on_report(self, client_id: str, data: Mapping[str, Any], **_: object) -> None:
        if REPORT in data and (name := self._names.get(client_id)) is not None:
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
        if (name := self._names.get(msg.node_id)) is not None:
            self._hear(name, msg.data)
            self.members[name].heard_at = -LOST_AFTER_S

    def _on_failed(self, msg: Any, **_: object) -> None:
        kinds = {kind.exit_code: kind for kind in HarnessError.__subclasses__()}
        self._fails(kinds[msg.data["exit_code"]](f"{self._names.get(msg.node_id, msg.node_id)}: {msg.data['error']}"))
