"""What the servers of a stack say of their own settings, and whom they let in: tried, not read from the files."""

from __future__ import annotations

import configparser
import json
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from harness import probe, reset, seed, servers
from harness.model import StackAddresses
from harness.services import pgbouncer

day40 = pytest.mark.parametrize("stack", ["day40"], indirect=True)


@pytest.fixture(scope="module", autouse=True)
def unchanged(stacks: dict[Any, StackAddresses]) -> Iterator[None]:
    """Nothing here leaves a row behind; what was there may be other tests'."""

    def checksums() -> list[str]:
        found = []
        for stack in stacks.values():
            with psycopg.connect(stack.postgres_dsn) as connection:
                found.append(seed.checksum(connection))
        return found

    before = checksums()
    yield
    assert checksums() == before


def home(stack: StackAddresses) -> Path:
    return Path(stack.log_dir).parent


def console_rows(stack: StackAddresses, command: str) -> list[dict[str, Any]]:
    with pgbouncer.console(stack.pgbouncer_dsn or "") as connection:
        return connection.cursor(row_factory=dict_row).execute(command).fetchall()


# --- settings read back


def test_postgresql_has_every_setting_of_its_file(stack: StackAddresses) -> None:
    written = dict(
        re.findall(r"^([\w.]+) = ('(?:[^']|'')*'|\S+)", (home(stack) / "postgresql.conf").read_text(), re.MULTILINE)
    )
    with psycopg.connect(stack.admin_dsn) as connection:
        faults = connection.execute("SELECT name, error FROM pg_file_settings WHERE NOT applied").fetchall()
        wrong_rules = connection.execute(
            "SELECT line_number, error FROM pg_hba_file_rules WHERE error <> ''"
        ).fetchall()
        rows = connection.execute(
            "SELECT lower(name), current_setting(name), setting FROM pg_settings WHERE lower(name) = ANY(%s)",
            [list(written)],
        ).fetchall()
    assert faults == []
    assert wrong_rules == []
    assert {name for name, *_ in rows} == set(written)
    for name, shown, setting in rows:
        value = written[name].strip("'").replace("''", "'")
        assert value in (shown, setting), name


@day40
def test_pgbouncer_has_every_setting_of_its_file(stack: StackAddresses) -> None:
    file = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    file.read(home(stack) / "pgbouncer/pgbouncer.ini")
    shown = {row["key"]: row["value"] or "" for row in console_rows(stack, "SHOW CONFIG")}
    assert {name: shown.get(name) for name in file["pgbouncer"]} == dict(file["pgbouncer"])
    # §4.3 and Day 36; what deviates from them says so in the file
    specified = {
        "pool_mode": "transaction",
        "default_pool_size": "25",
        "reserve_pool_size": "5",
        "reserve_pool_timeout": "3",
        "max_client_conn": "400",
        "max_db_connections": "100",
        "server_idle_timeout": "300",
        "client_idle_timeout": "600",
        "query_timeout": "30",
        "query_wait_timeout": "60",
        "log_connections": "1",
        "log_disconnections": "1",
        "log_pooler_errors": "1",
        "stats_period": "60",
        "client_tls_sslmode": "require",
    }
    assert {name: shown[name] for name in specified} == specified


@day40
def test_each_service_has_a_pool_and_listeners_a_session(stack: StackAddresses) -> None:
    aliases = {row["name"]: row for row in console_rows(stack, "SHOW DATABASES") if row["name"] != "pgbouncer"}
    columns = ("database", "pool_size", "reserve_pool", "pool_mode")
    assert {name: tuple(row[column] for column in columns) for name, row in aliases.items()} == {
        stack.database: (stack.database, 25, 5, None),  # None: as of the whole pgBouncer, transaction
        f"{stack.database}_api": (stack.database, 25, 5, None),
        "postgres": ("postgres", 25, 5, "session"),
    }
    assert probe.snapshot(stack).pgbouncer is not None
    users = {(row["database"], row["user"]) for row in console_rows(stack, "SHOW POOLS") if row["user"] != "pgbouncer"}
    assert users <= {(stack.database, "odoo"), (f"{stack.database}_api", "api"), ("postgres", "odoo")}


@day40
def test_redis_has_the_specifications_settings_and_keeps_its_data_twice(stack: StackAddresses) -> None:
    password = json.loads(Path(stack.secrets_file).read_text())["redis"]
    with redis.Redis.from_url(stack.redis_url or "", password=password, decode_responses=True) as client:
        shown = client.config_get("*")
        specified = {
            "maxmemory": str(2 * 1024**3),
            "maxmemory-policy": "volatile-lru",  # the one deviation; redis.conf says why
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "900 1 300 10 60 10000",
            "tcp-keepalive": "300",
            "bind": "127.0.0.1",
        }
        assert {name: shown[name] for name in specified} == specified
        client.save()
        persistence = client.info("persistence")
    assert (persistence["aof_enabled"], persistence["aof_last_write_status"]) == (1, "ok")
    assert (persistence["rdb_last_bgsave_status"], persistence["rdb_changes_since_last_save"]) == ("ok", 0)
    folder = home(stack) / "redis"
    assert (folder / shown["dbfilename"]).is_file()
    assert list((folder / shown["appenddirname"]).glob("*.aof"))
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(stack.redis_url or "").ping()


# --- who is let in


def port_of(dsn: str | None) -> int:
    return int(str(conninfo_to_dict(dsn or "")["port"]))


def attempt(dsn: str) -> str:
    """What the server says to a client that is not let in; "" where it is."""
    try:
        with psycopg.connect(dsn, connect_timeout=5):
            return ""
    except psycopg.OperationalError as error:
        return str(error)


@pytest.fixture
def wrong_passfile(tmp_path: Path) -> str:
    path = tmp_path / "passfile"
    path.write_text("*:*:*:*:not the password\n")
    path.chmod(0o600)
    return str(path)


@day40
@pytest.mark.parametrize(
    ("server", "database", "role"),
    [
        ("postgresql", "smart_dairy", "odoo"),
        ("postgresql", "postgres", "odoo"),
        ("postgresql", "smart_dairy", "api"),
        ("postgresql", "smart_dairy", "harness"),
        ("postgresql", "smart_dairy_seed", "postgres"),
        ("pgbouncer", "smart_dairy", "odoo"),
        ("pgbouncer", "postgres", "odoo"),
        ("pgbouncer", "smart_dairy_api", "api"),
        ("pgbouncer", "pgbouncer", "harness"),
    ],
)
def test_a_role_gets_where_its_work_is_by_tls_with_its_password_only(
    stack: StackAddresses, server: str, database: str, role: str, wrong_passfile: str
) -> None:
    pooled = server == "pgbouncer"
    known = make_conninfo(
        stack.postgres_dsn,
        port=port_of(stack.pgbouncer_dsn if pooled else stack.postgres_dsn),
        dbname=database,
        user=role,
    )
    if database != "pgbouncer":
        assert attempt(known) == ""
    else:
        assert pgbouncer.answers(known)
    plain = attempt(make_conninfo(known, sslmode="disable"))
    assert ("SSL required" if pooled else "no encryption") in plain
    refused = attempt(make_conninfo(known, passfile=wrong_passfile))
    assert ("SASL authentication failed" if pooled else "password authentication failed") in refused
    stranger = attempt(make_conninfo(known, sslrootcert="system"))
    assert "certificate verify failed" in stranger


@day40
@pytest.mark.parametrize(
    ("server", "database", "role"),
    [
        ("postgresql", "smart_dairy_seed", "odoo"),
        ("postgresql", "smart_dairy_seed", "harness"),
        ("postgresql", "postgres", "api"),
        ("postgresql", "postgres", "harness"),
        ("pgbouncer", "smart_dairy_api", "odoo"),
        ("pgbouncer", "smart_dairy", "api"),
        ("pgbouncer", "smart_dairy", "harness"),
        ("pgbouncer", "smart_dairy", "postgres"),
        ("pgbouncer", "pgbouncer", "odoo"),
    ],
)
def test_a_role_gets_nowhere_else(stack: StackAddresses, server: str, database: str, role: str) -> None:
    port = port_of(stack.pgbouncer_dsn if server == "pgbouncer" else stack.postgres_dsn)
    said = attempt(make_conninfo(stack.postgres_dsn, port=port, dbname=database, user=role))
    refusal = "not allowed" if database == "pgbouncer" else "login rejected"  # its console has rules of its own
    assert (refusal if server == "pgbouncer" else "pg_hba.conf rejects connection") in said


@pytest.fixture
def other_role(stack: StackAddresses, wrong_passfile: str) -> Iterator[str]:
    """A login role with a password that is known, and with every right: but no line lets it in."""
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE stranger LOGIN SUPERUSER PASSWORD 'not the password'")
        yield make_conninfo(stack.postgres_dsn, user="stranger", passfile=wrong_passfile)
        connection.execute("DROP ROLE stranger")


@day40
def test_another_role_is_rejected(stack: StackAddresses, other_role: str) -> None:
    for database in (stack.database, "postgres", f"{stack.database}_seed"):
        assert "pg_hba.conf rejects connection" in attempt(make_conninfo(other_role, dbname=database))
    pooled = make_conninfo(other_role, port=port_of(stack.pgbouncer_dsn))
    assert "login rejected" in attempt(pooled)


@pytest.mark.parametrize("stack", ["day31"], indirect=True)
def test_day31_knows_neither_tls_nor_rules(stack: StackAddresses, other_role: str) -> None:
    assert attempt(make_conninfo(other_role, dbname="postgres")) == ""
    assert "server does not support SSL" in attempt(make_conninfo(stack.postgres_dsn, sslmode="require"))


def says_to(address: str, port: int, user: str, database: str, root_certificate: str) -> bytes:
    """The first message of the server on loopback to a client that comes from `address`, by TLS. libpq cannot choose
    the address that it comes from."""
    with socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(address, 0)) as plain:
        plain.sendall(struct.pack("!II", 8, 80877103))  # SSLRequest
        assert plain.recv(1) == b"S"
        context = ssl.create_default_context(cafile=root_certificate)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
            parameters = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
            encrypted.sendall(struct.pack("!II", 8 + len(parameters), 3 << 16) + parameters)
            return encrypted.recv(4096)


@day40
@pytest.mark.parametrize(
    ("server", "database"), [("postgresql", "smart_dairy"), ("pgbouncer", "pgbouncer")], ids=["direct", "pooled"]
)
def test_another_address_is_rejected(stack: StackAddresses, server: str, database: str) -> None:
    port = port_of(stack.pgbouncer_dsn if server == "pgbouncer" else stack.postgres_dsn)
    root_certificate = str(conninfo_to_dict(stack.postgres_dsn)["sslrootcert"])
    assert says_to("127.0.0.1", port, "harness", database, root_certificate)[:1] == b"R"  # asks for the password
    said = says_to("127.0.0.2", port, "harness", database, root_certificate)
    assert said[:1] == b"E"
    assert (b"login rejected" if server == "pgbouncer" else b'rejects connection for host "127.0.0.2"') in said


@day40
def test_every_connection_to_postgresql_is_by_tls(stack: StackAddresses) -> None:
    query = (
        "SELECT usename, datname, ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
        "WHERE backend_type = 'client backend'"
    )
    with (
        psycopg.connect(
            make_conninfo(stack.postgres_dsn, dbname="smart_dairy_api", user="api", port=port_of(stack.pgbouncer_dsn))
        ),
        psycopg.connect(stack.postgres_dsn) as connection,
    ):
        rows = connection.execute(query).fetchall()
    links = [row for row in rows if row[0] == "api"]
    assert links
    assert {(secure, version in ("TLSv1.2", "TLSv1.3")) for _, _, secure, version in rows} == {(True, True)}
    servers = console_rows(stack, "SHOW SERVERS")
    assert {row["tls"].split("/")[0] for row in servers} <= {"TLSv1.2", "TLSv1.3"}


# --- pools


@day40
def test_a_notification_comes_through_the_pool(stack: StackAddresses) -> None:
    """As Odoo's: LISTEN is a session's, which a transaction pool would silently lose."""
    dsn = make_conninfo(stack.postgres_dsn, port=port_of(stack.pgbouncer_dsn), dbname="postgres", user="odoo")
    with psycopg.connect(dsn, autocommit=True) as listener, psycopg.connect(dsn, autocommit=True) as speaker:
        listener.execute("LISTEN cron_trigger")
        speaker.execute("NOTIFY cron_trigger, 'now'")
        (heard,) = listener.notifies(timeout=10, stop_after=1)
    assert (heard.channel, heard.payload) == ("cron_trigger", "now")


# --- the WAL archive


def wait(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


@day40
def test_samples_and_snapshots_tell_how_far_the_archive_is(stack: StackAddresses) -> None:
    """A segment is written, closed and archived; the archive's file is the segment."""
    archive = home(stack) / "archive"
    before = probe.snapshot(stack)
    with probe.Probes(stack) as probes, psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        reset.archive_wal(connection)
        complete = probes.sample()
        # transactional: WAL, and nothing else, remains
        connection.execute("SELECT pg_logical_emit_message(true, 'dairyperf', repeat('x', 100000))")
        behind = probes.sample()
        reset.archive_wal(connection)
        after = probes.sample()
        (name,) = connection.execute("SELECT last_archived_wal FROM pg_stat_archiver").fetchone() or ("",)
        assert probes.warnings == []
    assert complete["wal.written_bytes"] <= complete["wal.archived_bytes"]
    assert behind["wal.written_bytes"] >= complete["wal.written_bytes"] + 100_000
    assert behind["wal.archived_bytes"] == complete["wal.archived_bytes"]
    assert behind["wal.since_archived_s"] >= 0
    assert after["wal.archived_bytes"] >= behind["wal.written_bytes"]
    assert after["wal.archived_bytes"] == behind["wal.archived_bytes"] + 16 * 1024**2
    assert (archive / name).stat().st_size == 16 * 1024**2
    assert (archive / name).stat().st_mode & 0o077 == 0
    assert archive.stat().st_mode & 0o077 == 0
    assert not list(archive.glob("*.copying"))
    change = servers.diff(before, probe.snapshot(stack), {})
    assert change.archive is not None
    assert change.archive.segments >= 1
    assert (change.archive.archived_bytes, change.archive.failures) == (change.archive.segments * 16 * 1024**2, 0)


@pytest.mark.parametrize("stack", ["day31"], indirect=True)
def test_day31_archives_nothing(stack: StackAddresses) -> None:
    with probe.Probes(stack) as probes:
        assert not [name for name in probes.sample() if name.startswith("wal.")]
        assert probes.warnings == []
    assert servers.diff(probe.snapshot(stack), probe.snapshot(stack), {}).archive is None


@day40
def test_a_segment_that_cannot_be_archived_counts_as_a_failure_and_is_kept(stack: StackAddresses) -> None:
    """The name that comes next is taken by something else: PostgreSQL tries again until it is gone."""
    archive = home(stack) / "archive"
    before = probe.snapshot(stack)
    with psycopg.connect(stack.admin_dsn, autocommit=True) as connection:
        reset.archive_wal(connection)
        connection.execute("SELECT pg_logical_emit_message(true, 'dairyperf', 'x')")
        (name,) = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone() or ("",)
        (archive / name).write_text("of another server")

        def failed() -> bool:
            return connection.execute("SELECT last_failed_wal FROM pg_stat_archiver").fetchone() == (name,)

        try:
            connection.execute("SELECT pg_switch_wal()")
            wait(failed, 20)
            assert (archive / name).read_text() == "of another server"
        finally:
            (archive / name).unlink()
        connection.execute("SELECT pg_logical_emit_message(true, 'dairyperf', 'x')")
        reset.archive_wal(connection)
    change = servers.diff(before, probe.snapshot(stack), {})
    assert change.archive.failures >= 1
    assert (archive / name).stat().st_size == 16 * 1024**2
