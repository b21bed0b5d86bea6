"""The files that docker-compose.perf.yml mounts: what the embedded stack's own functions render, with the containers'
addresses and paths. Values in, texts out; it reads the templates and writes nothing.

By name relative to the rendered folder; those under secrets/ hold secrets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import CHECKOUT
from harness.errors import InputError
from harness.model import Account, Profile
from harness.services import api, odoo, pgbouncer, postgres, redis
from harness.services.postgres import Sizes

DATABASE = "smart_dairy"

# Service as `up --port` names it -> its name in docker-compose.perf.yml.
SERVICES = {"postgresql": "postgres", "odoo": "odoo", "api": "api", "pgbouncer": "pgbouncer", "redis": "redis"}
# docker-compose.perf.yml publishes these; containers find each other by the names above, at these ports.
PORTS = {"postgresql": 5432, "odoo": 8069, "api": 8000, "pgbouncer": 6432, "redis": 6379, "locust": 8089}
API_ENVIRONMENT = "api.env"
_GEVENT_PORT = 8072
_EVERYWHERE = "0.0.0.0"

_ROOT_CERTIFICATE = Path("/run/secrets/root.crt")
_PASSFILE = Path("/run/dairyperf/passfile")  # fixtures/services/compose/private_passfile.sh
_ODOO_DATA = Path("/var/lib/odoo")
_ODOO_CHECKOUT = Path("/opt/dairyperf")
_ODOO_INSTALL_CONFIG = "/etc/odoo/odoo-install.conf"

# What a service may know of the secrets file.
_ODOO_SECRETS = ("redis",)
_API_SECRETS = ("api_key", "api_keys", "redis")

# The image initialises a volume over its Unix socket, and who reads the log on the host is not who writes it.
POSTGRES_PLACE = """
listen_addresses = '*'
unix_socket_directories = '/var/run/postgresql'
log_file_mode = 0644
"""
# Containers and, through the network's gateway, the host: whoever is in a network of this container's.
HBA_ADDRESS = "samenet"
POOL_HBA_ADDRESS = "0.0.0.0/0"  # pgBouncer knows no samenet; who gets as far as it, the networks decide
HBA_PLACE = "local  all  postgres  scram-sha-256\n"


def services(profile: Profile) -> tuple[str, ...]:
    """The keys of SERVICES that the profile has, in the order of their start."""
    pooled = ("pgbouncer", "redis") if profile == "day40" else ()
    return ("postgresql", *pooled, "odoo", "api")


def configurations(profile: Profile, host: Sizes) -> dict[str, str]:
    """Everything without a secret, but for the variables of docker-compose.perf.yml itself."""
    pooled = profile == "day40"
    files = {
        "postgresql.conf": postgres.config_text(
            profile,
            port=PORTS["postgresql"],
            hba_file=Path("/etc/postgresql/pg_hba.conf"),
            log_dir=Path("/var/log/postgresql"),
            archive=Path("/var/lib/postgresql/archive"),
            archive_script=Path("/opt/dairyperf/archive_wal.sh"),
            certificates=Path("/var/lib/postgresql/tls"),
            host=host,
        )
        + POSTGRES_PLACE,
        "pg_hba.conf": HBA_PLACE + postgres.hba_text(profile, HBA_ADDRESS),
        "odoo.conf": _odoo_config(_database_service(profile), profile),
        "odoo-install.conf": _odoo_config("postgresql", profile),
        "odoo.env": _env(
            {"HOME": str(_ODOO_DATA), "PYTHONPATH": str(_ODOO_CHECKOUT)}
            | odoo.settings(
                _PASSFILE,
                redis_url=_redis_url(profile),
                secrets_file=Path("/run/secrets/odoo.json"),
                root_certificate=root_certificate(profile),
            )
        ),
        API_ENVIRONMENT: api_environment(profile),
    }
    if pooled:
        files["pgbouncer.ini"] = pgbouncer.config_text(
            port=PORTS["pgbouncer"],
            postgres_port=PORTS["postgresql"],
            database=DATABASE,
            folder=Path("/var/lib/pgbouncer"),
            certificates=Path("/run/secrets"),
            listen=_EVERYWHERE,
            postgres_host=SERVICES["postgresql"],
        )
        files["pgbouncer_hba.conf"] = pgbouncer.hba_text(POOL_HBA_ADDRESS)
    return files


def api_environment(profile: Profile, accounts: Sequence[Account] = ()) -> str:
    """The API's api.env. accounts: known once the database is seeded; until then the API does not run."""
    service = _database_service(profile)
    dsn = postgres.dsn(
        PORTS[service],
        DATABASE + ("_api" if service == "pgbouncer" else ""),
        "api",
        _PASSFILE,
        application="dairy-api",
        host=SERVICES[service],
        root_certificate=root_certificate(profile),
    )
    settings = api.environment(
        dsn=dsn,
        passfile=_PASSFILE,
        secrets_file=Path("/run/secrets/api.json"),
        accounts=accounts,
        redis_url=_redis_url(profile),
    )
    return _env(settings | {"PYTHONPATH": "/app"})


def _database_service(profile: Profile) -> str:
    """Whom Odoo and the API connect to."""
    return "pgbouncer" if profile == "day40" else "postgresql"


def _redis_url(profile: Profile) -> str | None:
    return f"redis://{SERVICES['redis']}:{PORTS['redis']}/0" if profile == "day40" else None


def root_certificate(profile: Profile, place: Path = _ROOT_CERTIFICATE) -> Path | None:
    """`place` where connections to PostgreSQL are by TLS, which is the work of Day 35."""
    return place if profile == "day40" else None


def role_secrets(profile: Profile, roles: Mapping[str, str]) -> dict[str, str]:
    """roles: role -> password. What PostgreSQL and Odoo's installation need."""
    files = {
        "secrets/postgres_password": roles["postgres"],
        "secrets/odoo.passfile": _passfile(roles, "odoo"),
        "secrets/api.passfile": _passfile(roles, "api"),
        "secrets/harness.passfile": _passfile(roles, "harness", "postgres"),
    }
    if profile == "day40":
        files["secrets/userlist.txt"] = pgbouncer.userlist(roles)
    return files


def service_secrets(profile: Profile, content: Mapping[str, object]) -> dict[str, str]:
    """content: of the secrets file. What the services need that start after the database was seeded."""
    files = {
        "secrets/odoo.json": _subset(content, _ODOO_SECRETS),
        "secrets/api.json": _subset(content, _API_SECRETS),
        "secrets/secrets.json": json.dumps(content),
    }
    if profile == "day40":
        password = str(content["redis"])
        files["secrets/redis_password"] = password
        files["secrets/redis.conf"] = redis.config_text(
            port=PORTS["redis"], folder=Path("/data"), password=password, listen=_EVERYWHERE
        )
    return files


def variables(profile: Profile, project: str, rendered: Path, ports: Mapping[str, int], host: Sizes, cores: int) -> str:
    """compose.env: what docker-compose.perf.yml is told. ports: published, by the keys of PORTS."""
    values = {
        "DAIRYPERF_PROJECT": project,
        "DAIRYPERF_PROFILE": profile,
        "DAIRYPERF_RENDERED": str(rendered),
        "DAIRYPERF_INITDB_ARGS": " ".join(postgres.INITDB_ARGUMENTS),
        "DAIRYPERF_CPUS": str(cores),
        # what it is told to expect of the machine: its own buffers and the page cache, which count alike
        "DAIRYPERF_POSTGRES_MEMORY": f"{host.effective_cache_size_mb + host.maintenance_work_mem_mb}m",
    }
    values |= {f"DAIRYPERF_PORT_{service.upper()}": str(port) for service, port in ports.items()}
    return _env(values)


def install_command() -> Sequence[str]:
    """Installs the addon, in Odoo's container."""
    return ("python3", "/usr/bin/odoo", f"--config={_ODOO_INSTALL_CONFIG}", *odoo.INSTALL_ARGUMENTS)


def _odoo_config(database_service: str, profile: Profile) -> str:
    return odoo.config_text(
        database=DATABASE,
        postgres_host=SERVICES[database_service],
        postgres_port=PORTS[database_service],
        http_host=_EVERYWHERE,
        http_port=PORTS["odoo"],
        gevent_port=_GEVENT_PORT,
        data_dir=_ODOO_DATA,
        postgres_sslmode="verify-full" if root_certificate(profile) else "disable",
        sessions_in_redis=database_service == "pgbouncer",
        addons_paths=(_ODOO_CHECKOUT / odoo.ADDONS.relative_to(CHECKOUT),),
    )


def _passfile(roles: Mapping[str, str], *names: str) -> str:
    return "".join(f"*:*:*:{name}:{roles[name]}\n" for name in names)


def _subset(content: Mapping[str, object], names: Sequence[str]) -> str:
    return json.dumps({name: content[name] for name in names if name in content})


def _env(values: Mapping[str, str]) -> str:
    """In single quotes, in which Compose replaces nothing. Raises InputError where a value has one itself."""
    for name, value in values.items():
        if "'" in value or "\n" in value:
            raise InputError(f"{name}: {value!r} cannot be in an environment file; move the checkout to a plainer path")
    return "".join(f"{name}='{value}'\n" for name, value in values.items())
