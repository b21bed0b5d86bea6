"""The process that owns one embedded stack: starts its servers in order, keeps them, stops them in reverse.

Run by `harness.stack`, never by hand. Standard input is a pipe to the owner: its first line is the request, and when
it ends without the word `detach` (the owner left, crashed or was killed) the stack is stopped. Standard output carries
JSON lines: {"progress": text}, then {"ready": {...}} or {"error": text, "exit_code": n}. The kernel ends every server
should this process itself be killed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import psutil
import psycopg

from harness import reset
from harness.errors import HarnessError, StackError
from harness.model import Profile, StackAddresses
from harness.services import (
    api,
    certificates,
    credentials,
    odoo,
    pgbouncer,
    postgres,
    process,
    provision,
    redis,
    template,
)
from harness.services.process import Service

ODOO_WORKERS = 2
SERVICES = ("postgresql", "odoo", "odoo-gevent", "api", "pgbouncer", "redis")
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 7  # all together: they have to be gone within 10 s of the owner's end


class StopRequested(Exception):
    """SIGTERM or SIGINT arrived."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the owner asks for. ports: service name -> port, for those that must not be picked freely."""

    profile: Profile
    herd: int
    seed: int
    as_of: str
    home: str
    state_file: str
    lock_file: str
    ports: dict[str, int]
    odoo_source: str | None


def say(text: str) -> None:
    _emit({"progress": text})


def _emit(message: dict[str, object]) -> None:
    # the owner may be gone; what it would have read then matters to nobody
    with contextlib.suppress(BrokenPipeError, ValueError):
        print(json.dumps(message), flush=True)


def _ports(request: Request) -> dict[str, int]:
    names = ["postgresql", "odoo", "odoo-gevent", "api"]
    names += ["pgbouncer", "redis"] if request.profile == "day40" else []
    ports = {name: request.ports.get(name) or process.free_port() for name in names}
    for name, port in ports.items():
        if not process.port_is_free(port):
            raise StackError(
                f"{name}: port {port} is taken; end the process that holds it (ss -ltnp) or choose another with --port"
            )
    return ports


@contextlib.contextmanager
def servers(request: Request) -> Iterator[StackAddresses]:
    """Starts every server of the profile; yields where they answer; stops them in reverse, also half way through."""
    home = Path(request.home)
    as_of = date.fromisoformat(request.as_of)
    tools = provision.fetch(say, Path(request.odoo_source) if request.odoo_source else None)
    seeded = template.prepare(request.profile, tools, request.herd, request.seed, as_of, say)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o755, parents=True)
    user = provision.service_user()
    logs = home / "logs"
    postgres_logs, archive = logs / "postgresql", home / "archive"
    for folder in (logs, postgres_logs):
        folder.mkdir(mode=0o755)
    archive.mkdir(mode=0o700)  # it holds every row that was ever written
    if user:
        for folder in (postgres_logs, archive):
            os.chown(folder, user.uid, user.gid)
    say("copying the seeded cluster")
    template.restore(seeded, home)
    shutil.copy(seeded.folder / "odoo-install.log", logs)
    ports = _ports(request)
    roles = {role: credentials.new_secret() for role in credentials.ROLES}
    passfile, secrets_file = home / "passfile", home / "secrets.json"
    tls = home / "tls"
    # TLS is the work of Day 35
    root_certificate = (
        certificates.create(tls, ("postgresql", "pgbouncer"), ("127.0.0.1",), user)
        if request.profile == "day40"
        else None
    )
    connection_string = functools.partial(postgres.dsn, root_certificate=root_certificate)

    with contextlib.ExitStack() as running:
        running.callback(_clear, home)
        stop_by: list[float] = []

        def end(service: Service) -> None:
            stop_by.append(time.monotonic() + STOP_TIMEOUT_S)
            process.stop(service, max(0.5, stop_by[0] - time.monotonic()))

        def up(service: Service, ready: Callable[[], bool]) -> Service:
            running.callback(end, service)
            process.wait_until(service, ready, START_TIMEOUT_S)
            return service

        pids: dict[str, int] = {}

        say(f"starting PostgreSQL {tools.versions['postgresql']}")
        (home / "pg_hba.conf").write_text(postgres.hba_text(request.profile))
        shutil.copy(postgres.ARCHIVE_SCRIPT, home)  # the server's user may not be able to enter the checkout
        config = postgres.config_text(
            request.profile,
            port=ports["postgresql"],
            hba_file=home / "pg_hba.conf",
            log_dir=postgres_logs,
            archive=archive,
            archive_script=home / postgres.ARCHIVE_SCRIPT.name,
            certificates=tls,
            host=postgres.sizes(psutil.virtual_memory().total, psutil.cpu_count() or 1),
        )
        (home / "postgresql.conf").write_text(config)
        template.write_passfile(passfile, {"postgres": seeded.superuser_password})
        admin_dsn = connection_string(ports["postgresql"], "postgres", "postgres", passfile)
        server = postgres.start(
            tools.postgres_bin, home / "data", home / "postgresql.conf", logs / "postgresql.log", postgres_logs, user
        )
        pids["postgresql"] = up(server, lambda: postgres.answers(admin_dsn)).pid
        postgres.set_passwords(admin_dsn, roles)
        template.write_passfile(passfile, roles)
        accounts, secret = credentials.hand_out(admin_dsn, template.SEED_DATABASE)
        credentials.write(secrets_file, secret)

        pgbouncer_dsn = redis_url = None
        odoo_port = api_port = ports["postgresql"]
        if request.profile == "day40":
            say(f"starting pgBouncer {tools.versions['pgbouncer']} and Redis {tools.versions['redis']}")
            pool_folder = home / "pgbouncer"
            config = pgbouncer.config_text(
                port=ports["pgbouncer"],
                postgres_port=ports["postgresql"],
                database=template.DATABASE,
                folder=pool_folder,
                certificates=tls,
            )
            pooled = {role: password for role, password in roles.items() if role != "postgres"}
            server = pgbouncer.start(
                tools.pgbouncer, tools.library_path, pool_folder, config, pooled, logs / "pgbouncer.log", user
            )
            pgbouncer_dsn = connection_string(ports["pgbouncer"], "pgbouncer", "harness", passfile)
            console = pgbouncer_dsn
            pids["pgbouncer"] = up(server, lambda: pgbouncer.answers(console)).pid
            odoo_port = api_port = ports["pgbouncer"]
            redis_password = str(secret["redis"])
            redis_url = url = f"redis://127.0.0.1:{ports['redis']}/0"
            server = redis.start(
                tools.redis_server,
                tools.library_path,
                home / "redis",
                ports["redis"],
                redis_password,
                logs / "redis.log",
            )
            pids["redis"] = up(server, lambda: redis.answers(url, redis_password)).pid

        addresses = StackAddresses(
            profile=request.profile,
            odoo_url=f"http://127.0.0.1:{ports['odoo']}",
            api_url=f"http://127.0.0.1:{ports['api']}",
            postgres_dsn=connection_string(ports["postgresql"], template.DATABASE, "harness", passfile),
            admin_dsn=admin_dsn,
            pgbouncer_dsn=pgbouncer_dsn,
            redis_url=redis_url,
            database=template.DATABASE,
            accounts=accounts,
            passfile=str(passfile),
            secrets_file=str(secrets_file),
            as_of=request.as_of,
            herd=request.herd,
            seed=request.seed,
            checksum=seeded.checksum,
            counts=seeded.counts,
            versions=tools.versions,
            log_dir=str(logs),
            pids=pids,
        )
        reset.database(addresses)

        say(f"starting Odoo {tools.versions['odoo']} and the API")
        (home / "odoo.conf").write_text(
            odoo.config_text(
                database=template.DATABASE,
                postgres_port=odoo_port,
                http_port=ports["odoo"],
                gevent_port=ports["odoo-gevent"],
                data_dir=home / "odoo",
                workers=ODOO_WORKERS,
                postgres_sslmode="verify-full" if root_certificate else "disable",
                sessions_in_redis=redis_url is not None,
            )
        )
        odoo_server = process.start(
            "odoo",
            odoo.serve_command(tools.odoo_python, tools.odoo, home / "odoo.conf", ports["odoo"]),
            log=logs / "odoo.log",
            environment=odoo.environment(
                tools.odoo,
                home / "odoo",
                passfile,
                redis_url=redis_url,
                secrets_file=secrets_file,
                root_certificate=root_certificate,
            ),
            cwd=home,
        )
        running.callback(end, odoo_server)
        api_server = process.start(
            "api",
            api.command(ports["api"]),
            log=logs / "api.log",
            environment=api.environment(
                dsn=connection_string(
                    api_port,
                    template.DATABASE + ("_api" if request.profile == "day40" else ""),
                    "api",
                    passfile,
                    application="dairy-api",
                ),
                passfile=passfile,
                secrets_file=secrets_file,
                accounts=accounts,
                redis_url=redis_url,
            ),
            cwd=home,
        )
        pids["api"] = up(api_server, lambda: process.responds(addresses.api_url + api.READY_PATH)).pid
        pids["odoo"] = up(odoo_server, lambda: process.responds(addresses.odoo_url + odoo.READY_PATH)).pid
        yield addresses


def _clear(home: Path) -> None:
    """Leaves the logs: the next start copies the seeded cluster again, with secrets of its own."""
    for place in home.iterdir():
        if place.name != "logs":
            shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink()


def main() -> int:
    def stop(number: int, frame: object) -> None:
        # once: a second signal must not break the stopping
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise StopRequested

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    request = Request(**json.loads(sys.stdin.readline()))
    state_file = Path(request.state_file)
    os.umask(0o022)
    threading.Thread(target=_watch_owner, daemon=True).start()
    try:
        busy = f"another process is starting or stopping it; ./dairyperf status --profile {request.profile}"
        with provision.locked(Path(request.lock_file), refusal=busy), servers(request) as addresses:
            state = {
                "supervisor": os.getpid(),
                "started": psutil.Process().create_time(),
                "addresses": asdict(addresses),
            }
            fresh = state_file.with_suffix(".new")
            fresh.write_text(json.dumps(state, indent=1))
            fresh.rename(state_file)
            try:
                _emit({"ready": asdict(addresses)})
                while True:
                    signal.pause()
            finally:
                state_file.unlink(missing_ok=True)
    except StopRequested:
        return 0
    except HarnessError as error:
        _emit({"error": str(error), "exit_code": error.exit_code})
        return error.exit_code
    except (OSError, psycopg.Error) as error:
        _emit({"error": f"{error}; {process.remedy(str(error))}", "exit_code": StackError.exit_code})
        return StackError.exit_code


def _watch_owner() -> None:
    """Asks this process to stop when the owner's pipe ends; the word `detach` ends the watch instead."""
    if sys.stdin.readline().strip() != "detach":
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
