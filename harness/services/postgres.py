"""PostgreSQL 16: a cluster from nothing, its configuration for each profile, starting it, and its roles' passwords."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
import psycopg.conninfo
import psycopg.sql
from jinja2 import Environment, StrictUndefined

from harness.errors import StackError
from harness.model import Profile
from harness.services import process
from harness.services.process import Service, User

CONFIG = Path(__file__).parents[2] / "fixtures/services/postgresql"
INITDB_ARGUMENTS = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8")
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sizes:
    """The settings of tuned.conf.j2 that depend on the host."""

    shared_buffers_mb: int
    effective_cache_size_mb: int
    work_mem_mb: int
    maintenance_work_mem_mb: int
    wal_buffers_mb: int
    autovacuum_max_workers: int


def sizes(memory_bytes: int, cores: int) -> Sizes:
    """The specification's Day 31 rules; at 32 GB and 8 cores they give 8 GB, 24 GB, 64 MB, 1 GB, 64 MB and 4."""
    memory_mb = memory_bytes // _MB
    shared_buffers_mb = max(memory_mb // 4, 128)
    return Sizes(
        shared_buffers_mb=shared_buffers_mb,
        effective_cache_size_mb=max(memory_mb * 3 // 4, 256),
        work_mem_mb=max(memory_mb // 512, 4),
        maintenance_work_mem_mb=max(memory_mb // 32, 64),
        wal_buffers_mb=max(shared_buffers_mb // 128, 4),
        autovacuum_max_workers=max(cores // 2, 1),
    )


def config_text(profile: Profile, *, port: int, hba_file: Path, log_dir: Path, archive: Path, host: Sizes) -> str:
    """postgresql.conf of a profile: where it runs, what both profiles share, and for day40 the tuned settings."""
    hba, logs = (str(path).replace("'", "''") for path in (hba_file, log_dir))
    place = f"""listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
hba_file = '{hba}'
log_directory = '{logs}'
"""
    text = place + (CONFIG / "common.conf").read_text()
    if profile == "day40":
        template = Environment(undefined=StrictUndefined, autoescape=False).from_string(
            (CONFIG / "tuned.conf.j2").read_text()
        )
        text += template.render(archive=str(archive).replace("'", "''"), **asdict(host))
    return text


def initdb(bin_dir: Path, data: Path, password_file: Path, log: Path, user: User | None) -> None:
    """Makes an empty cluster in `data` whose superuser `postgres` has the password in `password_file`."""
    command = [
        str(bin_dir / "initdb"),
        f"--pgdata={data}",
        "--username=postgres",
        f"--pwfile={password_file}",
        *INITDB_ARGUMENTS,
        "--no-sync",
    ]
    process.run("initdb", command, log=log, environment={"LC_ALL": "C"}, cwd=data.parent, timeout_s=120, user=user)


def start(bin_dir: Path, data: Path, config: Path, log: Path, log_dir: Path, user: User | None) -> Service:
    """Starts the server; ready when `answers`. SIGINT is its fast shutdown."""
    command = [str(bin_dir / "postgres"), "-D", str(data), "-c", f"config_file={config}"]
    return process.start(
        "postgresql",
        command,
        log=log,
        more_logs=(log_dir,),
        environment={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        cwd=data,
        user=user,
        stop_signal=signal.SIGINT,
    )


def answers(dsn: str) -> bool:
    try:
        with psycopg.connect(dsn, connect_timeout=2):
            return True
    except psycopg.OperationalError as error:
        if error.sqlstate and error.sqlstate.startswith("28"):  # it runs, and refuses us: waiting will not help
            raise StackError(f"postgresql: {error}".strip()) from error
        return False


def set_passwords(admin_dsn: str, passwords: Mapping[str, str]) -> None:
    """Gives each role its password. The verifier is computed here, so that no password reaches the server's log."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        for role, password in passwords.items():
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            statement = psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                psycopg.sql.Identifier(role), psycopg.sql.Literal(verifier)
            )
            connection.execute(statement)


def dsn(
    port: int, database: str, role: str, passfile: Path, application: str = "dairyperf", host: str = "127.0.0.1"
) -> str:
    """A connection string without a password: libpq finds it in `passfile`. Probes leave `dairyperf` out of counts."""
    return psycopg.conninfo.make_conninfo(
        host=host, port=port, dbname=database, user=role, passfile=str(passfile), application_name=application
    )
