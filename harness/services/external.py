"""A stack that somebody else runs, as a TOML file describes it: its addresses, and what may be done to it.

The file has a table per profile (`[day31]`, `[day40]`) whose keys are those of StackAddresses, which `status --json`
prints; paths are relative to the file. Without `allow_writes = true` no load is put on it; without `allow_reset = true`
its database is never replaced, its cache never emptied, its statistics never set to zero.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness.errors import InputError, StackError
from harness.model import PROFILES, Account, Profile, StackAddresses
from harness.services import api, odoo, process

_ALLOWED = {"allow_writes": "may_write", "allow_reset": "may_reset"}
_SECRETS = ("odoo", "odoo_keys", "api_key")  # "redis" too, where there is a redis_url


@dataclass(frozen=True, slots=True)
class External:
    """Satisfies `harness.stack.Stack`; reads `file` anew at each call, and never starts or stops a server."""

    file: Path

    def is_up(self, profile: Profile) -> bool:
        """Whether the file has it."""
        return profile in self._tables()

    def read(self, profile: Profile) -> StackAddresses:
        tables = self._tables()
        if profile not in tables:
            raise InputError(f"{self.file}: has no table [{profile}]; add one, or give --profile {next(iter(tables))}")
        return tables[profile]

    @contextmanager
    def up(
        self,
        profile: Profile,
        say: Callable[[str], None],
        *,
        herd: int,
        seed: int,
        ports: Mapping[str, int] | None,
        odoo_source: Path | None,
        detach: bool,
    ) -> Iterator[StackAddresses]:
        """Starts nothing: StackError unless its web services answer."""
        if ports or odoo_source is not None:
            raise InputError(f"{self.file}: the stack is not started from here; leave --port and --odoo-source out")
        addresses = self.read(profile)
        for service, answers in _services(addresses).items():
            if not answers:
                raise StackError(f"{self.file}: [{profile}] {service} does not answer; ask whoever runs it")
        say(f"{profile}: somebody else runs it; nothing was started")
        yield addresses

    def down(self, profile: Profile) -> bool:
        raise InputError(f"{self.file}: [{profile}] is not ours to stop; ask whoever runs it")

    def status(self, profile: Profile) -> dict[str, object]:
        tables = self._tables()
        if profile not in tables:
            return {"profile": profile, "state": "down"}
        services = _services(tables[profile])
        return {
            "state": "up" if all(services.values()) else "degraded",
            "services": {name: {"running": running} for name, running in services.items()},
        } | asdict(tables[profile])

    def _tables(self) -> dict[Profile, StackAddresses]:
        try:
            text = self.file.read_text(encoding="utf-8")
        except OSError as fault:
            raise InputError(f"stack file {self.file}: {fault.strerror}; name a TOML file of addresses") from None
        except UnicodeDecodeError:
            raise InputError(f"stack file {self.file}: is no text; name a TOML file of addresses") from None
        return parse(text, self.file)


def _services(addresses: StackAddresses) -> dict[str, bool]:
    """Service -> whether it answers."""
    return {
        "odoo": process.responds(addresses.odoo_url + odoo.READY_PATH),
        "api": process.responds(addresses.api_url + api.READY_PATH),
    }


# --- the file ------------------------------------------------------------------------------------------------------


def parse(text: str, file: Path) -> dict[Profile, StackAddresses]:
    """The stacks that a file describes. Raises InputError with all of its faults, one a line: place, value, remedy."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise InputError(f"{file}: {fault}; correct the TOML") from None
    faults = [f"{name}: no such table; write [day31] or [day40]" for name in tables if name not in PROFILES]
    stacks: dict[Profile, StackAddresses] = {}
    for profile in PROFILES:
        if profile not in tables:
            continue
        if not isinstance(tables[profile], dict):
            faults.append(f"{profile}: is no table; write [{profile}] and its keys below")
            continue
        reader = _Table(tables[profile], profile, file.resolve().parent)
        stack = reader.stack()
        if reader.faults or stack is None:
            faults += reader.faults
        else:
            stacks[profile] = stack
    if not tables:
        faults.append("no table; write [day31] or [day40] and its keys below")
    if faults:
        raise InputError("\n".join(f"{file}: {fault}" for fault in faults))
    return stacks


class _Table:
    """Reads one table and collects its faults; what is at fault reads as None."""

    def __init__(self, content: Mapping[str, Any], profile: Profile, folder: Path) -> None:
        self.faults: list[str] = []
        self._content = content
        self._profile = profile
        self._folder = folder
        self._asked: set[str] = set()

    def stack(self) -> StackAddresses | None:
        passfile = self._file("passfile")
        redis_url = self._url("redis_url", ("redis", "rediss"), required=False)
        secrets_file = self._secrets_file(redis_url is not None)
        allowed = {name: self._value(key, bool, "true or false", False) for key, name in _ALLOWED.items()}
        fields = {
            "odoo_url": self._url("odoo_url", ("http", "https")),
            "api_url": self._url("api_url", ("http", "https")),
            "postgres_dsn": self._dsn("postgres_dsn", passfile),
            "admin_dsn": self._dsn("admin_dsn", passfile, required=False),
            "pgbouncer_dsn": self._dsn("pgbouncer_dsn", passfile, required=False),
            "redis_url": redis_url,
            "database": self._value("database", str, "the name of the database"),
            "accounts": self._accounts(),
            "passfile": passfile,
            "secrets_file": secrets_file,
            "as_of": self._day("as_of"),
            "herd": self._count("herd"),
            "seed": self._count("seed"),
            "checksum": self._value("checksum", str, "the checksum that status --json prints", None),
            "counts": self._mapping("counts", int),
            "versions": self._mapping("versions", str),
            "log_dir": self._value("log_dir", str, "a folder on this machine", None),
            "pids": self._mapping("pids", int),
        }
        for needed in ("admin_dsn", "checksum"):
            if allowed["may_reset"] and needed not in self._content:
                self._fault(
                    needed, "missing", f"a reset needs it; give it, or take allow_reset = true out of [{self._profile}]"
                )
        if allowed["may_reset"] and not allowed["may_write"]:
            self._fault("allow_writes", "not true", "a reset writes; allow both or none")
        for key in self._content:
            if key not in self._asked:
                self._fault(
                    key, repr(self._content[key])[:60], f"no such key; known are {', '.join(sorted(self._asked))}"
                )
        return None if self.faults else StackAddresses(profile=self._profile, **fields, **allowed)

    def _fault(self, key: str, value: str, remedy: str) -> None:
        self.faults.append(f"[{self._profile}] {key}: {value}; {remedy}")

    def _value(self, key: str, kind: type, what: str, *default: Any) -> Any:
        """Of exactly `kind` (True is no number), or the default where the key is missing."""
        self._asked.add(key)
        if key not in self._content and default:
            return default[0]
        value = self._content.get(key)
        if value is None:
            self._fault(key, "missing", f"give {what}")
        elif type(value) is not kind or value == "":
            self._fault(key, repr(value)[:60], f"give {what}")
        else:
            return value
        return None

    def _count(self, key: str) -> int | None:
        value: int | None = self._value(key, int, "a whole number from 1")
        if value is not None and value < 1:
            self._fault(key, str(value), "give a whole number from 1")
        return value

    def _day(self, key: str) -> str | None:
        text: str | None = self._value(key, str, 'the last day of data, as in "2026-02-03"')
        if text is not None:
            try:
                date.fromisoformat(text)
            except ValueError:
                self._fault(key, repr(text), 'give the last day of data, as in "2026-02-03"')
        return text

    def _url(self, key: str, schemes: tuple[str, ...], *, required: bool = True) -> str | None:
        what = f"{schemes[0]}://HOST:PORT"
        text: str | None = self._value(key, str, what, *(() if required else (None,)))
        if text is None:
            return None
        place = urlsplit(text)
        if place.username or place.password:
            # its value would repeat the secret
            self._fault(key, "holds a user or password", f"give {what}, and put the password into the secrets file")
        elif place.scheme not in schemes or not place.hostname:
            self._fault(key, repr(text), f"give {what}")
        return text.rstrip("/")

    def _dsn(self, key: str, passfile: str | None, *, required: bool = True) -> str | None:
        what = '"host=HOST port=5432 dbname=NAME user=ROLE"'
        text: str | None = self._value(key, str, what, *(() if required else (None,)))
        if text is None:
            return None
        try:
            parameters = conninfo_to_dict(text)
        except psycopg.ProgrammingError:
            self._fault(key, "not a libpq connection string", f"give {what}")
            return None
        if parameters.get("password"):
            self._fault(key, "holds a password", "take it out, and put it into the file that passfile names")
        for name in ("host", "user"):
            if not parameters.get(name):
                self._fault(key, f"names no {name}", f"give {what}")
        return make_conninfo(text, passfile=passfile, application_name="dairyperf") if passfile else text

    def _file(self, key: str) -> str | None:
        text: str | None = self._value(key, str, "the path of a file that only you can read")
        if text is None:
            return None
        path = self._folder / text
        if not path.is_file():
            self._fault(key, repr(text), f"no such file; make {path}")
        elif path.stat().st_mode & 0o077:
            self._fault(key, repr(text), f"others can read it; chmod 600 {path}")
        return str(path)

    def _secrets_file(self, with_redis: bool) -> str | None:
        text = self._file("secrets_file")
        if text is None or not Path(text).is_file():
            return text
        try:
            secrets = json.loads(Path(text).read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            # a decoding error may quote the text around the fault
            self._fault("secrets_file", type(fault).__name__, "name a readable JSON file")
            return text
        needed = (*_SECRETS, "redis") if with_redis else _SECRETS
        for name in needed:
            if not isinstance(secrets, dict) or not secrets.get(name):
                self._fault("secrets_file", f"has no {name!r}", "add it, as in a file that ./dairyperf up made")
        return text

    def _accounts(self) -> tuple[Account, ...]:
        what = '[{ login = "LOGIN", uid = 7, role = "manager" }, …], as status --json prints them'
        rows = self._value("accounts", list, what)
        accounts = []
        for number, row in enumerate(rows or (), 1):
            kinds = {key: type(value) for key, value in row.items()} if isinstance(row, dict) else None
            if kinds == {"login": str, "uid": int, "role": str}:
                accounts.append(Account(**row))
            else:
                self._fault(f"accounts[{number}]", repr(row)[:60], f"give {what}")
        if rows == []:
            self._fault("accounts", "empty", f"give {what}")
        return tuple(accounts)

    def _mapping(self, key: str, kind: type) -> dict[str, Any]:
        table: dict[str, Any] = self._value(key, dict, "a table", {}) or {}
        for name, value in table.items():
            if type(value) is not kind:
                self._fault(f"{key}.{name}", repr(value)[:60], f"give {'a whole number' if kind is int else 'a text'}")
        return table


def to_toml(addresses: StackAddresses) -> str:
    """The table of a stack as `parse` reads it."""
    names = {name: key for key, name in _ALLOWED.items()}
    lines = [f"[{addresses.profile}]"]
    for name, value in asdict(addresses).items():
        if value is not None and name != "profile":
            lines.append(f"{names.get(name, name)} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_text(key)} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    """TOML's basic strings are JSON's, but for DEL and for characters beyond the first plane, which it writes as they
    are."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
