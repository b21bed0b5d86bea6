"""The dashboards that the dairy's staff leaves open in a browser: a log-in, then a poll at the scenario's pace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fixtures.answers import odoo_checks
from harness.locust_plugin import OdooWebUser
from harness.odoo_calls import Call, Expect, Text
from harness.wire import Slot

ACTIVE_COUNT = Call(
    "farm.animal",
    "search_count",
    {"domain": [["status", "=", "active"]]},
    case="active",
    expect=Text("result"),
    check=odoo_checks.active_count,
)
MILK_BY_SHIFT = Call(
    "farm.milk_production",
    "formatted_read_group",
    {
        "domain": [["production_date", "=", Slot("day")]],
        "groupby": ["shift"],
        "aggregates": ["quantity_litres:sum", "__count"],
    },
    expect=Text("morning"),
    check=odoo_checks.milk_by_shift,
)
PENDING_TREATMENTS = Call(
    "farm.health_record",
    "search_read",
    {
        "domain": [["treatment_status", "=", "pending"]],
        "fields": ["animal_id", "scheduled_date", "details"],
        "order": "scheduled_date, id",
        "limit": 20,
    },
    case="pending",
    expect=Expect.ROWS,
    check=odoo_checks.pending_treatments,
)


class Dashboard(OdooWebUser):
    def dashboard(self) -> Iterator[tuple[Call, Mapping[str, object]]]:
        yield ACTIVE_COUNT, {}
        yield MILK_BY_SHIFT, {"day": self.inputs.as_of.isoformat()}
        yield PENDING_TREATMENTS, {}
