"""A PostgreSQL with the herd in it and nothing around it, for a while: for what needs the database alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import psutil
import psycopg

from harness import indexes
from harness import seed as seeding
from harness.model import PROFILES, Profile
from harness.services import postgres, process, provision, template
from harness.services.provision import Say, Tools

# The last word over a profile's own: a cluster that lives for minutes archives nothing, syncs nothing, and is reached
# on loopback by its own passwords. What decides a plan is the profile's.
THROWAWAY = "\nfsync = off\nfull_page_writes = off\narchive_mode = off\nssl = off\nmax_wal_size = 4GB\n"
START_TIMEOUT_S = 60


@contextlib.contextmanager
def databases(
    herd: int, seed: int, as_of: date, profiles: Sequence[Profile], say: Say
) -> Iterator[Iterator[tuple[Profile, psycopg.Connection]]]:
    """Yields (profile, superuser's connection, in autocommit) of each profile in turn: one cluster, seeded once,
    started with each profile's configuration and brought to its indexes. Gone at the block's end.

    Rows are VACUUMed and ANALYZEd. Raises InputError for a herd that cannot be, StackError.
    """
    tools = provision.fetch(say)
    with tempfile.TemporaryDirectory(prefix="bare-", dir=provision.cache_root()) as scratch:
        home = Path(scratch)
        home.chmod(0o755)
        yield _each(home, tools, herd, seed, as_of, profiles, say)


def _each(
    home: Path, tools: Tools, herd: int, seed: int, as_of: date, profiles: Sequence[Profile], say: Say
) -> Iterator[tuple[Profile, psycopg.Connection]]:
    password = secrets.token_urlsafe(24)
    _create(home, tools, password)
    # day31 first, whatever was asked for: its indexes are a part of day40's
    for number, profile in enumerate(sorted(profiles, key=PROFILES.index)):
        with _server(home, tools, password, profile) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
            if number == 0:
                _seed(connection, herd, seed, as_of, say)
            if profile == "day40":
                say("creating the indexes of Day 32")
                indexes.create(dsn, lambda _: None)
            # with the profile's own default_statistics_target
            connection.execute("VACUUM (ANALYZE)")
            yield profile, connection


def _seed(connection: psycopg.Connection, herd: int, seed: int, as_of: date, say: Say) -> None:
    started = time.monotonic()
    say(f"seeding {herd:,} head")
    seeding.create_schema(connection, as_of)
    seeding.load(connection, herd, seed, as_of)
    say(f"seeded {herd:,} head in {time.monotonic() - started:.0f} s")


def _create(home: Path, tools: Tools, password: str) -> None:
    user = provision.service_user()
    password_file, data = home / "superuser.pass", home / "data"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    for folder in (data, home / "log", home / "archive"):
        folder.mkdir(mode=0o700)
    if user:
        for place in (password_file, data, home / "log", home / "archive"):
            os.chown(place, user.uid, user.gid)
    postgres.initdb(tools.postgres_bin, data, password_file, home / "initdb.log", user)
    password_file.unlink()


@contextlib.contextmanager
def _server(home: Path, tools: Tools, password: str, profile: Profile) -> Iterator[str]:
    user = provision.service_user()
    port = process.free_port()
    hba, config, passfile = home / "pg_hba.conf", home / "postgresql.conf", home / "passfile"
    hba.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    host = postgres.sizes(psutil.virtual_memory().total, psutil.cpu_count() or 1)
    text = postgres.config_text(
        profile,
        port=port,
        hba_file=hba,
        log_dir=home / "log",
        archive=home / "archive",
        archive_script=home / postgres.ARCHIVE_SCRIPT.name,  # not called: see THROWAWAY
        certificates=home,
        host=host,
    )
    config.write_text(text + THROWAWAY)
    template.write_passfile(passfile, {"postgres": password})
    dsn = postgres.dsn(port, "postgres", "postgres", passfile)
    server = postgres.start(tools.postgres_bin, home / "data", config, home / "postgresql.log", home / "log", user)
    try:
        process.wait_until(server, lambda: postgres.answers(dsn), START_TIMEOUT_S)
        yield dsn
    finally:
        process.stop(server, START_TIMEOUT_S)
