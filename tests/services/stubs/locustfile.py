"""The real users against stub servers, with an observer and a judge that need no stack."""

import os
import sys
from pathlib import Path

import gevent
from gevent.monkey import get_original
from pydantic import TypeAdapter

from harness import locust_plugin
from harness.model import StackAddresses

_ADDRESSES = TypeAdapter(StackAddresses).validate_json(Path(os.environ["STUB_ADDRESSES"]).read_text())
locust_plugin.read_addresses = lambda profile: _ADDRESSES
locust_plugin.OBSERVE = (sys.executable, str(Path(__file__).with_name("observer.py")))
locust_plugin.JUDGE = (sys.executable, "-c", "print('VERDICTS'); raise SystemExit(1)")

if "STUB_STALL_S" in os.environ:
    # blocks the whole generator once, two seconds after the ramp began
    @locust_plugin.events.test_start.add_listener
    def stall(**_: object) -> None:
        gevent.spawn_later(2, get_original("time", "sleep"), float(os.environ["STUB_STALL_S"]))


if "STUB_LOGIN" in os.environ:
    from locustfiles.login_storm import LoginUser  # noqa: F401
else:
    from locustfiles.dairy_day import AppUser, OdooStaff  # noqa: F401

if "STUB_BREAK" in os.environ:

    def breaks(self: object) -> None:
        raise KeyError("a fault in a locustfile")

    locust_plugin.DairyUser.recent_day = breaks
