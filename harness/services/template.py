"""Builds the seeded database cluster of a profile once and keeps it in the cache, so that the next start is a copy.

A template is a folder: `data/` (a cluster that was shut down cleanly and holds `smart_dairy_seed`), `odoo/` (Odoo's
data folder), `superuser.pass` (0600) and `manifest.json`. Its name is a digest of everything that made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import psycopg.conninfo

from harness import CHECKOUT, index_plan, indexes
from harness import seed as seeding
from harness.errors import StackError
from harness.model import Profile
from harness.services import odoo, postgres, process, provision
from harness.services.provision import Say, Tools

DATABASE = "smart_dairy"
SEED_DATABASE = "smart_dairy_seed"
STALE_AFTER_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Template:
    folder: Path
    superuser_password: str
    checksum: str
    counts: dict[str, int]


def prepare(profile: Profile, tools: Tools, herd: int, seed: int, as_of: date, say: Say) -> Template:
    """The template of `profile`, built when the cache has none. day40's starts from a copy of day31's."""
    folder = provision.cache_root() / "templates" / f"{profile}-{herd}-{_digest(profile, tools, herd, seed, as_of)}"
    waiting = lambda: say("waiting for another process that seeds the same herd")  # noqa: E731
    with provision.locked(folder.with_suffix(".lock"), waiting=waiting):
        if not folder.exists():
            for left in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed: its lock is ours now
                shutil.rmtree(left, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            scratch.chmod(0o755)
            try:
                if profile == "day31":
                    _build(scratch, tools, herd, seed, as_of, say)
                else:
                    base = prepare("day31", tools, herd, seed, as_of, say)
                    copy_tree(base.folder, scratch)
                    say("creating the indexes of Day 32 and the policies of Day 35")
                    _with_server(scratch, tools, base.superuser_password, lambda dsn, _: make_day40(dsn))
                os.sync()  # the building server does not: it runs with fsync off
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    _forget_stale(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    password = (folder / "superuser.pass").read_text()
    return Template(folder, password, manifest["checksum"], manifest["counts"])


def _forget_stale(current: Path) -> None:
    """Removes templates that were not used for a week: each change of schema, herd or addon makes new ones."""
    os.utime(current)
    for folder in current.parent.glob("day*/"):
        if time.time() - folder.stat().st_mtime > STALE_AFTER_S:
            with provision.locked(folder.with_suffix(".lock")):
                shutil.rmtree(folder, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a folder's content with owners and modes; on file systems that can, without copying blocks."""
    command = ["cp", "-a", "--reflink=auto", f"{source}/.", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise StackError(f"{target}: {done.stderr.strip()[-300:]}; {process.remedy(done.stderr)}")


def _digest(profile: Profile, tools: Tools, herd: int, seed: int, as_of: date) -> str:
    owner = provision.service_user()
    return digest(profile, [tools.versions, owner.uid if owner else os.geteuid()], herd, seed, as_of)


def digest(profile: Profile, made_by: object, herd: int, seed: int, as_of: date) -> str:
    """Of everything that decides what a seeded cluster holds; `made_by`: of the servers that made it, as JSON."""
    made_from = [CHECKOUT / "fixtures/schema", CHECKOUT / "fixtures/herd", CHECKOUT / "fixtures/odoo_addons"]
    made_from += [CHECKOUT / "fixtures/endpoints.py"]
    if profile == "day40":
        made_from += [CHECKOUT / "fixtures/indexes", Path(indexes.__file__), Path(index_plan.__file__)]
        made_from += [CHECKOUT / "fixtures/security/policies.sql"]
    made_from += [Path(__file__), Path(seeding.__file__)]
    key = [made_by, herd, seed, as_of.isoformat()]
    made = hashlib.sha256(json.dumps(key).encode())
    for place in made_from:
        files = sorted(f for f in place.rglob("*") if f.is_file() and f.suffix != ".pyc") if place.is_dir() else [place]
        for file in files:
            made.update(str(file.relative_to(CHECKOUT)).encode() + b"\0" + file.read_bytes())
    return made.hexdigest()[:16]


def _build(scratch: Path, tools: Tools, herd: int, seed: int, as_of: date, say: Say) -> None:
    user = provision.service_user()
    password = secrets.token_urlsafe(24)
    password_file = scratch / "superuser.pass"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    data = scratch / "data"
    data.mkdir(mode=0o700)
    if user:
        os.chown(data, user.uid, user.gid)
        os.chown(password_file, user.uid, user.gid)
    say("creating an empty cluster")
    postgres.initdb(tools.postgres_bin, data, password_file, scratch / "build.log", user)
    os.chown(password_file, os.geteuid(), os.getegid())

    def work(dsn: str, port: int) -> None:
        manifest = fill(dsn, herd, seed, as_of, lambda: _install_odoo(scratch, tools, dsn, port), say)
        (scratch / "manifest.json").write_text(json.dumps(manifest))

    _with_server(scratch, tools, password, work)


def fill(dsn: str, herd: int, seed: int, as_of: date, install_addon: Callable[[], None], say: Say) -> dict[str, Any]:
    """Makes day31's seeded database SEED_DATABASE in a cluster without one; returns its checksum and counts.

    dsn: a superuser's. install_addon: installs Odoo with its addon into DATABASE, as role `odoo`.
    """
    with psycopg.connect(dsn, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    with psycopg.connect(dsn, dbname=DATABASE) as connection:
        seeding.create_schema(connection, as_of)
        seeding.load(connection, herd, seed, as_of, lambda table, rows: say(f"seeding {table}: {rows:,} rows"))
        connection.commit()
    say("installing the Odoo addon")
    install_addon()
    with psycopg.connect(dsn, dbname=DATABASE, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE, FREEZE)")
        manifest: dict[str, Any] = {"checksum": seeding.checksum(connection), "counts": seeding.counts(connection)}
    with psycopg.connect(dsn, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {DATABASE} RENAME TO {SEED_DATABASE}")
    return manifest


def make_day40(dsn: str) -> None:
    """What day40's SEED_DATABASE has beyond day31's. dsn: a superuser's."""
    indexes.create(psycopg.conninfo.make_conninfo(dsn, dbname=SEED_DATABASE), lambda _: None)
    with psycopg.connect(dsn, dbname=SEED_DATABASE) as connection:
        seeding.create_policies(connection)
        connection.commit()
    with psycopg.connect(dsn, dbname=SEED_DATABASE, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")


def _with_server(scratch: Path, tools: Tools, password: str, work: Callable[[str, int], None]) -> None:
    """Runs `work(superuser dsn, port)` against a stock server on scratch/data, then shuts it down cleanly."""
    user = provision.service_user()
    port = process.free_port()
    log_dir = scratch / "log"
    log_dir.mkdir(mode=0o700, exist_ok=True)
    if user:
        os.chown(log_dir, user.uid, user.gid)
    config = scratch / "build.conf"
    config.write_text(
        f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n"
        "shared_preload_libraries = 'pg_stat_statements'\nfsync = off\n"
        "max_wal_size = 4GB\nmaintenance_work_mem = 256MB\n"
    )
    passfile = scratch / "build.pgpass"
    write_passfile(passfile, {"postgres": password})
    dsn = postgres.dsn(port, "postgres", "postgres", passfile)
    server = postgres.start(tools.postgres_bin, scratch / "data", config, scratch / "build.log", log_dir, user)
    try:
        process.wait_until(server, lambda: postgres.answers(dsn), 60)
        work(dsn, port)
    finally:
        process.stop(server, 60)
        passfile.unlink()
        config.unlink()
        shutil.rmtree(log_dir, ignore_errors=True)


def _install_odoo(scratch: Path, tools: Tools, dsn: str, port: int) -> None:
    folder = scratch / "odoo"
    folder.mkdir()
    password = secrets.token_urlsafe(24)
    passfile = scratch / "odoo.pgpass"
    write_passfile(passfile, {"odoo": password})
    postgres.set_passwords(dsn, {"odoo": password})
    config = scratch / "odoo.conf"
    try:
        config.write_text(
            odoo.config_text(
                database=DATABASE,
                postgres_port=port,
                http_port=process.free_port(),
                gevent_port=process.free_port(),
                data_dir=folder,
            )
        )
        process.run(
            "odoo (installing the addon)",
            odoo.install_command(tools.odoo_python, tools.odoo, config),
            log=scratch / "odoo-install.log",
            environment=odoo.environment(tools.odoo, folder, passfile),
            cwd=folder,
            timeout_s=300,
        )
    finally:
        passfile.unlink()
        config.unlink()


def write_passfile(path: Path, passwords: dict[str, str]) -> None:
    """libpq's password file, 0600; a new one replaces the old at once."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"127.0.0.1:*:*:{role}:{password}\n" for role, password in passwords.items())
    fresh.rename(path)


def restore(template: Template, home: Path) -> None:
    """Copies the template's cluster and Odoo folder into `home`, which has neither."""
    for part in ("data", "odoo"):
        (home / part).mkdir(mode=0o700)
        copy_tree(template.folder / part, home / part)
