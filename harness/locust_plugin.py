"""Locust within a run: its options, the run's phases, and users that record every request. Only locustfiles import it.

A run is the same under the command line and under plain `locust --headless`: `python -m harness.observe` puts the stack
back, warms it and takes the snapshots in a process without gevent; told of each phase over a pipe, it writes the run's
documents. Under plain locust the verdicts then come from `dairyperf report`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

import gevent
from gevent.event import Event
from gevent.queue import Empty, Queue
from locust import LoadTestShape, User, events
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner
from locust.user.task import LOCUST_STATE_RUNNING

from fixtures import herd
from harness import CHECKOUT, load, provenance, rundir, scenario, stack, wire
from harness.errors import HarnessError, InputError, RunInvalid, StackError
from harness.model import PROFILES, Account, Profile, Scenario, StackAddresses
from harness.recorder import Recorder
from harness.services.process import die_with_parent

T = TypeVar("T")
TaskT = TypeVar("TaskT", bound=Callable[..., object])

# Seams for tests, which have no stack.
OBSERVE = (sys.executable, "-m", "harness.observe")
JUDGE = (sys.executable, "-m", "harness", "report")
read_addresses = stack.read

_LAG_INTERVAL_S = 0.05
_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, spread any number of users evenly
_STDERR_LINES = 20
_SPAWN_MARGIN_S = 30.0

log = logging.getLogger("dairyperf")


# --- options -------------------------------------------------------------------------------------------------------


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: argparse.ArgumentParser, **_: object) -> None:
    group = parser.add_argument_group(
        "dairyperf",
        "With --headless a run is recorded, judged and kept as a directory; exit code 0 pass, 1 a threshold failed, "
        "2 bad input, 3 the stack failed, 4 the run is invalid. -u and -r replace the scenario's; -t covers ramp-up, "
        "warm-up and steady state. Locust's --profile names the stack: day31 or day40 (default). With the web "
        "interface users do the same, but nothing is kept or judged.",
    )
    group.add_argument(
        "--scenario", default="sustained", metavar="<name>", help="A name in scenarios/, or a path; default sustained"
    )
    group.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="<limit>",
        help='Replaces the scenario\'s limits on the same metric, such as "p95_ms < 300"; repeatable',
    )
    group.add_argument("--out", metavar="<directory>", help="Where the run directory is made; default reports/runs")
    parser.set_defaults(profile="day40")


def _scenario(options: argparse.Namespace, locustfile: str) -> Scenario:
    """What the scenario's file says, with what Locust's own options say instead. Raises InputError."""
    asked = load.read_scenario(options.scenario)
    if options.num_users is not None or options.run_time is not None or options.spawn_rate is not None:
        if asked.load == "stages":
            raise InputError(f"scenario {asked.name}: -u, -r and -t follow its stages; leave them out")
        asked = dataclasses.replace(
            scenario.override(asked, users=options.num_users),
            spawn_rate_per_s=options.spawn_rate or asked.spawn_rate_per_s,
        )
    duration_s = None if options.run_time is None else load.steady_s(options.run_time, asked)
    asked = scenario.override(asked, duration_s=duration_s, thresholds=options.threshold)
    return dataclasses.replace(asked, locustfile=locustfile)


def _profile(name: str) -> Profile:
    if name not in PROFILES:
        raise InputError(f"--profile: {name!r} is not a stack; use {' or '.join(PROFILES)}")
    return name


# --- what the users of this process share --------------------------------------------------------------------------


class Farm:
    """Whom and what requests are about, and how the stack is reached. Secrets are read once and never shown."""

    def __init__(self, asked: Scenario, addresses: StackAddresses) -> None:
        """StackError: the secrets file cannot be read."""
        self.scenario = asked
        self.addresses = addresses
        self.inputs = herd.inputs(addresses.herd, addresses.seed, date.fromisoformat(addresses.as_of))
        self.visible: dict[int, tuple[tuple[int, str], ...]] = {}
        self.milked: dict[int, tuple[int, ...]] = {}
        try:
            secrets = json.loads(Path(addresses.secrets_file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StackError(f"{addresses.secrets_file}: {error}; run ./dairyperf up again") from None
        self.api_key: str = secrets["api_key"]
        self._passwords: Mapping[str, str] = secrets["odoo"]

    def password(self, account: Account) -> str:
        return self._passwords[account.login]

    def look_around(self) -> None:
        """Learns, before the first user, which active animals each Odoo account may see: (id, tag) by uid. Policies
        decide that, and the seeded state makes it the same in every run. StackError when one sees none to milk."""
        milked = frozenset(self.inputs.lactating_ids)
        connection = wire.Connection(self.addresses.odoo_url, keep_alive=False)
        for account in self.addresses.accounts:
            login = (self.addresses.database, account.uid, self.password(account))
            what = ([[["status", "=", "active"]]], {"fields": ["tag_number"], "order": "id"})
            request = wire.xmlrpc_request(
                "", "object", "execute_kw", (*login, "farm.animal", "search_read", *what), b"<struct>"
            )
            reply = connection.exchange(request)
            if (outcome := wire.odoo_outcome(reply, request.expect)) != wire.OK:
                raise StackError(
                    f"odoo: {account.login} asked for the active animals: {outcome}; see Odoo's log, and what the "
                    "account may see"
                )
            seen = tuple((row["id"], row["tag_number"]) for row in wire.xmlrpc_result(reply))
            self.visible[account.uid] = seen
            self.milked[account.uid] = tuple(animal_id for animal_id, _tag in seen if animal_id in milked)
            if not self.milked[account.uid]:
                raise StackError(
                    f"odoo: {account.login} sees no animal that is milked on {self.addresses.as_of}; check its "
                    "sections in core.user_section_assignment"
                )


class Observer:
    """The observing child: JSON lines to its stdin and from its stdout; its log is repeated in ours."""

    def __init__(self, run_dir: Path) -> None:
        self._child = subprocess.Popen(
            [*OBSERVE, str(run_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=CHECKOUT,
            start_new_session=True,  # Ctrl-C reaches it as the pipe's end, after the last sample was written
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        self._said: Queue[dict[str, Any]] = Queue()
        self._complaints: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self.ended = Event()
        self._readers = [gevent.spawn(self._listen), gevent.spawn(self._repeat)]

    def _listen(self) -> None:
        try:
            for line in cast(Any, self._child.stdout):
                self._said.put(json.loads(line))
        finally:
            self.ended.set()

    def _repeat(self) -> None:
        for line in cast(Any, self._child.stderr):
            text = line.decode(errors="replace").rstrip()
            self._complaints.append(text)
            log.info("observe: %s", text)

    def ready(self) -> dict[str, Any]:
        """Its first message: the stack is reset and warm. StackError when it ends or takes too long before that."""
        deadline = time.monotonic() + load.READY_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                message = self._said.get(timeout=0.1)
            except Empty:
                if self.ended.is_set() and self._said.empty():
                    raise self.failure() from None
                continue
            if message.get("event") == "ready":
                return cast(dict[str, Any], message)
        self.abandon()
        raise StackError(f"observe: the stack was not ready within {load.READY_TIMEOUT_S:.0f} s; {self._last_words()}")

    def send(self, message: Mapping[str, object]) -> None:
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")  # type: ignore[union-attr]
            self._child.stdin.flush()  # type: ignore[union-attr]
        except OSError:  # it has ended; whoever waits for it learns why
            log.warning("observe: gone before %r was sent", message["event"])

    def finish(self) -> int:
        """Wait for its end; its exit code. StackError when it takes too long."""
        code = self._reap(load.SNAPSHOT_TIMEOUT_S)
        if code is None:
            self.abandon()
            raise StackError(f"observe: no end within {load.SNAPSHOT_TIMEOUT_S:.0f} s; {self._last_words()}")
        return code

    def abandon(self) -> None:
        """End it without a result: its stdin's end is the sign; a signal when that does not help."""
        with contextlib.suppress(OSError):
            self._child.stdin.close()  # type: ignore[union-attr]
        if self._reap(15) is None:
            self._child.kill()
            self._reap(5)

    def failure(self) -> HarnessError:
        """Why it ended without a result, of the class whose exit code it gave."""
        code = self._reap(5)
        kind = {2: InputError, 4: RunInvalid}.get(code or 0, StackError)
        return kind(f"observe: ended with exit code {code}; {self._last_words()}")

    def _last_words(self) -> str:
        return "its last lines:\n" + "\n".join(self._complaints) if self._complaints else "it wrote nothing"

    def _reap(self, timeout_s: float) -> int | None:
        try:
            code = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        gevent.joinall(self._readers, timeout=5)
        return code


class Health:
    """The load generator's own state during the counted phase: a busy one measures itself instead of the servers."""

    def __init__(self) -> None:
        self._cpu_pct: list[float] = []
        self._lag_ms: list[float] = []

    def sample(self) -> None:
        """Runs until killed: loop lag 20 times a second, CPU of this process (100 = one core) once a second."""
        wall, cpu = time.monotonic(), time.process_time()
        while True:
            before = time.monotonic()
            gevent.sleep(_LAG_INTERVAL_S)
            now = time.monotonic()
            self._lag_ms.append((now - before - _LAG_INTERVAL_S) * 1000)
            if now - wall >= 1:
                used = time.process_time()
                self._cpu_pct.append((used - cpu) / (now - wall) * 100)
                wall, cpu = now, used

    def summary(self) -> dict[str, float | None]:
        return {
            "cpu_p95_pct": load.percentile(self._cpu_pct, 0.95),
            "cpu_max_pct": max(self._cpu_pct, default=None),
            "lag_p95_ms": load.percentile(self._lag_ms, 0.95),
            "lag_max_ms": max(self._lag_ms, default=None),
        }


# --- one run -------------------------------------------------------------------------------------------------------


class Run:
    """What users share while the load runs. As it is, under the web interface: nothing is recorded, Locust ends it."""

    def __init__(self, environment: Environment, farm: Farm) -> None:
        self.environment = environment
        self.farm = farm
        self.closed = Event()  # no new request from here on
        self._origin_us = time.monotonic_ns() // 1000
        self._began_us: int | None = None
        self._users: collections.Counter[str] = collections.Counter()

    def number(self, user: User) -> tuple[int, int]:
        """(number among all users, number within its class), both from 0, in spawn order."""
        name = type(user).__name__
        numbers = self._users.total(), self._users[name]
        self._users[name] += 1
        return numbers

    def now_us(self) -> int:
        """Microseconds from the run's origin, on the clock that all processes of a machine share."""
        return time.monotonic_ns() // 1000 - self._origin_us

    def elapsed_s(self) -> float:
        """Seconds since the first user was asked for."""
        return 0.0 if self._began_us is None else (self.now_us() - self._began_us) / 1e6

    def on_test_start(self, **_: object) -> None:
        self._began_us = self.now_us()

    def sent(self, endpoint: str) -> None:
        """Counts a request before anything of it reaches a socket."""

    def record(
        self, endpoint: str, scheduled_us: int, start_us: int, service_us: int, outcome: str, user: int, bytes_in: int
    ) -> None:
        """Keeps a sample."""

    def breaks(self, reason: str) -> None:
        """A fault of the harness itself: no more requests."""
        log.error("%s", reason)
        self.closed.set()


class RecordedRun(Run):
    """A headless run: observed, recorded sample by sample, ended by a clock of its own."""

    def __init__(self, environment: Environment, farm: Farm, run_dir: Path, *, judged: bool) -> None:
        """Starts the observer and blocks until the stack is reset and warm. Raises HarnessError."""
        super().__init__(environment, farm)
        self._runner: Any = environment.runner
        self._run_dir = run_dir
        self._judged = judged
        self._table = ""
        self._fault: HarnessError | None = None
        self._broken: str | None = None
        self._complete = False
        self._finishing = False
        self._steady_start_us: int | None = None
        self._steady_end_us: int | None = None
        self._began = Event()
        self._spawned = Event()
        self._health = Health()
        log.info("run directory %s", run_dir)
        log.info("resetting and warming the stack")
        self._observer = Observer(run_dir)
        try:
            self._origin_us = int(self._observer.ready()["origin_monotonic_us"])
            farm.look_around()
        except BaseException:
            self._observer.abandon()
            raise
        self._files = contextlib.ExitStack()
        self._recorder = self._files.enter_context(Recorder(run_dir, self._origin_us))
        self._greenlets = [gevent.spawn(task) for task in (self._direct, self._flush, self._watch)]

    def sent(self, endpoint: str) -> None:
        self._recorder.count_sent(self._recorder.endpoint_id(endpoint))

    def record(
        self, endpoint: str, scheduled_us: int, start_us: int, service_us: int, outcome: str, user: int, bytes_in: int
    ) -> None:
        self._recorder.record(
            scheduled_us=scheduled_us,
            start_us=start_us,
            service_us=service_us,
            endpoint=self._recorder.endpoint_id(endpoint),
            outcome=self._recorder.outcome_id(outcome),
            bytes_in=bytes_in,
            user=user,
        )

    def breaks(self, reason: str) -> None:
        self._broken = self._broken or reason
        super().breaks(reason)

    def on_test_start(self, **_: object) -> None:
        super().on_test_start()
        self._began.set()
        if self.farm.scenario.load == "stages":
            self._start_counting()

    def on_spawned(self, **_: object) -> None:
        self._spawned.set()

    def _direct(self) -> None:
        """Leads through the run and ends Locust when the last reply is in."""
        try:
            self._phases()
        except Exception as error:
            log.exception("phases")
            self.breaks(f"the run's clock broke: {type(error).__name__}; see the log")
        self._wait_for_users()
        self._runner.quit()

    def _phases(self) -> None:
        asked = self.farm.scenario
        self._began.wait()
        if asked.load == "closed":
            log.info("ramp-up: %d users at %g/s", asked.users, asked.spawn_rate_per_s)
            if not self._spawned.wait(2 * load.ramp_up_s(asked) + _SPAWN_MARGIN_S):
                self.breaks("not all users could be started; see the log")
            log.info("warm-up: %g s", asked.warmup_s)
            # by the schedule, so that a run takes as long as it says, but never with less warm-up
            self._wait_until(max(self.elapsed_s(), load.ramp_up_s(asked)) + asked.warmup_s)
            if not self.closed.is_set():
                self._start_counting()
        self._wait_until(self.elapsed_s() + asked.duration_s)
        if not self.closed.is_set():
            self._steady_end_us = self.now_us()
            self._complete = True
            self.closed.set()
            log.info("draining: the last replies")

    def _wait_until(self, elapsed_s: float) -> None:
        self.closed.wait(max(0.0, elapsed_s - self.elapsed_s()))

    def _start_counting(self) -> None:
        self._steady_start_us = self.now_us()
        self._observer.send({"event": "steady", "at_us": self._steady_start_us})
        self._greenlets.append(gevent.spawn(self._health.sample))
        log.info("counting: %g s", self.farm.scenario.duration_s)

    def _wait_for_users(self) -> None:
        self._runner.user_greenlets.join(timeout=load.DRAIN_TIMEOUT_S)

    def _flush(self) -> None:
        while True:
            gevent.sleep(1)
            try:
                self._recorder.flush()
            except HarnessError as error:
                self._fails(error)
                return

    def _watch(self) -> None:
        self._observer.ended.wait()
        self._fails(self._observer.failure())

    def _fails(self, fault: HarnessError) -> None:
        self._fault = self._fault or fault
        self.closed.set()

    def on_quitting(self, environment: Environment, **_: object) -> None:
        """Locust's last word, however its end came about. Always sets the exit code."""
        if self._finishing:  # a second signal does not wait for what the first one began
            return
        self._finishing = True
        try:
            environment.process_exit_code = self._finish()
        except HarnessError as error:
            log.error("%s", error)
            environment.process_exit_code = error.exit_code
        finally:
            self._observer.abandon()

    def on_quit(self, **_: object) -> None:
        """After Locust's own tables, which are rounded and judge nothing."""
        sys.stdout.write(self._table)
        sys.stdout.flush()

    def _finish(self) -> int:
        """Drain, write, let the observer conclude, judge; the exit code. Raises HarnessError."""
        self.closed.set()
        self._wait_for_users()
        drained_us = self.now_us()
        gevent.killall(self._greenlets)
        self._files.close()
        if self._fault is not None or self._broken is not None or not self._complete:
            raise self._fault or RunInvalid(self._broken or "interrupted before the end of the steady state; run again")
        self._observer.send(
            {
                "event": "drained",
                "phases": {
                    "origin_monotonic_us": self._origin_us,
                    "steady_start_us": self._steady_start_us,
                    "steady_end_us": self._steady_end_us,
                    "drained_us": drained_us,
                },
                "counts": {**self._recorder.counts(), "locust": self._locust_counts()},
                "generator": self._health.summary(),
            }
        )
        if self._observer.finish() != 0:
            raise self._observer.failure()
        if not self._judged:
            return 0
        judge = subprocess.run([*JUDGE, str(self._run_dir)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
        self._table = judge.stdout
        if judge.returncode < 0:
            raise StackError(
                f"judge: ended by signal {-judge.returncode}; ./dairyperf report {self._run_dir} repeats it"
            )
        return judge.returncode

    def _locust_counts(self) -> dict[str, int]:
        counts: collections.Counter[str] = collections.Counter()
        for (name, _method), entry in self.environment.stats.entries.items():
            counts[name] += entry.num_requests
        return dict(counts)


class Ramp(LoadTestShape):
    """A stages scenario. Attached by us when a scenario says so: Locust would take any concrete shape that it finds in
    a locustfile, for every scenario."""

    abstract = True

    def __init__(self, run: Run) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = run
        self._last = (1, 1.0)

    def tick(self) -> tuple[int, float]:
        """(users, users per second), once a second. Never None: that would end Locust before the last reply."""
        if not self._run.closed.is_set():
            users = load.users_at(self._run.farm.scenario.stages, self._run.elapsed_s())
            if users != self._last[0]:
                self._last = (users, max(1.0, float(abs(users - self._last[0]))))
        return self._last


@events.init.add_listener  # type: ignore[untyped-decorator]
def begin(environment: Environment, runner: object, **_: object) -> None:
    """Resolves and prepares what is to be run; ends the process where that cannot be done."""
    environment.process_exit_code = StackError.exit_code  # nothing has passed before it was judged
    try:
        environment.dairyperf = _begin(environment, runner)  # type: ignore[attr-defined]
    except HarnessError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(RunInvalid.exit_code)


def _begin(environment: Environment, runner: object) -> Run:
    options = cast(argparse.Namespace, environment.parsed_options)
    if not isinstance(runner, LocalRunner):
        raise InputError("--master, --worker, --processes: samples are taken in one process; leave them out")
    given = os.environ.get(load.RUN_DIR_VARIABLE)
    if given is not None:
        run_dir = Path(given)
        meta = rundir.RunDir(run_dir).read_meta()
        asked, profile = meta.scenario, meta.profile
    else:
        asked, profile = _scenario(options, _locustfile(environment)), _profile(options.profile)
    farm = Farm(asked, read_addresses(profile))

    options.num_users, options.spawn_rate = asked.users, asked.spawn_rate_per_s
    options.run_time = None  # Locust's would cut off the last replies
    environment.reset_stats = False  # its counts are compared with ours
    environment.stop_timeout = load.DRAIN_TIMEOUT_S
    listen_to: Any = environment.events
    run: Run
    if options.headless:
        if given is None:
            root = Path(options.out).resolve() if options.out else CHECKOUT / "reports/runs"
            made = rundir.create(root, asked.name, profile, datetime.now(UTC))
            provenance.begin(made, asked, farm.addresses)
            run_dir = made.path
        run = RecordedRun(environment, farm, run_dir, judged=given is None)
        listen_to.spawning_complete.add_listener(run.on_spawned)
        listen_to.quitting.add_listener(run.on_quitting)
        listen_to.quit.add_listener(run.on_quit)
    else:
        log.warning("with the web interface nothing is recorded or judged; --headless does both")
        environment.process_exit_code = None
        farm.look_around()
        run = Run(environment, farm)
    listen_to.test_start.add_listener(run.on_test_start)
    if asked.load == "stages":
        environment.shape_class = Ramp(run)
        # Locust waits for a shape before it minds SIGTERM
        gevent.signal_handler(signal.SIGTERM, run.closed.set)
    return run


def _locustfile(environment: Environment) -> str:
    path = Path(cast(Sequence[str], environment.parsed_locustfiles)[0])
    return str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path)


# --- users ---------------------------------------------------------------------------------------------------------


class RequestFailed(Exception):
    """The outcome's name, as Locust's statistics show it."""


class DairyUser(User):
    """One user: a task returns the next request; it is sent when its time has come, once, and recorded.

    Load is closed: the next request is scheduled exactly think_time_s after the previous reply. Everything a user
    chooses comes from its own `random`, and from nothing that a server says: the same seed gives the same requests.
    """

    abstract = True
    request_type = ""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.in_run: Run = environment.dairyperf  # type: ignore[attr-defined]
        self.farm = self.in_run.farm
        self.inputs = self.farm.inputs
        self.number, self.ordinal = self.in_run.number(self)
        # seeding by text is the same in every process, which hash() is not
        self.random = Random(f"{self.farm.scenario.seed}/{type(self).__name__}/{self.ordinal}")
        self.connection = self.connect()

    def connect(self) -> wire.Connection:
        raise NotImplementedError

    def outcome(self, reply: wire.Reply, expect: bytes) -> str:
        raise NotImplementedError

    def often(self, values: Sequence[T]) -> T:
        """One of the values, the earlier the likelier: half of the choices fall on the first quarter, as people look
        again and again at the same few animals."""
        return values[int(self.random.random() ** 2 * len(values))]

    def recent_day(self) -> date:
        """The last day of data half of the time, else one of the week before."""
        ago = self.random.randint(1, 7) if self.random.random() < 0.5 else 0
        last: date = self.inputs.as_of
        return last - timedelta(days=ago)

    def run(self) -> None:  # type: ignore[misc]
        """Instead of Locust's own loop, which chooses by the global random and pauses without a schedule."""
        self._state = LOCUST_STATE_RUNNING
        tasks = cast(Sequence[Callable[[DairyUser], wire.Request]], self.tasks)
        think_us = round(self.farm.scenario.think_time_s * 1e6)
        # Users come in groups and all pause alike: without this they would stay in step, and queue on each other.
        scheduled_us = self.in_run.now_us() + round(self.number * _GOLDEN % 1 * think_us)
        try:
            while True:
                request = self.random.choice(tasks)(self)
                self.in_run.closed.wait(max(0.0, (scheduled_us - self.in_run.now_us()) / 1e6))
                if self.in_run.closed.is_set() or self._state != LOCUST_STATE_RUNNING:
                    break
                scheduled_us = self._send(request, scheduled_us) + think_us
        except StopUser:
            pass
        except Exception as error:
            log.exception("user %s #%d", type(self).__name__, self.ordinal)
            self.in_run.breaks(f"user {type(self).__name__} #{self.ordinal} broke: {type(error).__name__}; see the log")
        finally:
            self.connection.close()

    def _send(self, request: wire.Request, scheduled_us: int) -> int:
        """Sends once and records it; returns when the reply was in, in µs from the run's origin."""
        run = self.in_run
        run.sent(request.endpoint)
        start_s, start_us = time.time(), run.now_us()
        try:
            with gevent.Timeout(wire.TIMEOUT_S, TimeoutError):  # of the whole exchange; a socket's own is per read
                reply = self.connection.exchange(request)
        except TimeoutError:  # it came while another failure was being dealt with
            self.connection.close()
            reply = wire.Reply("timeout", 0, b"")
        service_us = run.now_us() - start_us
        outcome = self.outcome(reply, request.expect)
        run.record(request.endpoint, scheduled_us, start_us, service_us, outcome, self.number, len(reply.body))
        self.environment.events.request.fire(
            request_type=self.request_type,
            name=request.endpoint,
            response_time=service_us / 1000,
            response_length=len(reply.body),
            response=None,
            context=self.context(),
            exception=None if outcome == wire.OK else RequestFailed(outcome),
            start_time=start_s,
            url=None,
        )
        return start_us + service_us


def roles(*names: str) -> Callable[[TaskT], TaskT]:
    """Marks a task as one for accounts of these roles; the others lack the right to it."""

    def mark(task: TaskT) -> TaskT:
        task.roles = names  # type: ignore[attr-defined]
        return task

    return mark


class OdooUser(DairyUser):
    """Speaks XML-RPC as one of the shared accounts, whose uid is known: nobody logs in while the clock runs."""

    abstract = True
    request_type = "XML-RPC"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        accounts = self.farm.addresses.accounts
        self.account = accounts[self.ordinal % len(accounts)]
        self.tasks = [task for task in self.tasks if self.account.role in getattr(task, "roles", (self.account.role,))]
        self.animals = self.farm.visible[self.account.uid]
        self.lactating_ids = self.farm.milked[self.account.uid]

    def connect(self) -> wire.Connection:
        return wire.Connection(self.farm.addresses.odoo_url, keep_alive=False)

    def outcome(self, reply: wire.Reply, expect: bytes) -> str:
        return wire.odoo_outcome(reply, expect)

    def execute(
        self,
        model: str,
        method: str,
        args: Sequence[object],
        kwargs: Mapping[str, object] | None = None,
        *,
        case: str | None = None,
        expect: bytes,
    ) -> wire.Request:
        """A call of a model's method. case tells apart uses of one method: `odoo MODEL.METHOD [case]`."""
        endpoint = f"odoo {model}.{method}" + (f" [{case}]" if case else "")
        login = (self.farm.addresses.database, self.account.uid, self.farm.password(self.account))
        params = (*login, model, method, list(args), dict(kwargs or {}))
        return wire.xmlrpc_request(endpoint, "object", "execute_kw", params, expect)

    def authenticate(self) -> wire.Request:
        """A log-in with the account's password."""
        login = (self.farm.addresses.database, self.account.login, self.farm.password(self.account))
        return wire.xmlrpc_request("odoo common.authenticate", "common", "authenticate", (*login, {}), b"<int>")


class ApiUser(DairyUser):
    """Speaks JSON to the FastAPI service over one connection that is kept alive."""

    abstract = True
    request_type = "HTTP"

    def connect(self) -> wire.Connection:
        return wire.Connection(self.farm.addresses.api_url, keep_alive=True)

    def outcome(self, reply: wire.Reply, expect: bytes) -> str:
        return wire.api_outcome(reply, expect)

    def get(
        self, route: str, *, expect: bytes, query: Mapping[str, object] | None = None, **path: object
    ) -> wire.Request:
        return wire.api_request("GET", route, self.farm.api_key, expect, path=path, query=query)

    def post(self, route: str, body: object, *, expect: bytes) -> wire.Request:
        return wire.api_request("POST", route, self.farm.api_key, expect, body=body)
