"""What the dairy's staff does in Odoo, by whichever protocol. The first two requests are those of the specification's
K6 script; the second, whose rows are many and change seldom, is asked for through the method that may cache it."""

from __future__ import annotations

from locust import task

from fixtures.answers import odoo_checks, written
from harness.locust_plugin import OdooUser, roles
from harness.odoo_calls import Call, Expect, Text
from harness.wire import Request, Slot

MILK_OF_THE_DAY = Call(
    "farm.milk_production",
    "search_read",
    {
        "domain": [["production_date", "=", Slot("day")]],
        "fields": ["animal_id", "quantity_litres", "shift"],
        "limit": 100,
    },
    case="day",
    expect=Expect.ROWS,
    check=odoo_checks.milk_of_the_day,
)
ACTIVE_ANIMALS = Call(
    "farm.animal",
    "cached_search_read",
    {"domain": [["status", "=", "active"]], "fields": ["name", "tag_number", "breed"]},
    case="active",
    expect=Expect.ROWS,
    check=odoo_checks.active_animals,
)
ANIMAL_BY_TAG = Call(
    "farm.animal",
    "search_read",
    {
        "domain": [["tag_number", "=", Slot("tag")]],
        "fields": ["name", "tag_number", "breed", "status", "weight_kg", "section_id"],
        "limit": 1,
    },
    case="tag",
    expect=Expect.ROWS,
    check=odoo_checks.animal_by_tag,
)
DAILY_REPORT = Call(
    "farm.milk_production",
    "daily_report",
    {"date": Slot("date")},
    expect=Text("morning"),
    check=odoo_checks.daily_report,
)
MILK_HISTORY = Call(
    "farm.milk_production",
    "search_read",
    {
        "domain": [["animal_id", "=", Slot("animal_id")]],
        "fields": ["production_date", "shift", "quantity_litres", "fat_percentage"],
        "order": "production_date desc",
        "limit": 90,
    },
    case="animal",
    expect=Expect.ROWS,
    check=odoo_checks.milk_history,
)
ENTER_MILK = Call(
    "farm.milk_production",
    "create",
    {
        "vals_list": {
            "animal_id": Slot("animal_id"),
            "production_date": Slot("day"),
            "shift": Slot("shift"),
            "quantity_litres": Slot("quantity_litres"),
            "fat_percentage": Slot("fat_percentage"),
        }
    },
    expect=Expect.NEW_ID,
    check=odoo_checks.enter_milk,
)
ENTER_WEIGHT = Call(
    "farm.animal",
    "write",
    {"vals": {"weight_kg": Slot("weight_kg")}},
    ids=[Slot("animal_id")],
    expect=Expect.TRUE,
    check=odoo_checks.enter_weight,
)
ENTER_TREATMENT = Call(
    "farm.health_record",
    "create",
    {
        "vals_list": {
            "animal_id": Slot("animal_id"),
            "record_date": Slot("day"),
            "details": {"diagnosis": Slot("diagnosis"), "severity": Slot("severity")},
            "treatment_status": "pending",
            "scheduled_date": Slot("scheduled_date"),
        }
    },
    expect=Expect.NEW_ID,
    check=odoo_checks.enter_treatment,
)

# What the accounts' groups may do: the worker milks and treats, the auditor reads.
MANAGER = "manager"
WORKER = "worker"


class Staff(OdooUser):
    abstract = True

    @task(19)
    def milk_of_the_day(self) -> Request:
        return self.request(MILK_OF_THE_DAY, day=self.inputs.as_of.isoformat())

    @task(13)
    def active_animals(self) -> Request:
        return self.request(ACTIVE_ANIMALS)

    @task(26)
    def animal_by_tag(self) -> Request:
        _animal_id, tag = self.often(self.animals)
        return self.request(ANIMAL_BY_TAG, tag=tag)

    @task(14)
    def daily_report(self) -> Request:
        return self.request(DAILY_REPORT, date=self.recent_day().isoformat())

    @task(14)
    def milk_history(self) -> Request:
        return self.request(MILK_HISTORY, animal_id=self.often(self.lactating_ids))

    @task(6)
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

    @task(4)
    @roles(MANAGER)
    def enter_weight(self) -> Request:
        animal_id, _tag = self.random.choice(self.animals)
        return self.request(
            ENTER_WEIGHT, animal_id=animal_id, weight_kg=self.random.randint(*written.WEIGHT_TENTHS_KG) / 10
        )

    @task(3)
    @roles(MANAGER, WORKER)
    def enter_treatment(self) -> Request:
        animal_id, _tag = self.random.choice(self.animals)
        return self.request(
            ENTER_TREATMENT,
            animal_id=animal_id,
            day=self.inputs.as_of.isoformat(),
            diagnosis=self.random.choice(self.inputs.diagnoses),
            severity=self.random.choice(self.inputs.severities),
            scheduled_date=(self.inputs.as_of + written.TREATED_AFTER).isoformat(),
        )
