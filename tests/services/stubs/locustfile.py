"""The real users against stub servers, with an observer and a judge that need no stack."""

import os
import sys
from pathlib import Path

import gevent
from gevent.monkey import get_original
from locust import events
from pydantic import TypeAdapter

from harness.locust_plugin import DairyUser, clock, observer, run, start
from harness.model import StackAddresses

_ADDRESSES = TypeAdapter(StackAddresses).validate_json(Path(os.environ["STUB_ADDRESSES"]).read_text())
start.read_addresses = lambda profile: _ADDRESSES
observer.COMMAND = (sys.executable, str(Path(__file__).with_name("observer.py")))
run.JUDGE = (sys.executable, "-c", "print('VERDICTS'); raise SystemExit(1)")

if "STUB_STALL_S" in os.environ:
    # blocks the whole generator once, two seconds after the ramp began
    @events.test_start.add_listener
    def stall(**_: object) -> None:
        gevent.spawn_later(2, get_original("time", "sleep"), float(os.environ["STUB_STALL_S"]))


if "STUB_CHECK" not in os.environ:
    # the stub servers know nothing of the seed
    DairyUser._check = lambda *_: "ok"

if "STUB_CLOCK_US" in os.environ:
    # a worker on another machine, whose clock began at another time; the master keeps this process
    master, machine, now_us = os.getpid(), clock.boot_id(), clock.now_us
    clock.boot_id = lambda: machine if os.getpid() == master else "another machine"
    clock.now_us = lambda: now_us() + (0 if os.getpid() == master else int(os.environ["STUB_CLOCK_US"]))

if "STUB_LOGIN" in os.environ:
    from locustfiles.login_storm import LoginUser  # noqa: F401
else:
    from locustfiles.dairy_day import AppUser, OdooStaff  # noqa: F401

if "STUB_BREAK" in os.environ:

    def breaks(self: object) -> None:
        raise KeyError("a fault in a locustfile")

    DairyUser.recent_day = breaks
