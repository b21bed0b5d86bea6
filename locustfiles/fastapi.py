"""The dairy's apps and dashboards: the FastAPI service."""

from __future__ import annotations

from locust import task

from harness.locust_plugin import ApiUser
from harness.wire import Request

ROW = b'"id":'
PAGE = 50


class AppUser(ApiUser):
    @task(28)
    def animal_by_tag(self) -> Request:
        return self.get("/api/v1/animals/{tag_number}", tag_number=self.often(self.inputs.active_tags), expect=ROW)

    @task(16)
    def daily_report(self) -> Request:
        query = {"date": self.recent_day().isoformat()}
        return self.get("/api/v1/milk-production/daily", query=query, expect=b'"morning"')

    @task(16)
    def milk_history(self) -> Request:
        animal_id = self.often(self.inputs.lactating_ids)
        return self.get("/api/v1/milk-production/{animal_id}/history", animal_id=animal_id, expect=ROW)

    @task(10)
    def animals(self) -> Request:
        pages = range(0, len(self.inputs.head_ids), PAGE)
        query = {"limit": PAGE, "offset": self.random.choice(pages)}
        return self.get("/api/v1/animals", query=query, expect=ROW)

    @task(8)
    def search(self) -> Request:
        query = {"q": self.random.choice(self.inputs.search_words)}
        return self.get("/api/v1/animals/search", query=query, expect=ROW)

    @task(5)
    def health_search(self) -> Request:
        query = {"diagnosis": self.random.choice(self.inputs.diagnoses)}
        return self.get("/api/v1/health-records/search", query=query, expect=ROW)

    @task(4)
    def pending_treatments(self) -> Request:
        return self.get("/api/v1/health-records/pending", expect=ROW)

    @task(4)
    def enter_milk(self) -> Request:
        milking = {
            "animal_id": self.random.choice(self.inputs.lactating_ids),
            "production_date": self.inputs.as_of.isoformat(),
            "shift": self.random.choice(self.inputs.shifts),
            "quantity_litres": self.random.randint(200, 900) / 100,
            "fat_percentage": self.random.randint(320, 480) / 100,
        }
        return self.post("/api/v1/milk-production", milking, expect=ROW)

    @task(3)
    def breeding_schedule(self) -> Request:
        return self.get("/api/v1/breeding/schedule", expect=ROW)

    @task(3)
    def stock_movements(self) -> Request:
        query = {"product_id": self.random.choice(self.inputs.product_ids)}
        return self.get("/api/v1/inventory/movements", query=query, expect=ROW)

    @task(3)
    def open_orders(self) -> Request:
        return self.get("/api/v1/orders/open", expect=ROW)

    @task(3)
    def db_metrics(self) -> Request:
        return self.get("/api/v1/monitoring/db-metrics", expect=b'"daily_milk_litres":')
