"""The cache against a dictionary that can fail, hang and forget: an answer is never older than the last write."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import socket
import time
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from built_redis import BlockingRedis, FakePipeline, FakeRedis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fixtures.cache import blocking, keys, nonblocking, steps, values
from fixtures.cache.keys import generation_key, resting_on, result_key, worker_scope
from fixtures.cache.steps import CacheSteps, Counts, Found

GENERATION = generation_key("farm.milk_production", "animal", 7)
KEY = result_key("manager", "milk_history", {"animal_id": 7})


class Farm:
    """One value, written and read through the cache."""

    def __init__(self) -> None:
        self.redis = FakeRedis()
        self.counts = Counts()
        self.now_s = 0.0
        self.cache = nonblocking.ResultCache(
            self.redis,  # type: ignore[arg-type]
            CacheSteps(self.counts, "farm", clock=lambda: self.now_s),
        )
        self.value = 0
        self.computed = 0

    async def write(self) -> None:
        self.value += 1
        await self.cache.invalidate([GENERATION])

    async def read(self, write_meanwhile: bool = False) -> int:
        async def produce() -> bytes:
            self.computed += 1
            seen = self.value
            await asyncio.sleep(0)
            if write_meanwhile:
                await self.write()
            return b"%d" % seen

        return int(await self.cache.result(KEY, [GENERATION], produce))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonblocking, "PATIENCE_S", 0.01)


FAULTS = st.sampled_from(["", "", "refused", "unsure"])
OPERATIONS = st.tuples(st.sampled_from(["read", "write", "write while reading", "forget", "flush"]), FAULTS)


@settings(max_examples=60)
@given(st.lists(OPERATIONS, max_size=30))
@example([("read", ""), ("write", "refused"), ("read", "")])  # an outage must not bring the old entry back
def test_a_read_never_sees_less_than_the_last_write(operations: list[tuple[str, str]]) -> None:
    async def play() -> None:
        farm = Farm()
        for operation, farm.redis.fault in operations:
            farm.now_s += steps.RETRY_AFTER_S
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


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["read", "write"]), min_size=2, max_size=30))
def test_concurrent_readers_never_see_less_than_what_was_written_before_they_came(moves: list[str]) -> None:
    async def play() -> None:
        farm = Farm()

        async def reader(at_least: int) -> None:
            assert await farm.read() >= at_least

        under_way = []
        for move in moves:
            if move == "read":
                under_way.append(asyncio.create_task(reader(farm.value)))
                await asyncio.sleep(0)
            else:
                await farm.write()
        await asyncio.gather(*under_way)

    asyncio.run(play())


def test_hits_and_lookups_are_counted_and_a_write_touches_its_own_entry_alone() -> None:
    async def play() -> None:
        farm = Farm()
        other_key, other_generation = "sd:milk_history:other", generation_key("farm.milk_production", "animal", 8)

        async def other() -> bytes:
            return b"other"

        for _ in range(3):
            await farm.read()
            await farm.cache.result(other_key, [other_generation], other)
        assert (farm.counts.lookups, farm.counts.hits) == (6, 4)
        await farm.write()
        await farm.cache.result(other_key, [other_generation], other)
        assert farm.counts.hits == 5
        assert await farm.read() == 1
        assert (farm.counts.lookups, farm.counts.hits, farm.counts.errors) == (8, 5, 0)
        assert farm.redis.data[keys.counts_key("farm")] == {"lookups": 8, "misses": 3}

    asyncio.run(play())


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("fault", ["refused", "hung"])
def test_a_dead_redis_is_asked_once_and_then_left_alone(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        farm = Farm()
        farm.redis.fault = fault
        assert [await farm.read() for _ in range(5)] == [0] * 5
        assert (farm.redis.calls, farm.counts.errors, farm.counts.lookups) == (1, 1, 5)
        assert await farm.cache.state() == "down"
        farm.now_s += steps.RETRY_AFTER_S
        farm.redis.fault = ""
        await farm.read()
        await farm.read()
        assert farm.counts.hits == 1
        # what was counted without Redis is told when it answers again
        assert farm.redis.data[keys.counts_key("farm")] == {"lookups": 7, "misses": 6, "errors": 2}
        assert await farm.cache.state() == "ok"

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())
    assert [record.getMessage().split(";")[1].strip() for record in caplog.records] == [
        "going on without the result cache",
        "using the result cache",
    ]


def test_a_write_is_told_though_redis_failed_a_moment_ago() -> None:
    async def play() -> None:
        farm = Farm()
        await farm.read()
        farm.redis.fault = "refused"
        await farm.read()
        farm.redis.fault = ""
        token = farm.redis.data[GENERATION]
        await farm.write()
        assert farm.redis.data[GENERATION] != token

    asyncio.run(play())


def test_a_stall_of_the_process_itself_is_not_held_against_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonblocking, "PATIENCE_S", 0.05)

    async def play() -> None:
        farm = Farm()
        do = FakePipeline.execute

        async def answers_while_the_loop_is_blocked(pipeline: FakePipeline) -> list[Any]:
            asyncio.get_running_loop().call_soon(time.sleep, 0.1)
            await asyncio.sleep(0.001)
            return await do(pipeline)

        monkeypatch.setattr(FakePipeline, "execute", answers_while_the_loop_is_blocked)
        await farm.read()
        assert farm.counts.errors == 0

    asyncio.run(play())


def test_fifty_misses_at_once_compute_once() -> None:
    async def play() -> None:
        farm = Farm()
        assert set(await asyncio.gather(*(farm.read() for _ in range(50)))) == {0}
        assert farm.computed == 1
        assert (farm.counts.lookups, farm.counts.hits) == (50, 49)
        assert keys.claim_key(KEY) not in farm.redis.data

    asyncio.run(play())


def test_a_failed_computation_passes_through_and_leaves_no_claim() -> None:
    async def play() -> None:
        farm = Farm()

        async def broken() -> bytes:
            await asyncio.sleep(0)
            raise LookupError

        with pytest.raises(LookupError):
            await farm.cache.result(KEY, [GENERATION], broken)
        failing = asyncio.create_task(farm.cache.result(KEY, [GENERATION], broken))
        await asyncio.sleep(0)
        assert await farm.read() == 0, "who waited computes it"
        with pytest.raises(LookupError):
            await failing
        assert keys.claim_key(KEY) not in farm.redis.data

    asyncio.run(play())


def test_nobody_waits_for_a_dead_claimant_beyond_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        farm = Farm()
        farm.redis.data[keys.claim_key(KEY)] = b"1"  # its holder died; the fake forgets nothing by itself
        slept = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            farm.now_s += seconds

        monkeypatch.setattr(nonblocking.asyncio, "sleep", sleep)
        assert await farm.read() == 0
        assert sum(slept[:-1]) <= steps.PATIENCE_S + 1e-9
        assert [pause for pause in slept if pause][:2] == [steps.FIRST_PAUSE_S, 2 * steps.FIRST_PAUSE_S]

    asyncio.run(play())


def test_without_redis_nothing_is_counted() -> None:
    async def play() -> None:
        without = nonblocking.ResultCache(None)

        async def produce() -> bytes:
            return b"{}"

        assert await without.result(KEY, [GENERATION], produce) == b"{}"
        await without.invalidate([GENERATION])
        assert (await without.state(), without.counts.lookups) == ("off", 0)
        await without.close()

    asyncio.run(play())


def test_what_an_outage_left_unsent_is_sent_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonblocking, "RETRY_AFTER_S", 0.001)

    async def play() -> None:
        farm = Farm()
        await farm.read()
        token = farm.redis.data[GENERATION]
        farm.redis.fault = "refused"
        await farm.write()
        assert farm.redis.data[GENERATION] == token
        farm.redis.fault = ""
        farm.now_s += 2 * steps.RETRY_AFTER_S
        async with asyncio.timeout(5):
            while farm.redis.data[GENERATION] == token:
                await asyncio.sleep(0.001)

    asyncio.run(play())


def test_a_blocking_writer_sends_what_is_unsent_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "RETRY_AFTER_S", 0.001)
    redis = BlockingRedis()
    clock = [0.0]
    cache = blocking.ResultCache(lambda: redis, CacheSteps(Counts(), clock=lambda: clock[0]))  # type: ignore[arg-type, return-value]
    redis.fault = "unsure"
    cache.invalidate([GENERATION])
    redis.fault = ""
    redis.data.clear()
    clock[0] += 2 * steps.RETRY_AFTER_S
    assert cache._sender is not None
    cache._sender.join(5)
    assert GENERATION in redis.data
    assert cache.counts.errors == 1


# --- what blocks ---------------------------------------------------------------------------------------------------


def test_an_old_snapshot_is_never_stored_under_newer_tokens() -> None:
    found = Found(stamp=keys.stamp([keys.new_token(1000.0), keys.new_token(900.0)]))
    assert found.older_than(1000.0 + steps.CLOCK_SKEW_S + 0.01)
    assert not found.older_than(1000.0 + steps.CLOCK_SKEW_S - 0.01)
    assert not Found().older_than(1e12)
    assert not Found(stamp=keys.stamp([b"of another form"])).older_than(1e12)


def test_a_blocking_read_returns_the_same_hit_or_miss() -> None:
    redis = BlockingRedis()
    cache = blocking.ResultCache(lambda: redis)  # type: ignore[arg-type, return-value]
    row = {"day": dt.date(2026, 2, 3), "ids": (1, 2), "litres": 4.25, "dam": False}
    told = {"day": "2026-02-03", "ids": [1, 2], "litres": 4.25, "dam": False}
    assert [cache.result(KEY, [GENERATION], lambda: row) for _ in range(2)] == [told, told]
    assert (cache.counts.lookups, cache.counts.hits) == (2, 1)
    cache.invalidate([GENERATION])
    # under a snapshot that is too old: computed, told in the same form, and not kept
    for _ in range(2):
        assert cache.result(KEY, [GENERATION], lambda: row, lambda found: found.older_than(0.0)) == told
    assert (cache.counts.lookups, cache.counts.hits) == (4, 1)
    assert keys.claim_key(KEY) not in redis.data
    redis.fault = "refused"
    assert cache.result(KEY, [GENERATION], lambda: row) == told


def test_a_stamp_can_be_had_before_the_key() -> None:
    redis = BlockingRedis()
    cache = blocking.ResultCache(lambda: redis)  # type: ignore[arg-type, return-value]
    seen = cache.stamp([GENERATION])
    assert seen == cache.stamp([GENERATION]) == keys.stamp([redis.data[GENERATION]])
    cache.invalidate([GENERATION])
    assert cache.stamp([GENERATION]) != seen
    redis.fault = "refused"
    assert cache.stamp([GENERATION]) is None


def test_what_xml_rpc_refuses_is_returned_as_it_is_and_not_kept() -> None:
    redis = BlockingRedis()
    cache = blocking.ResultCache(lambda: redis)  # type: ignore[arg-type, return-value]
    value = {1: Decimal("2.5")}
    assert cache.result(KEY, [GENERATION], lambda: value) is value
    assert KEY not in redis.data
    with pytest.raises(ZeroDivisionError):
        cache.result(KEY, [GENERATION], lambda: 1 // 0)
    assert keys.claim_key(KEY) not in redis.data


def test_a_blocking_read_waits_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    redis = BlockingRedis()
    cache = blocking.ResultCache(lambda: redis)  # type: ignore[arg-type, return-value]
    redis.data[GENERATION] = keys.new_token(0)
    redis.data[keys.claim_key(KEY)] = b"1"
    entry = keys.stamp([redis.data[GENERATION]]) + b'"of the other"'
    monkeypatch.setattr(blocking.time, "sleep", lambda _s: redis.data.__setitem__(KEY, entry))
    assert cache.result(KEY, [GENERATION], lambda: "own") == "of the other"


@pytest.mark.parametrize("content", [None, '["secret-of-test"]', "{secret-of-test", "{}"])
def test_a_bad_secrets_file_is_a_fault_of_redis_and_stays_out_of_the_log(
    content: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secrets.json"
    if content is not None:
        file.write_text(content)
    cache = blocking.ResultCache(lambda: blocking.connect_by("redis://127.0.0.1:1/0", str(file)))
    assert cache.result(KEY, [GENERATION], lambda: 1) == 1
    assert "Redis: ConnectionError" in caplog.text
    assert "secret-of-test" not in caplog.text


@pytest.mark.parametrize("broken", ["nobody listens", "hangs"])
def test_a_broken_redis_costs_a_blocking_reader_little(broken: str, tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text(json.dumps({"redis": "secret-of-test"}))
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts in the kernel, never answers
        port = server.getsockname()[1] if broken == "hangs" else 1
        client = blocking.connect_by(f"redis://127.0.0.1:{port}/0", str(tmp_path / "secrets.json"))
        options = client.connection_pool.connection_kwargs
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (steps.PATIENCE_S,) * 2
        cache = blocking.ResultCache(lambda: client)
        assert [cache.result(KEY, [GENERATION], lambda: 1) for _ in range(20)] == [1] * 20
        assert cache.counts.errors == 1, "nobody else asks for a while"
        client.close()


# --- names and values ----------------------------------------------------------------------------------------------


def test_keys_tell_scopes_queries_and_parameters_apart() -> None:
    day = dt.date(2026, 2, 3)
    found = {
        result_key(scope, query, parameters)
        for scope in ("manager", "auditor", worker_scope([2, 1]), worker_scope([12]), worker_scope([]))
        for query in ("daily_milk_report", "db_metrics_milk")
        for parameters in ({"production_date": day}, {"production_date": day + dt.timedelta(1)})
    }
    assert len(found) == 20
    assert all(key.startswith("sd:") and len(key.rpartition(":")[2]) == 64 for key in found)
    assert result_key("a", "q", {"x": 1, "y": 2}) == result_key("a", "q", {"y": 2, "x": 1})
    assert worker_scope({10, 9}) == "worker:9,10"
    assert keys.session_key("abc") == "sd:session:abc"


def test_a_workers_answers_rest_on_where_the_animals_stand() -> None:
    animals = generation_key("farm.animal")
    assert resting_on("worker:1", [GENERATION]) == (GENERATION, animals)
    assert resting_on("worker:1", [animals]) == (animals,)
    assert resting_on("manager", [GENERATION]) == resting_on("auditor", [GENERATION]) == (GENERATION,)


class Shift(IntEnum):
    NOON = 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, 2.5, True, "x", {"b": ()}]}, {"a": [1, 2.5, True, "x", {"b": []}]}),
        (dt.date(2026, 2, 3), "2026-02-03"),
        (dt.datetime(2026, 2, 3, 4, 5, 6, 7), "2026-02-03 04:05:06"),
        (b"bytes", "bytes"),
        ("bell\x07 and\ttab", "bell and\ttab"),
        (Shift.NOON, 2),
    ],
)
def test_values_as_xml_rpc_tells_them(value: Any, expected: Any) -> None:
    assert values.plain(value) == expected
    assert values.decoded(values.encoded(values.plain(value))) == expected
    assert values.plain(expected) == expected


@pytest.mark.parametrize("value", [None, Decimal("1.5"), {1: "int key"}, {dt.date(2026, 2, 3): 1}, {1, 2}, object()])
def test_values_that_xml_rpc_refuses(value: Any) -> None:
    for nested in (value, [value], {"a": {"b": value}}):
        with pytest.raises(values.Unconvertible, match="XML-RPC has no such value"):
            values.plain(nested)


JSON = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(min_codepoint=32)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aé ", max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30)
@given(JSON)
def test_plain_values_survive_unchanged(value: Any) -> None:
    found = values.decoded(values.encoded(values.plain(value)))
    assert found == value
    assert type(found) is type(value)
