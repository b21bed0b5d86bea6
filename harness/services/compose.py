"""The stack in containers: docker-compose.perf.yml brought up and down through `docker compose`, as child processes.

What it mounts is rendered into `.dairyperf/compose/PROFILE/` of the checkout, a folder that only its owner can enter.
No secret is ever in an argument or a variable. The database is seeded once, into a volume that `down` leaves, by the
functions that seed the embedded stack's template.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql
from pydantic import TypeAdapter

from harness import CHECKOUT, reset
from harness.errors import InputError, StackError
from harness.model import Account, Profile, StackAddresses
from harness.services import (
    certificates,
    compose_files,
    credentials,
    embedded,
    external,
    postgres,
    process,
    provision,
    template,
)
from harness.services.provision import Say

FILE = CHECKOUT / "docker-compose.perf.yml"
BUILD_TIMEOUT_S = 3600  # images are fetched and built at the first start
START_TIMEOUT_S = 300
ANSWER_TIMEOUT_S = 30
WAYS_ON = "use --stack embedded, which needs no Docker, or --stack external:FILE"

_addresses = TypeAdapter(StackAddresses)


def folder(profile: Profile) -> Path:
    """Where the files are rendered that the containers mount."""
    return embedded.STATE / "compose" / profile


def is_up(profile: Profile) -> bool:
    """Whether containers of the profile that this checkout started are running."""
    if not _state(profile).exists():
        return False
    _require_engine()
    return bool(_running(profile))


def read(profile: Profile) -> StackAddresses:
    state = _state(profile)
    if not state.exists():
        raise InputError(
            f"profile {profile}: no stack is up in containers; run ./dairyperf up --stack compose --profile {profile}"
        )
    return _addresses.validate_python(json.loads(state.read_text()))


@contextlib.contextmanager
def up(
    profile: Profile,
    say: Say,
    *,
    herd: int,
    seed: int,
    ports: Mapping[str, int] | None,
    odoo_source: Path | None,
    detach: bool,
) -> Iterator[StackAddresses]:
    """Renders, builds, seeds where the volume is not, starts, and waits for every server's health check."""
    if odoo_source is not None:
        raise InputError("--odoo-source: containers run the image odoo:19; leave it out, or use --stack embedded")
    _require_engine()
    busy = f"profile {profile}: another process is starting it in containers; wait for its end"
    embedded.STATE.mkdir(parents=True, exist_ok=True)
    with provision.locked(embedded.STATE / f"compose-{profile}.lock", refusal=busy):
        if _state(profile).exists() and _running(profile):
            raise InputError(
                f"profile {profile}: already up in containers; ./dairyperf down --stack compose --profile {profile} "
                "first"
            )
        published = _published(profile, ports or {})
        try:
            addresses = _start(profile, say, herd, seed, date.fromisoformat(embedded.DEFAULT_AS_OF), published)
        except BaseException as error:
            with contextlib.suppress(StackError):  # why it did not start matters more
                _stop(profile)
            if isinstance(error, psycopg.Error):
                raise StackError(
                    f"postgres: {str(error).strip()}; if the folder that held its volume's password is lost, remove "
                    f"the volume: docker volume rm {_project(profile)}_postgres"
                ) from error
            raise
        _write(_state(profile), json.dumps(asdict(addresses), indent=1), 0o600)
    try:
        yield addresses
    except BaseException:
        down(profile)
        raise
    if not detach:
        down(profile)


def down(profile: Profile) -> bool:
    """Removes the containers and networks; the volumes, which hold the seeded database, stay."""
    if not (folder(profile) / "compose.env").exists():
        return False
    _require_engine()
    was_up = bool(_running(profile))
    _stop(profile)
    return was_up


def status(profile: Profile) -> dict[str, object]:
    if not _state(profile).exists():
        return {"profile": profile, "state": "down"}
    _require_engine()
    rows = _running(profile)
    if not rows:
        return {"profile": profile, "state": "down"}
    health = {row["Service"]: str(row.get("Health") or row.get("State")) for row in rows}
    wanted = [compose_files.SERVICES[service] for service in compose_files.services(profile)]
    services = {name: {"running": health.get(name) == "healthy"} for name in wanted}
    state = "up" if all(one["running"] for one in services.values()) else "degraded"
    return {"state": state, "services": services} | asdict(read(profile))


# --- starting ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Data:
    """What is in the seeded database, and what was handed out to its accounts."""

    manifest: Mapping[str, Any]
    accounts: tuple[Account, ...]
    secrets: dict[str, object] = field(repr=False)
    versions: Mapping[str, str]


def _start(
    profile: Profile, say: Say, herd: int, seed: int, as_of: date, published: Mapping[str, int]
) -> StackAddresses:
    roles = render(profile, published)
    names = [compose_files.SERVICES[service] for service in compose_files.services(profile)]
    say("building images, and fetching those that others made")
    built = [name for name in names if name in ("pgbouncer", "odoo", "api")]
    _compose(profile, "build", *built, timeout_s=BUILD_TIMEOUT_S)
    say("starting PostgreSQL")
    _compose(profile, "up", "--detach", "--wait", "postgres", timeout_s=BUILD_TIMEOUT_S)
    place = here(profile, published).addresses()
    data = _data(profile, say, place["admin_dsn"], roles, herd, seed, as_of)
    seen = StackAddresses(
        profile=profile,
        **place,
        database=template.DATABASE,
        accounts=data.accounts,
        as_of=as_of.isoformat(),
        herd=herd,
        seed=seed,
        checksum=data.manifest["checksum"],
        counts=data.manifest["counts"],
        versions=data.versions,
        log_dir=str(folder(profile) / "logs"),
        pids={},
    )
    render_secrets(seen, data.secrets)
    # before pgBouncer is there, which would have to be paused
    reset.database(replace(seen, pgbouncer_dsn=None))
    say(f"starting {', '.join(names[1:])}")
    _compose(profile, "up", "--detach", "--wait", *names, timeout_s=START_TIMEOUT_S)
    return seen


def render(profile: Profile, published: Mapping[str, int]) -> dict[str, str]:
    """Writes what PostgreSQL and the seeding need; returns role -> password. published: service -> port."""
    place = _make_folder(profile)
    cores = psutil.cpu_count() or 1
    host = postgres.sizes(psutil.virtual_memory().total, cores)
    roles = {role: credentials.new_secret() for role in credentials.ROLES}
    variables = compose_files.variables(profile, _project(profile), place, published, host, cores)
    superuser = place / "secrets/postgres_password"
    if superuser.exists():
        roles["postgres"] = superuser.read_text()  # the volume knows it from its first start on
    _write(place / "compose.env", variables, 0o644)
    for name, text in compose_files.configurations(profile, host).items():
        _write(place / name, text, 0o644)
    for name, text in compose_files.role_secrets(profile, roles).items():
        _write(place / name, text, 0o444)
    shutil.rmtree(place / "tls", ignore_errors=True)
    # by the names that containers know them by, and by the address that their ports are published on
    certificates.create(
        place / "tls", ("postgresql", "pgbouncer"), (*compose_files.SERVICES.values(), "127.0.0.1"), None
    )
    for path in (place / "tls").iterdir():
        _write(place / "secrets" / path.name, path.read_text(), 0o444)
    _write(place / "secrets/odoo.json", "{}", 0o444)  # mounted by Odoo's installation already, which needs none of it
    template.write_passfile(place / "passfile", roles)
    return roles


def render_secrets(seen: StackAddresses, content: dict[str, object]) -> None:
    """Writes what the services need that start after the seeding. content: of the secrets file."""
    place = folder(seen.profile)
    credentials.write(Path(seen.secrets_file), content)
    for name, text in compose_files.service_secrets(seen.profile, content).items():
        _write(place / name, text, 0o444)
    _write(place / compose_files.API_ENVIRONMENT, compose_files.api_environment(seen.profile, seen.accounts), 0o644)
    _write(place / "secrets/stack.toml", external.to_toml(_inside(seen)), 0o444)


@dataclass(frozen=True, slots=True)
class _Place:
    """The servers as one side sees them. at: service -> (host, port), of the services that there are."""

    at: Mapping[str, tuple[str, int]]
    passfile: Path
    secrets_file: Path
    root_certificate: Path | None

    def addresses(self) -> dict[str, Any]:
        """The fields of StackAddresses that say where."""

        def dsn(service: str, database: str, role: str) -> str | None:
            host, port = self.at.get(service, ("", 0))
            if not host:
                return None
            return postgres.dsn(port, database, role, self.passfile, host=host, root_certificate=self.root_certificate)

        def url(scheme: str, service: str, path: str = "") -> str | None:
            host, port = self.at.get(service, ("", 0))
            return f"{scheme}://{host}:{port}{path}" if host else None

        return {
            "odoo_url": url("http", "odoo"),
            "api_url": url("http", "api"),
            "postgres_dsn": dsn("postgresql", template.DATABASE, "harness"),
            "admin_dsn": dsn("postgresql", "postgres", "postgres"),
            "pgbouncer_dsn": dsn("pgbouncer", "pgbouncer", "harness"),
            "redis_url": url("redis", "redis", "/0"),
            "passfile": str(self.passfile),
            "secrets_file": str(self.secrets_file),
        }


def here(profile: Profile, published: Mapping[str, int]) -> _Place:
    """As this machine sees them."""
    files = folder(profile)
    at = {service: ("127.0.0.1", port) for service, port in published.items()}
    trusted = compose_files.root_certificate(profile, files / "tls/root.crt")
    return _Place(at, files / "passfile", files / "secrets.json", trusted)


def _inside(seen: StackAddresses) -> StackAddresses:
    """The same stack as Locust's containers see it; its secrets lie beside the file that describes it."""
    at = {
        service: (compose_files.SERVICES[service], compose_files.PORTS[service])
        for service in compose_files.services(seen.profile)
    }
    place = _Place(at, Path("passfile"), Path("secrets.json"), compose_files.root_certificate(seen.profile))
    return replace(seen, **place.addresses(), log_dir=None)


def _data(
    profile: Profile, say: Say, admin_dsn: str, roles: Mapping[str, str], herd: int, seed: int, as_of: date
) -> _Data:
    """The seeded database, made where the volume has none, with passwords of this start."""
    manifest = _seed(profile, say, admin_dsn, roles, herd, seed, as_of)
    postgres.set_passwords(admin_dsn, {role: password for role, password in roles.items() if role != "postgres"})
    accounts, content = credentials.hand_out(admin_dsn, template.SEED_DATABASE)
    return _Data(manifest, accounts, content, _versions(admin_dsn))


def _seed(
    profile: Profile, say: Say, admin_dsn: str, roles: Mapping[str, str], herd: int, seed: int, as_of: date
) -> dict[str, Any]:
    """The manifest of the volume's seeded database, which is made where there is none or another herd's."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        made_from = template.digest(profile, [template.SEED_DATABASE], herd, seed, as_of)
        comment = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [template.SEED_DATABASE]
        ).fetchone()
        found: dict[str, Any] = json.loads((comment and comment[0]) or "{}")
        if found.get("made_from") == made_from:
            return found
        for name in (template.DATABASE, template.SEED_DATABASE):
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def install_addon() -> None:
        postgres.set_passwords(admin_dsn, {"odoo": roles["odoo"]})
        command = ("run", "--rm", "--no-deps", "-T", "odoo", *compose_files.install_command())
        _compose(profile, *command, timeout_s=START_TIMEOUT_S)

    manifest = template.fill(admin_dsn, herd, seed, as_of, install_addon, say)
    if profile == "day40":
        say("creating the indexes of Day 32 and the policies of Day 35")
        template.make_day40(admin_dsn)
    manifest["made_from"] = made_from
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        # last, so that a seeding which broke off is made again; it travels with the volume
        comment_on = sql.SQL("COMMENT ON DATABASE {} IS {}")
        connection.execute(comment_on.format(sql.Identifier(template.SEED_DATABASE), sql.Literal(json.dumps(manifest))))
    return manifest


def _versions(admin_dsn: str) -> dict[str, str]:
    """PostgreSQL's; the others are those of their images."""
    with psycopg.connect(admin_dsn) as connection:
        number = connection.info.server_version
    return {"postgresql": f"{number // 10000}.{number % 10000}", "odoo": "odoo:19", "redis": "redis:7"}


def _published(profile: Profile, ports: Mapping[str, int]) -> dict[str, int]:
    published = {service: ports.get(service) or process.free_port() for service in compose_files.services(profile)}
    for service in ports.keys() - published.keys():
        raise InputError(f"--port {service}: containers of {profile} do not publish it; leave it out")
    return published | {"locust": process.free_port()}


def _make_folder(profile: Profile) -> Path:
    place = folder(profile)
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o700)
    (place / "secrets").mkdir(exist_ok=True)
    (place / "secrets").chmod(0o700)
    logs = place / "logs/postgresql"
    logs.mkdir(parents=True, exist_ok=True)
    logs.chmod(0o777)  # the image's own user writes it; the folder above keeps others out
    return place


def _write(path: Path, text: str, mode: int) -> None:
    """In place of what was there, for a running container keeps the file that it was given."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.chmod(mode)
    fresh.rename(path)


def _project(profile: Profile) -> str:
    """Two checkouts have containers and volumes of their own."""
    return f"dairyperf-{profile}-{hashlib.sha256(str(embedded.STATE).encode()).hexdigest()[:12]}"


def _state(profile: Profile) -> Path:
    return embedded.STATE / f"compose-{profile}.json"


def _stop(profile: Profile) -> None:
    _compose(profile, "--profile", "load", "down", "--remove-orphans", timeout_s=START_TIMEOUT_S)
    _state(profile).unlink(missing_ok=True)


# --- docker --------------------------------------------------------------------------------------------------------


def _require_engine() -> None:
    if shutil.which("docker") is None:
        raise StackError(f"Docker: no program docker on this machine; install it, or {WAYS_ON}")
    for command, remedy in ((("info",), "start its engine"), (("compose", "version"), "install its Compose plugin")):
        try:
            done = subprocess.run(
                ["docker", *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S
            )
            code, last = done.returncode, (done.stderr.strip().splitlines() or ["without a reason"])[-1].rstrip(" .?")
        except subprocess.TimeoutExpired:
            code, last = 1, f"no answer within {ANSWER_TIMEOUT_S} s"
        if code != 0:
            raise StackError(f"Docker: `docker {' '.join(command)}` failed, {last[:300]}; {remedy}, or {WAYS_ON}")


def _running(profile: Profile) -> list[dict[str, object]]:
    """A row of `docker compose ps` for each running container."""
    text = _compose(profile, "ps", "--format", "json", timeout_s=ANSWER_TIMEOUT_S).strip()
    # an array until Compose 2.20, then an object a line
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row.get("State") == "running"]


def _compose(profile: Profile, *arguments: str, timeout_s: float) -> str:
    """Runs `docker compose` on the profile's project; returns its output. StackError with its last lines."""
    command = compose_command(profile, *arguments)
    try:
        done = subprocess.run(
            command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise StackError(
            f"{' '.join(command)}: did not end within {timeout_s:.0f} s; see docker ps, or {WAYS_ON}"
        ) from None
    if done.returncode != 0:
        tail = "\n".join("    " + line for line in (done.stdout + done.stderr).splitlines()[-12:])
        raise StackError(f"{' '.join(command)}: ended with exit code {done.returncode}; {process.remedy(tail)}\n{tail}")
    return done.stdout


def compose_command(profile: Profile, *arguments: str) -> Sequence[str]:
    """As a person would type it, from anywhere."""
    files = ("--file", str(FILE), "--env-file", str(folder(profile) / "compose.env"))
    return ("docker", "compose", *files, "--profile", profile, *arguments)
