"""Odoo's accounts, and the secrets of a stack that are made anew at each start."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import psycopg

from harness.model import Account
from harness.services import odoo

ROLES = ("postgres", "odoo", "api", "harness", "monitoring")


def new_secret() -> str:
    return secrets.token_urlsafe(24)


def hand_out(admin_dsn: str, database: str) -> tuple[tuple[Account, ...], dict[str, object]]:
    """Gives the Odoo accounts of `database` fresh passwords and keys; returns them and the secrets file's content,
    whose layout StackAddresses describes. Odoo must not be serving."""
    with psycopg.connect(admin_dsn, dbname=database) as connection:
        accounts = odoo.accounts(connection)
        passwords = {account.login: secrets.token_urlsafe(12) for account in accounts}
        odoo.set_passwords(connection, passwords)
        odoo_keys = {account.login: odoo.new_api_key() for account in accounts}
        odoo.set_api_keys(connection, odoo_keys)
        odoo.freeze_base_url(connection)
    api_keys = {account.login: new_secret() for account in accounts}
    return accounts, {
        "odoo": passwords,
        "odoo_keys": odoo_keys,
        "api_keys": api_keys,
        "api_key": api_keys[odoo.ADMINISTRATOR],
        "redis": new_secret(),
    }


def write(path: Path, content: dict[str, object]) -> None:
    """As JSON, 0600."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)
