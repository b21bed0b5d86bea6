"""Redis 7: its configuration and starting it."""

from __future__ import annotations

import os
from pathlib import Path

import redis
from jinja2 import Environment, StrictUndefined

from harness.services import process
from harness.services.process import Service

CONFIG = Path(__file__).parents[2] / "fixtures/services/redis/redis.conf.j2"


def config_text(*, port: int, folder: Path, password: str, listen: str = "127.0.0.1") -> str:
    """redis.conf. It holds the password."""
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(CONFIG.read_text())
    return template.render(port=port, folder=folder, password=password, listen=listen)


def start(program: Path, library_path: str, folder: Path, port: int, password: str, log: Path) -> Service:
    """Writes redis.conf (0600: it holds the password) into `folder` and starts the server."""
    folder.mkdir(mode=0o700, exist_ok=True)
    config = folder / "redis.conf"
    config.unlink(missing_ok=True)
    with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(config_text(port=port, folder=folder, password=password))
    return process.start(
        "redis",
        [str(program), str(config)],
        log=log,
        environment={"LD_LIBRARY_PATH": library_path} if library_path else {},
        cwd=folder,
    )


def answers(url: str, password: str) -> bool:
    client = redis.Redis.from_url(url, password=password, socket_timeout=2, socket_connect_timeout=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def flush(url: str, password: str) -> None:
    """Empties the server. A reset stack has an empty cache."""
    client = redis.Redis.from_url(url, password=password, socket_timeout=10, socket_connect_timeout=2)
    try:
        client.flushall()
    finally:
        client.close()
