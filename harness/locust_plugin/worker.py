"""A worker of Locust: generates load when its master says so, and reports every second."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import gevent
import locust.runners
from gevent.queue import Empty, Queue
from pydantic import TypeAdapter

from harness import scenario
from harness.errors import HarnessError, StackError
from harness.locust_plugin import clock, crew
from harness.locust_plugin.farm import Farm
from harness.locust_plugin.generator import Generator
from harness.model import StackAddresses

_CLOCK_EXCHANGES = 9
_CLOCK_TIMEOUT_S = 10.0

log = logging.getLogger("dairyperf")


class Worker:
    """What users of a worker find at `environment.dairyperf`."""

    def __init__(self, environment: Any) -> None:
        options = environment.parsed_options
        self._secrets_file: str | None = options.secrets
        self._runner = environment.runner
        self._generator: Generator | None = None
        self._clock_error_us = 0
        self._answers: Queue[tuple[int, int, int]] = Queue()
        self._run = ""
        self._close_at_us: int | None = None
        self._closed = False
        locust.runners.WORKER_REPORT_INTERVAL = crew.REPORT_INTERVAL_S
        for name, listener in (
            (crew.BEGIN, self._on_begin),
            (crew.ARRIVE, self._on_arrive),
            (crew.CLOSE, self._on_close),
            (crew.CLOCK, self._on_clock),
        ):
            self._runner.register_message(name, listener)
        self._heard_at = time.monotonic()
        environment.events.heartbeat_received.add_listener(self._on_heartbeat)
        environment.events.report_to_master.add_listener(self._on_report)
        environment.events.quitting.add_listener(self._on_quitting)

    @property
    def generator(self) -> Generator:
        """StackError: the master has not said what to do, or it cannot be done."""
        if self._generator is None:
            raise StackError("worker: it has no order of its master; start it with a dairyperf master, see its log")
        return self._generator

    def _on_begin(self, msg: Any, **_: object) -> None:
        """Answers come through the greenlet that calls this, hence another one for the work. The master repeats itself
        until it is answered."""
        if msg.data["run"] == self._run:
            return
        if self._generator is not None:
            self._generator.stop()
        self._generator, self._run = None, msg.data["run"]
        self._close_at_us, self._closed = None, False
        self._heard_at = time.monotonic()
        gevent.spawn(self._begin, msg.data)

    def _begin(self, order: Mapping[str, Any]) -> None:
        try:
            farm = Farm(
                scenario.from_json(order["scenario"]),
                TypeAdapter(StackAddresses).validate_python(order["addresses"]),
                {uid: tuple((number, tag) for number, tag in seen) for uid, seen in order["visible"].items()},
                self._secrets_file,
            )
            offset_us = 0
            if clock.boot_id() != order["boot_id"]:
                offset_us, self._clock_error_us = self._measure_clock()
                log.info("clock: %d µs from the master's, at most %d µs wrong", offset_us, self._clock_error_us)
            clock_us = order["origin_us"] + offset_us
            self._generator = Generator(farm, clock_us, order["worker"], order["workers"])
            self._close()
            self._runner.send_message(crew.READY)
        except HarnessError as error:
            log.error("%s", error)
            self._runner.send_message(crew.FAILED, {"error": str(error), "exit_code": error.exit_code})

    def _measure_clock(self) -> tuple[int, int]:
        exchanges = []
        for _ in range(_CLOCK_EXCHANGES):
            self._runner.send_message(crew.CLOCK, {"sent_us": clock.now_us()})
            try:
                exchanges.append(self._answers.get(timeout=_CLOCK_TIMEOUT_S))
            except Empty:
                raise StackError(f"clock: no word of the master in {_CLOCK_TIMEOUT_S:g} s; check the network") from None
        return clock.offset_us(exchanges)

    def _on_clock(self, msg: Any, **_: object) -> None:
        self._answers.put((msg.data["sent_us"], msg.data["master_us"], clock.now_us()))

    def _on_arrive(self, msg: Any, **_: object) -> None:
        self.generator.arrive_from(msg.data["at_us"])

    def _on_close(self, msg: Any, **_: object) -> None:
        if msg.data["at_us"] is None:
            self._closed = True
        else:
            self._close_at_us = msg.data["at_us"]
        self._close()

    def _close(self) -> None:
        """As the master has told, which may have been before there was a generator."""
        if self._generator is not None and self._close_at_us is not None:
            self._generator.close_at(self._close_at_us)
        if self._generator is not None and self._closed:
            self._generator.close()

    def _report(self) -> dict[str, Any]:
        return {**self.generator.report(), "run": self._run, "clock_error_us": self._clock_error_us}

    def _on_heartbeat(self, **_: object) -> None:
        self._heard_at = time.monotonic()

    def _on_report(self, client_id: str, data: dict[str, Any], **_: object) -> None:
        # in the same message as Locust's own counts, so that both tell of the same moment
        if self._generator is None:
            return
        if time.monotonic() - self._heard_at > crew.LOST_AFTER_S and not self._generator.closed.is_set():
            # it has given us up as well: what we still sent would be in no sample
            self._generator.breaks(f"a worker had no heartbeat of its master for {crew.LOST_AFTER_S:g} s")
        data[crew.REPORT] = self._report()

    def _on_quitting(self, environment: Any, **_: object) -> None:
        environment.process_exit_code = 0  # the master's counts
        if self._generator is not None:
            self._generator.close()
            self._runner.send_message(crew.LEAVE, self._report())
