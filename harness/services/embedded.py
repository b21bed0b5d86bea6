"""The embedded stack of a profile, up and down: real servers as local processes, which a supervisor process owns.

State (addresses, no secrets) lies in `.dairyperf/` of the checkout ($DAIRYPERF_STATE elsewhere), so that two checkouts
do not meet; the supervisor holds the lock file beside it for as long as it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from harness import CHECKOUT
from harness.errors import InputError, StackError
from harness.model import Profile, StackAddresses
from harness.services import process, provision
from harness.services.supervisor import Request

STATE = Path(os.environ.get("DAIRYPERF_STATE") or CHECKOUT / ".dairyperf").resolve()
STOP_TIMEOUT_S = 30
DEFAULT_HERD = 255
DEFAULT_SEED = 42
DEFAULT_AS_OF = "2026-02-03"  # the specification's date

_addresses = TypeAdapter(StackAddresses)


def is_up(profile: Profile) -> bool:
    """Whether a supervisor of this checkout holds the profile's lock."""
    lock = STATE / f"{profile}.lock"
    if not lock.exists():
        return False
    with lock.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read(profile: Profile) -> StackAddresses:
    """The addresses of the running stack. InputError when it is not up."""
    state = STATE / f"{profile}.json"
    if not is_up(profile) or not state.exists():
        raise InputError(f"profile {profile}: no stack is up; run ./dairyperf up --profile {profile}")
    return _addresses.validate_python(json.loads(state.read_text())["addresses"])


@contextlib.contextmanager
def up(
    profile: Profile,
    say: Callable[[str], None],
    *,
    herd: int = DEFAULT_HERD,
    seed: int = DEFAULT_SEED,
    ports: Mapping[str, int] | None = None,
    odoo_source: Path | None = None,
    detach: bool = False,
) -> Iterator[StackAddresses]:
    """Starts the stack and yields its addresses; stops it at the block's end, or leaves it running with `detach`.

    However this process ends before that, the supervisor stops every server within seconds. StackError when a server
    does not start.
    """
    if is_up(profile):
        raise InputError(f"profile {profile}: already up in this checkout; ./dairyperf down --profile {profile} first")
    STATE.mkdir(parents=True, exist_ok=True)
    checkout = hashlib.sha256(str(STATE).encode()).hexdigest()[:12]
    request = Request(
        profile=profile,
        herd=herd,
        seed=seed,
        as_of=DEFAULT_AS_OF,
        home=str(provision.cache_root() / "stacks" / checkout / profile),
        state_file=str(STATE / f"{profile}.json"),
        lock_file=str(STATE / f"{profile}.lock"),
        ports=dict(ports or {}),
        odoo_source=str(odoo_source) if odoo_source else None,
    )
    (STATE / f"{profile}.json").unlink(missing_ok=True)
    with (STATE / f"{profile}.log").open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "harness.services.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=CHECKOUT,
            start_new_session=True,  # Ctrl-C in our terminal reaches it through the pipe's end, in order
            text=True,
        )
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    with supervisor.stdin, supervisor.stdout:
        try:
            supervisor.stdin.write(json.dumps(asdict(request)) + "\n")
            supervisor.stdin.flush()
            yield _ready(supervisor.stdout, profile, say)
            if detach:
                supervisor.stdin.write("detach\n")
                supervisor.stdin.flush()
        except BaseException:
            _end(supervisor)
            raise
        if not detach:
            _end(supervisor)


def _ready(messages: Iterable[str], profile: Profile, say: Callable[[str], None]) -> StackAddresses:
    for line in messages:
        message = json.loads(line)
        if "progress" in message:
            say(f"{profile}: {message['progress']}")
        elif "ready" in message:
            return _addresses.validate_python(message["ready"])
        else:
            error = InputError if message["exit_code"] == InputError.exit_code else StackError
            raise error(f"profile {profile}: {message['error']}")
    log = STATE / f"{profile}.log"
    tail = process.log_tail([log])
    raise StackError(
        f"profile {profile}: its supervisor ended unasked; {process.remedy(tail)}\nlast lines of {log}:\n{tail}"
    )


def _end(supervisor: subprocess.Popen[str]) -> None:
    """Lets the supervisor stop its servers and waits for it; a second Ctrl-C does not cut that short."""
    assert supervisor.stdin is not None
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with contextlib.suppress(OSError):
            supervisor.stdin.close()
        try:
            supervisor.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            supervisor.kill()  # the kernel ends its servers with it
            supervisor.wait()
    finally:
        signal.signal(signal.SIGINT, previous)


def down(profile: Profile) -> bool:
    """Stops a detached stack; False when none was up."""
    state = STATE / f"{profile}.json"
    if not is_up(profile):
        state.unlink(missing_ok=True)
        return False
    if not state.exists():
        raise StackError(f"profile {profile}: it is just starting or stopping; try again in a few seconds")
    content = json.loads(state.read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        supervisor = psutil.Process(content["supervisor"])
        if abs(supervisor.create_time() - content["started"]) < 1:
            supervisor.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while is_up(profile):
        if time.monotonic() > deadline:
            raise StackError(
                f"profile {profile}: process {content['supervisor']} does not end; see {STATE}/{profile}.log"
            )
        time.sleep(0.05)
    return True


def status(profile: Profile) -> dict[str, object]:
    """What is up, for people and programs: state, each service's process, every address and how to log in."""
    if not is_up(profile):
        return {"profile": profile, "state": "down"}
    state = STATE / f"{profile}.json"
    if not state.exists():
        return {"profile": profile, "state": "starting"}
    addresses = read(profile)
    services = {}
    for name, pid in addresses.pids.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            services[name] = {"pid": pid, "running": psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}
        services.setdefault(name, {"pid": pid, "running": False})
    health = "up" if all(s["running"] for s in services.values()) else "degraded"
    return {"state": health, "services": services} | asdict(addresses)
