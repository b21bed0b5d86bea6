"""The file that describes a stack which somebody else runs: what it says, what is wrong with it, what it allows."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness import reset
from harness.errors import InputError
from harness.model import Account, StackAddresses
from harness.services.external import External, parse, to_toml

PASSWORD = "not-to-be-shown"
FILLED = StackAddresses(
    profile="day40",
    odoo_url="http://10.0.0.5:8069",
    api_url="https://api.example:8000",
    postgres_dsn="host=10.0.0.5 dbname=smart_dairy user=harness passfile={folder}/passfile application_name=dairyperf",
    admin_dsn="host=10.0.0.5 dbname=postgres user=postgres passfile={folder}/passfile application_name=dairyperf",
    pgbouncer_dsn=None,
    redis_url="redis://10.0.0.5:6379/0",
    database="smart_dairy",
    accounts=(Account(login="farm_worker", uid=7, role="worker"),),
    passfile="{folder}/passfile",
    secrets_file="{folder}/secrets.json",
    as_of="2026-02-03",
    herd=255,
    seed=42,
    checksum="c0ffee",
    counts={"farm.animal": 255},
    versions={"postgresql": "16.14"},
    log_dir="/var/log/postgresql",
    pids={"odoo": 12},
    may_write=True,
    may_reset=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the secrets that a file names."""
    place = tmp_path_factory.mktemp("staging")
    secrets = {"odoo": {"farm_worker": PASSWORD}, "odoo_keys": {"farm_worker": "k"}, "api_key": "k", "redis": "r"}
    for name, text in (("passfile", f"*:*:*:harness:{PASSWORD}\n"), ("secrets.json", json.dumps(secrets))):
        (place / name).write_text(text)
        (place / name).chmod(0o600)
    return place


@pytest.fixture
def described(folder: Path) -> StackAddresses:
    texts = {f.name: getattr(FILLED, f.name) for f in dataclasses.fields(FILLED)}
    moved = {n: v.replace("{folder}", str(folder)) for n, v in texts.items() if isinstance(v, str)}
    canonical = {n: make_conninfo("", **conninfo_to_dict(moved[n])) for n in ("postgres_dsn", "admin_dsn")}
    return dataclasses.replace(FILLED, **moved | canonical)


def test_a_stack_reads_back_as_it_was_written(described: StackAddresses, folder: Path) -> None:
    assert parse(to_toml(described), folder / "file.toml") == {"day40": described}
    other = dataclasses.replace(described, profile="day31", redis_url=None, admin_dsn=None, may_reset=False)
    both = to_toml(other) + "\n" + to_toml(described)
    assert parse(both, folder / "file.toml") == {"day31": other, "day40": described}


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_reads_back(text: str) -> None:
    written = tomllib.loads(to_toml(dataclasses.replace(FILLED, database=text, versions={text: text})))
    assert written["day40"]["database"] == text
    assert written["day40"]["versions"] == {text: text}


def test_paths_are_relative_to_the_file(described: StackAddresses, folder: Path) -> None:
    near = dataclasses.replace(described, passfile="passfile", secrets_file="secrets.json")
    assert parse(to_toml(near), folder / "file.toml") == {"day40": described}


def test_nothing_is_allowed_that_the_file_does_not_say(described: StackAddresses, folder: Path) -> None:
    lines = [line for line in to_toml(described).splitlines() if not line.startswith("allow_")]
    stack = parse("\n".join(lines), folder / "file.toml")["day40"]
    assert (stack.may_write, stack.may_reset) == (False, False)
    with pytest.raises(InputError, match="allow_writes = true"):
        reset.check_may_write(stack)


def test_a_reset_that_is_not_allowed_touches_nothing(described: StackAddresses) -> None:
    # nothing answers at its addresses: whoever tried to connect would get another error
    for stack in (dataclasses.replace(described, may_reset=False), dataclasses.replace(described, admin_dsn=None)):
        for act in (reset.stack, reset.database):
            with pytest.raises(InputError, match="does not allow a reset; set allow_reset = true"):
                act(stack)


FAULTY = """
[day30]
[day40]
odoo_url = "10.0.0.5:8069"
api_url = "http://admin:not-to-be-shown@10.0.0.5"
postgres_dsn = "host=10.0.0.5 user=harness password=not-to-be-shown"
admin_dsn = "not a dsn"
pgbouncer_dsn = "dbname=pgbouncer"
redis_url = 6379
accounts = [{ login = "farm_worker" }]
passfile = "nowhere"
secrets_file = "open.json"
as_of = "yesterday"
herd = 0
seed = true
counts = { "farm.animal" = "many" }
allow_reset = true
alow_writes = true
"""


def test_all_faults_are_told_at_once_with_their_place_and_no_secret(folder: Path) -> None:
    open_to_all = folder / "open.json"
    open_to_all.write_text('{"odoo": {"farm_worker": "not-to-be-shown"}}')
    open_to_all.chmod(0o644)
    with pytest.raises(InputError) as raised:
        parse(FAULTY, folder / "file.toml")
    lines = str(raised.value).splitlines()
    found = [line.removeprefix(f"{folder}/file.toml: ") for line in lines]
    places = [
        *("day30", "odoo_url", "api_url", "postgres_dsn", "admin_dsn", "pgbouncer_dsn", "pgbouncer_dsn", "redis_url"),
        *("database", "accounts[1]", "passfile", "secrets_file", "secrets_file", "secrets_file"),
        *("as_of", "herd", "seed", "counts.farm.animal", "checksum", "allow_writes", "alow_writes"),
    ]
    assert sorted(line.removeprefix("[day40] ").partition(": ")[0] for line in found) == sorted(places)
    assert all(line.count("; ") >= 1 for line in lines)
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no table; write"),
        ("day40 = 1", "is no table; write [day40]"),
        ("[day40", "correct the TOML"),
    ],
)
def test_a_file_without_a_stack(text: str, said: str, folder: Path) -> None:
    with pytest.raises(InputError) as raised:
        parse(text, folder / "file.toml")
    assert said in str(raised.value)


def test_a_stack_of_others_is_never_started_or_stopped(described: StackAddresses, folder: Path) -> None:
    file = folder / "file.toml"
    file.write_text(to_toml(described))
    stack = External(file)
    assert stack.is_up("day40")
    assert not stack.is_up("day31")
    assert stack.status("day31") == {"profile": "day31", "state": "down"}
    with pytest.raises(InputError, match=r"has no table \[day31\]; add one, or give --profile day40"):
        stack.read("day31")
    with pytest.raises(InputError, match="not ours to stop"):
        stack.down("day40")
    with pytest.raises(InputError, match="not started from here; leave --port"):
        stack.up("day40", print, herd=255, seed=42, ports={"odoo": 8069}, odoo_source=None, detach=False).__enter__()


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read(name: str, folder: Path) -> None:
    with pytest.raises(InputError, match="name a TOML file of addresses"):
        External(folder / name).read("day40")
