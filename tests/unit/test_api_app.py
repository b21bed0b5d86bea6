"""The HTTP surface with a database that answers from a table: keys, errors, types, defaults; no server, no Redis."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import asynccontextmanager
from decimal import Decimal

import httpx
import psycopg
import pytest
from built_redis import FakeRedis
from psycopg import errors

from fixtures.api import app as api_app
from fixtures.api.identity import Account, Identity, Scopes
from fixtures.api.settings import Settings
from fixtures.cache.nonblocking import ResultCache

AS_OF = dt.date(2026, 2, 3)
KEY = {"X-API-Key": "key-of-test"}
ACCOUNTS = {"key-of-worker": Account("farm_worker", 6, "worker"), "key-of-auditor": Account("auditor", 7, "auditor")}
ANIMAL = {
    "id": 7,
    "name": "Rani",
    "tag_number": "SD-7",
    "breed": None,
    "status": "active",
    "section_id": 1,
    "date_of_birth": dt.date(2021, 5, 1),
    "gender": "female",
    "weight_kg": Decimal("412.50"),
    "parity": 2,
    "dam_id": None,
    "metadata": {"source": "generated"},
    "notes": None,
}
MILKING = {
    "id": 1,
    "animal_id": 7,
    "production_date": AS_OF,
    "shift": "noon",
    "quantity_litres": Decimal("4.35"),
    "fat_percentage": None,
    "snf_percentage": Decimal("8.50"),
}


MILK = {"animal_id": 7, "shift": "noon", "quantity_litres": 4}


class FakeDatabase:
    """answers: query -> rows, or the exception to raise. Remembers what it was asked, and as whom."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []
        self.identities = []

    @asynccontextmanager
    async def transaction(self, identity):
        self.identities.append(identity)
        yield self.fetch

    async def fetch(self, query, parameters=None):
        self.asked.append((query, dict(parameters or {})))
        answer = self.answers.get(query, [])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def heal(self):
        answer = self.answers.get("heal", AS_OF)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ask(method, path, answers=None, headers=KEY, **request):
    """(response, what the database was asked, /metrics text)"""
    response, database, metrics = ask_as(method, path, answers, headers, **request)
    return response, database.asked, metrics


def ask_as(method, path, answers=None, headers=KEY, **request):
    async def play():
        app = api_app.create_app(Settings(dsn="dbname=x", api_key="key-of-test", accounts=ACCOUNTS))
        app.state.service.database = database = FakeDatabase(answers or {})
        app.state.service.as_of = AS_OF
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            response = await client.request(method, path, headers=headers, **request)
            return response, database, (await client.get("/metrics")).text

    return asyncio.run(play())


def test_types_of_a_response():
    response, asked, metrics = ask("GET", "/api/v1/animals/SD-7", {"animal_by_tag": [ANIMAL]})
    assert response.json() == {**ANIMAL, "date_of_birth": "2021-05-01", "weight_kg": 412.5}
    assert asked == [("animal_by_tag", {"tag_number": "SD-7"})]
    assert 'requests_total{method="GET",route="/api/v1/animals/{tag_number}",status="200"} 1' in metrics


@pytest.mark.parametrize(
    ("path", "query", "parameters"),
    [
        ("/animals", "animal_list", {"status": None, "breed": None, "section_id": None, "limit": 50, "offset": 0}),
        ("/animals/search?q=lame", "animal_search", {"words": "lame", "limit": 20}),
        ("/milk-production/daily", "daily_milk_report", {"production_date": AS_OF}),
        ("/health-records/pending", "pending_treatments", {"due_by": dt.date(2026, 2, 17), "limit": 100}),
        (
            "/breeding/schedule",
            "breeding_schedule",
            {"from_date": AS_OF, "until": dt.date(2026, 4, 4), "limit": 100},
        ),
        (
            "/inventory/movements?product_id=3",
            "stock_movement",
            {"product_id": 3, "from_date": dt.date(2026, 1, 4), "until": AS_OF, "limit": 100},
        ),
        (
            "/breeding/schedule?from_date=9999-12-30",
            "breeding_schedule",
            {"from_date": dt.date(9999, 12, 30), "until": dt.date.max, "limit": 100},
        ),
        ("/orders/open?limit=3", "open_orders", {"limit": 3}),
    ],
)
def test_default_dates_follow_the_data_not_the_clock(path, query, parameters):
    response, asked, _ = ask("GET", "/api/v1" + path)
    assert response.status_code == 200
    assert asked == [(query, parameters)]


@pytest.mark.parametrize(
    ("key", "method", "path", "body", "role", "user_id"),
    [
        ("key-of-test", "GET", "/animals/SD-7", None, "ep_api_animal_by_tag_manager", 2),
        ("key-of-auditor", "GET", "/monitoring/db-metrics", None, "ep_api_db_metrics_auditor", 7),
        ("key-of-auditor", "POST", "/milk-production", MILK, "ep_api_milk_create_auditor", 7),
        ("key-of-auditor", "GET", "/milk-production/daily", None, "ep_api_daily_milk_auditor", 7),
    ],
)
def test_every_request_is_one_transaction_as_the_keys_account_for_the_endpoint(key, method, path, body, role, user_id):
    answers = {
        "animal_by_tag": [ANIMAL],
        "milk_create": [MILKING],
        "db_metrics_database": [{"active_connections": 3, "cache_hit_ratio": None}],
        "db_metrics_milk": [{"daily_milk_litres": Decimal("900.50")}],
    }
    response, database, _ = ask_as(method, "/api/v1" + path, answers, {"X-API-Key": key}, json=body)
    assert response.is_success
    assert database.identities == [Identity(role, user_id)]
    assert database.identities[0].opening() == (
        f"BEGIN; SET LOCAL ROLE {role}; SET LOCAL app.current_user_id = '{user_id}'"
    )


def test_what_a_moved_worker_is_shown_is_shared_with_nobody():
    """The service remembers for a while who works where; the database's policies know at once."""

    async def play():
        app = api_app.create_app(Settings(dsn="dbname=x", api_key="key-of-test", accounts=ACCOUNTS))
        using = app.state.service
        using.database = database = FakeDatabase({"animal_by_tag": [ANIMAL]})
        using.cache = ResultCache(FakeRedis())
        sections = {6: (1,)}

        async def read():
            return dict(sections)

        using.scopes = Scopes(read)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:

            async def asks():
                answer = await client.get("/api/v1/animals/SD-7", headers={"X-API-Key": "key-of-worker"})
                return answer.json()["name"]

            seen = [await using.scopes.of(ACCOUNTS["key-of-worker"])]
            sections[6] = (2,)
            database.answers["animal_by_tag"] = [ANIMAL | {"name": "of section 2"}]
            seen.append(await asks())
            sections[6] = (1,)
            database.answers["animal_by_tag"] = [ANIMAL]
            using.scopes = Scopes(read)
            return [*seen, await asks(), await asks()], using.cache.counts.hits

    assert asyncio.run(play()) == (["worker:1", "of section 2", "Rani", "Rani"], 1)


def test_health_details_are_sent_as_json():
    _, ((query, parameters),), _ = ask("GET", "/api/v1/health-records/search?diagnosis=mastitis&severity=mild")
    assert query == "health_search"
    assert parameters["details"].obj == {"diagnosis": "mastitis", "severity": "mild"}


def test_a_day_without_milkings_is_empty_not_missing():
    response, _, _ = ask("GET", "/api/v1/milk-production/daily?date=2020-01-01")
    assert response.json() == {"production_date": "2020-01-01", "records": 0, "litres": 0.0, "shifts": []}


def test_a_milking_is_created_on_the_last_day_of_data():
    response, asked, _ = ask(
        "POST",
        "/api/v1/milk-production",
        {"milk_create": [MILKING]},
        json={"animal_id": 7, "shift": "noon", "quantity_litres": 4.35, "snf_percentage": 8.5},
    )
    assert response.status_code == 201
    assert response.json() == {
        **MILKING,
        "production_date": "2026-02-03",
        "quantity_litres": 4.35,
        "snf_percentage": 8.5,
    }
    assert asked[0][1]["production_date"] == AS_OF
    assert asked[0][1]["quantity_litres"] == Decimal("4.35")


@pytest.mark.parametrize(
    ("method", "path", "body", "answers", "status", "code"),
    [
        ("GET", "/animals/none", None, {}, 404, "not_found"),
        ("GET", "/milk-production/7/history", None, {}, 404, "not_found"),
        ("GET", "/nowhere", None, {}, 404, "not_found"),
        ("DELETE", "/animals", None, {}, 405, "method_not_allowed"),
        ("GET", "/animals?status=asleep", None, {}, 422, "invalid"),
        ("GET", "/animals?limit=501", None, {}, 422, "invalid"),
        ("GET", "/animals/search", None, {}, 422, "invalid"),
        ("GET", "/milk-production/0/history", None, {}, 422, "invalid"),
        ("GET", "/milk-production/2147483648/history", None, {}, 422, "invalid"),
        ("GET", "/breeding/schedule?from_date=2026-02-02&until=2026-02-01", None, {}, 422, "invalid"),
        ("GET", "/animals/a", None, {"animal_by_tag": psycopg.DataError("NUL")}, 422, "invalid"),
        ("GET", "/animals/a", None, {"animal_by_tag": psycopg.OperationalError("gone")}, 503, "unavailable"),
        ("GET", "/animals/a", None, {"animal_by_tag": RuntimeError("fault")}, 500, "internal"),
        ("POST", "/milk-production", {}, {}, 422, "invalid"),
        ("POST", "/milk-production", MILK | {"quantity_litres": 0}, {}, 422, "invalid"),
        ("POST", "/milk-production", MILK | {"quantity_litres": 4.123}, {}, 422, "invalid"),
        ("POST", "/milk-production", MILK | {"more": 1}, {}, 422, "invalid"),
        ("POST", "/milk-production", MILK | {"production_date": "2026-02-04"}, {}, 422, "rejected"),
        ("POST", "/milk-production", MILK, {"milk_create": errors.ForeignKeyViolation()}, 422, "rejected"),
        ("POST", "/milk-production", MILK, {"milk_create": errors.CheckViolation()}, 422, "rejected"),
        ("POST", "/milk-production", MILK, {"milk_create": errors.InsufficientPrivilege()}, 403, "forbidden"),
        ("GET", "/orders/open", None, {"open_orders": errors.InsufficientPrivilege()}, 403, "forbidden"),
    ],
)
def test_a_refusal_has_a_typed_body(method, path, body, answers, status, code):
    response, _, _ = ask(method, "/api/v1" + path, answers, json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert set(response.json()) == {"code", "message", "fields"}


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"X-API-Key": "é".encode()}])
def test_without_the_key_nothing_is_asked_of_the_database(headers):
    for route in ("/animals", "/animals?limit=x", "/monitoring/db-metrics"):
        response, asked, _ = ask("GET", "/api/v1" + route, headers=headers)
        assert (response.status_code, response.json()["code"], asked) == (401, "unauthorized", [])


def test_the_monitors_figures_are_null_without_data():
    answers = {
        "db_metrics_database": [{"active_connections": 3, "cache_hit_ratio": None}],
        "db_metrics_milk": [{"daily_milk_litres": Decimal("900.50")}],
        "db_metrics_dead_tuples": [{"table_name": "farm.animal", "n_dead_tup": 2, "dead_ratio": Decimal("0.5")}],
    }
    response, _, _ = ask("GET", "/api/v1/monitoring/db-metrics", answers)
    assert response.json() == {
        "query_latency_p95_ms": None,
        "cache_hit_ratio": None,
        "active_connections": 3,
        "redis_hit_rate": None,
        "daily_milk_litres": 900.5,
        "dead_tuples_top5": [{"table_name": "farm.animal", "n_dead_tup": 2, "dead_ratio": 0.5}],
    }


@pytest.mark.parametrize(
    ("heal", "status"), [(AS_OF, 200), (psycopg.OperationalError("gone"), 503), (TimeoutError(), 503)]
)
def test_health_needs_no_key(heal, status):
    response, _, _ = ask("GET", "/healthz", {"heal": heal}, headers={})
    assert response.status_code == status
    if status == 200:
        assert response.json() == {"status": "ok", "as_of": "2026-02-03", "cache": "off"}


def test_every_route_of_the_service_is_described():
    schema = api_app.create_app(Settings(dsn="dbname=x", api_key="k")).openapi()
    assert {path for path in schema["paths"] if path.startswith("/api/v1/")} == {
        "/api/v1" + path
        for path in (
            "/animals",
            "/animals/search",
            "/animals/{tag_number}",
            "/milk-production",
            "/milk-production/daily",
            "/milk-production/{animal_id}/history",
            "/health-records/search",
            "/health-records/pending",
            "/breeding/schedule",
            "/inventory/movements",
            "/orders/open",
            "/monitoring/db-metrics",
        )
    }


def test_the_delay_slows_the_named_route_alone(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(api_app.asyncio, "sleep", sleep)

    async def play():
        delays = {"GET /api/v1/animals/{tag_number}": 2.0}
        app = api_app.create_app(Settings(dsn="dbname=x", api_key="key-of-test", delays_s=delays))
        app.state.service.database = FakeDatabase({"animal_by_tag": [ANIMAL]})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
            for path in ("/animals/SD-7", "/animals"):
                assert (await client.get("/api/v1" + path, headers=KEY)).status_code == 200

    asyncio.run(play())
    assert slept == [2.0, 0.0]


def test_a_failed_start_is_one_line():
    sent = []

    async def send(message):
        sent.append(message)

    text = "Traceback ...\n  raise\nfixtures.api.settings.StartupError: database: refused; check it\n"
    asyncio.run(api_app._without_traceback(send)({"type": "lifespan.startup.failed", "message": text}))
    assert sent == [{"type": "lifespan.startup.failed", "message": "database: refused; check it"}]
