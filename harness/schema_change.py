"""Runs statements that change a database in use: nobody waits long for them, and only one process does it at once.

Over a direct connection alone: pgBouncer would share the session's lock and settings with strangers.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from harness.errors import InputError, StackError

Connection = psycopg.Connection[Any]
Say = Callable[[str], None]

# Who waits for a strong lock makes everyone wait who comes after it: so it waits this long, lets them pass, and tries
# again. Half of deadlock_timeout, which is when a server that logs lock waits begins to.
LOCK_TIMEOUT_MS = 500
PAUSE_S = 0.5
ATTEMPTS = 120
# The server looks this often whether we still live, and ends our statement if not: a killed process would otherwise
# go on building, and hold the lock, until the server has something to tell it.
CLIENT_CHECK_MS = 1000
TAKE_OVER_S = 5.0
PROGRESS_S = 1.0
_LOCK_KEY = int.from_bytes(b"dairyddl")

_PROGRESS = """
SELECT p.phase, p.blocks_done, p.blocks_total, pg_blocking_pids(backend.pid)
FROM (SELECT %s::int AS pid) backend
LEFT JOIN pg_stat_progress_create_index p ON p.pid = backend.pid
"""
_OTHERS = """
SELECT concat('pid ', pid, ' (', concat_ws(', ', usename, nullif(application_name, ''), state), ')')
FROM pg_stat_activity
WHERE {} AND pid <> pg_backend_pid()
ORDER BY coalesce(xact_start, backend_start)
LIMIT 3
"""


def connect(dsn: str) -> Connection:
    """A connection of which each statement is a transaction. InputError for a dsn with a password, StackError."""
    try:
        if "password" in psycopg.conninfo.conninfo_to_dict(dsn):
            raise InputError("--dsn: it holds a password; name the file that has it, passfile=…")
        return psycopg.connect(dsn, autocommit=True, row_factory=tuple_row)
    except psycopg.ProgrammingError as error:
        raise InputError(f"--dsn: {what(error)}; give host=… port=… dbname=… user=… passfile=…") from error
    except psycopg.OperationalError as error:
        raise StackError(f"postgresql: {what(error)}; see that it is up and that the role may log in") from error


@contextlib.contextmanager
def session(dsn: str) -> Iterator[Connection]:
    """A connection of its own, the only one to change this database until the block ends.

    Raises StackError when it leads through a pooler, when another change is under way, and for what the server
    refuses in the block.
    """
    with connect(dsn) as connection, faults("postgresql"):
        database = connection.info.dbname
        # a pooler gives its clients a cancel key of its own
        if value(connection, "SELECT pg_backend_pid()") != connection.info.backend_pid:
            raise InputError(
                f"{database}: port {connection.info.port} is a pooler's, which shares one session among many; "
                "give PostgreSQL's own port"
            )
        for setting, to in (
            ("statement_timeout", "0"),
            ("idle_session_timeout", "0"),
            ("client_connection_check_interval", str(CLIENT_CHECK_MS)),
        ):
            connection.execute("SELECT set_config(%s, %s, false)", [setting, to])
        _take_lock(connection)
        yield connection


def _take_lock(connection: Connection) -> None:
    """Asks again and again: waiting in the server would hold a snapshot, which a concurrent build waits for."""
    deadline = time.monotonic() + TAKE_OVER_S
    while not value(connection, "SELECT pg_try_advisory_lock(%s)", _LOCK_KEY):
        if time.monotonic() > deadline:
            holds = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s)"
            who = connection.execute(_OTHERS.format(holds), divmod(_LOCK_KEY, 2**32)).fetchall()
            names = ", ".join(row[0] for row in who) or "already gone"
            raise StackError(
                f"{connection.info.dbname}: another change of this database is under way: {names}; wait for its end"
            )
        time.sleep(0.2)


def bounded(connection: Connection, statement: str, say: Say) -> int:
    """Runs a statement that takes a strong lock for a moment; returns how many attempts it took.

    Each attempt waits LOCK_TIMEOUT_MS at most, so that nobody behind it waits longer. StackError after ATTEMPTS.
    """
    connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{LOCK_TIMEOUT_MS}ms"])
    for attempt in range(1, ATTEMPTS + 1):
        try:
            connection.execute(statement.encode())
        except psycopg.errors.LockNotAvailable:
            if attempt % 10 == 1:
                say(f"no lock within {LOCK_TIMEOUT_MS} ms, others go first ({_open_transactions(connection)})")
            time.sleep(PAUSE_S)
        else:
            return attempt
    raise StackError(
        f"{statement}: no lock in {ATTEMPTS} attempts of {LOCK_TIMEOUT_MS} ms ({_open_transactions(connection)}); "
        "let these transactions end and run again: what is done stays done"
    )


def _open_transactions(connection: Connection) -> str:
    which = "datname = current_database() AND xact_start IS NOT NULL AND backend_type = 'client backend'"
    return "open: " + (", ".join(row[0] for row in connection.execute(_OTHERS.format(which))) or "none any more")


def concurrent(connection: Connection, statement: str, say: Say) -> None:
    """Runs a statement that waits for others without holding them up, however long; says what it is doing meanwhile.

    Ctrl-C cancels it in the server.
    """
    connection.execute("SELECT set_config('lock_timeout', '0', false)")
    with ThreadPoolExecutor(1) as thread, contextlib.ExitStack() as opened:
        running = thread.submit(connection.execute, statement.encode())
        try:
            watcher: Connection | None = None
            shown = ""
            while not _ended(running, PROGRESS_S):
                if watcher is None:
                    watcher = opened.enter_context(connect(connection.info.dsn))
                text = _progress(watcher, connection.info.backend_pid)
                if text != shown:
                    say(text)
                    shown = text
        except BaseException:
            connection.cancel_safe()
            raise
        running.result()


def _ended(running: Future[Any], within_s: float) -> bool:
    try:
        running.exception(within_s)
    except StillRunning:
        return False
    return True


def _progress(watcher: Connection, pid: int) -> str:
    row = watcher.execute(_PROGRESS, [pid]).fetchone()
    assert row is not None
    phase, done, total, blockers = row
    text = phase or "running"
    if total:
        text += f", {done:,} of {total:,} blocks"
    if blockers:
        text += ", waits for pid " + ", ".join(map(str, blockers))
    return text


def prefixed(say: Say, prefix: str) -> Say:
    return lambda text: say(prefix + text)


def value(connection: Connection, statement: str, *parameters: object) -> Any:
    """The one value that the statement gives."""
    row = connection.execute(statement.encode(), parameters or None).fetchone()
    assert row is not None
    return row[0]


@contextlib.contextmanager
def faults(place: str) -> Iterator[None]:
    """Says what the server refused as "place: value; remedy". Raises StackError."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise StackError(f"{place}: {what(error)}; connect as the tables' owner or a superuser") from error
    except psycopg.errors.DiskFull as error:
        raise StackError(f"{place}: {what(error)}; free space where PostgreSQL keeps its data, run again") from error
    except psycopg.Error as error:
        raise StackError(f"{place}: {what(error)}; run again: what is done stays done") from error


def what(error: psycopg.Error) -> str:
    """The server's own words."""
    primary = error.diag.message_primary or str(error).strip().replace("\n", " ")
    return f"{primary} ({error.diag.message_detail})" if error.diag.message_detail else primary
