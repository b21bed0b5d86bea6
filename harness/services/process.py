"""Starts one server process, waits until it answers, stops it; says why when it does not."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.errors import StackError

_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class User:
    """Whom a server runs as when the harness itself is root; PostgreSQL and pgBouncer refuse root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Service:
    """A running server: `stop_signal` is the one that ends it quickly and cleanly."""

    name: str
    process: subprocess.Popen[bytes]
    logs: tuple[Path, ...]
    stop_signal: signal.Signals

    @property
    def pid(self) -> int:
        return self.process.pid


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """A preexec_fn: the kernel sends `death_signal` to the child when its parent ends, even by `kill -9`.

    Popen calls it after it changed the user, which matters: changing credentials clears the setting (prctl(2)).
    """
    parent = os.getpid()

    def arrange() -> None:
        follow_parent(death_signal)
        if os.getppid() != parent:  # it ended between fork and prctl
            os.kill(os.getpid(), signal.SIGKILL)

    return arrange


def follow_parent(death_signal: signal.Signals) -> None:
    """The kernel sends `death_signal` to this process when its parent ends, if it has not ended yet."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)


def start(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    cwd: Path,
    user: User | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    more_logs: Sequence[Path] = (),
) -> Service:
    """Starts `command` with exactly `environment`, its output appended to `log`; it dies with this process."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=die_with_parent(stop_signal),
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
    return Service(name, process, (log, *more_logs), stop_signal)


def run(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    cwd: Path,
    timeout_s: float,
    user: User | None = None,
) -> None:
    """Runs `command` to its end. StackError with the last log lines when it fails or takes longer than `timeout_s`."""
    service = start(name, command, log=log, environment=environment, cwd=cwd, user=user)
    try:
        code = service.process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise failure(service, f"did not end within {timeout_s:.0f} s") from None
    finally:
        stop(service, 5)
    if code != 0:
        raise failure(service, f"ended with exit code {code}")


def wait_until(
    service: Service,
    ready: Callable[[], bool],
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Polls `ready` until it holds. StackError when the server ends first or `timeout_s` pass."""
    deadline = clock() + timeout_s
    while not ready():
        if service.process.poll() is not None:
            raise failure(service, f"ended at start with exit code {service.process.returncode}")
        if clock() > deadline:
            raise failure(service, f"did not answer within {timeout_s:.0f} s")
        sleep(0.05)


def stop(service: Service, timeout_s: float = 10) -> None:
    """Ends the server and everything it started; harmless when it has ended already."""
    children: list[psutil.Process] = []
    if service.process.poll() is None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(service.pid).children(recursive=True)
        service.process.send_signal(service.stop_signal)
        try:
            service.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            service.process.kill()
            service.process.wait()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(children, timeout=2)


def failure(service: Service, what: str) -> StackError:
    """A StackError that quotes the server's last log lines and names the remedy that they suggest."""
    tail = log_tail(service.logs)
    places = ", ".join(str(log) for log in service.logs if log.exists())
    return StackError(f"{service.name} {what}; {remedy(tail)}\nlast lines of {places}:\n{tail or '(nothing logged)'}")


def remedy(log_text: str) -> str:
    """What to do about the failure that a log shows."""
    text = log_text.lower()
    if "address already in use" in text:
        return "its port is taken: end the process that holds it (ss -ltnp) or choose another with --port"
    if "no space left" in text or "disk full" in text:
        return "the disk is full: free space, or set DAIRYPERF_HOME to a folder on another disk"
    if "permission denied" in text:
        return "it may not read or write a file named below: set DAIRYPERF_HOME to a folder that other users can enter"
    if "error while loading shared libraries" in text or "modulenotfounderror" in text:
        return "a package is missing: run ./dairyperf doctor, or delete the cache folder it names to fetch it afresh"
    if "could not create shared memory" in text or "cannot allocate memory" in text:
        return "the machine has too little free memory: end other programs, or bring up one profile only"
    return "see the lines below"


def log_tail(logs: Sequence[Path], lines: int = 15) -> str:
    """The last lines of the given files (of a folder: of its newest file)."""
    parts = []
    for log in logs:
        if log.is_dir():
            files = sorted((f for f in log.iterdir() if f.is_file()), key=lambda f: f.stat().st_mtime)
            log = files[-1] if files else log
        if log.is_file():
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - 16384))
                parts += file.read().decode(errors="replace").splitlines()[-lines:]
    return "\n".join("    " + line[:500] for line in parts)


def responds(url: str) -> bool:
    """Whether a GET is answered with 200 within two seconds."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is never behind a proxy
    try:
        with direct.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def free_port() -> int:
    """A loopback port that nobody listens on now. Another program may take it before the server does: then the
    server's own message about the taken port is shown."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
