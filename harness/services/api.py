"""How the FastAPI service is started: its command line, its environment, and where it says that it is ready."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from harness import CHECKOUT
from harness.model import Account

# Answers 200 without a key once every connection works; 503 while the database does not. Also replaces dead
# connections, so it is what to call after a reset of the database.
READY_PATH = "/healthz"
METRICS_PATH = "/metrics"


def command(port: int, *, host: str = "127.0.0.1", python: str = sys.executable) -> list[str]:
    """One process, because the specification's pool is sized for one; to be ended by SIGTERM. Holds no secret."""
    return [python, "-m", "fixtures.api", "--host", host, "--port", str(port)]


def environment(
    *,
    dsn: str,
    passfile: Path | str,
    secrets_file: Path | str,
    accounts: Sequence[Account] = (),
    redis_url: str | None = None,
    pool_max: int = 10,
    delay: str | None = None,
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Everything the service reads. Secrets are in the two files, never here.

    dsn: without password, of PostgreSQL or of pgBouncer. secrets_file: JSON with "api_key" (the
    administrator's), "api_keys" ({login: key}) and, for redis_url, "redis". accounts: whose keys those of "api_keys"
    are. redis_url: without password; None = no result cache (Day 31). delay: the test-only fault, for example
    "GET /api/v1/animals/{tag_number}=2.0" (seconds). base: what the process needs besides, such as PATH.
    """
    return {
        **(base or {}),
        "PYTHONPATH": str(CHECKOUT),  # whose package `fixtures` the service is
        "PYTHONDONTWRITEBYTECODE": "1",
        "PGPASSFILE": str(passfile),
        "DAIRYPERF_API_DSN": dsn,
        "DAIRYPERF_API_SECRETS": str(secrets_file),
        "DAIRYPERF_API_POOL_MAX": str(pool_max),
        **({"DAIRYPERF_API_ACCOUNTS": json.dumps([asdict(one) for one in accounts])} if accounts else {}),
        **({"DAIRYPERF_API_REDIS_URL": redis_url} if redis_url else {}),
        **({"DAIRYPERF_API_DELAY": delay} if delay else {}),
    }
