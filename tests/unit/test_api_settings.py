from __future__ import annotations

import json
import sys

import pytest

from fixtures.api.identity import Account
from fixtures.api.settings import ADMINISTRATOR, DEFAULT_POOL_MAX, Settings, StartupError, from_environment
from harness import model
from harness.services import api

SECRETS = {
    "api_key": "key-of-test",
    "api_keys": {"farm_worker": "worker-key-of-test"},
    "redis": "password-of-test",
    "odoo": {"admin": "other"},
}
WORKER = model.Account(login="farm_worker", uid=6, role="worker")


@pytest.fixture
def secrets_file(tmp_path):
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps(SECRETS))
    return path


def test_environment_of_the_harness_is_what_the_service_reads(secrets_file):
    environment = api.environment(
        dsn="host=127.0.0.1 dbname=smart_dairy user=api",
        passfile="/stack/passfile",
        secrets_file=secrets_file,
        accounts=[WORKER],
        redis_url="redis://127.0.0.1:6379/0",
        pool_max=7,
        delay="GET /api/v1/animals/{tag_number}=2.0; GET /api/v1/orders/open=0.5",
    )
    assert from_environment(environment) == Settings(
        dsn="host=127.0.0.1 dbname=smart_dairy user=api",
        api_key="key-of-test",
        accounts={"worker-key-of-test": Account("farm_worker", 6, "worker")},
        redis_url="redis://127.0.0.1:6379/0",
        redis_password="password-of-test",
        pool_max=7,
        delays_s={"GET /api/v1/animals/{tag_number}": 2.0, "GET /api/v1/orders/open": 0.5},
    )
    assert not any(secret in str(environment.values()) for secret in ("key-of-test", "password-of-test"))


def test_only_dsn_and_secrets_are_needed_and_nothing_secret_is_shown(secrets_file):
    settings = from_environment(api.environment(dsn="dbname=x", passfile="p", secrets_file=secrets_file))
    assert (settings.redis_url, settings.pool_max, settings.delays_s) == (None, DEFAULT_POOL_MAX, {})
    assert "of-test" not in repr(settings)
    assert "of-test" not in repr(settings.keys())


def test_whose_a_key_is(secrets_file):
    read = from_environment(api.environment(dsn="dbname=x", passfile="p", secrets_file=secrets_file, accounts=[WORKER]))
    keys = read.keys()
    assert keys.account("key-of-test") == ADMINISTRATOR
    assert keys.account("worker-key-of-test") == Account("farm_worker", 6, "worker")
    assert [keys.account(key) for key in ("", "worker", "ключ", None)] == [None] * 4


def test_command_holds_an_interpreter_and_a_port():
    assert api.command(8123) == [sys.executable, "-m", "fixtures.api", "--host", "127.0.0.1", "--port", "8123"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DAIRYPERF_API_DSN", None, "not set"),
        ("DAIRYPERF_API_DSN", "host=h password=secret-1", "PGPASSFILE"),
        ("DAIRYPERF_API_DSN", "postgresql://u:secret-1@h/db", "PGPASSFILE"),
        ("DAIRYPERF_API_DSN", "secret-1 no string", "not a libpq connection string"),
        ("DAIRYPERF_API_SECRETS", None, "not set"),
        ("DAIRYPERF_API_SECRETS", "/nowhere/secrets.json", "FileNotFoundError"),
        ("DAIRYPERF_API_ACCOUNTS", "{", "JSON list of accounts"),
        ("DAIRYPERF_API_ACCOUNTS", '[{"login": "farm_worker", "uid": 6}]', "login, uid and role"),
        ("DAIRYPERF_API_ACCOUNTS", '[{"login": "farm_worker", "uid": 6, "role": "owner"}]', "manager, worker, auditor"),
        ("DAIRYPERF_API_ACCOUNTS", '[{"login": "nobody", "uid": 6, "role": "worker"}]', "no key for 'nobody'"),
        ("DAIRYPERF_API_REDIS_URL", "127.0.0.1:6379", "redis://"),
        ("DAIRYPERF_API_REDIS_URL", "redis://:secret-1@h:6379", "secrets file"),
        ("DAIRYPERF_API_POOL_MAX", "0", "1 to 1000"),
        ("DAIRYPERF_API_POOL_MAX", "many", "1 to 1000"),
        ("DAIRYPERF_API_DELAY", "/api/v1/animals=2", "GET /route"),
    ],
)
def test_a_wrong_setting_is_named_on_one_line_without_secrets(secrets_file, name, value, says):
    environment = {"DAIRYPERF_API_DSN": "dbname=x", "DAIRYPERF_API_SECRETS": str(secrets_file)}
    environment = {key: text for key, text in {**environment, name: value}.items() if text is not None}
    with pytest.raises(StartupError) as caught:
        from_environment(environment)
    text = str(caught.value)
    assert text.startswith(name)
    assert says in text
    assert "\n" not in text
    assert "secret-1" not in text


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"api_key": ""}', '{"api_key": 5}'])
def test_a_secrets_file_without_a_key_is_refused(tmp_path, content):
    path = tmp_path / "secrets.json"
    path.write_text(content)
    with pytest.raises(StartupError, match="DAIRYPERF_API_SECRETS"):
        from_environment({"DAIRYPERF_API_DSN": "dbname=x", "DAIRYPERF_API_SECRETS": str(path)})
