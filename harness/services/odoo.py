"""Odoo 19: its configuration, the commands that install the addon and serve it, its accounts, and its warm-up.

Starts no process. `tree` is an unpacked Debian package or a source checkout; `python` belongs to the virtual
environment made from fixtures/services/odoo/requirements.lock.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import secrets
import shutil
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

import psycopg
from jinja2 import Environment, StrictUndefined

from harness import CHECKOUT
from harness.errors import InputError, StackError
from harness.model import Account

_FIXTURES = Path(__file__).parents[2] / "fixtures"
CONFIG = _FIXTURES / "services/odoo"
ADDONS = _FIXTURES / "odoo_addons"

READY_PATH = "/web/health"
ADMINISTRATOR = "admin"  # the login that Odoo's own data make
INSTALL_ARGUMENTS = ("--init=smart_dairy", "--skip-auto-install", "--stop-after-init", "--workers=0", "--no-http")
PORT_TAKEN_EXIT_CODE = 98  # launch.py

# What smart_dairy needs: web brings sessions and formatted_read_group, rpc is loaded server-wide.
CORE_ADDONS = frozenset({"base", "rpc", "web"})

# res.users of Odoo 19 (MIN_ROUNDS): with fewer rounds it would hash the password anew at the first login.
HASH_ROUNDS = 600_000
# res.users.apikeys of Odoo 19 (KEY_CRYPT_CONTEXT, API_KEY_SIZE, INDEX_SIZE): a key is verified at every request.
KEY_HASH_ROUNDS = 6_000
_KEY_BYTES = 20
_KEY_INDEX_DIGITS = 8
_KEY_NAME = "dairyperf"
_SALT_BYTES = 16

_DEB_PACKAGES = Path("usr/lib/python3/dist-packages")


# --- the program on disk -------------------------------------------------------------------------------------------


def _packages(tree: Path) -> Path:
    """The folder that holds the package `odoo`. Raises InputError when `tree` has none."""
    for folder in (tree / _DEB_PACKAGES, tree):
        if (folder / "odoo/release.py").is_file():
            return folder
    raise InputError(f"{tree}: holds no Odoo; give the root of a checkout of Odoo 19.0")


def _program(tree: Path) -> Path:
    return tree / "odoo-bin" if _packages(tree) == tree else tree / "usr/bin/odoo"


def release(tree: Path) -> str:
    """The version in `tree`, such as "19.0". Raises InputError when there is none or it is not 19."""
    text = (_packages(tree) / "odoo/release.py").read_text()
    found = re.search(r"^version_info = \((\d+), (\d+)", text, re.MULTILINE)
    if found is None or found[1] != "19":
        raise InputError(f"{tree}: its odoo/release.py does not say 19; give the root of a checkout of Odoo 19.0")
    return f"{found[1]}.{found[2]}"


def prune(tree: Path) -> None:
    """Removes from an unpacked Debian package what the stack never loads (1.2 GB become 50 MB). Of other addons the
    manifest stays: the data of base refer to the categories that they declare. Links to scripts and fonts of other
    Debian packages go too: the login page looks at every asset's file and fails at one that leads nowhere."""
    packages = tree / _DEB_PACKAGES
    core = packages / "odoo/addons"
    # the package has a second, code-only copy of its addons beside odoo/
    doomed = [packages / "addons", packages / "doc", packages / "setup", tree / "etc", tree / "usr/share"]
    for addon in core.iterdir():
        if addon.name in CORE_ADDONS:
            doomed += [addon / part for part in ("i18n", "tests", "static/tests")]
        elif addon.is_dir():
            doomed += [part for part in addon.iterdir() if part.name != "__manifest__.py"]
    for place in doomed:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    for place in core.rglob("*"):
        if place.is_symlink() and not place.exists():
            place.unlink()


# --- configuration and commands ------------------------------------------------------------------------------------


def config_text(
    *,
    database: str,
    postgres_port: int,
    http_port: int,
    gevent_port: int,
    data_dir: Path,
    postgres_host: str = "127.0.0.1",
    postgres_user: str = "odoo",
    http_host: str = "127.0.0.1",
    workers: int = 2,
    addons_paths: Sequence[Path] = (ADDONS,),
    postgres_sslmode: str = "disable",
    sessions_in_redis: bool = False,
) -> str:
    """odoo.conf, without a password. `postgres_port` is pgBouncer's where Odoo shall go through it. postgres_sslmode:
    libpq's; "verify-full" takes a root certificate in `environment`."""
    template = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True).from_string(
        (CONFIG / "odoo.conf.j2").read_text()
    )
    return template.render(
        addons_paths=addons_paths,
        data_dir=data_dir,
        db_host=postgres_host,
        db_port=postgres_port,
        db_user=postgres_user,
        db_name=database,
        db_sslmode=postgres_sslmode,
        http_host=http_host,
        http_port=http_port,
        gevent_port=gevent_port,
        workers=workers,
        sessions_in_redis=sessions_in_redis,
    )


def environment(
    tree: Path,
    home: Path,
    passfile: Path,
    *,
    redis_url: str | None = None,
    secrets_file: Path | None = None,
    root_certificate: Path | None = None,
) -> dict[str, str]:
    """The whole environment of Odoo: PG* and ODOO_* variables of the caller would override odoo.conf.

    redis_url: of the result cache that it shares with the API, and of the session store, without password; None = there
    is none. secrets_file: JSON with "redis", the password; read only where there is a redis_url. root_certificate: whom
    to trust where odoo.conf asks for TLS.
    """
    # the addon uses fixtures.cache
    own = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": f"{_packages(tree)}:{CHECKOUT}"}
    return own | settings(passfile, redis_url=redis_url, secrets_file=secrets_file, root_certificate=root_certificate)


def settings(
    passfile: Path,
    *,
    redis_url: str | None = None,
    secrets_file: Path | None = None,
    root_certificate: Path | None = None,
) -> dict[str, str]:
    """Of Odoo's environment what is the same wherever its program lies; see `environment`."""
    cache = {"DAIRYPERF_REDIS_URL": redis_url, "DAIRYPERF_SECRETS": str(secrets_file)} if redis_url else {}
    return {
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PGPASSFILE": str(passfile),
        **({"PGSSLROOTCERT": str(root_certificate)} if root_certificate else {}),
        **cache,
    }


def install_command(python: Path, tree: Path, config: Path) -> list[str]:
    """Installs the addon into an existing database and ends. `config` must name PostgreSQL's own port: an installation
    leaves session settings behind, which a transaction pool would hand on."""
    return [
        str(python),
        str(_program(tree)),
        f"--config={config}",
        *INSTALL_ARGUMENTS,
    ]


def serve_command(python: Path, tree: Path, config: Path, http_port: int, http_host: str = "127.0.0.1") -> list[str]:
    """Serves; ready when READY_PATH answers 200. Ends with PORT_TAKEN_EXIT_CODE when the port is not free."""
    launch = CONFIG / "launch.py"
    return [str(python), str(launch), http_host, str(http_port), str(_program(tree)), f"--config={config}"]


# --- accounts ------------------------------------------------------------------------------------------------------


def secret_hash(secret: str, salt: bytes, rounds: int) -> str:
    """A password or API key as Odoo stores it: passlib's modular crypt format for PBKDF2-HMAC-SHA512."""
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, rounds)
    return f"$pbkdf2-sha512${rounds}${_ab64(salt)}${_ab64(digest)}"


def _ab64(value: bytes) -> str:
    """passlib's base64: '.' for '+', no padding."""
    return base64.b64encode(value, altchars=b"./").decode().rstrip("=")


def set_passwords(connection: psycopg.Connection[Any], passwords: Mapping[str, str]) -> None:
    """Gives each login its password, as Odoo's role or a superuser. Odoo must not be serving: its workers remember
    whom they have let in. Raises StackError when a login does not exist."""
    with connection.transaction():
        for login, password in passwords.items():
            hashed = secret_hash(password, secrets.token_bytes(_SALT_BYTES), HASH_ROUNDS)
            if connection.execute("UPDATE res_users SET password = %s WHERE login = %s", (hashed, login)).rowcount != 1:
                raise _no_account(login)


def new_api_key() -> str:
    """A random key in the form of Odoo's own: 40 hex digits."""
    return secrets.token_hex(_KEY_BYTES)


def set_api_keys(connection: psycopg.Connection[Any], keys: Mapping[str, str]) -> None:
    """Gives each login its key for JSON-2 (`Authorization: bearer KEY`), as Odoo's role or a superuser; a key given
    earlier goes. Without a scope and without an end, which Odoo itself lets only administrators choose: a run must not
    depend on the day. Raises StackError when a login does not exist."""
    with connection.transaction():
        connection.execute("DELETE FROM res_users_apikeys WHERE name = %s", (_KEY_NAME,))
        for login, key in keys.items():
            hashed = secret_hash(key, secrets.token_bytes(_SALT_BYTES), KEY_HASH_ROUNDS)
            inserted = connection.execute(
                "INSERT INTO res_users_apikeys (name, user_id, index, key) SELECT %s, id, %s, %s FROM res_users"
                " WHERE login = %s",
                (_KEY_NAME, key[:_KEY_INDEX_DIGITS], hashed, login),
            )
            if inserted.rowcount != 1:
                raise _no_account(login)


def _no_account(login: str) -> StackError:
    return StackError(f"odoo: no account {login!r} in the database; install the addon smart_dairy first")


def freeze_base_url(connection: psycopg.Connection[Any]) -> None:
    """Stops Odoo from writing down the address at which an administrator logs in on the web. A changed parameter
    clears the caches of every worker: each account's next call would pay for a password hash in the middle of a run."""
    connection.execute(
        "INSERT INTO ir_config_parameter (key, value) VALUES ('web.base.url.freeze', 'True') ON CONFLICT DO NOTHING"
    )


def accounts(connection: psycopg.Connection[Any]) -> tuple[Account, ...]:
    """The addon's accounts by uid; role: manager, worker or auditor, after the group that the account belongs to."""
    rows = connection.execute(
        """
        SELECT u.login, u.id, replace(d.name, 'group_farm_', '')
        FROM res_users u
        JOIN res_groups_users_rel r ON r.uid = u.id
        JOIN ir_model_data d ON d.model = 'res.groups' AND d.res_id = r.gid
        WHERE d.module = 'smart_dairy' AND u.active AND u.login <> '__system__'
        ORDER BY u.id
        """
    ).fetchall()
    return tuple(Account(login=login, uid=uid, role=role) for login, uid, role in rows)


# --- warm-up -------------------------------------------------------------------------------------------------------

_QUIET_ROUNDS = 4
# What one call may take: far more than a password hash, even on a machine that is busy otherwise.
_CALL_TIMEOUT_S = 30.0


def warm_up(
    url: str,
    database: str,
    accounts: Sequence[Account],
    passwords: Mapping[str, str],
    workers: int,
    timeout_s: float = 120,
) -> None:
    """Lets every worker see every account's password, so that no request of a run pays for a hash.

    A worker serves one connection at a time, so `workers` simultaneous calls that must all hash reach all workers.
    After them, rounds of calls go on until several in a row needed no hash, which heals a worker that was missed.
    Raises StackError when a call fails or `timeout_s` pass.
    """
    # the CPU time of one hash on this machine, which no call that must hash can undercut
    started = time.thread_time()
    secret_hash("", b"0" * _SALT_BYTES, HASH_ROUNDS)
    hash_s = time.thread_time() - started
    deadline = time.monotonic() + timeout_s
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for account in accounts:
            call = _check_call(database, account.uid, passwords[account.login])
            quiet = 0
            while quiet <= _QUIET_ROUNDS:  # the first quiet round is the one that hashed, or came after
                if time.monotonic() > deadline:
                    raise StackError(
                        f"odoo: {url}: calls of {account.login!r} still took as long as a password hash after "
                        f"{timeout_s:.0f} s of warm-up; end other programs on this machine, or use fewer workers"
                    )
                futures = [pool.submit(_timed_call, url, account.login, call) for _ in range(workers)]
                slowest_s = max(future.result() for future in futures)
                quiet = quiet + 1 if slowest_s < hash_s / 2 else 0


def _check_call(database: str, uid: int, password: str) -> bytes:
    arguments: tuple[Any, ...] = (database, uid, password, "farm.animal", "search_count", [[]])
    return xmlrpc.client.dumps(arguments, "execute_kw").encode()


def _timed_call(url: str, login: str, body: bytes) -> float:
    """Seconds that one XML-RPC call took, connection included. http.client never repeats a request."""
    place = urlsplit(url)
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=_CALL_TIMEOUT_S)
    started = time.monotonic()
    try:
        connection.request("POST", "/xmlrpc/2/object", body, {"Content-Type": "text/xml"})
        reply = connection.getresponse()
        content = reply.read()
        elapsed_s = time.monotonic() - started
        if reply.status != 200:
            raise StackError(f"odoo: {url}: warm-up of {login!r} got HTTP {reply.status}; see Odoo's log")
        xmlrpc.client.loads(content)
    except xmlrpc.client.Fault as fault:
        reason = str(fault.faultString).strip().splitlines()[-1]
        raise StackError(
            f"odoo: {url}: warm-up of {login!r} got fault {fault.faultCode}, {reason}; "
            "check its password in the secrets file and Odoo's log"
        ) from fault
    except (OSError, http.client.HTTPException, ExpatError) as error:
        raise StackError(f"odoo: {url}: warm-up of {login!r} failed, {error!r}; see Odoo's log") from error
    finally:
        connection.close()
    return elapsed_s
