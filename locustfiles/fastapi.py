"""The dairy's apps and dashboards: the FastAPI service."""

from __future__ import annotations

import re
from functools import cached_property

from locust import task

from fixtures.answers import api_checks, written
from harness.api_calls import Route
from harness.locust_plugin import ApiUser, roles
from harness.wire import Request, Slot

ROW = b'"id":'
PAGE = 50

ANIMAL_BY_TAG = Route("GET", "/api/v1/animals/{tag_number}", expect=ROW, check=api_checks.animal_by_tag)
DAILY_REPORT = Route(
    "GET",
    "/api/v1/milk-production/daily",
    query={"date": Slot("date")},
    expect=b'"morning"',
    check=api_checks.daily_report,
)
MILK_HISTORY = Route("GET", "/api/v1/milk-production/{animal_id}/history", expect=ROW, check=api_checks.milk_history)
ANIMALS = Route(
    "GET", "/api/v1/animals", query={"limit": PAGE, "offset": Slot("offset")}, expect=ROW, check=api_checks.animals
)
SEARCH = Route("GET", "/api/v1/animals/search", query={"q": Slot("q")}, expect=ROW, check=api_checks.search)
HEALTH_SEARCH = Route(
    "GET",
    "/api/v1/health-records/search",
    query={"diagnosis": Slot("diagnosis")},
    expect=ROW,
    check=api_checks.health_search,
)
PENDING_TREATMENTS = Route("GET", "/api/v1/health-records/pending", expect=ROW, check=api_checks.pending_treatments)
ENTER_MILK = Route(
    "POST",
    "/api/v1/milk-production",
    body={
        "animal_id": Slot("animal_id"),
        "production_date": Slot("day"),
        "shift": Slot("shift"),
        "quantity_litres": Slot("quantity_litres"),
        "fat_percentage": Slot("fat_percentage"),
    },
    expect=ROW,
    check=api_checks.enter_milk,
)
BREEDING_SCHEDULE = Route("GET", "/api/v1/breeding/schedule", expect=ROW, check=api_checks.breeding_schedule)
STOCK_MOVEMENTS = Route(
    "GET",
    "/api/v1/inventory/movements",
    query={"product_id": Slot("product_id")},
    expect=ROW,
    check=api_checks.stock_movements,
)
OPEN_ORDERS = Route("GET", "/api/v1/orders/open", expect=ROW, check=api_checks.open_orders)
DB_METRICS = Route("GET", "/api/v1/monitoring/db-metrics", expect=b'"daily_milk_litres":', check=api_checks.db_metrics)


# A worker's app has no breeding and no sales: the account has no right to them.
MANAGER = "manager"
WORKER = "worker"
AUDITOR = "auditor"


class AppUser(ApiUser):
    @cached_property
    def words(self) -> tuple[str, ...]:
        """Those that are said of animals that the account sees."""
        said = set(re.findall(r"\w+", " ".join(row["notes"] or "" for row in self.answers.animals).lower()))
        return tuple(word for word in self.inputs.search_words if word in said)

    @cached_property
    def diagnoses(self) -> tuple[str, ...]:
        made = {row["details"]["diagnosis"] for row in self.answers.health_records}
        return tuple(one for one in self.inputs.diagnoses if one in made)

    @task(28)
    def animal_by_tag(self) -> Request:
        return self.request(ANIMAL_BY_TAG, tag_number=self.often(self.animals)[1])

    @task(16)
    def daily_report(self) -> Request:
        return self.request(DAILY_REPORT, date=self.recent_day().isoformat())

    @task(16)
    def milk_history(self) -> Request:
        return self.request(MILK_HISTORY, animal_id=self.often(self.lactating_ids))

    @task(10)
    def animals(self) -> Request:
        return self.request(ANIMALS, offset=self.random.choice(range(0, len(self.answers.animals), PAGE)))

    @task(8)
    def search(self) -> Request:
        return self.request(SEARCH, q=self.random.choice(self.words))

    @task(5)
    def health_search(self) -> Request:
        return self.request(HEALTH_SEARCH, diagnosis=self.random.choice(self.diagnoses))

    @task(4)
    def pending_treatments(self) -> Request:
        return self.request(PENDING_TREATMENTS)

    @task(4)
    @roles(MANAGER, WORKER)
    def enter_milk(self) -> Request:
        return self.request(
            ENTER_MILK,
            animal_id=self.random.choice(self.lactating_ids),
            day=self.inputs.as_of.isoformat(),
            shift=self.random.choice(self.inputs.shifts),
            quantity_litres=self.random.randint(*written.CENTILITRES) / 100,
            fat_percentage=self.random.randint(*written.FAT_HUNDREDTHS_PCT) / 100,
        )

    @task(3)
    @roles(MANAGER, AUDITOR)
    def breeding_schedule(self) -> Request:
        return self.request(BREEDING_SCHEDULE)

    @task(3)
    def stock_movements(self) -> Request:
        return self.request(STOCK_MOVEMENTS, product_id=self.random.choice(self.inputs.product_ids))

    @task(3)
    @roles(MANAGER, AUDITOR)
    def open_orders(self) -> Request:
        return self.request(OPEN_ORDERS)

    @task(3)
    def db_metrics(self) -> Request:
        return self.request(DB_METRICS)
