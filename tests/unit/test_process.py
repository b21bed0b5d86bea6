"""Starting, waiting for and ending one real process; and what its log says about why it failed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.errors import StackError
from harness.services import process

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def start(tmp_path: Path, script: str) -> process.Service:
    command = [sys.executable, "-c", script]
    return process.start("server", command, log=tmp_path / "server.log", environment=ENVIRONMENT, cwd=tmp_path)


def test_a_server_that_dies_at_start_is_quoted(tmp_path: Path) -> None:
    server = start(tmp_path, "import sys; sys.exit('FATAL: no lock')")
    with pytest.raises(StackError, match=r"server ended at start with exit code 1(.|\n)*FATAL: no lock"):
        process.wait_until(server, lambda: False, 30)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    server = start(tmp_path, "import time; time.sleep(60)")
    ticks = iter(range(100))
    with pytest.raises(StackError, match="did not answer within 5 s"):
        process.wait_until(server, lambda: False, 5, clock=lambda: next(ticks), sleep=lambda _: None)
    process.stop(server)
    assert server.process.returncode == -signal.SIGTERM


def test_stop_ends_what_the_server_started_even_when_it_ignores_signals(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"""
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.pause()"])
pathlib.Path({str(ready)!r}).write_text(str(child.pid))
time.sleep(60)
"""
    server = start(tmp_path, script)
    process.wait_until(server, lambda: ready.exists() and bool(ready.read_text()), 30)
    child = psutil.Process(int(ready.read_text()))
    process.stop(server, timeout_s=0.1)
    assert server.process.returncode == -signal.SIGKILL
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_server_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys, time
from harness.services import process
server = process.start("server", [sys.executable, "-c", "import signal; signal.pause()"],
    log=pathlib.Path({str(tmp_path / "log")!r}), environment={{}}, cwd=pathlib.Path({str(tmp_path)!r}))
print(server.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running()


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("could not bind: Address already in use", "its port is taken"),
        ("PANIC: could not write: No space left on device", "the disk is full"),
        ("ModuleNotFoundError: No module named 'lxml'", "a package is missing"),
        ("FATAL: could not open file: Permission denied", "may not read or write"),
        ("something else", "see the lines below"),
    ],
)
def test_remedy(log: str, says: str) -> None:
    assert says in process.remedy(log)


def test_a_taken_port_is_seen() -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        assert not process.port_is_free(holder.getsockname()[1])
    assert process.port_is_free(process.free_port())
