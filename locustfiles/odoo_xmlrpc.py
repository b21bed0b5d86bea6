"""The dairy's staff in Odoo, over XML-RPC."""

from __future__ import annotations

from harness.locust_plugin import OdooXmlRpcUser
from locustfiles.odoo_staff import Staff


class OdooStaff(Staff, OdooXmlRpcUser):
    pass
