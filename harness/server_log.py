"""PostgreSQL's JSON log, read through the server itself: where it ends now, and what was added to it since.

Needs a role that may call pg_read_binary_file(); works whether or not the server's files can be reached from here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
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

CURRENT = """
SELECT name, size FROM pg_ls_logdir() WHERE name = regexp_replace(pg_current_logfile('jsonlog'), '^.*/', '')
"""
# In the order they were written; the last is the current one.
FILES = "SELECT name, size FROM pg_ls_logdir() WHERE name LIKE '%%.json' AND modification >= %s ORDER BY modification"
READ = "SELECT pg_read_binary_file(current_setting('log_directory') || '/' || %s, %s, %s, true)"

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log: behind the first `offset_bytes` of `file`. noted_at: the server's clock, as SQL text."""

    file: str
    offset_bytes: int
    noted_at: str


def position(admin_dsn: str) -> Position:
    """Where the log ends now. Raises StackError if it cannot be read, or there is no JSON log."""

    def end(connection: Connection) -> Position:
        row = connection.execute(CURRENT).fetchone()
        if row is None:
            raise StackError(
                "postgresql: writes no JSON log; set logging_collector = on and log_destination = 'jsonlog'"
            )
        noted = connection.execute("SELECT date_trunc('second', clock_timestamp())::text").fetchone()
        assert noted is not None
        return Position(row[0], row[1], noted[0])

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
            before, found, _ = _added(connection, start).partition(mark.encode())
            if found:
                return [line for line in before.split(b"\n") if _WANTED in line]
            time.sleep(RETRY_S)
        raise StackError(
            f"postgresql: its log does not show within {MARK_TIMEOUT_S:.0f} s what was written to it; see whether "
            "another rotation or retention takes its files away"
        )

    return _ask(admin_dsn, lines)


def _added(connection: Connection, start: Position) -> bytes:
    """What the log's files got since: the rest of the one that was current, all of those that came after it."""
    files: dict[str, int] = dict(connection.execute(FILES, (start.noted_at,)).fetchall())
    parts = [_content(connection, start.file, start.offset_bytes)] if start.file in files else []
    parts += [_content(connection, name, 0) for name in files if name != start.file]
    return b"\n".join(parts)


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
