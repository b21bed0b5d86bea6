"""PostgreSQL's JSON log, read through the server itself: where it ends now, and what was added to it since.

Needs a role that may call pg_read_binary_file(); works whether or not the server's files can be reached from here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.rows import tuple_row

from harness import probe
from harness.errors import StackError

# The collector writes within milliseconds; on a busy machine it may get no time for a while.
MARK_TIMEOUT_S = 20.0
RETRY_S = 0.05
_CHUNK_BYTES = 8 << 20

# Lines without it are of no use here, and are most of a log.
_WANTED = b'"message":"duration: '

FILES = "SELECT name, size FROM pg_ls_logdir() WHERE name LIKE '%.json'"
READ = "SELECT pg_read_binary_file(current_setting('log_directory') || '/' || %s, %s, %s, true)"

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")


# Where the log ended: bytes of each of its files.
Position = Mapping[str, int]


def position(admin_dsn: str) -> Position:
    """Where the log ends now. Raises StackError if it cannot be read, or there is no JSON log."""

    def end(connection: Connection) -> Position:
        if connection.execute("SELECT pg_current_logfile('jsonlog')").fetchone() in (None, (None,)):
            raise StackError(
                "postgresql: writes no JSON log; set logging_collector = on and log_destination = 'jsonlog'"
            )
        return _sizes(connection)

    return _ask(admin_dsn, end)


def since(admin_dsn: str, start: Position) -> list[bytes]:
    """The lines with a duration that were logged after `start`, until now; they may start with a torn one.

    A line of our own marks the end: what statements logged before it, the collector has written before it. Raises
    StackError if the log cannot be read, or the mark does not appear in it.
    """

    def lines(connection: Connection) -> list[bytes]:
        mark = uuid.uuid4().hex
        connection.execute(f"DO $$ BEGIN RAISE LOG 'dairyperf has read the log up to here: {mark}'; END $$")
        deadline = time.monotonic() + MARK_TIMEOUT_S
        while time.monotonic() < deadline:
            added = _added(connection, start)
            if any(mark.encode() in part for part in added):
                # a rotation may lead back into the first file: only in its own one the mark is an end
                until = [part.partition(mark.encode())[0] for part in added]
                return [line for part in until for line in part.split(b"\n") if _WANTED in line]
            time.sleep(RETRY_S)
        raise StackError(
            f"postgresql: its log does not show within {MARK_TIMEOUT_S:.0f} s what was written to it; see whether "
            "another rotation or retention takes its files away"
        )

    return _ask(admin_dsn, lines)


def _added(connection: Connection, start: Position) -> list[bytes]:
    """What each file got since. One that became smaller was truncated when its turn came again, and is all new."""
    return [
        _content(connection, name, start.get(name, 0) if start.get(name, 0) <= size else 0)
        for name, size in _sizes(connection).items()
        if size != start.get(name)
    ]


def _sizes(connection: Connection) -> dict[str, int]:
    return dict(connection.execute(FILES).fetchall())


def _content(connection: Connection, name: str, offset_bytes: int) -> bytes:
    parts = []
    while True:
        row = connection.execute(READ, (name, offset_bytes, _CHUNK_BYTES), binary=True).fetchone()
        part = bytes(row[0]) if row and row[0] is not None else b""
        parts.append(part)
        offset_bytes += len(part)
        if len(part) < _CHUNK_BYTES:
            return b"".join(parts)


def _ask(admin_dsn: str, question: Callable[[Connection], T]) -> T:
    try:
        with psycopg.connect(
            admin_dsn,
            autocommit=True,
            row_factory=tuple_row,
            application_name=probe.APPLICATION_NAME,
            connect_timeout=probe.ANSWER_TIMEOUT_S,
        ) as connection:
            return question(connection)
    except psycopg.Error as error:
        raise StackError(
            f"postgresql: its log cannot be read, {type(error).__name__}: {' '.join(str(error).split())}; give the "
            "administrator's role pg_read_server_files"
        ) from error
