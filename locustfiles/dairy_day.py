"""A day at the dairy: the staff in Odoo and the apps on the service, half of the users each; 6 % of requests write."""

from __future__ import annotations

from locustfiles.fastapi import AppUser
from locustfiles.odoo_xmlrpc import OdooStaff

__all__ = ["AppUser", "OdooStaff"]
