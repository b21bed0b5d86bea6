"""The API of a running stack: what it answers, that its cache cannot be wrong, and how it meets broken servers."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import socket
import subprocess
import time

import httpx
import psycopg
import pytest
import redis
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from fixtures import queries
from fixtures.api import models
from fixtures.cache.keys import generation_key
from harness.services import api as service
from harness.statements import fingerprint, named_fingerprints

V1 = "/api/v1"


@pytest.fixture
def api(stack, secrets):
    with httpx.Client(base_url=stack.api_url, headers={"X-API-Key": secrets["api_key"]}, timeout=10) as client:
        assert client.get(service.READY_PATH).status_code == 200
        yield client


@pytest.fixture
def admin(stack):
    with psycopg.connect(stack.admin_dsn, dbname=stack.database, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def milkings(stack, secrets, api, admin):
    """Creates milkings that are gone after the test, from the cached answers as well."""
    created = []

    def create(**body):
        response = api.post(V1 + "/milk-production", json=body)
        assert response.status_code == 201, response.text
        created.append(models.MilkProduction.model_validate_json(response.content))
        return created[-1]

    yield create
    for milking in created:
        admin.execute("DELETE FROM farm.milk_production WHERE id = %s", [milking.id])
    if stack.redis_url and created:
        with redis.Redis.from_url(stack.redis_url, password=secrets["redis"]) as client:
            for milking in created:
                client.delete(
                    generation_key("farm.milk_production", "animal", milking.animal_id),
                    generation_key("farm.milk_production", "day", milking.production_date),
                )


@pytest.fixture
def cow(admin):
    """An animal that is milked on the last day of data, and a second one."""
    return admin.execute(
        "SELECT DISTINCT a.id, a.tag_number, a.name"
        " FROM farm.animal a JOIN farm.milk_production m ON m.animal_id = a.id"
        " WHERE m.production_date = core.as_of() ORDER BY a.id LIMIT 2"
    ).fetchall()


def counters(api):
    lines = (line.rpartition(" ") for line in api.get(service.METRICS_PATH).text.splitlines() if line[0] != "#")
    return {name: float(value) for name, _, value in lines}


def cache_counts(api):
    found = counters(api)
    return tuple(found[f"dairy_api_cache_{what}_total"] for what in ("lookups", "hits", "errors"))


READS = {
    "/animals?limit=3": models.AnimalList,
    "/animals?status=active&breed=Sahiwal&section_id=1": models.AnimalList,
    "/animals/search?q={name}": models.AnimalMatches,
    "/animals/{tag_number}": models.Animal,
    "/milk-production/daily": models.DailyMilkReport,
    "/milk-production/{id}/history": models.MilkHistory,
    "/health-records/search?diagnosis=mastitis": models.HealthRecords,
    "/health-records/pending": models.PendingTreatments,
    "/breeding/schedule": models.BreedingSchedule,
    "/inventory/movements?product_id=1": models.StockMovement,
    "/orders/open": models.OpenOrders,
}


@pytest.mark.parametrize(("path", "model"), READS.items(), ids=READS)
def test_a_hit_is_the_miss_byte_for_byte(stack, api, cow, path, model):
    path = V1 + path.format(**cow[0])
    before = cache_counts(api)
    first, second = api.get(path), api.get(path)
    assert (first.status_code, second.status_code) == (200, 200), first.text
    assert first.content == second.content
    answer = model.model_validate_json(first.content)
    if "breed=" not in path:
        assert getattr(answer, "items", True) != []
        assert getattr(answer, "shifts", True) != []
    lookups, hits, errors = (now - was for now, was in zip(cache_counts(api), before, strict=True))
    if stack.redis_url is None:
        assert (lookups, hits, errors) == (0, 0, 0)
    else:
        assert (lookups, errors) == (2, 0)
        assert hits >= 1


def test_the_daily_report_adds_up(api, admin, stack):
    report = models.DailyMilkReport.model_validate_json(api.get(V1 + "/milk-production/daily").content)
    (truth,) = admin.execute(
        "SELECT count(*) AS records, sum(quantity_litres)::float8 AS litres FROM farm.milk_production"
        " WHERE production_date = %s",
        [stack.as_of],
    ).fetchall()
    assert (report.records, report.litres) == (truth["records"], pytest.approx(truth["litres"]))
    assert [shift.shift for shift in report.shifts] == ["morning", "noon", "evening"]


def test_a_write_shows_at_once_and_touches_its_own_animal_and_day_alone(stack, api, cow, milkings):
    first, second = cow
    day = dt.date.fromisoformat(stack.as_of)
    histories = [f"{V1}/milk-production/{animal['id']}/history?limit=500" for animal in (first, second)]
    daily = [f"{V1}/milk-production/daily?date={date}" for date in (day, day - dt.timedelta(1))]
    before = {path: api.get(path).json() for path in (*histories, *daily)}
    made = [milkings(animal_id=first["id"], shift="noon", quantity_litres=1.25) for _ in range(2)]

    assert made[0].id != made[1].id
    assert {milking.production_date for milking in made} == {day}
    lookups, hits, _ = cache_counts(api)
    assert api.get(histories[1]).json() == before[histories[1]]
    assert api.get(daily[1]).json() == before[daily[1]]
    if stack.redis_url:
        assert cache_counts(api)[:2] == (lookups + 2, hits + 2)
    newest = api.get(histories[0]).json()["items"]
    assert {milking.id for milking in made} <= {item["id"] for item in newest}
    report = api.get(daily[0]).json()
    assert report["records"] == before[daily[0]]["records"] + 2
    assert report["litres"] == pytest.approx(before[daily[0]]["litres"] + 2.5)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/animals/no-such-tag", None, 404, "not_found"),
        ("GET", "/animals/%00", None, 422, "invalid"),
        ("GET", "/milk-production/2147483647/history", None, 404, "not_found"),
        ("POST", "/milk-production", {"animal_id": 2147483647}, 422, "rejected"),
        ("POST", "/milk-production", {"production_date": "2001-01-01"}, 422, "rejected"),
        ("POST", "/milk-production", {"production_date": "2999-01-01"}, 422, "rejected"),
        ("POST", "/milk-production", {"quantity_litres": "NaN"}, 422, "invalid"),
    ],
)
def test_refusals(api, cow, method, path, body, status, code):
    milking = {"animal_id": cow[0]["id"], "shift": "noon", "quantity_litres": 4}
    response = api.request(method, V1 + path, json=None if body is None else milking | body)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_the_key_is_asked_for(stack):
    with httpx.Client(base_url=stack.api_url) as client:
        assert client.get(V1 + "/animals").status_code == 401
        assert client.get(V1 + "/animals", headers={"X-API-Key": "wrong"}).status_code == 401
        assert client.get(service.READY_PATH).json()["as_of"] == stack.as_of


def test_db_metrics(stack, api, admin):
    api.get(V1 + "/milk-production/daily")
    figures = models.DbMetrics.model_validate_json(api.get(V1 + "/monitoring/db-metrics").content)
    assert 0 < figures.cache_hit_ratio <= 100
    assert figures.active_connections >= 1
    assert figures.daily_milk_litres > 0
    assert figures.query_latency_p95_ms > 0
    assert (figures.redis_hit_rate is None) == (stack.redis_url is None)
    tables = [table.table_name for table in figures.dead_tuples_top5]
    assert len(tables) == 5
    assert not any(re.search(r"_\d{4}_q\d$", table) for table in tables), "partitions count for their parent"


# What indexes were made for, and no endpoint asks.
WITHOUT_ENDPOINT = {
    "active animals",
    "animals by metadata",
    "breeding of animal",
    "customer orders",
    "health history",
    "milk trend",
    "pending of animal",
    "period ledger",
    "sensor search",
    "stock balance",
}


def test_each_query_is_found_again_in_the_statement_statistics(stack, secrets, api, admin, cow, milkings):
    """The whole point of one file per query: fingerprint of the file = fingerprint of the server's row."""
    names = named_fingerprints(queries.texts())
    admin.execute("SELECT pg_stat_statements_reset()")
    for number, path in enumerate(READS):
        separator = "&" if "?" in path else "?"
        api.get(
            f"{V1}{path.format(**cow[0])}{separator}limit={400 + number}&date=2026-01-{10 + number}&no-hit={number}"
        )
    milkings(animal_id=cow[0]["id"], shift="noon", quantity_litres=1.25, fat_percentage=3.9)
    api.get(V1 + "/animals/a-tag-that-nobody-asked-for")
    api.get(V1 + "/monitoring/db-metrics")
    api.get(service.READY_PATH)
    httpx.get(f"{stack.api_url}{V1}/animals", headers={"X-API-Key": secrets["api_keys"]["farm_worker"]})
    rows = admin.execute(
        "SELECT query FROM pg_stat_statements(true) s JOIN pg_roles r ON r.oid = s.userid"
        " WHERE rolname = 'api' OR rolname LIKE 'ep\\_api\\_%'"
    ).fetchall()
    ran = {fingerprint(row["query"]) for row in rows}
    # the API remembers for a while who works where
    assert {name for key, name in names.items() if key not in ran} - {"section assignments"} == WITHOUT_ENDPOINT
    assert len(ran - set(names)) == 0, "the API ran a statement that is in no file"


def test_health_check_heals_connections_that_the_server_killed(api, admin, cow):
    killed = admin.execute(
        "SELECT pg_terminate_backend(pid) AS done FROM pg_stat_activity WHERE usename = 'api'"
    ).fetchall()
    assert killed
    assert api.get(service.READY_PATH).status_code == 200
    for number in range(50):
        assert api.get(f"{V1}/animals?offset={number}&limit=499").status_code == 200


# --- services of our own, on the stack's database, that are meant to fail ------------------------------------------


@pytest.fixture
def start(stack, tmp_path):
    """Starts an API of the test's own; ends it afterwards."""
    running = []

    def started(**differences):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        environment = service.environment(
            **{
                "dsn": make_conninfo(stack.postgres_dsn, user="api"),
                "passfile": stack.passfile,
                "secrets_file": stack.secrets_file,
                "pool_max": 2,
                "base": {"PATH": os.environ["PATH"]},
                **differences,
            }
        )
        log = tmp_path / f"api-{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(service.command(port), env=environment, stdout=output, stderr=output)
        running.append(process)
        return process, f"http://127.0.0.1:{port}", log

    yield started
    for process in running:
        process.terminate()
        process.wait(15)


def wait_ready(process, url, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url + service.READY_PATH).status_code == 200:
                return
        time.sleep(0.05)
    pytest.fail("the service did not become ready")


def test_a_redis_that_hangs_costs_little_and_changes_nothing(start, api, secrets, cow):
    with socket.create_server(("127.0.0.1", 0)) as hung:  # accepts in the kernel, never answers
        process, url, log = start(redis_url=f"redis://127.0.0.1:{hung.getsockname()[1]}/0")
        wait_ready(process, url)
        path = f"{V1}/animals/{cow[0]['tag_number']}"
        with httpx.Client(base_url=url, headers={"X-API-Key": secrets["api_key"]}) as client:
            assert client.get(service.READY_PATH).json()["cache"] == "down"
            began = time.monotonic()
            answers = [client.get(path) for _ in range(20)]
            took_s = time.monotonic() - began
            assert cache_counts(client)[2] >= 1
    assert {answer.content for answer in answers} == {api.get(path).content}
    assert took_s < 2.0, "each call would cost 0.2 s without the breaker: 4 s"
    assert "going on without the result cache" in log.read_text()


@pytest.mark.parametrize("fault", ["wrong password", "nobody listens"])
def test_a_failed_start_says_why_on_one_line(start, stack, tmp_path, fault):
    passfile = tmp_path / "passfile"
    passfile.write_text("*:*:*:*:wrong-secret-of-test\n")
    passfile.chmod(0o600)
    real = make_conninfo(stack.postgres_dsn, passfile=str(passfile))
    dsn = real if fault == "wrong password" else "host=127.0.0.1 port=1 dbname=x user=x"
    process, _, log = start(dsn=dsn, passfile=passfile)
    assert process.wait(30) == 3
    text = log.read_text()
    assert "Traceback" not in text
    assert "wrong-secret-of-test" not in text
    (line,) = [line for line in text.splitlines() if "database: " in line]
    assert "authentication failed" in line if fault == "wrong password" else "refused" in line
    assert "check DAIRYPERF_API_DSN" in line


def test_the_delay_of_the_gates_own_test(start, secrets, cow):
    process, url, _ = start(delay="GET /api/v1/animals/{tag_number}=0.7")
    wait_ready(process, url)
    with httpx.Client(base_url=url, headers={"X-API-Key": secrets["api_key"]}) as client:
        slow = client.get(f"{V1}/animals/{cow[0]['tag_number']}")
        assert slow.status_code == 200
        assert slow.elapsed >= dt.timedelta(seconds=0.7)


def test_no_secret_in_the_logs_of_the_service(start, secrets, cow):
    process, url, log = start()
    wait_ready(process, url)
    with httpx.Client(base_url=url, headers={"X-API-Key": secrets["api_key"]}) as client:
        assert client.get(f"{V1}/animals?limit=oops").status_code == 422
    process.terminate()
    process.wait(15)
    text = log.read_text()
    assert "ready: data until" in text
    assert secrets["api_key"] not in text
    assert "GET /" not in text, "there is no access log"
