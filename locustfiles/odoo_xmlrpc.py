"""The dairy's staff in Odoo, over XML-RPC. The first two requests are those of the specification's K6 script."""

from __future__ import annotations

from datetime import timedelta

from locust import task

from harness.locust_plugin import OdooUser, roles
from harness.wire import Request

ROW = b"<struct>"
NEW_ID = b"<int>"
TRUE = b"<boolean>1</boolean>"

# What the accounts' groups may do: the worker milks and treats, the auditor reads.
MANAGER = "manager"
WORKER = "worker"


class OdooStaff(OdooUser):
    @task(19)
    def milk_of_the_day(self) -> Request:
        domain = [["production_date", "=", self.inputs.as_of.isoformat()]]
        fields = {"fields": ["animal_id", "quantity_litres", "shift"], "limit": 100}
        return self.execute("farm.milk_production", "search_read", [domain], fields, case="day", expect=ROW)

    @task(13)
    def active_animals(self) -> Request:
        domain = [["status", "=", "active"]]
        fields = {"fields": ["name", "tag_number", "breed"]}
        return self.execute("farm.animal", "search_read", [domain], fields, case="active", expect=ROW)

    @task(26)
    def animal_by_tag(self) -> Request:
        _animal_id, tag = self.often(self.animals)
        fields = {"fields": ["name", "tag_number", "breed", "status", "weight_kg", "section_id"], "limit": 1}
        domain = [["tag_number", "=", tag]]
        return self.execute("farm.animal", "search_read", [domain], fields, case="tag", expect=ROW)

    @task(14)
    def daily_report(self) -> Request:
        day = self.recent_day().isoformat()
        return self.execute("farm.milk_production", "daily_report", [day], expect=b"morning")

    @task(14)
    def milk_history(self) -> Request:
        fields = {
            "fields": ["production_date", "shift", "quantity_litres", "fat_percentage"],
            "order": "production_date desc",
            "limit": 90,
        }
        domain = [["animal_id", "=", self.often(self.lactating_ids)]]
        return self.execute("farm.milk_production", "search_read", [domain], fields, case="animal", expect=ROW)

    @task(6)
    @roles(MANAGER, WORKER)
    def enter_milk(self) -> Request:
        milking = {
            "animal_id": self.random.choice(self.lactating_ids),
            "production_date": self.inputs.as_of.isoformat(),
            "shift": self.random.choice(self.inputs.shifts),
            "quantity_litres": self.random.randint(200, 900) / 100,
            "fat_percentage": self.random.randint(320, 480) / 100,
        }
        return self.execute("farm.milk_production", "create", [milking], expect=NEW_ID)

    @task(4)
    @roles(MANAGER)
    def enter_weight(self) -> Request:
        animal_id, _tag = self.random.choice(self.animals)
        weight = {"weight_kg": self.random.randint(2500, 6000) / 10}
        return self.execute("farm.animal", "write", [[animal_id], weight], expect=TRUE)

    @task(3)
    @roles(MANAGER, WORKER)
    def enter_treatment(self) -> Request:
        animal_id, _tag = self.random.choice(self.animals)
        record = {
            "animal_id": animal_id,
            "record_date": self.inputs.as_of.isoformat(),
            "details": {
                "diagnosis": self.random.choice(self.inputs.diagnoses),
                "severity": self.random.choice(self.inputs.severities),
            },
            "treatment_status": "pending",
            "scheduled_date": (self.inputs.as_of + timedelta(days=7)).isoformat(),
        }
        return self.execute("farm.health_record", "create", [record], expect=NEW_ID)
