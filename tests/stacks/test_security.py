"""Who may see and do what on the running stacks, tried: the privilege matrix, the policies, identity in requests."""

from __future__ import annotations

import csv
import json
import xmlrpc.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import date
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import tuple_row

from fixtures import endpoints, herd
from fixtures.answers.seeded import Answers
from fixtures.api.identity import Identity
from harness import seed
from harness.model import Account, Profile, StackAddresses

MATRIX = Path(__file__).parents[2] / "fixtures/security/privileges.csv"
PARTITION = "farm.milk_production_2026_q1"

Rule = tuple[str, str, str, str]  # role, kind, object, privileges


@pytest.fixture(scope="module")
def day40(stacks: dict[Profile, StackAddresses]) -> StackAddresses:
    return stacks["day40"]


@pytest.fixture(scope="module")
def keys(day40: StackAddresses) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(day40.secrets_file).read_text())
    return content


def login(stack: StackAddresses, user: str) -> psycopg.Connection[Any]:
    """A direct connection of that role, with its own password."""
    return psycopg.connect(make_conninfo(stack.postgres_dsn, user=user), autocommit=True, row_factory=tuple_row)


def superuser(stack: StackAddresses) -> psycopg.Connection[Any]:
    return psycopg.connect(stack.admin_dsn, dbname=stack.database, autocommit=True, row_factory=tuple_row)


def account(stack: StackAddresses, role: str) -> Account:
    return next(one for one in reversed(stack.accounts) if one.role == role)


@contextmanager
def acting(connection: psycopg.Connection[Any], slug: str, who: Account) -> Iterator[None]:
    """A transaction as the applications open it, rolled back at its end."""
    connection.execute(Identity(endpoints.role(slug, who.role), who.uid).opening())
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def column(connection: psycopg.Connection[Any], statement: str, *parameters: object) -> list[Any]:
    return [row[0] for row in connection.execute(statement, parameters).fetchall()]


def xml_rpc(stack: StackAddresses, keys: dict[str, Any], who: Account, model: str, method: str, *arguments: Any) -> Any:
    proxy = xmlrpc.client.ServerProxy(f"{stack.odoo_url}/xmlrpc/2/object")
    with closing(proxy("transport")):
        return proxy.execute_kw(stack.database, who.uid, keys["odoo"][who.login], model, method, *arguments)


def api(stack: StackAddresses, keys: dict[str, Any], who: Account) -> httpx.Client:
    return httpx.Client(base_url=stack.api_url, headers={"X-API-Key": keys["api_keys"][who.login]}, timeout=30)


@cache
def own_ids(stack_of: tuple[int, int, str], uid: int) -> tuple[frozenset[int], Answers]:
    """The active animals of the user's sections, as the seed has them, and what is answered of these."""
    animals, seeded, as_of = stack_of
    answers = Answers(animals, seeded, date.fromisoformat(as_of))
    rows = {str(table): list(rows) for table, rows in islice(herd.generate(animals, seeded), 2)}
    sections = {section for user, section in rows["core.user_section_assignment"] if user == uid}
    own = (row["id"] for row in answers.animals if row["status"] == "active" and row["section_id"] in sections)
    ids = frozenset(own)
    assert 0 < len(ids) < len(answers.active_ids)
    return ids, answers.seen_by(ids)


def seen(stack: StackAddresses, who: Account) -> tuple[frozenset[int], Answers]:
    return own_ids((stack.herd, stack.seed, stack.as_of), who.uid)


# --- the matrix ----------------------------------------------------------------------------------------------------


def expected_rules() -> set[Rule]:
    """`*` in a role or an object stands for every endpoint of that login."""
    rules: set[Rule] = set()
    for row in csv.DictReader(MATRIX.read_text().splitlines()):
        pattern = next((row[part] for part in ("role", "object") if row[part].startswith("ep_")), None)
        prefix = pattern.removeprefix("ep_").partition("*")[0] if pattern else ""
        slugs = [slug.removeprefix(prefix) for slug in endpoints.SLUGS if slug.startswith(prefix)] if pattern else [""]
        privileges = " ".join(sorted(row["privileges"].split()))
        for slug in slugs:
            name = row["object"].replace("*", slug) if pattern else row["object"]
            rules.add((row["role"].replace("*", slug), row["kind"], name, privileges))
    return rules


# Whoever owns a thing has every right to it; roles below 16384 are PostgreSQL's own.
_ACTUAL = """
WITH acl (owner, kind, object, entry) AS (
    SELECT nspowner, 'schema', nspname::text, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
    FROM pg_namespace WHERE nspname = ANY (%(schemas)s)
  UNION ALL
    SELECT relowner, CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END,
           CASE nspname WHEN 'public' THEN 'public.*' ELSE nspname || '.' || relname END,
           aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)))
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = ANY (%(schemas)s) AND relkind IN ('r', 'p', 'v', 'm', 'S') AND relowner <> 10
  UNION ALL
    SELECT relowner, 'column', nspname || '.' || relname || '.' || attname, aclexplode(attacl)
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = ANY (%(schemas)s) AND attacl IS NOT NULL
  UNION ALL
    SELECT proowner, 'function', nspname || '.' || proname, aclexplode(coalesce(proacl, acldefault('f', proowner)))
    FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
    WHERE nspname = ANY (%(schemas)s) AND (nspname <> 'public' OR proname = 'pg_stat_statements_reset')
), granted AS (
    SELECT DISTINCT coalesce(g.rolname, 'PUBLIC') AS role, kind, object, (entry).privilege_type AS privilege, owner
    FROM acl LEFT JOIN pg_roles g ON g.oid = (entry).grantee
    WHERE (entry).grantee <> owner AND (entry).grantee <> 10
)
SELECT role, kind, object, string_agg(DISTINCT privilege, ' ' ORDER BY privilege) FROM granted GROUP BY 1, 2, 3
UNION ALL
SELECT rolname, 'role', '',
       concat_ws(' ', CASE WHEN rolbypassrls THEN 'BYPASSRLS' END, CASE WHEN rolcreatedb THEN 'CREATEDB' END,
                 CASE WHEN rolcreaterole THEN 'CREATEROLE' END, CASE WHEN rolcanlogin THEN 'LOGIN' END,
                 CASE WHEN rolreplication THEN 'REPLICATION' END, CASE WHEN rolsuper THEN 'SUPERUSER' END)
FROM pg_roles WHERE oid >= 16384
UNION ALL
SELECT m.rolname, 'member', r.rolname,
       concat_ws(' ', CASE WHEN admin_option THEN 'ADMIN' END, CASE WHEN inherit_option THEN 'INHERIT' END,
                 CASE WHEN set_option THEN 'SET' END)
FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles r ON r.oid = a.roleid
WHERE m.oid >= 16384
"""


def test_the_privileges_are_those_of_the_matrix(stack: StackAddresses) -> None:
    with superuser(stack) as connection:
        actual = set(connection.execute(_ACTUAL, {"schemas": [*seed.SCHEMAS, "public"]}).fetchall())
        owners = column(
            connection,
            "SELECT DISTINCT rolname FROM pg_class c JOIN pg_roles r ON r.oid = relowner"
            " WHERE relnamespace::regnamespace::text = ANY (%s)",
            list(seed.SCHEMAS),
        )
    expected = expected_rules()
    assert actual - expected == set(), "on the server, not in the matrix"
    assert expected - actual == set(), "in the matrix, not on the server"
    assert owners == ["farm_owner"]
    assert ("farm_owner", "role", "", "") in actual, "who owns the tables cannot log in"
    assert not any(rule[1] == "member" and rule[2] == "farm_owner" for rule in actual)


def test_policies_are_day40s(stacks: dict[Profile, StackAddresses]) -> None:
    def found(profile: Profile) -> tuple[list[str], list[str], list[bool]]:
        with superuser(stacks[profile]) as connection:
            return (
                column(connection, "SELECT relname FROM pg_class WHERE relrowsecurity ORDER BY 1"),
                column(connection, "SELECT polname FROM pg_policy ORDER BY 1"),
                column(
                    connection,
                    "SELECT proleakproof FROM pg_proc WHERE oid = 'jsonb_contains(jsonb,jsonb)'::regprocedure",
                ),
            )

    assert found("day31") == ([], [], [False])
    tables, policies, leakproof = found("day40")
    assert tables == ["animal", "breeding_record", "health_record", "milk_production", "sensor_reading"]
    assert {"farm_manager_all", "farm_worker_section", "auditor_readonly", "milk_prod_manager", "milk_prod_worker"} < {
        *policies
    }
    assert leakproof == [True]


# --- what is seen --------------------------------------------------------------------------------------------------


def test_a_worker_sees_the_same_by_sql_by_the_api_and_by_odoo(day40: StackAddresses, keys: dict[str, Any]) -> None:
    worker = account(day40, "worker")
    own, answers = seen(day40, worker)
    milk = {row["id"] for row in answers.milk_of_day(answers.as_of)}
    some_cow = min(answers.lactating_ids)
    stranger = min(set(herd.inputs(day40.herd, day40.seed).lactating_ids) - own)
    with login(day40, "api") as connection, acting(connection, "api_animals", worker):
        assert set(column(connection, "SELECT id FROM farm.animal")) == own
        seeded = "SELECT id FROM farm.milk_production WHERE production_date = core.as_of() AND id <= %s"
        assert set(column(connection, seeded, answers.last_milking_id)) == milk
        assert set(column(connection, "SELECT DISTINCT animal_id FROM farm.milk_production")) <= own
        assert set(column(connection, "SELECT DISTINCT animal_id FROM farm.health_record")) <= own
        assert set(column(connection, "SELECT DISTINCT animal_id FROM iot.sensor_reading")) <= own
    with api(day40, keys, worker) as client:
        assert {row["id"] for row in client.get("/api/v1/animals?limit=500").json()["items"]} == own
        assert client.get(f"/api/v1/milk-production/{some_cow}/history").status_code == 200
        assert client.get(f"/api/v1/milk-production/{stranger}/history").status_code == 404
        assert client.get("/api/v1/orders/open").json()["code"] == "forbidden"
    assert set(xml_rpc(day40, keys, worker, "farm.animal", "search", [[]])) == own
    found = xml_rpc(
        day40,
        keys,
        worker,
        "farm.milk_production",
        "search_read",
        [[["production_date", "=", day40.as_of]]],
        {"fields": ["animal_id"]},
    )
    assert {row["id"] for row in found if row["id"] <= answers.last_milking_id} == milk
    assert {row["animal_id"][0] for row in found} == answers.lactating_ids


def test_without_an_identity_nothing_is_seen(day40: StackAddresses) -> None:
    worker = account(day40, "worker")
    for user, view in (("api", "farm.animal"), ("odoo", "farm.animal"), ("odoo", "public.farm_animal")):
        with login(day40, user) as connection, pytest.raises(InsufficientPrivilege):
            connection.execute(f"SELECT count(*) FROM {view}")
    with login(day40, "api") as connection:
        for user_id in ("SET LOCAL app.current_user_id = ''", "SET LOCAL app.current_user_id = '9999'", "SELECT"):
            with acting(connection, "api_animals", worker):
                connection.execute("SET LOCAL app.current_user_id = ''")
                connection.execute(user_id)
                assert column(connection, "SELECT count(*) FROM farm.animal") == [0]
        # on a connection that was somebody's before, the setting is an empty text
        assert column(connection, "SELECT current_setting('app.current_user_id', true)") == [""]
        with pytest.raises(InsufficientPrivilege, match="permission denied to set role"):
            connection.execute("SET ROLE farm_manager_role")


@pytest.mark.parametrize("role", ["manager", "worker", "auditor"])
def test_a_partition_read_directly_is_refused(stack: StackAddresses, role: str) -> None:
    for user, slug in (("api", "api_animals"), ("odoo", "odoo_other")):
        refused = pytest.raises(InsufficientPrivilege, match="milk_production_2026_q1")
        with login(stack, user) as connection, acting(connection, slug, account(stack, role)), refused:
            connection.execute(f"SELECT count(*) FROM {PARTITION}")


def test_monitoring_counts_everything_and_reads_nothing_else(stack: StackAddresses) -> None:
    totals = (
        "SELECT count(*) FROM farm.milk_production UNION ALL SELECT count(*) FROM farm.animal WHERE status = 'active'"
    )
    with login(stack, "monitoring") as connection, superuser(stack) as all_seeing:
        assert column(connection, totals) == column(all_seeing, totals)
        assert column(
            connection, "SELECT count(*) > 0 FROM pg_stat_statements WHERE query <> '<insufficient privilege>'"
        )
        for statement in ("SELECT FROM farm.health_record", f"SELECT FROM {PARTITION}", "DELETE FROM farm.animal"):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(statement)


def test_the_harness_proves_every_row(stack: StackAddresses) -> None:
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
        counted = seed.counts(connection)
    assert counted.keys() == stack.counts.keys()
    assert all(counted[table] >= rows for table, rows in stack.counts.items())
    assert counted["farm.animal"] == stack.counts["farm.animal"]


# --- what is written -----------------------------------------------------------------------------------------------

MILKING = "INSERT INTO farm.milk_production (animal_id, production_date, shift, quantity_litres)"


def test_a_worker_writes_in_own_sections_alone(day40: StackAddresses, keys: dict[str, Any]) -> None:
    worker = account(day40, "worker")
    own, answers = seen(day40, worker)
    mine = min(answers.lactating_ids)
    theirs = min(set(herd.inputs(day40.herd, day40.seed).lactating_ids) - own)
    made: list[int] = []
    with login(day40, "api") as connection:
        with acting(connection, "api_milk_create", worker):
            insert = f"{MILKING} VALUES (%s, core.as_of(), 'noon', 1) RETURNING id"
            (new,) = column(connection, insert, mine)
            moved = connection.execute("UPDATE farm.milk_production SET snf_percentage = 8 WHERE id = %s", [new])
            assert moved.rowcount == 1
            untouched = connection.execute(
                "UPDATE farm.milk_production SET snf_percentage = 8 WHERE animal_id = %s", [theirs]
            )
            assert untouched.rowcount == 0
            with pytest.raises(InsufficientPrivilege, match="row-level security"):
                connection.execute("UPDATE farm.milk_production SET animal_id = %s WHERE id = %s", [theirs, new])
        with acting(connection, "api_milk_create", worker), pytest.raises(InsufficientPrivilege, match="row-level"):
            connection.execute(insert, [theirs])
        with acting(connection, "api_milk_create", worker), pytest.raises(InsufficientPrivilege, match="animal"):
            connection.execute("UPDATE farm.animal SET status = 'sold'")
    body = {"shift": "noon", "quantity_litres": 1.5}
    with api(day40, keys, worker) as client:
        accepted = client.post("/api/v1/milk-production", json={**body, "animal_id": mine})
        refused = client.post("/api/v1/milk-production", json={**body, "animal_id": theirs})
    assert (accepted.status_code, refused.status_code) == (201, 403)
    assert refused.json()["code"] == "forbidden"
    made.append(accepted.json()["id"])
    values = {**body, "production_date": day40.as_of}
    made.append(xml_rpc(day40, keys, worker, "farm.milk_production", "create", [{**values, "animal_id": mine}]))
    with pytest.raises(xmlrpc.client.Fault, match="not to this animal") as fault:
        xml_rpc(day40, keys, worker, "farm.milk_production", "create", [{**values, "animal_id": theirs}])
    assert fault.value.faultCode == 4
    assert {row["id"] for row in xml_rpc(day40, keys, worker, "farm.milk_production", "read", [made, ["shift"]])} == {
        *made
    }
    with superuser(day40) as connection:
        assert connection.execute("DELETE FROM farm.milk_production WHERE id = ANY (%s)", [made]).rowcount == 2


def test_an_auditor_reads_everything_and_writes_nothing(day40: StackAddresses, keys: dict[str, Any]) -> None:
    auditor = account(day40, "auditor")
    with login(day40, "api") as connection:
        with acting(connection, "api_animals", auditor), superuser(day40) as all_seeing:
            for table in day40.counts:
                schema, name = table.split(".")
                statement = f'SELECT count(*) FROM {schema}."{name}"'
                assert column(connection, statement) == column(all_seeing, statement)
        for table in day40.counts:
            schema, name = table.split(".")
            with acting(connection, "api_animals", auditor), pytest.raises(InsufficientPrivilege):
                connection.execute(f'INSERT INTO {schema}."{name}" DEFAULT VALUES')
            with acting(connection, "api_animals", auditor), pytest.raises(InsufficientPrivilege):
                connection.execute(f'DELETE FROM {schema}."{name}"')
    with api(day40, keys, auditor) as client:
        body = {"animal_id": 1, "shift": "noon", "quantity_litres": 1.5}
        assert client.post("/api/v1/milk-production", json=body).status_code == 403
    with pytest.raises(xmlrpc.client.Fault) as fault:
        xml_rpc(day40, keys, auditor, "farm.animal", "write", [[1], {"notes": "audited"}])
    assert fault.value.faultCode == 4


# --- identity ------------------------------------------------------------------------------------------------------


def test_statements_are_counted_under_their_endpoint(stack: StackAddresses) -> None:
    secrets = json.loads(Path(stack.secrets_file).read_text())
    worker = account(stack, "worker")

    def calls() -> dict[str, int]:
        with superuser(stack) as connection:
            counted = connection.execute(
                "SELECT rolname, sum(calls)::int FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid"
                " WHERE query ~ 'farm[._]' GROUP BY 1"
            )
            return dict(counted.fetchall())

    before = calls()
    with api(stack, secrets, worker) as client:
        for offset in range(3):
            assert client.get(f"/api/v1/animals?limit=499&offset={offset}").status_code == 200
    xml_rpc(stack, secrets, worker, "farm.animal", "search_read", [[["status", "=", "active"]], ["name"]])
    xml_rpc(stack, secrets, worker, "farm.animal", "search", [[]])
    now = {role: count - before.get(role, 0) for role, count in calls().items() if count > before.get(role, 0)}
    assert now.keys() - {"postgres", "harness"} == {
        "ep_api_animals_worker",
        "ep_odoo_farm_animal_search_read_worker",
        "ep_odoo_other_worker",
    }
    assert now["ep_api_animals_worker"] == 3
    assert [endpoints.endpoint_of(role) for role in sorted(now) if role.startswith("ep_")] == [
        "api GET /api/v1/animals",
        "odoo farm.animal.search_read",
        None,
    ]


def test_no_identity_reaches_the_next_client_of_a_pooled_connection(
    day40: StackAddresses, keys: dict[str, Any]
) -> None:
    """All accounts at once, through the API and Odoo and straight through the pool, each again and again."""
    counts = {
        one.uid: len(seen(day40, one)[0]) if one.role == "worker" else day40.counts["farm.animal"]
        for one in day40.accounts
    }
    assert day40.pgbouncer_dsn is not None
    pool = make_conninfo(day40.pgbouncer_dsn, dbname=f"{day40.database}_api", user="api")

    def through_the_api(who: Account) -> set[int]:
        with api(day40, keys, who) as client:
            return {len(client.get("/api/v1/animals?limit=500").json()["items"]) for _ in range(12)}

    def through_odoo(who: Account) -> set[int]:
        return {xml_rpc(day40, keys, who, "farm.animal", "search_count", [[]]) for _ in range(12)}

    def straight(who: Account) -> set[int]:
        found = set()
        with psycopg.connect(pool, autocommit=True, prepare_threshold=None) as connection:
            backends = set()
            for _ in range(25):
                with acting(connection, "api_animals", who):
                    found |= set(column(connection, "SELECT count(*) FROM farm.animal"))
                [(user, me, backend)] = connection.execute(
                    "SELECT current_user, coalesce(current_setting('app.current_user_id', true), ''), pg_backend_pid()"
                ).fetchall()
                assert (user, me) == ("api", "")
                backends.add(backend)
            used.append(backends)
        return found

    used: list[set[int]] = []
    with ThreadPoolExecutor(max_workers=12) as threads:
        asked = {
            (way.__name__, who.uid): threads.submit(way, who)
            for who in day40.accounts
            for way in (through_the_api, through_odoo, straight)
        }
        answered = {key: future.result() for key, future in asked.items()}
    assert {key: found for key, found in answered.items() if found != {counts[key[1]]}} == {}
    assert any(one & other for one in used for other in used if one is not other), "no two clients shared a connection"


def test_a_repeated_call_of_odoo_is_the_accounts_again(day40: StackAddresses, keys: dict[str, Any]) -> None:
    """A write that lost a race is rolled back, the role with it, and repeated by Odoo in a new transaction."""
    boss = account(day40, "manager")
    answered: list[Any] = []
    with ExitStack() as running:
        first = running.enter_context(closing(superuser(day40)))
        watch = running.enter_context(closing(superuser(day40)))
        [weight] = column(first, "SELECT weight_kg FROM farm.animal WHERE id = 1")
        first.execute("BEGIN")
        first.execute("UPDATE farm.animal SET weight_kg = 400 WHERE id = 1")
        call = (day40, keys, boss, "farm.animal", "write", [[1], {"weight_kg": 410.0}])
        thread = Thread(target=lambda: answered.append(xml_rpc(*call)))
        thread.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'odoo' AND wait_event_type = 'Lock'"
        while column(watch, waiting) == [0]:
            assert thread.is_alive()
        first.execute("COMMIT")
        thread.join(60)
        assert answered == [True]
        assert column(watch, "SELECT weight_kg::float FROM farm.animal WHERE id = 1") == [410.0]
        watch.execute("UPDATE farm.animal SET weight_kg = %s WHERE id = 1", [weight])
