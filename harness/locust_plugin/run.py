"""One run, led from the process that owns its directory: phases, samples, the observer, the end, the judgement."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from locust import LoadTestShape
from locust.env import Environment
from locust.runners import MasterRunner

from harness import CHECKOUT, load
from harness.errors import HarnessError, RunInvalid, StackError
from harness.locust_plugin import clock, health, options
from harness.locust_plugin.crew import LOST_AFTER_S, REPORT_INTERVAL_S, Alone, Crew, Workers
from harness.locust_plugin.farm import Farm
from harness.locust_plugin.generator import Generator
from harness.locust_plugin.observer import Observer
from harness.model import Scenario, StackAddresses
from harness.recorder import Part, SampleFiles
from harness.rundir import RunDir

JUDGE = (sys.executable, "-m", "harness", "report")

_SPAWN_MARGIN_S = 30.0
# Open load begins a moment after it was announced, so that the word has reached every worker.
_ARRIVALS_AFTER_US = 1_000_000
_PROGRESS_EVERY_S = 10.0
_LIVE_EVERY_S = 2.0

log = logging.getLogger("dairyperf")


class Run:
    """From `prepare` to `finish`. What goes wrong in between is kept, and comes out as the exit code of `finish`."""

    def __init__(
        self, environment: Environment, asked: Scenario, addresses: StackAddresses, run_dir: Path, *, judged: bool
    ) -> None:
        """judged: by us, when it has ended; else by whoever started Locust."""
        self.scenario = asked
        self.state = "new"
        self.run_dir = run_dir
        self.exit_code: int | None = None
        self.verdicts = ""
        self.fault: HarnessError | None = None
        self._environment = environment
        self._runner: Any = environment.runner
        self._addresses = addresses
        self._aborted: str | None = None
        self._judged = judged
        self._complete = False
        self._finishing = False
        self._ended = Event()
        self._origin_us = 0
        self._steady_start_us: int | None = None
        self._steady_end_us: int | None = None
        self._began_us: int | None = None
        self._began, self._spawned, self._closed = Event(), Event(), Event()
        self._reasons: list[str] = []
        self._warnings: list[str] = []
        self._live_asked_at = 0.0
        self._files = SampleFiles(RunDir(run_dir))
        self._greenlets: list[gevent.Greenlet] = []
        self._crew: Crew | None = None
        self._observer: Observer

    # --- before the load

    def prepare(self) -> None:
        """Resets and warms the stack, and makes the crew ready. Blocks; raises HarnessError."""
        log.info("run directory %s", self.run_dir)
        log.info("resetting and warming the stack")
        self.state = "resetting"
        self._observer = Observer(self.run_dir, self._on_abort)
        try:
            self._origin_us = int(self._observer.ready()["origin_monotonic_us"])
            farm = Farm(self.scenario, self._addresses)
            if isinstance(self._runner, MasterRunner):
                name = self.run_dir.name
                self._crew = Workers(self._environment, farm, self._origin_us, self.hear, self._breaks, name)
            else:
                self._crew = Alone(farm, self._origin_us, self.hear)
        except BaseException:
            self._observer.abandon()
            raise
        self.state = "ready"
        self._greenlets = [gevent.spawn(task) for task in (self._lead, self._collect, self._watch, self._progress)]

    @property
    def generator(self) -> Generator:
        """Of this process, for its users."""
        if not isinstance(self._crew, Alone):
            raise StackError("users: this process has none of its own, or none yet")
        return self._crew.generator

    @property
    def crew(self) -> Crew:
        if self._crew is None:
            raise StackError("load: it is not ready yet")
        return self._crew

    def on_test_start(self, **_: object) -> None:
        try:
            self.crew.begin()
        except HarnessError as fault:
            self._fails(fault)
        except Exception as error:
            log.exception("begin")
            self._fails(StackError(f"load: it could not begin: {type(error).__name__}; see the log"))
        except gevent.GreenletExit:  # Locust's way to stop a start that is not through yet
            self.interrupt()
            raise
        finally:
            self.state = "ramp-up"
            self._began_us = self._now_us()
            self._began.set()

    def on_spawned(self, **_: object) -> None:
        if self._spawned.is_set() and self.scenario.load != "stages":
            self._breaks("the number of users was changed in the middle of the run; start a new one instead")
        self._spawned.set()

    # --- the run's clock

    def _now_us(self) -> int:
        return clock.now_us() - self._origin_us

    def elapsed_s(self) -> float:
        """Seconds since the first user was asked for."""
        return 0.0 if self._began_us is None else (self._now_us() - self._began_us) / 1e6

    @property
    def closed(self) -> bool:
        return bool(self._closed.is_set())

    def interrupt(self) -> None:
        """No new request; what is under way is recorded."""
        self._closed.set()
        if self._crew is not None:
            self._crew.close()

    def _lead(self) -> None:
        """Leads through the run and ends Locust when the last reply is in."""
        try:
            self._phases()
        except Exception as error:
            log.exception("phases")
            self._breaks(f"the run's clock broke: {type(error).__name__}; see the log")
        self.state = "draining"
        self._finish_drain()
        if self._environment.web_ui is None:
            self._runner.quit()  # and Locust's end is ours: see `finish`
        else:
            self._runner.stop()
            self.finish()

    def _phases(self) -> None:
        asked = self.scenario
        self._began.wait()
        if asked.load == "stages":
            self._count(self._now_us())
            return
        log.info("ramp-up: %d users at %g/s", asked.users, asked.spawn_rate_per_s)
        if not self._all_users_are_there() and not self.closed:
            self._breaks("not all users could be started; see the log")
        if self.closed:
            return
        self.state = "warm-up"
        log.info("warm-up: %g s", asked.warmup_s)
        # by the schedule, so that a run takes as long as it says, but never with less warm-up
        warm_us = max(self._now_us(), (self._began_us or 0) + round(load.ramp_up_s(asked) * 1e6))
        if asked.load == "open":
            warm_us += _ARRIVALS_AFTER_US
            self.crew.arrive_from(warm_us)
        steady_us = warm_us + round(asked.warmup_s * 1e6)
        self._wait_until(steady_us)
        if not self.closed:
            self._count(steady_us)

    def _all_users_are_there(self) -> bool:
        """Waits for it. Locust's master believes it before its workers have told."""
        deadline = time.monotonic() + 2 * load.ramp_up_s(self.scenario) + _SPAWN_MARGIN_S
        while not self.closed and time.monotonic() < deadline:
            if self._spawned.wait(0.1):
                self.crew.collect()
                members = self.crew.members.values()
                if sum(member.users for member in members) == self.scenario.users or any(m.lost for m in members):
                    return True
                gevent.sleep(0.1)
        return False

    def _count(self, start_us: int) -> None:
        """The steady state, from `start_us`, which is now."""
        end_us = start_us + round(self.scenario.duration_s * 1e6)
        self._steady_start_us = start_us
        self.crew.close_at(end_us)
        self._observer.send({"event": "steady", "at_us": start_us, "end_us": end_us})
        self.state = "counting"
        log.info("counting: %g s", self.scenario.duration_s)
        self._wait_until(end_us)
        if not self.closed or self._aborted:
            self._steady_end_us = min(end_us, self._now_us())
            self._complete = True
            self._closed.set()
            log.info("draining: the last replies")

    def _wait_until(self, at_us: int) -> None:
        self._closed.wait(max(0, at_us - self._now_us()) / 1e6)

    def _finish_drain(self) -> None:
        try:
            self._drain()
        except Exception as error:
            log.exception("drain")
            self._breaks(f"the last samples could not be collected: {type(error).__name__}; see the log")

    def _drain(self) -> None:
        """Until every reply is in and written down, or its time is over."""
        self._closed.set()
        if self._crew is None:
            return
        self.crew.close()
        deadline = time.monotonic() + load.DRAIN_TIMEOUT_S + 2 * REPORT_INTERVAL_S
        while time.monotonic() < deadline:
            self.crew.collect()
            if all(member.is_done() for member in self.crew.members.values()):
                return
            gevent.sleep(0.02)
        self._breaks("load generators were still busy when every request had timed out; see the log")

    # --- what is heard while it goes on

    def hear(self, name: str, report: Mapping[str, Any]) -> None:
        """A report of one load generator: its new samples are written before anything else happens."""
        try:
            self._files.append(name, Part.from_message(report["part"]))
        except HarnessError as fault:
            self._fails(fault)
        self.crew.members[name].hear(report)
        broken = report["broken"]
        if broken is not None and broken not in self._reasons and not self.crew.members[name].lost:
            self._breaks(broken)

    def _collect(self) -> None:
        """Every second: keeps what was recorded, and notices who has fallen silent."""
        try:
            while True:
                gevent.sleep(REPORT_INTERVAL_S)
                self.crew.collect()
                for member in self.crew.members.values():
                    if self._began.is_set() and member.silent() and not member.lost:
                        member.lost = True
                        self._lose(member.name)
        except Exception as error:
            log.exception("samples")
            self._breaks(f"the collecting of samples broke: {type(error).__name__}; see the log")

    def _lose(self, name: str) -> None:
        most = self._missing_at_most(name)
        text = f"{name} fell silent: " + (
            "what it did since its last report is not known"
            if most is None
            else f"at most {most} of its requests are missing"
        )
        left = [member for member in self.crew.members.values() if not member.lost]
        if self.scenario.may_lose_workers and left:
            log.warning("%s", text)
            self._warnings.append(text)
            self.crew.forget(name)
        else:
            self._breaks(f"{text}; see its log, and run again (a scenario may say may_lose_workers = true)")

    def _missing_at_most(self, name: str) -> int | None:
        """Requests of a lost worker that are in no sample: those under way at its last report, and those that it can
        have sent since. It stops by itself when it has not heard of us for LOST_AFTER_S, which it notices at its next
        report; by then each user has sent no more than its think time allows. None: nothing bounds what users send,
        who catch up on a schedule or send several requests in a row."""
        asked, members = self.scenario, self.crew.members
        if not asked.think_time_s or not members[name].single:
            return None
        # Locust shares users evenly; one that dies before its first report has not said how many it has
        users = max(members[name].users, math.ceil(asked.users / len(members)))
        blind_s = LOST_AFTER_S + 2 * REPORT_INTERVAL_S
        return self._files.unanswered(name) + users * (int(blind_s / asked.think_time_s) + 1)

    def _watch(self) -> None:
        self._observer.ended.wait()
        self._fails(self._observer.failure())

    def _on_abort(self, limit: str) -> None:
        log.error("aborting: %s", limit)
        self._aborted = limit
        self.interrupt()

    def _breaks(self, reason: str) -> None:
        """The load cannot be trusted: no more requests, and the run is invalid."""
        log.error("%s", reason)
        self._reasons.append(reason)
        self.interrupt()

    def _fails(self, fault: HarnessError) -> None:
        """The run cannot go on."""
        log.error("%s", fault)
        self.fault = self.fault or fault
        self.interrupt()

    # --- what is shown while it goes on

    def _progress(self) -> None:
        """A line every ten seconds."""
        before: Counter[str] = Counter()
        while not self._closed.wait(_PROGRESS_EVERY_S):
            counts = self._files.counts()
            done = Counter(counts["recorded"])
            rate_rps = (done.total() - before.total()) / _PROGRESS_EVERY_S
            users = sum(member.running for member in self.crew.members.values())
            summaries = [member.health.summary(round(_PROGRESS_EVERY_S)) for member in self.crew.members.values()]
            log.info(
                "%s: %d users, %.1f requests/s; generator: %s", self.state, users, rate_rps, health.shown(summaries)
            )
            before = done

    def live(self) -> dict[str, Any]:
        """How it stands, for the web page."""
        if self.state in ("new", "resetting"):
            return {"state": self.state, "run_dir": str(self.run_dir)}
        now = time.monotonic()
        if self.state == "counting" and now - self._live_asked_at >= _LIVE_EVERY_S:
            self._live_asked_at = now
            self._observer.send({"event": "live", "dropped": self._files.counts()["dropped"]})
        return {
            "state": self._state_text(),
            "live": self._observer.live,
            "generator": self._generator_health(),
            "run_dir": str(self.run_dir),
            "exit_code": self.exit_code,
            "error": "; ".join([*([str(self.fault)] if self.fault else []), *self._reasons]) or None,
        }

    def _state_text(self) -> str:
        if self.state != "counting" or self._steady_start_us is None:
            return self.state
        return f"counting {(self._now_us() - self._steady_start_us) / 1e6:.0f} s of {self.scenario.duration_s:g}"

    def _generator_health(self) -> dict[str, dict[str, float | None]]:
        return {name: member.health.summary() for name, member in self.crew.members.items()}

    # --- after the load

    def finish(self) -> int:
        """Drains, writes, lets the observer conclude, judges; the exit code. Later calls wait for the first one's."""
        if self._finishing:
            self._ended.wait()
        else:
            self._finishing = True
            if not self._complete and not self._reasons and self.fault is None:
                self._reasons.append("interrupted before the end of the steady state; run again")
            try:
                self._finish_drain()
                self.exit_code = self._conclude()
            except HarnessError as fault:
                log.error("%s", fault)
                self.fault, self.exit_code = fault, fault.exit_code
            finally:
                self._observer.abandon()
                self.state = "failed" if self.fault else "judged"
                self._ended.set()
        return RunInvalid.exit_code if self.exit_code is None else self.exit_code

    def _conclude(self) -> int:
        drained_us = self._now_us()
        gevent.killall([greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()])
        if self._crew is not None:
            self._crew.end()
        self._files.__exit__(None, None, None)
        fault = self.fault or (None if self._complete else RunInvalid("; ".join(self._reasons)))
        if fault is not None:
            self._observer.send({"event": "broken", "reason": str(fault), "exit_code": fault.exit_code})
            raise fault
        self.state = "judging"
        self._observer.send(
            {
                "event": "drained",
                "phases": {
                    "origin_monotonic_us": self._origin_us,
                    "steady_start_us": self._steady_start_us,
                    "steady_end_us": self._steady_end_us,
                    "drained_us": drained_us,
                },
                "counts": self._counts(),
                "aborted": self._aborted,
                "reasons": self._reasons,
                "warnings": self._warnings,
            }
        )
        if self._observer.finish() != 0:
            raise self._observer.failure()
        return self._judge() if self._judged else 0

    def _judge(self) -> int:
        command = [*JUDGE, str(self.run_dir), *options.of_judge(self._environment)]
        judge = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
        self.verdicts = judge.stdout
        if judge.returncode < 0:
            raise StackError(
                f"judge: ended by signal {-judge.returncode}; ./dairyperf report {self.run_dir} repeats it"
            )
        return judge.returncode

    def _counts(self) -> dict[str, Any]:
        members = self.crew.members
        locust: Counter[str] = Counter()
        for (name, _method), entry in self._environment.stats.entries.items():
            locust[name] += entry.num_requests
        connections: dict[str, Counter[str]] = {}
        for member in members.values():
            for kind, counts in member.connections.items():
                connections.setdefault(kind, Counter()).update(counts)
        return {
            **self._files.counts(),
            "locust": dict(locust),
            "connections": {kind: dict(counts) for kind, counts in connections.items()},
            "generator": self._generator_health(),
            "workers": {
                name: {
                    "index": member.index,
                    "users": member.users,
                    "lost": member.lost,
                    "samples": self._files.kept(name),
                    "missing_at_most": self._missing_at_most(name) if member.lost else 0,
                    "clock_error_us": member.clock_error_us,
                }
                for name, member in members.items()
            },
        }


class Ramp(LoadTestShape):
    """A stages scenario. Attached by us when a scenario says so: Locust would take any concrete shape that it finds in
    a locustfile, for every scenario."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._environment: Any = environment
        self._last = (1, 1.0)

    def tick(self) -> tuple[int, float]:
        """(users, users per second), once a second. Never None: that would end Locust before the last reply."""
        run: Run = self._environment.dairyperf
        if not run.closed:
            users = load.users_at(run.scenario.stages, run.elapsed_s())
            if users != self._last[0]:
                self._last = (users, max(1.0, float(abs(users - self._last[0]))))
        return self._last
