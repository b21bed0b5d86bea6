"""Everybody logs in at once, again and again: what a password costs."""

from __future__ import annotations

from locust import task

from harness.locust_plugin import OdooUser
from harness.wire import Request


class LoginUser(OdooUser):
    @task
    def log_in(self) -> Request:
        return self.authenticate()
