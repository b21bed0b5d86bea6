"""Results and web sessions of a running Odoo in Redis: whom they are shown to, that they are never stale, outages."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from fixtures.cache import keys
from harness import probe
from harness.model import StackAddresses

LOGINS = ("admin", "farm_manager", "farm_worker", "farm_auditor")
READS = 4  # of the same: both workers answer, and each has had the chance to keep and to believe an entry


class Rpc:
    def __init__(self, stack: StackAddresses, secrets: dict[str, Any]) -> None:
        self.stack, self.passwords = stack, secrets["odoo"]
        self.uids = {account.login: account.uid for account in stack.accounts}

    def __call__(self, login: str, method: str, *arguments: Any, **options: Any) -> Any:
        model, _, name = method.rpartition(".")
        # a connection per call: the workers share the listening socket
        with xmlrpc.client.ServerProxy(f"{self.stack.odoo_url}/xmlrpc/2/object") as server:
            credentials = (self.stack.database, self.uids[login], self.passwords[login])
            return server.execute_kw(*credentials, f"farm.{model}", name, arguments, options)


@pytest.fixture
def rpc(stack: StackAddresses, secrets: dict[str, Any]) -> Rpc:
    return Rpc(stack, secrets)


@pytest.fixture
def client(stack: StackAddresses, secrets: dict[str, Any]) -> Iterator[redis.Redis]:
    assert stack.redis_url is not None
    with redis.Redis.from_url(stack.redis_url, password=secrets["redis"]) as found:
        yield found


@pytest.fixture
def counted(stack: StackAddresses) -> Callable[[], tuple[int, int]]:
    """Look-ups and misses of Odoo's workers since the last call, as a snapshot has them."""

    def totals() -> tuple[int, int]:
        found = probe.snapshot(stack).redis or {}
        odoo = found.get("result_caches", {}).get("odoo", {})
        return odoo.get("lookups", 0), odoo.get("misses", 0)

    before = totals()

    def since() -> tuple[int, int]:
        nonlocal before
        now, earlier = totals(), before
        before = now
        return now[0] - earlier[0], now[1] - earlier[1]

    return since


@pytest.fixture
def stopped(stack: StackAddresses) -> Iterator[Callable[[signal.Signals], None]]:
    """Stops Redis and lets it go on; it goes on when the test ends."""
    yield lambda number: os.kill(stack.pids["redis"], number)
    os.kill(stack.pids["redis"], signal.SIGCONT)


@pytest.fixture
def cow(rpc: Rpc) -> int:
    """One that every account sees."""
    [found] = rpc("farm_worker", "animal.search", [["status", "=", "active"]], limit=1)
    return int(found)


@pytest.fixture
def milking(rpc: Rpc, stack: StackAddresses, cow: int) -> Iterator[int]:
    """One of two months ago, so that its day and its animal are nobody else's."""
    day = str(dt.date.fromisoformat(stack.as_of) - dt.timedelta(60))
    values = {"animal_id": cow, "shift": "noon", "quantity_litres": 4.25, "production_date": day}
    created = rpc("farm_manager", "milk_production.create", values)
    yield created
    rpc("farm_manager", "milk_production.unlink", [created])


def row(rpc: Rpc, login: str, milking: int) -> dict[str, Any]:
    [found] = rpc("admin", "milk_production.read", [milking], ["production_date", "animal_id"])
    day = found["production_date"]
    asked = {
        "domain": [["production_date", "=", day], ["id", "=", milking]],
        "fields": ["animal_id", "quantity_litres"],
    }
    [shown] = rpc(login, "milk_production.cached_search_read", **asked)
    return shown  # type: ignore[no-any-return]


ASKED: dict[str, dict[str, Any]] = {
    "active": {"domain": [["status", "=", "active"]], "fields": ["name", "tag_number", "breed"], "limit": 7},
    "or": {"domain": ["|", ["breed", "=", "Sahiwal"], ["weight_kg", ">", 400]], "fields": ["weight_kg", "section_id"]},
    "paged": {"domain": [], "fields": ["name", "dam_id"], "offset": 5, "limit": 5, "order": "name desc, id"},
    # cannot be outdated exactly, so not from the cache
    "all fields": {"domain": [["id", "<", 40]]},
    "by another's value": {"domain": [["dam_id.name", "like", "a"]], "fields": ["name"], "limit": 3},
    "by a name": {"domain": [["section_id", "ilike", "shed"]], "fields": ["name"], "limit": 3},
    "who wrote": {"domain": [["id", "<", 40]], "fields": ["write_uid"]},
}


@pytest.mark.parametrize("login", LOGINS)
def test_what_comes_from_the_cache_is_what_search_read_says(rpc: Rpc, login: str) -> None:
    for case, asked in ASKED.items():
        truth = rpc(login, "animal.search_read", **asked)
        assert truth, case
        assert [rpc(login, "animal.cached_search_read", **asked) for _ in range(READS)] == [truth] * READS, case


@pytest.mark.parametrize("stack", ["day40"], indirect=True)
def test_those_that_may_see_the_same_share_entries_and_no_others(
    rpc: Rpc, stack: StackAddresses, counted: Callable[[], tuple[int, int]]
) -> None:
    day = str(dt.date.fromisoformat(stack.as_of) - dt.timedelta(75))

    def reports(login: str) -> list[Any]:
        return [rpc(login, "milk_production.daily_report", day) for _ in range(READS)]

    everyones = reports("farm_manager")
    assert everyones == [everyones[0]] * READS
    assert counted() == (READS, 1)
    assert reports("admin") == everyones
    assert counted() == (READS, 0), "another manager"
    for login in ("farm_auditor", "farm_worker"):
        reports(login)
        assert counted() == (READS, 1), login


@pytest.mark.parametrize("stack", ["day40"], indirect=True)
def test_rights_are_checked_before_a_hit(rpc: Rpc, counted: Callable[[], tuple[int, int]]) -> None:
    asked = {"domain": [["breeding_status", "=", "pregnant"]], "fields": ["breeding_date"], "limit": 3}
    for _ in range(2):
        rpc("farm_manager", "breeding_record.cached_search_read", **asked)
    with pytest.raises(xmlrpc.client.Fault) as denied:
        rpc("farm_worker", "breeding_record.cached_search_read", **asked)
    assert denied.value.faultCode == 4
    assert counted()[0] == 2


def test_a_read_after_a_write_is_never_stale_in_any_worker(
    rpc: Rpc, stack: StackAddresses, secrets: dict[str, Any], milking: int, cow: int
) -> None:
    [found] = rpc("admin", "milk_production.read", [milking], ["production_date"])
    day = found["production_date"]
    with httpx.Client(base_url=stack.api_url, headers={"X-API-Key": secrets["api_key"]}, timeout=10) as api:
        for litres in (1.25, 2.5, 3.75):
            rpc("farm_worker", "milk_production.write", [milking], {"quantity_litres": litres})
            for login in LOGINS:
                assert row(rpc, login, milking)["quantity_litres"] == litres
            reports = [rpc("farm_auditor", "milk_production.daily_report", day)["litres"] for _ in range(READS)]
            told = api.get("/api/v1/milk-production/daily", params={"date": day}).json()["litres"]
            assert reports == [pytest.approx(told)] * READS
        # and what the API writes
        before = rpc("farm_auditor", "milk_production.daily_report", day)
        body = {"animal_id": cow, "shift": "noon", "quantity_litres": 1.5, "production_date": day}
        made = api.post("/api/v1/milk-production", json=body).json()["id"]
    try:
        after = [rpc("farm_auditor", "milk_production.daily_report", day)["records"] for _ in range(READS)]
        assert after == [before["records"] + 1] * READS
    finally:
        rpc("farm_manager", "milk_production.unlink", [made])
    assert rpc("farm_auditor", "milk_production.daily_report", day) == before


def test_a_new_name_shows_wherever_the_animal_is_named(rpc: Rpc, milking: int, cow: int) -> None:
    [old] = rpc("admin", "animal.read", [cow], ["name"])
    assert row(rpc, "farm_auditor", milking)["animal_id"] == [cow, old["name"]]
    rpc("farm_manager", "animal.write", [cow], {"name": "Renamed"})
    try:
        assert [row(rpc, "farm_auditor", milking)["animal_id"] for _ in range(READS)] == [[cow, "Renamed"]] * READS
    finally:
        rpc("farm_manager", "animal.write", [cow], {"name": old["name"]})
    assert row(rpc, "farm_auditor", milking)["animal_id"] == [cow, old["name"]]


def test_a_weight_shows_where_weights_are_asked_for(rpc: Rpc) -> None:
    # the last, which no other test writes: dates are to the second
    asked = {"domain": [["status", "=", "active"]], "fields": ["weight_kg"], "limit": 1, "order": "id desc"}
    when = {**asked, "fields": ["write_date"]}
    [old], [written] = (rpc("farm_auditor", "animal.cached_search_read", **one) for one in (asked, when))
    rpc("farm_manager", "animal.write", [old["id"]], {"weight_kg": old["weight_kg"] + 1})
    try:
        found = [rpc("farm_auditor", "animal.cached_search_read", **asked) for _ in range(READS)]
        assert found == [[{**old, "weight_kg": old["weight_kg"] + 1}]] * READS
        [rewritten] = rpc("farm_auditor", "animal.search_read", **when)
        assert rewritten != written
        assert rpc("farm_auditor", "animal.cached_search_read", **when) == [rewritten]
    finally:
        rpc("farm_manager", "animal.write", [old["id"]], {"weight_kg": old["weight_kg"]})


@pytest.mark.parametrize("stack", ["day40"], indirect=True)
def test_a_rolled_back_write_outdates_nothing(
    rpc: Rpc, milking: int, client: redis.Redis, counted: Callable[[], tuple[int, int]]
) -> None:
    shown = row(rpc, "farm_auditor", milking)
    tokens = {key: client.get(key) for key in client.scan_iter("sd:gen:*")}
    with pytest.raises(xmlrpc.client.Fault):
        rpc("farm_manager", "milk_production.write", [milking], {"quantity_litres": -1})
    assert {key: client.get(key) for key in client.scan_iter("sd:gen:*")} == tokens
    counted()
    assert row(rpc, "farm_auditor", milking) == shown
    assert counted() == (1, 0)


@pytest.mark.parametrize("stack", ["day40"], indirect=True)
def test_a_stopped_redis_costs_little_and_brings_no_old_result_back(
    rpc: Rpc, milking: int, stack: StackAddresses, secrets: dict[str, Any], stopped: Callable[[signal.Signals], None]
) -> None:
    log = Path(stack.log_dir) / "odoo.log"
    assert row(rpc, "farm_auditor", milking)["quantity_litres"] == 4.25
    logged = len(log.read_text())
    stopped(signal.SIGSTOP)
    rpc("farm_manager", "milk_production.write", [milking], {"quantity_litres": 5.5})
    began = time.monotonic()
    assert [row(rpc, "farm_auditor", milking)["quantity_litres"] for _ in range(20)] == [5.5] * 20
    took_s = time.monotonic() - began
    stopped(signal.SIGCONT)
    assert took_s < 6, "0.2 s in each worker every 2 s; each of 20 calls would cost it without the breaker"
    deadline = time.monotonic() + 20
    while "Redis: answers again" not in log.read_text()[logged:]:
        assert row(rpc, "farm_auditor", milking)["quantity_litres"] == 5.5
        assert time.monotonic() < deadline
    assert "Redis: TimeoutError; going on without the result cache" in log.read_text()[logged:]
    assert secrets["redis"] not in log.read_text()


# --- web sessions --------------------------------------------------------------------------------------------------


class Session:
    def __init__(self, stack: StackAddresses) -> None:
        self.web = httpx.Client(base_url=stack.odoo_url, timeout=30)
        self.database = stack.database

    def post(self, path: str, **params: Any) -> Any:
        return self.web.post(path, json={"jsonrpc": "2.0", "method": "call", "params": params}).json()

    def log_in(self, rpc: Rpc, login: str = "farm_auditor") -> str:
        self.post("/web/session/authenticate", db=self.database, login=login, password=rpc.passwords[login])
        assert self.uid() == rpc.uids[login]
        return self.web.cookies["session_id"]

    def uid(self) -> int | None:
        """Whose the session is, None = nobody's any more."""
        answer = self.post("/web/session/get_session_info")
        return answer["result"]["uid"] if "result" in answer else None


@pytest.fixture
def session(stack: StackAddresses) -> Iterator[Session]:
    found = Session(stack)
    yield found
    found.web.close()


@pytest.fixture
def files(stack: StackAddresses) -> Path:
    return Path(stack.log_dir).parent / "odoo/sessions"


@pytest.mark.parametrize("stack", ["day40"], indirect=True)
def test_a_session_lives_in_redis_and_survives_the_loss_of_either_copy(
    session: Session, rpc: Rpc, client: redis.Redis, files: Path
) -> None:
    sid = session.log_in(rpc)
    key = keys.session_key(sid)
    client.expire(key, 60)
    assert session.uid() == rpc.uids["farm_auditor"]
    assert keys.SESSION_TTL_S - 60 <= client.ttl(key) <= keys.SESSION_TTL_S, "refreshed by its use"

    file = files / sid[:2] / sid
    content = file.read_bytes()
    file.unlink()
    assert session.uid() == rpc.uids["farm_auditor"], "Redis answers"
    file.write_bytes(content)
    client.delete(key)
    assert session.uid() == rpc.uids["farm_auditor"], "the file answers"
    assert client.exists(key), "and Redis has it again"

    session.post("/web/session/destroy")
    assert not client.exists(key)
    assert not file.exists()
    session.web.cookies.set("session_id", sid)
    assert session.uid() is None


@pytest.mark.parametrize("stack", ["day40"], indirect=True)
def test_sessions_of_an_outage_are_kept_and_those_ended_in_it_stay_ended(
    stack: StackAddresses,
    session: Session,
    rpc: Rpc,
    client: redis.Redis,
    files: Path,
    stopped: Callable[[signal.Signals], None],
) -> None:
    other, ended = Session(stack), Session(stack)
    before = session.log_in(rpc)
    sid = ended.log_in(rpc)
    stopped(signal.SIGSTOP)
    assert session.uid() == rpc.uids["farm_auditor"]
    during = other.log_in(rpc, "farm_manager")
    ended.post("/web/session/destroy")
    assert (files / ".unconfirmed" / during).exists()
    stopped(signal.SIGCONT)
    assert other.uid() == rpc.uids["farm_manager"]
    assert session.uid() == rpc.uids["farm_auditor"]
    ended.web.cookies.clear()
    ended.web.cookies.set("session_id", sid)
    assert ended.uid() is None, "what Redis still had of it is not believed"

    deadline = time.monotonic() + 20
    while not client.exists(keys.session_key(during)) or client.exists(keys.session_key(sid)):
        assert other.uid() == rpc.uids["farm_manager"]
        ended.web.cookies.clear()
        ended.web.cookies.set("session_id", sid)
        assert ended.uid() is None
        assert time.monotonic() < deadline
    assert client.exists(keys.session_key(before))
    log = (Path(stack.log_dir) / "odoo.log").read_text()
    assert re.search(r"Redis: TimeoutError; going on without the session store", log)
    assert not [one for one in (before, during, sid) if one in log]
    other.web.close()
    ended.web.close()


@pytest.mark.parametrize("stack", ["day31"], indirect=True)
def test_day31_keeps_sessions_in_files_alone(session: Session, rpc: Rpc, files: Path) -> None:
    sid = session.log_in(rpc)
    assert (files / sid[:2] / sid).exists()
    assert not (files / ".unconfirmed").exists()
