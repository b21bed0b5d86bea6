"""The stack in containers, as far as it can be proved without an engine: Compose itself reads the file, hadolint the
Dockerfiles, and a recorder stands in for `docker`."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import CHECKOUT, cli, reset, stack
from harness.errors import InputError, StackError
from harness.model import PROFILES, Account, Profile, StackAddresses
from harness.services import compose, compose_files, credentials, embedded, odoo, pgbouncer, postgres, redis
from harness.services.external import parse

PROGRAMS = Path(sys.executable).parent
PORTS = {"postgresql": 15432, "odoo": 18069, "api": 18000, "locust": 18089}
POOLED_PORTS = {"pgbouncer": 16432, "redis": 16379}
ACCOUNTS = (Account(login="farm_worker", uid=7, role="worker"),)
CONTENT: dict[str, object] = {
    "odoo": {"farm_worker": "odoo-password"},
    "odoo_keys": {"farm_worker": "odoo-key"},
    "api_key": "api-key",
    "redis": "redis-password",
}
DATA = compose._Data({"checksum": "c0ffee", "counts": {"farm.animal": 255}}, ACCOUNTS, CONTENT, {"postgresql": "16.14"})


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(embedded, "STATE", tmp_path / "state")
    monkeypatch.setenv(stack.VARIABLE, "")
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)  # the command line sets its own


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Profile:
    chosen: Profile = request.param
    return chosen


def ports(profile: Profile) -> dict[str, int]:
    return PORTS | (POOLED_PORTS if profile == "day40" else {})


def rendered(profile: Profile) -> dict[str, Any]:
    """Everything rendered, and the file as Compose itself resolves it, with Locust's services."""
    compose.render(profile, ports(profile))
    addresses = compose.here(profile, ports(profile)).addresses()
    seen = StackAddresses(
        profile=profile,
        **addresses,
        database="smart_dairy",
        accounts=ACCOUNTS,
        as_of="2026-02-03",
        herd=255,
        seed=42,
        checksum="c0ffee",
        counts={},
        versions={},
        log_dir=None,
        pids={},
    )
    compose.render_secrets(seen, CONTENT)
    arguments = compose.compose_command(profile, "--profile", "load", "config", "--format", "json")[2:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    done = subprocess.run([PROGRAMS / "docker-compose", *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # a variable that is not set would be a warning
    resolved: dict[str, Any] = json.loads(done.stdout)
    return resolved


# --- the file ------------------------------------------------------------------------------------------------------


def test_compose_accepts_the_file_and_every_service_is_bounded_and_watched(profile: Profile) -> None:
    file = rendered(profile)
    servers = {"postgres", "odoo", "api"} | ({"pgbouncer", "redis"} if profile == "day40" else set())
    assert set(file["services"]) == servers | {"locust-master", "locust-worker"}
    assert re.fullmatch(rf"dairyperf-{profile}-[0-9a-f]{{12}}", file["name"])
    assert file["networks"]["servers"]["internal"] is True
    for name, service in file["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert float(limits["cpus"]) > 0, name
        assert int(limits["memory"]) > 0, name
        assert set(service["networks"]) == {"servers", "loopback"}, name
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}, name
        assert name == "locust-worker" or service["healthcheck"]["test"], name
        assert name == "locust-worker" or len(service["ports"]) == 1, name
        for other in service.get("depends_on", {}).values():
            assert other["condition"] == "service_healthy", name
    published = {
        name: int(service["ports"][0]["published"]) for name, service in file["services"].items() if "ports" in service
    }
    names = compose_files.SERVICES | {"locust": "locust-master"}
    assert published == {names[service]: port for service, port in ports(profile).items()}
    inside = {name: one["ports"][0]["target"] for name, one in file["services"].items() if "ports" in one}
    assert inside == {names[service]: compose_files.PORTS[service] for service in ports(profile)}


def test_images_are_those_that_the_milestone_names() -> None:
    services = rendered("day40")["services"]
    assert services["postgres"]["image"] == "postgres:16"
    assert services["redis"]["image"] == "redis:7"
    bases = {name: _dockerfile(services[name])[1] for name in ("odoo", "pgbouncer", "api", "locust-master")}
    assert bases == {
        "odoo": "odoo:19",
        "pgbouncer": "debian:12",
        "api": "python:3.11-slim",
        "locust-master": "python:3.11-slim",
    }


def _dockerfile(service: dict[str, Any]) -> tuple[Path, str]:
    build = service["build"]
    path = Path(build["context"]) / build["dockerfile"]
    (base,) = re.findall(r"^FROM (\S+)$", path.read_text(), re.MULTILINE)
    return path, base


def test_every_mounted_file_is_there(profile: Profile) -> None:
    file = rendered(profile)
    used: set[str] = set()
    for name, service in file["services"].items():
        for mount in service.get("volumes", []):
            if mount["type"] == "bind":
                assert Path(mount["source"]).exists(), f"{name}: {mount['source']}"
                writable = mount["target"] == "/var/log/postgresql"
                assert mount.get("read_only", False) is not writable, f"{name}: {mount['target']}"
            else:
                assert mount["source"] in file["volumes"]
        used |= {secret["source"] for secret in service.get("secrets", [])}
    for name in used:
        assert Path(file["secrets"][name]["file"]).is_file(), name


def test_secrets_are_files_that_others_cannot_reach(profile: Profile) -> None:
    compose_text = json.dumps(rendered(profile))
    place = compose.folder(profile)
    for folder in (place, place / "secrets"):
        assert folder.stat().st_mode & 0o777 == 0o700
    passwords = [line.rsplit(":", 1)[1] for line in (place / "passfile").read_text().split()]
    known = [*passwords, "odoo-password", "odoo-key", "api-key", "redis-password"]
    assert len(known) == len(credentials.ROLES) + 4
    open_files = [path for path in place.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    open_files = [path for path in open_files if (path.parent.name, path.suffix) != ("tls", ".crt")]
    assert {path.parent.name for path in open_files} == {profile, "secrets"}
    for text in (compose_text, *(path.read_text() for path in open_files if path.parent == place)):
        assert not [secret for secret in known if secret in text]
    # each service is given its own alone
    assert "api-key" not in (place / "secrets/odoo.json").read_text()
    assert "odoo" not in json.loads((place / "secrets/api.json").read_text())
    assert [line.split(":")[3] for line in (place / "secrets/odoo.passfile").read_text().split()] == ["odoo"]


def test_the_superuser_keeps_the_password_that_the_volume_knows(profile: Profile) -> None:
    first, second = compose.render(profile, ports(profile)), compose.render(profile, ports(profile))
    assert first["postgres"] == second["postgres"]
    assert first["harness"] != second["harness"]


def test_locust_in_its_container_finds_the_stack(profile: Profile, tmp_path: Path) -> None:
    rendered(profile)
    for source, name in (("harness.passfile", "passfile"), ("secrets.json", "secrets.json")):
        (tmp_path / name).write_bytes((compose.folder(profile) / "secrets" / source).read_bytes())
        (tmp_path / name).chmod(0o600)  # as fixtures/services/compose/private_passfile.sh leaves them
    text = (compose.folder(profile) / "secrets/stack.toml").read_text()
    inside = parse(text, tmp_path / "stack.toml")[profile]
    assert inside.odoo_url == "http://odoo:8069"
    assert "host=postgres" in inside.postgres_dsn
    assert "port=5432" in inside.postgres_dsn
    assert (inside.redis_url, inside.pgbouncer_dsn is None) == (
        ("redis://redis:6379/0", False) if profile == "day40" else (None, True)
    )
    assert (inside.may_write, inside.may_reset) == (True, True)


def test_a_service_gets_private_copies_of_its_secrets(tmp_path: Path) -> None:
    """The script as containers run it, but for its folder."""
    text = (CHECKOUT / "fixtures/services/compose/private_passfile.sh").read_text()
    assert "/run/dairyperf/" in text
    script, target = tmp_path / "script.sh", tmp_path / "run"
    script.write_text(text.replace("/run/dairyperf/", f"{target}/"))
    target.mkdir()
    for name in ("odoo.passfile", "one.json", "two.toml"):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(0o444)
    environment = {
        "PATH": os.environ["PATH"],
        "DAIRYPERF_PASSFILE": f"{tmp_path}/odoo.passfile",
        "DAIRYPERF_PRIVATE": f"{tmp_path}/one.json:{tmp_path}/two.toml",
    }
    done = subprocess.run(
        ["sh", script, "sh", "-c", 'echo "$1 $(umask)"', "-", "a b"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a b 0022\n", "")
    modes = {path.name: (path.read_text(), path.stat().st_mode & 0o077) for path in target.iterdir()}
    assert modes == {
        "passfile": ("odoo.passfile", 0),
        "one.json": ("one.json", 0),
        "two.toml": ("two.toml", 0),
    }


# --- Dockerfiles ---------------------------------------------------------------------------------------------------


def test_dockerfiles_are_sound_and_what_they_copy_is_sent_to_the_engine() -> None:
    services = rendered("day40")["services"]
    files = sorted({_dockerfile(service)[0] for service in services.values() if "build" in service})
    assert len(files) == 4
    done = subprocess.run([PROGRAMS / "hadolint", *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    sent = [line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for service in services.values():
        if "build" in service:
            path, _ = _dockerfile(service)
            for copied in re.findall(r"^COPY (\S+) \S+$", path.read_text(), re.MULTILINE):
                assert (Path(service["build"]["context"]) / copied).exists(), f"{path}: {copied}"
                assert any(copied == one or copied.startswith(f"{one}/") for one in sent), f"{path}: {copied}"


# --- the settings --------------------------------------------------------------------------------------------------

HOST = postgres.sizes(psutil.virtual_memory().total, psutil.cpu_count() or 1)

# Where a container is another place than this machine; everything else must be the same.
PLACES = {
    "postgresql.conf": {
        *("listen_addresses", "port", "unix_socket_directories", "hba_file", "log_directory", "log_file_mode"),
        *("archive_command", "ssl_cert_file", "ssl_key_file"),
    },
    "odoo.conf": {"addons_path", "data_dir", "db_host", "db_port", "http_interface", "http_port", "gevent_port"},
    "pgbouncer.ini": {"listen_addr", "listen_port", "auth_file", "auth_hba_file", "pidfile", "host", "port"}
    | {"client_tls_cert_file", "client_tls_key_file", "server_tls_ca_file"},
    "redis.conf": {"bind", "port", "dir"},
    "odoo.env": {
        "HOME",
        "PATH",
        "PYTHONPATH",
        "PGPASSFILE",
        "PGSSLROOTCERT",
        "DAIRYPERF_REDIS_URL",
        "DAIRYPERF_SECRETS",
    },
    "api.env": {"PYTHONPATH", "PGPASSFILE", "DAIRYPERF_API_DSN", "DAIRYPERF_API_SECRETS", "DAIRYPERF_API_REDIS_URL"},
}


def settings(text: str) -> dict[str, str]:
    """name -> value; the last of a name holds, as it does for all these servers. A pool's line counts by its parts."""
    found: dict[str, str] = {}
    for line in (line.partition(" #")[0].strip() for line in text.splitlines()):
        if line and line[0] not in "#;[":
            separator = "=" if "=" in line else " "
            name, _, value = (part.strip() for part in line.partition(separator))
            if value.startswith("host="):
                for part in value.split():
                    key, _, one = part.partition("=")
                    found[key if key in ("host", "port") else f"{name}.{key}"] = one
            else:
                found[name] = value.strip("'")
    return found


def embedded_texts(profile: Profile, folder: Path) -> dict[str, str]:
    """What the supervisor would write, at addresses and paths of its own."""
    texts = {
        "postgresql.conf": postgres.config_text(
            profile,
            port=1,
            hba_file=folder,
            log_dir=folder,
            archive=folder,
            archive_script=folder,
            certificates=folder,
            host=HOST,
        ),
        "odoo.conf": odoo.config_text(
            database="smart_dairy",
            postgres_port=1,
            http_port=2,
            gevent_port=3,
            data_dir=folder,
            postgres_sslmode="verify-full" if profile == "day40" else "disable",
            sessions_in_redis=profile == "day40",
        ),
    }
    if profile == "day40":
        texts["pgbouncer.ini"] = pgbouncer.config_text(
            port=1, postgres_port=2, database="smart_dairy", folder=folder, certificates=folder
        )
        texts["redis.conf"] = redis.config_text(port=1, folder=folder, password="redis-password")
    return texts


def test_every_setting_is_the_embedded_stacks(profile: Profile, tmp_path: Path) -> None:
    rendered(profile)
    place = compose.folder(profile)
    for name, text in embedded_texts(profile, tmp_path).items():
        file = place / "secrets" / name if name == "redis.conf" else place / name
        here, there = settings(text), settings(file.read_text())
        assert {*here, *there} - PLACES[name] == {*here} - PLACES[name], name
        assert len(here) > 10, name
        for setting in {*here} - PLACES[name]:
            assert there[setting] == here[setting], f"{name}: {setting}"
    # Odoo's installation differs from its service by where the database is, and keeps no sessions
    serving, installing = (
        settings((place / "odoo.conf").read_text()),
        settings((place / "odoo-install.conf").read_text()),
    )
    differing = {name for name in serving if serving[name] != installing[name]}
    assert differing == ({"db_host", "db_port", "server_wide_modules"} if profile == "day40" else set())


def test_access_rules_are_the_embedded_stacks(profile: Profile) -> None:
    rendered(profile)
    rules = (compose.folder(profile) / "pg_hba.conf").read_text()
    own = rules.removeprefix(compose_files.HBA_PLACE)
    assert own != rules
    assert own.replace(compose_files.HBA_ADDRESS, "127.0.0.1/32") == postgres.hba_text(profile)
    if profile == "day40":
        pool_rules = (compose.folder(profile) / "pgbouncer_hba.conf").read_text()
        assert pool_rules == pgbouncer.hba_text("0.0.0.0/0") != pgbouncer.hba_text()


def test_environments_are_the_embedded_stacks(profile: Profile, stacks_environments: dict[str, set[str]]) -> None:
    resolved = rendered(profile)["services"]["api"]["environment"]
    # as the service gets them: quoting is the file's
    assert f"host={'pgbouncer' if profile == 'day40' else 'postgres'}" in resolved["DAIRYPERF_API_DSN"].split()
    assert resolved["DAIRYPERF_API_SECRETS"] == "/run/secrets/api.json"
    for name in ("odoo.env", "api.env"):
        there = {line.partition("=")[0] for line in (compose.folder(profile) / name).read_text().splitlines()}
        day40_only = {variable for variable in PLACES[name] if "REDIS" in variable or variable == "DAIRYPERF_SECRETS"}
        day40_only |= {"PGSSLROOTCERT"}  # and TLS
        expected = stacks_environments[name] - (set() if profile == "day40" else day40_only)
        assert there | {"PATH", "PYTHONPATH"} == expected | {"PATH", "PYTHONPATH"}, name


@pytest.fixture
def stacks_environments(tmp_path: Path) -> dict[str, set[str]]:
    from harness.services import api

    secrets, url = tmp_path / "secrets.json", "redis://127.0.0.1:1/0"
    (tmp_path / "odoo").mkdir()
    (tmp_path / "odoo/release.py").write_text("")
    return {
        "odoo.env": set(
            odoo.environment(
                tmp_path, tmp_path, tmp_path, redis_url=url, secrets_file=secrets, root_certificate=secrets
            )
        ),
        "api.env": set(
            api.environment(dsn="", passfile=tmp_path, secrets_file=secrets, redis_url=url, accounts=ACCOUNTS)
        ),
    }


def test_commands_are_the_embedded_stacks(profile: Profile, tmp_path: Path) -> None:
    from harness.services import api

    services = rendered(profile)["services"]
    (tmp_path / "odoo").mkdir()
    (tmp_path / "odoo/release.py").write_text("")
    serve = odoo.serve_command(Path("python3"), tmp_path, Path("/etc/odoo/odoo.conf"), 8069, "0.0.0.0")
    moved = [
        {
            str(odoo.CONFIG / "launch.py"): "/opt/dairyperf/fixtures/services/odoo/launch.py",
            f"{tmp_path}/odoo-bin": "/usr/bin/odoo",
        }
    ]
    assert services["odoo"]["command"] == [moved[0].get(word, word) for word in serve]
    assert services["api"]["command"] == api.command(8000, host="0.0.0.0", python="python")
    install = odoo.install_command(Path("python3"), tmp_path, Path("/etc/odoo/odoo-install.conf"))
    assert list(compose_files.install_command()) == [moved[0].get(word, word) for word in install]
    # where the addons are, as Odoo and the mounts say
    (addons,) = re.findall(r"^addons_path = (.+)$", (compose.folder(profile) / "odoo.conf").read_text(), re.MULTILINE)
    mounts = {mount["target"]: Path(mount["source"]) for mount in services["odoo"]["volumes"]}
    assert mounts["/opt/dairyperf/fixtures"] / Path(addons).relative_to("/opt/dairyperf/fixtures") == odoo.ADDONS
    assert Path(services["odoo"]["entrypoint"][1]).relative_to("/opt/dairyperf/fixtures") == Path(
        "services/compose/private_passfile.sh"
    )
    for command, path in ((services["odoo"], odoo.READY_PATH), (services["api"], api.READY_PATH)):
        assert path in command["healthcheck"]["test"][-1]
    initdb = services["postgres"]["environment"]["POSTGRES_INITDB_ARGS"]
    assert shlex.split(initdb) == list(postgres.INITDB_ARGUMENTS)


# --- a recorder in place of docker ---------------------------------------------------------------------------------

RECORDER = """#!{python}
import json, os, pathlib, sys
record = pathlib.Path({record!r})
with record.open("a") as file:
    file.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
if sys.argv[1] in {failing!r}:
    sys.exit("Cannot connect to the Docker daemon. Is the docker daemon running?")
if "ps" in sys.argv:
    running = record.with_name("running")
    if running.exists():
        for service in running.read_text().split():
            print(json.dumps({{"Service": service, "State": "running", "Health": "healthy"}}))
if "up" in sys.argv:
    services = sys.argv[sys.argv.index("--wait") + 1:]
    if {unhealthy!r} in services:
        sys.exit("container dairyperf-odoo-1 is unhealthy")
    record.with_name("running").write_text(" ".join(services))
if "down" in sys.argv:
    record.with_name("running").unlink(missing_ok=True)
"""


class Docker:
    """A program `docker` that writes down how it was called, and answers as an engine would."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._record = folder / "record"
        self.install()

    def install(self, failing: tuple[str, ...] = (), unhealthy: str = "") -> None:
        program = self._folder / "docker"
        text = RECORDER.format(python=sys.executable, record=str(self._record), failing=failing, unhealthy=unhealthy)
        program.write_text(text)
        program.chmod(0o755)

    def calls(self) -> list[tuple[list[str], dict[str, str]]]:
        return [(one[0], one[1]) for one in map(json.loads, self._record.read_text().splitlines())]

    def commands(self, profile: Profile) -> list[list[str]]:
        """What was asked of Compose: each call without what is the same in all."""
        same = list(compose.compose_command(profile))[1:]
        asked = []
        for argv, _ in self.calls():
            if argv[: len(same)] == same:
                asked.append(argv[len(same) :])
            else:
                assert argv in (["info"], ["compose", "version"])
        return asked


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    # the part that talks to the database is the embedded stack's own
    monkeypatch.setattr(compose, "_data", lambda *_: DATA)
    monkeypatch.setattr(reset, "database", lambda addresses: None)
    return Docker(folder)


def test_up_status_and_down_by_the_command_line(
    docker: Docker, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["up", "--stack", "compose", "--profile", profile, "--port", "odoo=18069"]) == 0
    servers = ["postgres", *(["pgbouncer", "redis"] if profile == "day40" else []), "odoo", "api"]
    built = [name for name in servers if name not in ("postgres", "redis")]
    asked = [command for command in docker.commands(profile) if "ps" not in command]
    assert asked == [
        ["build", *built],
        ["up", "--detach", "--wait", "postgres"],
        ["up", "--detach", "--wait", *servers],
    ]
    capsys.readouterr()

    assert cli.main(["status", "--json", "--stack", "compose", "--profile", profile]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "up"
    assert shown["odoo_url"] == "http://127.0.0.1:18069"
    assert {name for name, one in shown["services"].items() if one["running"]} == set(servers)
    assert stack.read(profile).checksum == "c0ffee"

    assert cli.main(["up", "--stack", "compose", "--profile", profile]) == InputError.exit_code
    assert cli.main(["down", "--stack", "compose", "--profile", profile]) == 0
    # the volume with the seeded database stays
    assert docker.commands(profile)[-1] == ["--profile", "load", "down", "--remove-orphans"]
    assert cli.main(["status", "--json", "--stack", "compose", "--profile", profile]) == 0
    assert json.loads(capsys.readouterr().out) == {"profile": profile, "state": "down"}

    secrets = [line.rsplit(":", 1)[1] for line in (compose.folder(profile) / "passfile").read_text().split()]
    secrets += ["odoo-password", "odoo-key", "api-key", "redis-password"]
    for argv, environment in docker.calls():
        told = " ".join([*argv, *environment.values()])
        assert not [secret for secret in secrets if secret in told]


def test_a_server_that_does_not_become_healthy_leaves_nothing_running(docker: Docker) -> None:
    docker.install(unhealthy="odoo")
    with (
        pytest.raises(StackError, match="container dairyperf-odoo-1 is unhealthy"),
        compose.up("day31", print, herd=255, seed=42, ports=None, odoo_source=None, detach=True),
    ):
        pass
    assert docker.commands("day31")[-1][-2:] == ["down", "--remove-orphans"]
    assert compose.status("day31") == {"profile": "day31", "state": "down"}


def test_a_stack_for_a_run_ends_with_it(docker: Docker) -> None:
    with compose.up("day31", print, herd=255, seed=42, ports=None, odoo_source=None, detach=False):
        assert compose.is_up("day31")
    assert not compose.is_up("day31")


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("info", "`docker info` failed, Cannot connect to the Docker daemon. Is the docker daemon running; start"),
        ("compose", "`docker compose version` failed.*install its Compose plugin"),
    ],
)
def test_without_an_engine_the_ways_on_are_named(docker: Docker, failing: str, said: str) -> None:
    docker.install(failing=(failing,))
    with (
        pytest.raises(StackError, match=said) as raised,
        compose.up("day40", print, herd=255, seed=42, ports=None, odoo_source=None, detach=True),
    ):
        pass
    assert str(raised.value).endswith("use --stack embedded, which needs no Docker, or --stack external:FILE")
    assert not compose.folder("day40").exists()
    # what was never up is down, engine or not
    assert compose.status("day40") == {"profile": "day40", "state": "down"}
    assert compose.down("day40") is False


def test_what_containers_cannot_be_told_is_refused(docker: Docker, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"herd": 255, "seed": 42, "detach": True}
    with (
        pytest.raises(InputError, match="--odoo-source"),
        compose.up("day40", print, ports=None, odoo_source=tmp_path, **arguments),
    ):
        pass
    with (
        pytest.raises(InputError, match="--port redis: containers of day31 do not publish it"),
        compose.up("day31", print, ports={"redis": 6379}, odoo_source=None, **arguments),
    ):
        pass
