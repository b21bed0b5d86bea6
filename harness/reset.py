"""Puts a running stack back into its seeded state and warms it, so that no run sees what an earlier one wrote."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg.conninfo
import psycopg.sql

from harness import cache_warmup
from harness import seed as seeding
from harness.errors import StackError
from harness.model import StackAddresses
from harness.services import api, odoo, pgbouncer, process, redis

ODOO_WORKERS = 2
HEAL_TIMEOUT_S = 30


def stack(addresses: StackAddresses) -> None:
    """Database from its template, statistics at zero, all WAL archived, every login cached in every Odoo worker, Redis
    warm.

    Raises StackError when the data does not have the seeded checksum or a service does not recover.
    """
    database(addresses)
    secrets = json.loads(Path(addresses.secrets_file).read_text())
    if addresses.redis_url:
        redis.flush(addresses.redis_url, secrets["redis"])
    # its pool replaces the links that the reset cut when it is asked for its health
    _wait_until_healthy("api", addresses.api_url + api.READY_PATH)
    _wait_until_healthy("odoo", addresses.odoo_url + odoo.READY_PATH)
    odoo.warm_up(addresses.odoo_url, addresses.database, addresses.accounts, secrets["odoo"], ODOO_WORKERS)
    with psycopg.connect(addresses.postgres_dsn, autocommit=True) as connection:
        found = seeding.checksum(connection)
        if found != addresses.checksum:
            raise StackError(
                f"{addresses.database}: checksum {found[:16]}… after the reset, seeded {addresses.checksum[:16]}…; "
                "something else writes to this stack: end it, then ./dairyperf down and up"
            )
    if addresses.redis_url:
        cache_warmup.warm_up(addresses, secrets)
    with psycopg.connect(addresses.admin_dsn, dbname=addresses.database, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_statements_reset()")
        archive_wal(connection)


def database(addresses: StackAddresses) -> None:
    """Replaces the database by a fresh copy of its template. Links of Odoo and the API are cut."""
    name = psycopg.sql.Identifier(addresses.database)
    template = psycopg.sql.Identifier(addresses.database + "_seed")
    with _no_pooled_links(addresses), _explained(), psycopg.connect(addresses.admin_dsn, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        # by file copy: the default would write every page to the WAL, and so to day40's archive
        create = psycopg.sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(name, template)
        connection.execute(create)
        as_of = psycopg.sql.Literal(addresses.as_of)
        # a database's settings are not copied with it
        connection.execute(psycopg.sql.SQL("ALTER DATABASE {} SET app.as_of = {}").format(name, as_of))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise StackError(f"reset of the database: {error}; {process.remedy(str(error))}") from error


@contextlib.contextmanager
def _no_pooled_links(addresses: StackAddresses) -> Iterator[None]:
    if addresses.pgbouncer_dsn is None:
        yield
        return
    with pgbouncer.paused(addresses.pgbouncer_dsn, addresses.database):
        yield


def archive_wal(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Where WAL is archived: closes the segment and waits for it, so that a run begins with nothing left to archive."""
    if connection.execute("SHOW archive_mode").fetchone() == ("off",):
        return
    ended = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
    deadline = time.monotonic() + HEAL_TIMEOUT_S
    while connection.execute("SELECT last_archived_wal >= %s FROM pg_stat_archiver", ended).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise StackError(
                f"postgresql: {HEAL_TIMEOUT_S} s, and WAL is not archived; its log says why archive_command fails"
            )
        time.sleep(0.05)


def _wait_until_healthy(service: str, url: str) -> None:
    deadline = time.monotonic() + HEAL_TIMEOUT_S
    while not process.responds(url):
        if time.monotonic() > deadline:
            raise StackError(f"{service}: {url} is not healthy {HEAL_TIMEOUT_S} s after the reset; see its log")
        time.sleep(0.1)
