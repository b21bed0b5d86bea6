"""A dictionary in Redis's place that can fail, hang and forget, with as much of redis-py as the cache uses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from fixtures.cache.keys import TTL_S


class FakeRedis:
    """The commands that the cache sends. fault: "" answers, "refused", "hung", or "unsure" (done, but no reply)."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.left_ms: dict[str, int] = {}
        self.listeners: list[asyncio.Queue[dict[str, Any]]] = []
        self.fault = ""
        self.calls = 0

    def do(self, name: str, *arguments: Any) -> Any:
        match name:
            case "MGET":
                return [self.data.get(key) for key in arguments]
            case "SET":
                key, value, *options = arguments
                if "NX" in options and key in self.data:
                    return None
                self.data[key] = value
                return True
            case "HINCRBY":
                key, name, by = arguments
                self.data.setdefault(key, {}).setdefault(name, 0)
                self.data[key][name] += by
                return self.data[key][name]
            case "DEL":
                return self.data.pop(arguments[0], None) is not None
            case "PTTL":
                return self.left_ms.get(arguments[0], 1000 * TTL_S)
            case "PUBLISH":
                for listener in self.listeners:
                    listener.put_nowait({"type": "message", "data": arguments[1]})
                return len(self.listeners)
            case "PING":
                return True
        raise AssertionError(name)

    def run(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        if self.fault == "refused":
            raise RedisConnectionError
        replies = [self.do(*command) for command in commands]
        if self.fault == "unsure":
            raise RedisConnectionError
        return replies

    @asynccontextmanager
    async def pipeline(self, transaction: bool = True) -> Any:
        yield FakePipeline(self)

    def pubsub(self, ignore_subscribe_messages: bool) -> FakePubSub:
        return FakePubSub(self)

    async def aclose(self) -> None:
        pass


class FakePubSub:
    """Whoever listens hears nothing but a broken link once the server has a fault."""

    def __init__(self, redis: FakeRedis) -> None:
        self.redis = redis
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __aenter__(self) -> FakePubSub:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.heard in self.redis.listeners:
            self.redis.listeners.remove(self.heard)

    async def subscribe(self, channel: str) -> None:
        if self.redis.fault:
            raise RedisConnectionError
        self.redis.listeners.append(self.heard)

    async def get_message(self, timeout: float) -> dict[str, Any] | None:
        message = await self.heard.get()
        if self.redis.fault:
            raise RedisConnectionError
        return message


class FakePipeline:
    def __init__(self, redis: FakeRedis) -> None:
        self.redis = redis
        self.queued: list[tuple[Any, ...]] = []

    def execute_command(self, *command: Any) -> None:
        self.queued.append(command)

    async def execute(self) -> list[Any]:
        self.redis.calls += 1
        if self.redis.fault == "hung":
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return self.redis.run(self.queued)


class BlockingRedis(FakeRedis):
    @contextmanager
    def pipeline(self, transaction: bool = True) -> Iterator[Any]:  # type: ignore[override]
        pipeline = FakePipeline(self)
        pipeline.execute = lambda: self.run(pipeline.queued)  # type: ignore[method-assign, assignment, return-value]
        yield pipeline
