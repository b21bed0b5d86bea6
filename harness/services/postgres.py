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
ARCHIVE_SCRIPT = CONFIG / "archive_wal.sh"
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


def hba_text(profile: Profile, address: str = "127.0.0.1/32") -> str:
    """pg_hba.conf of a profile. address: whom it lets in."""
    return (CONFIG / f"pg_hba_{profile}.conf").read_text().replace("127.0.0.1/32", address)


def config_text(
    profile: Profile,
    *,
    port: int,
    hba_file: Path,
    log_dir: Path,
    archive: Path,
    archive_script: Path,
    certificates: Path,
    host: Sizes,
) -> str:
    """postgresql.conf of a profile: where it runs, what both profiles share, and for day40 the tuned settings.

    archive_script: a copy of ARCHIVE_SCRIPT that the server's user can read. certificates: folder of `postgresql.crt`
    and its key. day31 uses neither.
    """
    place = f"""listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
hba_file = '{_quoted(hba_file)}'
log_directory = '{_quoted(log_dir)}'
"""
    text = place + (CONFIG / "common.conf").read_text()
    if profile == "day40":
        environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
        environment.filters["size"] = _size
        text += environment.from_string((CONFIG / "tuned.conf.j2").read_text()).render(
            archive=_quoted(archive),
            archive_script=_quoted(archive_script),
            certificates=_quoted(certificates),
            **asdict(host),
        )
    return text


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _size(megabytes: int) -> str:
    """In the largest unit that keeps it whole, as the server shows it: 8192 -> 8GB."""
    return f"{megabytes // 1024}GB" if megabytes % 1024 == 0 else f"{megabytes}MB"


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
    port: int,
    database: str,
    role: str,
    passfile: Path,
    application: str = "dairyperf",
    host: str = "127.0.0.1",
    root_certificate: Path | None = None,
) -> str:
    """A connection string without a password: libpq finds it in `passfile`. Probes leave `dairyperf` out of counts.

    root_certificate: whom to trust; the connection is then by TLS to a server that proves its address, or refused.
    """
    tls = {"sslmode": "verify-full", "sslrootcert": str(root_certificate)} if root_certificate else {}
    return psycopg.conninfo.make_conninfo(
        host=host,
        port=port,
        dbname=database,
        user=role,
        passfile=str(passfile),
        application_name=application,
        **tls,
    )
