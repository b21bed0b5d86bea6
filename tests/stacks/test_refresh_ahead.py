"""Refreshing ahead on a running stack: a commit through Odoo or the API is in the API's cache before anybody asks."""

from __future__ import annotations

import datetime as dt
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
import redis

from fixtures.cache import blocking, keys
from harness.model import StackAddresses

pytestmark = pytest.mark.parametrize("stack", ["day40"], indirect=True)

V1 = "/api/v1"
COUNTS = "dairy_api_cache_"
READERS = ("farm_manager", "farm_worker", "farm_auditor")
THROUGH = ("odoo", "api")


@pytest.fixture
def api(stack: StackAddresses, secrets: dict[str, Any]) -> Iterator[Callable[[str], httpx.Client]]:
    """The API as a login uses it."""
    made = []

    def client(login: str) -> httpx.Client:
        made.append(httpx.Client(base_url=stack.api_url, headers={"X-API-Key": secrets["api_keys"][login]}, timeout=20))
        return made[-1]

    yield client
    for one in made:
        one.close()


@pytest.fixture
def admin(stack: StackAddresses) -> Iterator[psycopg.Connection]:
    with psycopg.connect(stack.admin_dsn, dbname=stack.database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def server(stack: StackAddresses, secrets: dict[str, Any]) -> Iterator[redis.Redis]:
    assert stack.redis_url is not None
    with redis.Redis.from_url(stack.redis_url, password=secrets["redis"]) as client:
        yield client


@pytest.fixture
def day(stack: StackAddresses, reader: str, through: str) -> str:
    """Each test's own, months ago, so that its report is nobody else's."""
    ago = 90 + len(THROUGH) * READERS.index(reader) + THROUGH.index(through)
    return str(dt.date.fromisoformat(stack.as_of) - dt.timedelta(ago))


@pytest.fixture
def written(
    stack: StackAddresses,
    secrets: dict[str, Any],
    api: Callable[[str], httpx.Client],
    admin: psycopg.Connection,
    server: redis.Redis,
    day: str,
) -> Iterator[Callable[[str], None]]:
    """Commits a milking of one litre on the day, through Odoo or the API."""
    [cow] = [animal["id"] for animal in api("farm_worker").get(f"{V1}/animals?limit=1").json()["items"]]  # all see it
    last = admin.execute("SELECT max(id) FROM farm.milk_production").fetchone()
    milking = {"animal_id": cow, "shift": "noon", "quantity_litres": 1.0, "production_date": day}

    def commit(through: str) -> None:
        if through == "api":
            assert api("farm_manager").post(V1 + "/milk-production", json=milking).status_code == 201
            return
        uid = next(account.uid for account in stack.accounts if account.login == "farm_manager")
        with xmlrpc.client.ServerProxy(f"{stack.odoo_url}/xmlrpc/2/object") as odoo:
            credentials = (stack.database, uid, secrets["odoo"]["farm_manager"])
            assert odoo.execute_kw(*credentials, "farm.milk_production", "create", [milking])

    yield commit
    admin.execute("DELETE FROM farm.milk_production WHERE id > %s AND production_date = %s", [*last, day])  # type: ignore[misc]
    # SQL by hand tells nobody
    cache = blocking.ResultCache(lambda: server)
    cache.invalidate(
        [keys.generation_key("farm.milk_production", kind, of) for kind, of in (("animal", cow), ("day", day))]
    )


def counts(client: httpx.Client) -> dict[str, int]:
    lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines())
    return {name[len(COUNTS) : -len("_total")]: int(n) for name, _, n in lines if name.startswith(COUNTS)}


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("through", THROUGH)
@pytest.mark.parametrize("reader", READERS)
def test_a_commit_is_there_before_anybody_asks(
    api: Callable[[str], httpx.Client],
    written: Callable[[str], None],
    server: redis.Redis,
    day: str,
    reader: str,
    through: str,
) -> None:
    client = api(reader)

    def is_kept() -> bool:
        token = server.get(keys.generation_key("farm.milk_production", "day", day))
        entries = server.mget(["sd:no-such-entry", *server.scan_iter("sd:daily_milk_report:*")])
        return any((entry or b"").startswith(token) for entry in entries)  # type: ignore[union-attr, arg-type]

    def report() -> dict[str, Any]:
        answer = client.get(f"{V1}/milk-production/daily", params={"date": day})
        assert answer.status_code == 200
        return answer.json()  # type: ignore[no-any-return]

    before, counted = report(), counts(client)
    assert is_kept()
    written(through)
    until(is_kept)
    refreshed = counts(client)
    assert refreshed["refreshes"] > counted["refreshes"]
    assert refreshed["lookups"] == counted["lookups"], "nobody asked"
    after = report()
    assert (after["records"], after["litres"]) == (before["records"] + 1, pytest.approx(before["litres"] + 1))
    now = counts(client)
    assert (now["lookups"] - refreshed["lookups"], now["hits"] - refreshed["hits"]) == (1, 1)
