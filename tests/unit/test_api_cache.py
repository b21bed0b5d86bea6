"""The cache against a dictionary that can fail, hang and forget: an answer is never older than the last write."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from contextlib import asynccontextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from fixtures.api import cache
from fixtures.api.cache import ResultCache, generation_key, result_key
from fixtures.api.counters import Counters

GENERATION = generation_key("farm.milk_production", "animal", 7)
KEY = result_key("api", "milk_history", {"animal_id": 7})


class FakeRedis:
    """The commands that the cache sends. fault: "" answers, "refused", "hung", or "unsure" (done, but no reply)."""

    def __init__(self):
        self.data: dict[str, bytes] = {}
        self.fault = ""
        self.calls = 0

    async def _run(self, command):
        self.calls += 1
        if self.fault == "refused":
            raise RedisConnectionError
        if self.fault == "hung":
            await asyncio.Event().wait()
        answer = command()
        if self.fault == "unsure":
            raise RedisConnectionError
        return answer

    def _set(self, key, value, nx=False):
        if not (nx and key in self.data):
            self.data[key] = value

    def _mget(self, keys):
        return [self.data.get(key) for key in keys]

    async def mget(self, *keys):
        return await self._run(lambda: self._mget(keys))

    async def set(self, key, value, ex):
        return await self._run(lambda: self._set(key, value) or True)

    @asynccontextmanager
    async def _pipeline(self):
        yield FakePipeline(self)

    def pipeline(self, transaction=True):
        return self._pipeline()


class FakePipeline:
    def __init__(self, redis):
        self.redis = redis
        self.queued = []

    def set(self, key, value, nx=False, ex=None):
        self.queued.append(lambda: self.redis._set(key, value, nx))

    def mget(self, *keys):
        self.queued.append(lambda: self.redis._mget(keys))

    async def execute(self):
        return await self.redis._run(lambda: [command() for command in self.queued])


class Farm:
    """One value, written and read through the cache."""

    def __init__(self):
        self.redis = FakeRedis()
        self.counters = Counters()
        self.now_s = 0.0
        self.cache = ResultCache(self.redis, self.counters, clock=lambda: self.now_s)
        self.value = 0

    async def write(self):
        self.value += 1
        await self.cache.invalidate([GENERATION])

    async def read(self, write_meanwhile=False):
        async def produce():
            seen = self.value
            if write_meanwhile:
                await self.write()
            return b"%d" % seen

        return int(await self.cache.result(KEY, [GENERATION], produce))


FAULTS = st.sampled_from(["", "", "refused", "unsure"])
OPERATIONS = st.tuples(st.sampled_from(["read", "write", "write while reading", "forget", "flush"]), FAULTS)


@given(st.lists(OPERATIONS, max_size=40))
@example([("read", ""), ("write", "refused"), ("read", "")])  # an outage must not bring the old entry back
def test_a_read_never_sees_less_than_the_last_write(operations):
    async def play():
        farm = Farm()
        for operation, farm.redis.fault in operations:
            farm.now_s += cache.RETRY_AFTER_S
            match operation:
                case "read":
                    assert await farm.read() == farm.value
                case "write":
                    await farm.write()
                case "write while reading":
                    await farm.read(write_meanwhile=True)
                case "forget":
                    farm.redis.data.pop(GENERATION, None)
                case "flush":
                    farm.redis.data.clear()

    asyncio.run(play())


def test_hits_and_lookups_are_counted_and_a_write_touches_its_own_entry_alone():
    async def play():
        farm = Farm()
        other_key, other_generation = "sd:milk_history:other", generation_key("farm.milk_production", "animal", 8)

        async def other():
            return b"other"

        for _ in range(3):
            await farm.read()
            await farm.cache.result(other_key, [other_generation], other)
        assert (farm.counters.cache_lookups, farm.counters.cache_hits) == (6, 4)
        await farm.write()
        await farm.cache.result(other_key, [other_generation], other)
        assert farm.counters.cache_hits == 5
        assert await farm.read() == 1
        assert (farm.counters.cache_lookups, farm.counters.cache_hits, farm.counters.cache_errors) == (8, 5, 0)

    asyncio.run(play())


@pytest.mark.parametrize("fault", ["refused", "hung"])
def test_a_dead_redis_is_asked_once_and_then_left_alone(monkeypatch, fault):
    monkeypatch.setattr(cache, "PATIENCE_S", 0.01)

    async def play():
        farm = Farm()
        farm.redis.fault = fault
        assert [await farm.read() for _ in range(5)] == [0] * 5
        assert (farm.redis.calls, farm.counters.cache_errors, farm.counters.cache_lookups) == (1, 1, 5)
        farm.now_s += cache.RETRY_AFTER_S
        farm.redis.fault = ""
        await farm.read()
        await farm.read()
        assert farm.counters.cache_hits == 1

    asyncio.run(play())


def test_a_stall_of_the_process_itself_is_not_held_against_redis(monkeypatch):
    monkeypatch.setattr(cache, "PATIENCE_S", 0.05)

    async def play():
        farm = Farm()
        mget = farm.redis.mget

        async def answers_while_the_loop_is_blocked(*keys):
            asyncio.get_running_loop().call_soon(time.sleep, 0.1)
            await asyncio.sleep(0.001)
            return await mget(*keys)

        farm.redis.mget = answers_while_the_loop_is_blocked
        await farm.read()
        assert farm.counters.cache_errors == 0

    asyncio.run(play())


def test_without_redis_nothing_is_counted():
    async def play():
        counters = Counters()
        without = ResultCache(None, counters)

        async def produce():
            return b"{}"

        assert await without.result(KEY, [GENERATION], produce) == b"{}"
        await without.invalidate([GENERATION])
        assert (await without.state(), counters.cache_lookups) == ("off", 0)

    asyncio.run(play())


def test_keys_tell_scopes_queries_and_parameters_apart():
    day = dt.date(2026, 2, 3)
    keys = {
        result_key(scope, query, parameters)
        for scope in ("api", "auditor_role")
        for query in ("daily_milk_report", "db_metrics_milk")
        for parameters in ({"production_date": day}, {"production_date": day + dt.timedelta(1)})
    }
    assert len(keys) == 8
    assert all(key.startswith("sd:") and len(key.rpartition(":")[2]) == 64 for key in keys)
    assert result_key("a", "q", {"x": 1, "y": 2}) == result_key("a", "q", {"y": 2, "x": 1})
