"""The checks against what the real stack answers: freshly seeded, and after users have written. No complaint is due."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from fixtures import herd
from fixtures.answers import api_checks, odoo_checks
from fixtures.answers.comparison import Check
from fixtures.answers.seeded import Answers
from fixtures.herd import Inputs
from harness import reset, wire
from harness.model import Account, StackAddresses
from harness.odoo_calls import Call, Expect, Json2, Text, XmlRpc
from harness.transport import Connection
from harness.wire import Slot

Asked = tuple[Call, dict[str, Any], Check]


@pytest.fixture(scope="module")
def seeded(stack: StackAddresses) -> StackAddresses:
    """The stack as no other test has left it."""
    reset.stack(stack)
    return stack


@pytest.fixture(scope="module")
def known(stack: StackAddresses) -> tuple[Inputs, Answers]:
    of = (stack.herd, stack.seed, date.fromisoformat(stack.as_of))
    return herd.inputs(*of), Answers(*of)


def seen_by(account: Account, stack: StackAddresses, answers: Answers) -> Answers:
    """On day40 a worker sees the active animals of their own sections. What the seed says, not what a server says."""
    if stack.profile == "day31" or account.role != "worker":
        return answers
    rows = {str(table): list(lines) for table, lines in islice(herd.generate(stack.herd, stack.seed), 2)}
    sections = {section for user, section in rows["core.user_section_assignment"] if user == account.uid}
    own = [row["id"] for row in answers.animals if row["status"] == "active" and row["section_id"] in sections]
    assert 0 < len(own) < len(answers.active_ids)
    return answers.seen_by(frozenset(own))


def odoo_reads(inputs: Inputs, seen: Answers, chosen: random.Random) -> Iterator[Asked]:
    """Each read of the staff and of the dashboard."""
    today = inputs.as_of.isoformat()
    milk, animal, health = "farm.milk_production", "farm.animal", "farm.health_record"
    rows = Expect.ROWS
    domain = [["production_date", "=", today]]
    fields: list[str] = ["animal_id", "quantity_litres", "shift"]
    call = Call(milk, "search_read", {"domain": domain, "fields": fields, "limit": 100}, expect=rows)
    yield call, {}, odoo_checks.milk_of_the_day
    arguments = {"domain": domain, "groupby": ["shift"], "aggregates": ["quantity_litres:sum", "__count"]}
    yield Call(milk, "formatted_read_group", arguments, expect=rows), {}, odoo_checks.milk_by_shift
    active = [["status", "=", "active"]]
    arguments = {"domain": active, "fields": ["name", "tag_number", "breed"]}
    yield Call(animal, "search_read", arguments, expect=rows), {}, odoo_checks.active_animals
    yield Call(animal, "search_count", {"domain": active}, expect=Text("")), {}, odoo_checks.active_count
    pending = [["treatment_status", "=", "pending"]]
    fields = ["animal_id", "scheduled_date", "details"]
    arguments = {"domain": pending, "fields": fields, "order": "scheduled_date, id", "limit": 20}
    yield Call(health, "search_read", arguments, expect=rows), {}, odoo_checks.pending_treatments

    fields = ["name", "tag_number", "breed", "status", "weight_kg", "section_id"]
    arguments = {"domain": [["tag_number", "=", Slot("tag")]], "fields": fields, "limit": 1}
    call = Call(animal, "search_read", arguments, expect=rows)
    for tag in chosen.sample([row["tag_number"] for row in seen.animals], 6):
        yield call, {"tag": tag}, odoo_checks.animal_by_tag
    call = Call(milk, "daily_report", {"date": Slot("date")}, expect=Text("morning"))
    for day in (inputs.dates[0], inputs.as_of, chosen.choice(inputs.dates)):
        yield call, {"date": day.isoformat()}, odoo_checks.daily_report
    fields = ["production_date", "shift", "quantity_litres", "fat_percentage"]
    domain = [["animal_id", "=", Slot("animal_id")]]
    arguments = {"domain": domain, "fields": fields, "order": "production_date desc", "limit": 90}
    call = Call(milk, "search_read", arguments, expect=rows)
    for animal_id in chosen.sample(sorted(seen.lactating_ids), 4):
        yield call, {"animal_id": animal_id}, odoo_checks.milk_history


def odoo_writes(inputs: Inputs, seen: Answers, chosen: random.Random, role: str) -> Iterator[Asked]:
    today, in_a_week = (str(inputs.as_of + timedelta(days)) for days in (0, 7))
    if role == "auditor":
        return
    for _ in range(3):
        milking = {
            "animal_id": chosen.choice(sorted(seen.lactating_ids)),
            "production_date": today,
            "shift": chosen.choice(inputs.shifts),
            "quantity_litres": chosen.randint(200, 900) / 100,
            "fat_percentage": chosen.randint(320, 480) / 100,
        }
        call = Call("farm.milk_production", "create", {"vals_list": milking}, expect=Expect.NEW_ID)
        yield call, {}, odoo_checks.enter_milk
    details = {"diagnosis": chosen.choice(inputs.diagnoses), "severity": chosen.choice(inputs.severities)}
    treatment = {"animal_id": chosen.choice(sorted(seen.active_ids)), "record_date": today, "details": details}
    treatment |= {"treatment_status": "pending", "scheduled_date": in_a_week}
    call = Call("farm.health_record", "create", {"vals_list": treatment}, expect=Expect.NEW_ID)
    yield call, {}, odoo_checks.enter_treatment
    if role == "manager":
        weight = {"weight_kg": chosen.randint(2500, 6000) / 10}
        ids = [chosen.choice(sorted(seen.active_ids))]
        yield Call("farm.animal", "write", {"vals": weight}, ids=ids, expect=Expect.TRUE), {}, odoo_checks.enter_weight


def api_reads(
    inputs: Inputs, seen: Answers, chosen: random.Random, role: str
) -> Iterator[tuple[str, dict[str, Any], Check]]:
    """Path, values (those that the path does not name go into the query), check."""
    for tag_number in chosen.sample([row["tag_number"] for row in seen.animals], 6):
        yield "/animals/{tag_number}", {"tag_number": tag_number}, api_checks.animal_by_tag
    for offset in (0, 50, 300):
        yield "/animals", {"limit": 50, "offset": offset}, api_checks.animals
    for q in inputs.search_words:
        yield "/animals/search", {"q": q}, api_checks.search
    for day in (inputs.dates[0], inputs.as_of, chosen.choice(inputs.dates)):
        yield "/milk-production/daily", {"date": day.isoformat()}, api_checks.daily_report
    for animal_id in chosen.sample(sorted(seen.lactating_ids), 6):
        yield "/milk-production/{animal_id}/history", {"animal_id": animal_id}, api_checks.milk_history
    for diagnosis in inputs.diagnoses:
        yield "/health-records/search", {"diagnosis": diagnosis}, api_checks.health_search
    yield "/health-records/pending", {}, api_checks.pending_treatments
    for product_id in inputs.product_ids:
        yield "/inventory/movements", {"product_id": product_id}, api_checks.stock_movements
    yield "/monitoring/db-metrics", {}, api_checks.db_metrics
    if role != "worker":
        yield "/breeding/schedule", {}, api_checks.breeding_schedule
        yield "/orders/open", {}, api_checks.open_orders


def test_answers(seeded: StackAddresses, secrets: dict[str, Any], known: tuple[Inputs, Answers]) -> None:
    inputs, answers = known
    chosen = random.Random(42)
    host = urlsplit(seeded.odoo_url).netloc
    complaints: list[str] = []

    def of_odoo(protocol: XmlRpc | Json2, who: Account, seen: Answers, asked: Iterator[Asked]) -> None:
        for call, values, check in asked:
            request = protocol.encode(call).fill(values)
            with contextlib.closing(Connection(seeded.odoo_url, keep_alive=False)) as connection:
                reply = connection.exchange(request.message)
            assert protocol.outcome(reply, request.expect) == wire.OK, (call.endpoint, reply.body[:500])
            if complaint := check(seen, values, protocol.result(reply)):
                complaints.append(f"{protocol.request_type} {who.login} {call.endpoint} {values}: {complaint}")

    def of_api(client: httpx.Client, who: Account, seen: Answers) -> None:
        for path, values, check in api_reads(inputs, seen, chosen, who.role):
            query = {name: value for name, value in values.items() if f"{{{name}}}" not in path}
            reply = client.get(f"/api/v1{path.format_map(values)}", params=query)
            assert reply.status_code == 200, (path, reply.text)
            if complaint := check(seen, values, reply.json()):
                complaints.append(f"{who.login} {path} {values}: {complaint}")

    for account in seeded.accounts:
        seen = seen_by(account, seeded, answers)
        xmlrpc = XmlRpc(host, seeded.database, account.uid, secrets["odoo"][account.login])
        json2 = Json2(host, seeded.database, secrets["odoo_keys"][account.login])
        key = {"X-API-Key": secrets["api_keys"][account.login]}
        with httpx.Client(base_url=seeded.api_url, headers=key, timeout=30) as client:
            of_api(client, account, seen)
            of_odoo(xmlrpc, account, seen, odoo_reads(inputs, seen, chosen))
            of_odoo(json2, account, seen, odoo_reads(inputs, seen, chosen))
            of_odoo(xmlrpc, account, seen, odoo_writes(inputs, seen, chosen, account.role))
            of_odoo(json2, account, seen, odoo_writes(inputs, seen, chosen, account.role))
            milking = {"animal_id": chosen.choice(sorted(seen.lactating_ids)), "shift": "noon", "quantity_litres": 4.25}
            milking |= {"fat_percentage": 3.5, "production_date": seeded.as_of}
            reply = client.post("/api/v1/milk-production", json=milking)
            assert reply.status_code == (403 if account.role == "auditor" else 201)
            if reply.is_success:
                assert api_checks.enter_milk(answers, {**milking, "day": seeded.as_of}, reply.json()) is None
            of_api(client, account, seen)
    assert not complaints, "\n".join(complaints)
