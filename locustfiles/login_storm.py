"""Everybody logs in at once, again and again: what a password costs."""

from __future__ import annotations

from locust import task

from harness.locust_plugin import OdooXmlRpcUser
from harness.wire import Request


class LoginUser(OdooXmlRpcUser):
    @task
    def log_in(self) -> Request:
        return self.log_in_request
