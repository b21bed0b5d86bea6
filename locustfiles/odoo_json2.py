"""The dairy's staff in Odoo, over JSON-2."""

from __future__ import annotations

from harness.locust_plugin import OdooJson2User
from locustfiles.odoo_staff import Staff


class OdooJson2Staff(Staff, OdooJson2User):
    pass
