"""pgBouncer in transaction mode: its configuration, its list of users, starting it, and pausing it around a reset."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
from jinja2 import Environment, StrictUndefined

from harness.services import process
from harness.services.process import Service, User

CONFIG = Path(__file__).parents[2] / "fixtures/services/pgbouncer"


def config_text(
    *,
    port: int,
    postgres_port: int,
    database: str,
    folder: Path,
    certificates: Path,
    listen: str = "127.0.0.1",
    postgres_host: str = "127.0.0.1",
) -> str:
    """pgbouncer.ini. certificates: folder of root.crt, which PostgreSQL's certificate is held against, and of
    pgbouncer.crt with its key."""
    text = (CONFIG / "pgbouncer.ini.j2").read_text()
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(text)
    return template.render(
        port=port,
        postgres_port=postgres_port,
        database=database,
        folder=folder,
        certificates=certificates,
        listen=listen,
        postgres_host=postgres_host,
    )


def hba_text(address: str = "127.0.0.1/32") -> str:
    """Its access rules. address: whom they let in."""
    return (CONFIG / "pgbouncer_hba.conf").read_text().replace("127.0.0.1/32", address)


def userlist(passwords: Mapping[str, str]) -> str:
    """auth_file: role and password; SCRAM to the server needs the password itself."""
    return "".join(f'"{role}" "{password}"\n' for role, password in passwords.items())


def start(
    program: Path,
    library_path: str,
    folder: Path,
    config: str,
    passwords: Mapping[str, str],
    log: Path,
    user: User | None,
) -> Service:
    """Writes configuration, access rules and user list (0600, the server's own) into `folder`, starts the server."""
    folder.mkdir(mode=0o700, exist_ok=True)
    files = {"pgbouncer.ini": config, "pgbouncer_hba.conf": hba_text(), "userlist.txt": userlist(passwords)}
    for name, text in files.items():
        path = folder / name
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        if user:
            os.chown(path, user.uid, user.gid)
    if user:
        os.chown(folder, user.uid, user.gid)
    return process.start(
        "pgbouncer",
        [str(program), str(folder / "pgbouncer.ini")],
        log=log,
        environment={"LD_LIBRARY_PATH": library_path} if library_path else {},
        cwd=folder,
        user=user,
        stop_signal=signal.SIGTERM,  # 1.18: immediate shutdown; SIGINT would wait for clients
    )


def console(dsn: str) -> psycopg.Connection[tuple[object, ...]]:
    """The admin console. It speaks the simple query protocol only, hence the client-side cursor."""
    return psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor, prepare_threshold=None)


def answers(dsn: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), console(dsn) as connection:
        connection.execute("SHOW VERSION")
        return True
    return False


@contextlib.contextmanager
def paused(dsn: str, database: str) -> Iterator[None]:
    """Within the block pgBouncer holds no link to `database`, through neither alias; clients wait."""
    aliases = (database, f"{database}_api")
    with console(dsn) as connection:
        for alias in aliases:
            connection.execute(f"PAUSE {alias}")
        try:
            yield
        finally:
            for alias in aliases:
                connection.execute(f"RESUME {alias}")
