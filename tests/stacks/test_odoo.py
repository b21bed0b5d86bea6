"""The addon smart_dairy in a running Odoo: rights, CRUD, reports, the specification's K6 requests, web sessions."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import re
import signal
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import redis

from fixtures.cache.keys import GENERATION_TTL_S, generation_key
from harness import odoo_web, seed
from harness.model import StackAddresses
from harness.odoo_calls import Call, Expect, Text
from harness.services import odoo
from harness.transport import Connection
from harness.wire import Reply

ACCESS_DENIED, USER_ERROR, ACCESS_ERROR = 3, 2, 4  # fault codes of /xmlrpc/2

OF_THE_WORKER = 1  # a section that farm_worker is assigned to: on day40 the others' animals are not to be seen

ROLES = {"admin": "manager", "farm_manager": "manager", "farm_worker": "worker", "farm_auditor": "auditor"}
RIGHTS = {  # role -> model -> operations
    "manager": dict.fromkeys(("animal", "milk_production", "health_record", "breeding_record"), "crud"),
    "worker": {"animal": "r", "milk_production": "cru", "health_record": "cru", "breeding_record": ""},
    "auditor": dict.fromkeys(("animal", "milk_production", "health_record", "breeding_record"), "r"),
}


class Rpc:
    def __init__(self, stack: StackAddresses, secrets: dict[str, Any]) -> None:
        self.database = stack.database
        self.uids = {account.login: account.uid for account in stack.accounts}
        self.passwords: dict[str, str] = secrets["odoo"]
        self.common = xmlrpc.client.ServerProxy(f"{stack.odoo_url}/xmlrpc/2/common")
        self.object = xmlrpc.client.ServerProxy(f"{stack.odoo_url}/xmlrpc/2/object", allow_none=True)

    def __call__(self, login: str, model: str, method: str, *arguments: Any, **options: Any) -> Any:
        credentials = (self.database, self.uids[login], self.passwords[login])
        return self.object.execute_kw(*credentials, f"farm.{model}", method, arguments, options)


@pytest.fixture
def rpc(stack: StackAddresses, secrets: dict[str, Any]) -> Rpc:
    return Rpc(stack, secrets)


@contextmanager
def fault(code: int) -> Iterator[pytest.ExceptionInfo[xmlrpc.client.Fault]]:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        yield caught
    assert caught.value.faultCode == code, caught.value.faultString


@pytest.fixture
def animal(rpc: Rpc) -> Iterator[int]:
    """A head of the test's own, without dependants when the test ends."""
    cow = {"name": "Test cow", "tag_number": "TEST-1", "gender": "female", "section_id": OF_THE_WORKER}
    created = rpc("farm_manager", "animal", "create", cow)
    yield created
    for model in ("milk_production", "health_record", "breeding_record"):
        left = rpc("farm_manager", model, "search", [["animal_id", "=", created]])
        rpc("farm_manager", model, "unlink", left)
    rpc("farm_manager", "animal", "unlink", [created])


def values(model: str, animal: int) -> dict[str, Any]:
    return {
        "animal": {"name": "Calf", "tag_number": "TEST-2", "dam_id": animal, "section_id": OF_THE_WORKER},
        "milk_production": {"animal_id": animal, "shift": "noon", "quantity_litres": 4.25},
        "health_record": {"animal_id": animal, "treatment_status": "pending"},
        "breeding_record": {"animal_id": animal, "breeding_status": "pregnant"},
    }[model]


def test_accounts(stack: StackAddresses) -> None:
    with psycopg.connect(stack.postgres_dsn, dbname=stack.database) as connection:
        assert odoo.accounts(connection) == stack.accounts
    assert {account.login: account.role for account in stack.accounts} == ROLES


@pytest.mark.parametrize("login", ROLES)
def test_login_leaves_the_hash_alone(rpc: Rpc, stack: StackAddresses, login: str) -> None:
    """Odoo accepts the hash made by set_passwords and sees no need to make a better one."""
    with psycopg.connect(stack.postgres_dsn, dbname=stack.database, autocommit=True) as connection:
        query = "SELECT password FROM res_users WHERE login = %s"
        before = connection.execute(query, (login,)).fetchone()
        assert rpc.common.authenticate(rpc.database, login, rpc.passwords[login], {}) == rpc.uids[login]
        assert rpc.common.authenticate(rpc.database, login, "wrong", {}) is False
        assert connection.execute(query, (login,)).fetchone() == before


def test_wrong_password(rpc: Rpc) -> None:
    rpc.passwords = {"admin": "wrong"}
    with fault(ACCESS_DENIED):
        rpc("admin", "animal", "search_count", [])


@pytest.mark.parametrize("model", RIGHTS["manager"])
@pytest.mark.parametrize("login", ROLES)
def test_rights(rpc: Rpc, animal: int, login: str, model: str) -> None:
    allowed = RIGHTS[ROLES[login]][model]
    mine = rpc("farm_manager", model, "create", values(model, animal))
    other = {**values(model, animal), **({"tag_number": "TEST-3"} if model == "animal" else {})}
    change = {"name": "Heifer"} if model == "animal" else {"animal_id": animal}
    calls = {
        "c": ("create", other),
        "r": ("read", [mine], ["id"]),
        "u": ("write", [mine], change),
        "d": ("unlink", [mine]),
    }
    done = []
    try:
        for operation, call in calls.items():
            if operation in allowed:
                done.append(rpc(login, model, *call))
            else:
                with fault(ACCESS_ERROR):
                    rpc(login, model, *call)
    finally:
        created = [answer for answer in done if type(answer) is int]
        rpc("farm_manager", model, "unlink", [mine, *created])
    expected = {"c": created[0] if created else None, "r": [{"id": mine}], "u": True, "d": True}
    assert done == [expected[operation] for operation in calls if operation in allowed]


def test_what_is_written_is_read(rpc: Rpc, animal: int, stack: StackAddresses) -> None:
    record = {
        "animal_id": animal,
        "details": {"diagnosis": "mastitis", "temperature_c": 39.4, "vet": None, "tests": [1, None, {"cmt": None}]},
        "scheduled_date": False,
        "treatment_status": "pending",
    }
    created = rpc("farm_worker", "health_record", "create", record)
    [read] = rpc("farm_worker", "health_record", "read", [created])
    assert read["animal_id"] == [animal, "Test cow"]
    # null is read as False, at any depth: XML-RPC cannot carry it
    assert read["details"] == {
        "diagnosis": "mastitis",
        "temperature_c": 39.4,
        "vet": False,
        "tests": [1, False, {"cmt": False}],
    }
    assert (read["record_date"], read["scheduled_date"]) == (stack.as_of, False)
    assert read["create_uid"][0] == rpc.uids["farm_worker"]
    rpc("farm_worker", "health_record", "write", [created], {"details": {}, "treatment_status": "completed"})
    [read] = rpc("farm_worker", "health_record", "read", [created])
    assert (read["details"], read["treatment_status"]) == (False, "completed")


def test_several_at_once_and_across_partitions(rpc: Rpc, animal: int) -> None:
    record = values("milk_production", animal)
    dates = ["2025-12-31", "2026-01-01"]
    created = rpc("farm_manager", "milk_production", "create", [{**record, "production_date": day} for day in dates])
    rpc("farm_manager", "milk_production", "write", [created[0]], {"production_date": "2026-01-02"})
    found = rpc(
        "farm_manager",
        "milk_production",
        "search_read",
        [["id", "in", created]],
        fields=["production_date"],
        order="id",
    )
    assert [row["production_date"] for row in found] == ["2026-01-02", "2026-01-01"]


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("animal", {"tag_number": "TEST-1"}, "farm.animal: duplicate key"),
        ("animal", {"name": False}, "farm.animal.name: null value"),
        ("milk_production", {"animal_id": 2_000_000_000}, "is not present in table"),
        ("milk_production", {"quantity_litres": -1}, "quantity_litres_check"),
        ("milk_production", {"production_date": "1999-01-01"}, "no partition"),
    ],
)
def test_the_tables_constraints_answer_clearly(
    rpc: Rpc, animal: int, model: str, change: dict[str, Any], message: str
) -> None:
    with fault(USER_ERROR) as caught:
        rpc("farm_manager", model, "create", {**values(model, animal), **change})
    assert message in caught.value.faultString


def test_groups(rpc: Rpc, stack: StackAddresses) -> None:
    day = [["production_date", "=", stack.as_of]]
    old = rpc("farm_auditor", "milk_production", "read_group", day, ["quantity_litres:sum"], ["shift"])
    new = rpc(
        "farm_auditor", "milk_production", "formatted_read_group", day, ["shift"], ["quantity_litres:sum", "__count"]
    )
    assert {row["shift"]: row["quantity_litres"] for row in old} == {
        row["shift"]: row["quantity_litres:sum"] for row in new
    }
    assert len(new) == 3


def test_daily_report(rpc: Rpc, stack: StackAddresses) -> None:
    report = rpc("farm_auditor", "milk_production", "daily_report")
    with psycopg.connect(stack.postgres_dsn, dbname=stack.database) as connection:
        day = "FROM farm.milk_production WHERE production_date = %s"
        totals = "round(sum(quantity_litres), 2)::float, count(*), count(DISTINCT animal_id)"
        total = connection.execute(f"SELECT {totals} {day}", (stack.as_of,)).fetchone()
        shifts = connection.execute(f"SELECT shift, {totals} {day} GROUP BY shift", (stack.as_of,)).fetchall()
    assert (report["litres"], report["records"], report["animals"]) == total
    assert [row["shift"] for row in report["shifts"]] == ["morning", "noon", "evening"]
    assert {tuple(row.values()) for row in report["shifts"]} == set(shifts)
    assert rpc("farm_auditor", "milk_production", "daily_report", stack.as_of) == report
    empty = rpc("farm_auditor", "milk_production", "daily_report", "1999-01-01")
    assert empty == {"date": "1999-01-01", "litres": 0, "records": 0, "animals": 0, "shifts": []}


K6_REQUEST = """<?xml version="1.0"?>
    <methodCall>
        <methodName>execute_kw</methodName>
        <params>
            <param><value><string>{database}</string></value></param>
            <param><value><int>{uid}</int></value></param>
            <param><value><string>{password}</string></value></param>
            <param><value><string>{model}</string></value></param>
            <param><value><string>search_read</string></value></param>
            <param><value><array><data>
                <value><array><data>
                    <value><array><data>
                        <value><string>{field}</string></value>
                        <value><string>=</string></value>
                        <value><string>{value}</string></value>
                    </data></array></value>
                </data></array></value>
            </data></array></value></param>
            <param><value><struct>
                <member><name>fields</name><value><array><data>
                    {fields}
                </data></array></value></member>{limit}
            </struct></value></param>
        </params>
    </methodCall>"""


@pytest.mark.parametrize(
    ("model", "field", "value", "fields", "limit"),
    [
        ("farm.milk_production", "production_date", "{as_of}", ("animal_id", "quantity_litres", "shift"), 100),
        ("farm.animal", "status", "active", ("name", "tag_number", "breed"), None),
    ],
)
def test_the_specifications_k6_requests(
    stack: StackAddresses, rpc: Rpc, model: str, field: str, value: str, fields: tuple[str, ...], limit: int | None
) -> None:
    """Its XML, closing the <param> it leaves open; its date is as_of, and "has data" means at least one row."""
    payload = K6_REQUEST.format(
        database=rpc.database,
        uid=rpc.uids["admin"],
        password=rpc.passwords["admin"],
        model=model,
        field=field,
        value=value.format(as_of=stack.as_of),
        fields="\n                    ".join(f"<value><string>{name}</string></value>" for name in fields),
        limit=f"\n<member><name>limit</name><value><int>{limit}</int></value></member>" if limit else "",
    )
    place = urlsplit(stack.odoo_url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    connection.request("POST", "/xmlrpc/2/object", payload, {"Content-Type": "text/xml"})
    reply = connection.getresponse()
    assert reply.status == 200
    (rows,), _method = xmlrpc.client.loads(reply.read())
    assert 1 <= len(rows) <= (limit or len(rows))
    assert all(set(row) == {"id", *fields} for row in rows)


def test_db_metrics_in_a_web_session(stack: StackAddresses, rpc: Rpc) -> None:
    place = urlsplit(stack.odoo_url)
    cookie = ""

    def call(path: str, **params: Any) -> Any:
        nonlocal cookie
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
        body = json.dumps({"jsonrpc": "2.0", "method": "call", "params": params})
        connection.request("POST", path, body, {"Content-Type": "application/json", "Cookie": cookie})
        reply = connection.getresponse()
        if fresh := SimpleCookie(reply.getheader("Set-Cookie", "")).get("session_id"):
            cookie = f"session_id={fresh.value}"
        return json.loads(reply.read())

    path = "/api/v1/monitoring/db-metrics"
    assert "Session" in call(path)["error"]["message"]
    login = {"login": "farm_auditor", "password": rpc.passwords["farm_auditor"]}
    assert call("/web/session/authenticate", db=stack.database, **login)["result"]["uid"] == rpc.uids["farm_auditor"]
    metrics = call(path)["result"]
    assert metrics["query_latency_p95_ms"] is None
    assert metrics["redis_hit_rate"] is None
    assert 0 < metrics["cache_hit_ratio"] <= 100
    assert metrics["active_connections"] >= 1
    assert metrics["daily_milk_litres"] == rpc("admin", "milk_production", "daily_report")["litres"]
    dead = metrics["dead_tuples_top5"]
    assert 1 <= len(dead) <= 5
    assert all(set(row) == {"table_name", "n_dead_tup", "dead_ratio"} for row in dead)
    assert not any("_q" in row["table_name"] for row in dead), "partitions are summed under their root"


# --- JSON-2: a key instead of a password ---------------------------------------------------------------------------


def json2(stack: StackAddresses, key: str, path: str, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"bearer {key}", "X-Odoo-Database": stack.database}
    return httpx.post(f"{stack.odoo_url}/json/2/{path}", headers=headers, json=body, timeout=30)


@pytest.mark.parametrize("login", ROLES)
def test_a_key_shows_what_the_password_shows(
    stack: StackAddresses, rpc: Rpc, secrets: dict[str, Any], login: str
) -> None:
    asked = {"fields": ["name", "section_id", "weight_kg"], "limit": 100}
    reply = json2(stack, secrets["odoo_keys"][login], "farm.animal/search_read", domain=[], **asked)
    assert reply.status_code == 200
    assert len(reply.json()) == 100
    assert reply.json() == rpc(login, "animal", "search_read", [], **asked)
    assert json2(stack, secrets["odoo_keys"][login], "res.users/context_get").json()["uid"] == rpc.uids[login]


def test_a_key_gives_its_accounts_rights_and_no_others(stack: StackAddresses, secrets: dict[str, Any]) -> None:
    keys = secrets["odoo_keys"]
    assert keys.keys() == ROLES.keys()
    change = {"ids": [1], "vals": {"name": "Heifer"}}
    assert json2(stack, keys["farm_auditor"], "farm.animal/write", **change).status_code == 403
    for wrong in ("0" * 40, keys["farm_auditor"][:-1] + "x", secrets["odoo"]["farm_auditor"]):
        reply = json2(stack, wrong, "farm.animal/search_count", domain=[])
        assert (reply.status_code, reply.json()["message"]) == (401, "Invalid apikey")
    with psycopg.connect(stack.admin_dsn, dbname=stack.database) as connection:
        stored = str(connection.execute("SELECT * FROM res_users_apikeys").fetchall())
    assert stored.count("$pbkdf2-sha512$6000$") == len(ROLES)
    assert not any(key in stored for key in keys.values())


# --- the web: login page, session's cookie, the dashboard's calls --------------------------------------------------


class Browser:
    """Talks to Odoo as harness.odoo_web does."""

    def __init__(self, stack: StackAddresses) -> None:
        self.web = odoo_web.WebRpc(urlsplit(stack.odoo_url).netloc)
        self.url = stack.odoo_url
        self.cookie = "none"

    def exchange(self, message: bytes) -> Reply:
        with closing(Connection(self.url, keep_alive=False)) as connection:
            return connection.exchange(message)

    def log_in(self, login: str, password: str) -> str:
        """What became of it."""
        page = self.exchange(self.web.login_page().message)
        token, visitor = odoo_web.csrf_token(page.body), odoo_web.session_id(page.head)
        assert token is not None
        assert visitor is not None
        request = self.web.login(token, login, password, visitor)
        reply = self.exchange(request.message)
        self.cookie = odoo_web.session_id(reply.head) or visitor
        assert (self.cookie != visitor) is (reply.status == 303)
        return self.web.outcome(reply, request.expect)

    def __call__(self, call: Call) -> tuple[str, Any]:
        """Outcome and result."""
        request = self.web.encode(call).bind({odoo_web.SESSION: self.cookie}).fill({})
        reply = self.exchange(request.message)
        if fresh := odoo_web.session_id(reply.head):
            assert fresh == self.cookie, "a session keeps its cookie"
        outcome = self.web.outcome(reply, request.expect)
        return outcome, self.web.result(reply) if outcome == "ok" else None


ACTIVE = Call("farm.animal", "search_count", {"domain": [["status", "=", "active"]]}, expect=Text("result"))


def test_a_dashboard_in_a_web_session(stack: StackAddresses, rpc: Rpc) -> None:
    """Every account may poll it, and what logins and polls write lies in Odoo's own tables."""
    active, day = [["status", "=", "active"]], [["production_date", "=", stack.as_of]]
    pending = [["treatment_status", "=", "pending"]]
    shifts, sums = ["shift"], ["quantity_litres:sum", "__count"]
    groups = {"domain": day, "groupby": shifts, "aggregates": sums}
    asked = {"fields": ["animal_id", "scheduled_date", "details"], "order": "scheduled_date, id", "limit": 20}
    polls = [
        ACTIVE,
        Call("farm.milk_production", "formatted_read_group", groups, expect=Expect.ROWS),
        Call("farm.health_record", "search_read", {"domain": pending, **asked}, expect=Expect.ROWS),
    ]
    with psycopg.connect(stack.postgres_dsn, dbname=stack.database, autocommit=True) as connection:
        before = seed.checksum(connection)
        for login in ROLES:
            expected = [
                rpc(login, "animal", "search_count", active),
                rpc(login, "milk_production", "formatted_read_group", day, shifts, sums),
                rpc(login, "health_record", "search_read", pending, **asked),
            ]
            browser = Browser(stack)
            assert browser.log_in(login, rpc.passwords[login]) == "ok"
            for _ in range(2):
                assert [browser(call) for call in polls] == [("ok", result) for result in expected]
        assert seed.checksum(connection) == before


def test_web_sessions_fail_by_name(stack: StackAddresses, rpc: Rpc) -> None:
    browser = Browser(stack)
    assert browser(ACTIVE) == ("fault:100:SessionExpired", None)
    assert browser.log_in("farm_auditor", "wrong") == "unexpected"
    assert browser(ACTIVE) == ("fault:100:SessionExpired", None)
    assert browser.log_in("farm_auditor", rpc.passwords["farm_auditor"]) == "ok"
    write = Call("farm.animal", "write", {"vals": {"name": "Heifer"}}, ids=[1], expect=Expect.TRUE)
    assert browser(write) == ("fault:0:AccessError", None)


def test_an_account_has_many_web_sessions(stack: StackAddresses, rpc: Rpc) -> None:
    browsers = [Browser(stack) for _ in range(3)]
    assert {browser.log_in("farm_worker", rpc.passwords["farm_worker"]) for browser in browsers} == {"ok"}
    assert len({browser.cookie for browser in browsers}) == 3
    assert {browser(ACTIVE)[0] for browser in browsers} == {"ok"}


def test_an_administrators_web_login_clears_no_caches(stack: StackAddresses, rpc: Rpc) -> None:
    """Odoo writes down the address that an administrator used, and a written parameter clears the password caches."""
    with psycopg.connect(stack.admin_dsn, dbname=stack.database, autocommit=True) as connection:
        query = "SELECT value FROM ir_config_parameter WHERE key = 'web.base.url'"
        before = connection.execute(query).fetchone()
        assert before != (stack.odoo_url,), "otherwise there is nothing to write"
        assert Browser(stack).log_in("admin", rpc.passwords["admin"]) == "ok"
        assert connection.execute(query).fetchone() == before


def test_warm_up_meets_every_account(stack: StackAddresses, rpc: Rpc) -> None:
    odoo.warm_up(stack.odoo_url, stack.database, stack.accounts, rpc.passwords, workers=2)


# --- the API's result cache, which Odoo's writes outdate -----------------------------------------------------------


class Api:
    """Reads of the API. Each is made twice, so that the second is a hit where there is a cache."""

    def __init__(self, client: httpx.Client, *, cached: bool) -> None:
        self.client = client
        self.cached = cached

    def hits(self) -> int:
        text = self.client.get("/metrics").text
        return int(re.search(r"^dairy_api_cache_hits_total (\d+)", text, re.MULTILINE)[1])  # type: ignore[index]

    def __call__(self, path: str) -> Any:
        before = self.hits()
        first, second = (self.client.get(f"/api/v1{path}") for _ in range(2))
        assert first.content == second.content
        if first.status_code == 200:
            assert (self.hits() > before) is self.cached
        else:
            assert first.status_code == 404, first.text
        return first.json()


@pytest.fixture
def api(stack: StackAddresses, secrets: dict[str, Any]) -> Iterator[Api]:
    with httpx.Client(base_url=stack.api_url, headers={"X-API-Key": secrets["api_key"]}, timeout=10) as client:
        assert client.get("/healthz").json()["cache"] == ("ok" if stack.redis_url else "off")
        yield Api(client, cached=stack.redis_url is not None)


def of_items(field: str) -> Callable[[Any, int], Any]:
    return lambda body, animal: [row[field] for row in body.get("items", []) if row["animal_id"] == animal]


SHOWN: dict[str, tuple[str, dict[str, Any], dict[str, Any], Callable[[Any, int], Any]]] = {
    # path -> model, a new record of it, a change to that, and what of the answer shows both
    "/milk-production/{animal}/history": (
        "milk_production",
        {"shift": "noon", "quantity_litres": 4.25},
        {"quantity_litres": 5.5},
        of_items("quantity_litres"),
    ),
    "/milk-production/daily": (
        "milk_production",
        {"shift": "noon", "quantity_litres": 4.25},
        {"quantity_litres": 5.5},
        lambda body, animal: round(body["litres"], 2),
    ),
    "/animals/TEST-2": (
        "animal",
        {"name": "Calf", "tag_number": "TEST-2"},
        {"name": "Heifer"},
        lambda body, animal: body.get("name"),
    ),
    "/health-records/search?diagnosis=test": (
        "health_record",
        {"details": {"diagnosis": "test"}, "treatment_status": "pending"},
        {"treatment_status": "completed"},
        of_items("treatment_status"),
    ),
    "/health-records/pending": (
        "health_record",
        {"scheduled_date": "2020-01-01", "treatment_status": "pending"},
        {"scheduled_date": "2020-01-02"},
        of_items("scheduled_date"),
    ),
    "/breeding/schedule": (
        "breeding_record",
        {"breeding_status": "pregnant", "expected_calving_date": "{as_of}", "sire_tag": "S-1"},
        {"sire_tag": "S-2"},
        of_items("sire_tag"),
    ),
}


@pytest.mark.parametrize("path", SHOWN)
def test_the_api_shows_at_once_what_odoo_wrote(
    rpc: Rpc, api: Api, animal: int, stack: StackAddresses, path: str
) -> None:
    model, record, change, seen = SHOWN[path]

    def shown() -> Any:
        return seen(api(path.format(animal=animal)), animal)

    record = {key: stack.as_of if value == "{as_of}" else value for key, value in record.items()}
    before = shown()
    created = rpc("farm_manager", model, "create", {**({"animal_id": animal} if model != "animal" else {}), **record})
    try:
        after_create = shown()
        rpc("farm_manager", model, "write", [created], change)
        after_write = shown()
    finally:
        rpc("farm_manager", model, "unlink", [created])
    if isinstance(before, float):
        assert (after_create - before, after_write - before) == pytest.approx((4.25, 5.5))
    else:
        (field,) = change
        old, new = record[field], change[field]
        assert (after_create, after_write) == (([old], [new]) if isinstance(before, list) else (old, new))
        assert not before
    assert shown() == before


def test_a_milking_outdates_its_own_animals_and_days_alone(
    rpc: Rpc, api: Api, animal: int, stack: StackAddresses
) -> None:
    today = [["production_date", "=", stack.as_of]]
    groups = rpc("admin", "milk_production", "read_group", today, ["animal_id"], ["animal_id"], limit=2)
    other, bystander = (group["animal_id"][0] for group in groups)
    day, day_before, week_before = (str(dt.date.fromisoformat(stack.as_of) - dt.timedelta(n)) for n in (0, 1, 7))

    def history(of: int) -> set[int]:
        return {row["id"] for row in api(f"/milk-production/{of}/history?limit=500").get("items", [])}

    def records(on: str) -> int:
        return int(api(f"/milk-production/daily?date={on}")["records"])

    milking, kept = rpc("farm_manager", "milk_production", "create", [values("milk_production", animal)] * 2)
    try:
        untouched = [f"/milk-production/{bystander}/history", f"/milk-production/daily?date={week_before}"]
        for path in untouched:
            api(path)
        before = history(animal), history(other), records(day), records(day_before)
        rpc("farm_manager", "milk_production", "write", [milking], {"animal_id": other, "production_date": day_before})

        hits = api.hits()
        for path in untouched:
            api.client.get(f"/api/v1{path}")
        assert api.hits() - hits == (2 if api.cached else 0)
        assert before[0] == {milking, kept}
        assert history(animal) == {kept}
        assert history(other) - before[1] == {milking}
        assert (records(day), records(day_before)) == (before[2] - 1, before[3] + 1)
    finally:
        rpc("farm_manager", "milk_production", "unlink", [milking, kept])
    assert (history(animal), history(other)) == (set(), before[1])
    assert (records(day), records(day_before)) == (before[2] - 2, before[3])


def test_weighing_an_animal_shows_at_once_and_leaves_the_lists_alone(rpc: Rpc, api: Api, stack: StackAddresses) -> None:
    (row,) = rpc("admin", "animal", "search_read", [["status", "=", "active"]], ["tag_number", "weight_kg"], limit=1)
    path, lists = f"/animals/{row['tag_number']}", "/animals?limit=5"
    assert api(path)["weight_kg"] == row["weight_kg"]
    api(lists)
    rpc("farm_manager", "animal", "write", [row["id"]], {"weight_kg": row["weight_kg"] + 1})
    try:
        hits = api.hits()
        api.client.get(f"/api/v1{lists}")
        assert api.hits() - hits == (1 if api.cached else 0)
        assert api(path)["weight_kg"] == row["weight_kg"] + 1
    finally:
        rpc("farm_manager", "animal", "write", [row["id"]], {"weight_kg": row["weight_kg"]})
    assert api(path)["weight_kg"] == row["weight_kg"]


@pytest.mark.parametrize("stack", ["day40"], indirect=True)
def test_generations_are_renewed_by_commits_alone_and_a_hung_redis_breaks_none(
    rpc: Rpc, api: Api, animal: int, stack: StackAddresses, secrets: dict[str, Any]
) -> None:
    milking = rpc("farm_manager", "milk_production", "create", values("milk_production", animal))
    log = Path(stack.log_dir) / "odoo.log"
    assert stack.redis_url is not None

    def litres() -> list[float]:
        return [row["quantity_litres"] for row in api(f"/milk-production/{animal}/history")["items"]]

    with redis.Redis.from_url(stack.redis_url, password=secrets["redis"]) as client:
        key = generation_key("farm.milk_production", "animal", animal)
        token = client.get(key)
        assert re.fullmatch(rb"[0-9a-f]+-[0-9a-f]{16}", token)
        assert GENERATION_TTL_S - 60 <= client.ttl(key) <= GENERATION_TTL_S
        with fault(USER_ERROR):
            rpc("farm_manager", "milk_production", "write", [milking], {"quantity_litres": -1})
        assert client.get(key) == token

    logged = len(log.read_text())
    os.kill(stack.pids["redis"], signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert rpc("farm_manager", "milk_production", "write", [milking], {"quantity_litres": 5.5}) is True
        took_s = time.monotonic() - began
    finally:
        os.kill(stack.pids["redis"], signal.SIGCONT)
    assert 0.2 <= took_s < 2.0, "0.2 s, and a password hash where this worker does not know the account yet"
    warnings = [line for line in log.read_text()[logged:].splitlines() if " WARNING " in line]
    assert len(warnings) == 1, warnings
    assert "Redis: TimeoutError" in warnings[0]
    assert secrets["redis"] not in log.read_text()
    rpc("farm_manager", "milk_production", "write", [milking], {"quantity_litres": 6.5})
    assert litres() == [6.5]
