"""The users of one process: when they may send, what they sent, what came back."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from harness import arrivals
from harness.locust_plugin import clock
from harness.locust_plugin.farm import Farm
from harness.locust_plugin.health import Sampler
from harness.recorder import Samples

if TYPE_CHECKING:
    from harness.locust_plugin.users import DairyUser

_NO_END_US = 2**62


@dataclass(frozen=True, slots=True)
class _Arrivals:
    """An open load: its times from start_us, and how many users of this process share them."""

    start_us: int
    times_us: arrivals.Ints
    users: int


class Generator:
    """One of the run's load generators. Its reports hold everything that the run's directory needs of it."""

    def __init__(self, farm: Farm, clock_us: int, worker: int = 0, workers: int = 1) -> None:
        """clock_us: CLOCK_MONOTONIC of this machine at the run's origin. worker: this one's number of `workers`."""
        self.farm = farm
        self.samples = Samples()
        self.closed = Event()  # no new request from here on
        self._clock_us = clock_us
        self._worker, self._workers = worker, workers
        self._users: list[DairyUser] = []
        self._made: collections.Counter[str] = collections.Counter()
        self._arrivals: _Arrivals | None = None
        self._arriving = Event()
        self._closed_us = _NO_END_US
        self._broken: str | None = None
        self._health = Sampler()

    # --- time

    def now_us(self) -> int:
        """Microseconds from the run's origin."""
        return clock.now_us() - self._clock_us

    def wait_until(self, at_us: int) -> bool:
        """Sleeps until then; False if no request may be sent any more."""
        wait_us = at_us - self.now_us()
        if wait_us > 0:
            self.closed.wait(wait_us / 1e6)
        return not self.closed.is_set()

    def close_at(self, at_us: int) -> None:
        """Requests that are due before `at_us` are sent, later ones are not."""
        self._closed_us = at_us
        gevent.spawn_later(max(0, at_us - self.now_us()) / 1e6, self.close)

    def close(self) -> None:
        """No new request from now on."""
        self._closed_us = min(self._closed_us, self.now_us())
        self.closed.set()
        self._arriving.set()

    # --- users

    def number(self, user: DairyUser) -> tuple[int, int]:
        """(number among all users of the run, number within the user's class), both unique over all processes."""
        name = type(user).__name__
        number, ordinal = (self._worker + self._workers * own for own in (self._made.total(), self._made[name]))
        self._made[name] += 1
        return number, ordinal

    def enter(self, user: DairyUser) -> None:
        """A user that is made and about to work: Locust may end one that is still being made."""
        self._users.append(user)

    def arrive_from(self, start_us: int) -> None:
        """Open load: arrivals begin at `start_us`, shared among the users that are here now."""
        self._arrivals = _Arrivals(start_us, arrivals.times_us(self.farm.scenario), len(self._users))
        self._arriving.set()

    def arrivals_us(self, user: DairyUser) -> list[int]:
        """When `user` has to send, from the origin; waits until arrivals begin. Empty when they never do, or began
        before the user was there."""
        self._arriving.wait()
        place, due = self._users.index(user), self._arrivals
        if due is None or place >= due.users:
            return []
        share_us = arrivals.of_user(due.times_us, self._worker, self._workers, place, due.users)
        own: list[int] = (due.start_us + share_us).tolist()
        return own

    def is_over(self, due_us: int) -> bool:
        """Whether a request that is due then will never be."""
        return self.closed.is_set() and due_us >= self._closed_us

    def drop(self, endpoint: str, due_us: int) -> None:
        """Open load: a request that was due, and was not sent before the end. The warm-up's do not count."""
        if self._arrivals is None or self.is_over(due_us):
            return
        if due_us >= self._arrivals.start_us + round(self.farm.scenario.warmup_s * 1e6):
            self.samples.count("dropped", self.samples.endpoint_id(endpoint))

    def breaks(self, reason: str) -> None:
        """A fault of the harness itself: no more requests, and the run is invalid."""
        self._broken = self._broken or reason
        self.close()

    # --- reports

    def drained(self) -> bool:
        """Whether no request is under way, nor will be."""
        return self.closed.is_set() and all(user.ended for user in self._users)

    def report(self) -> dict[str, Any]:
        """Everything since the last report, as plain values; see `run.Run.hear`."""
        connections: dict[str, collections.Counter[str]] = {}
        for user in self._users:
            connections.setdefault(user.protocol.request_type, collections.Counter()).update(user.traffic())
        drained = self.drained()  # before the samples are taken: what it says holds for them
        return {
            "part": self.samples.take().to_message(),
            "users": len(self._users),
            "running": sum(not user.ended for user in self._users),
            "single": all(user.single_requests for user in self._users),
            "drained": drained,
            "broken": self._broken,
            "connections": {kind: dict(counts) for kind, counts in connections.items()},
            "health": self._health.take(),
        }

    def stop(self) -> None:
        self._health.stop()
