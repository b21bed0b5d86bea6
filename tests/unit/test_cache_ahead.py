"""Refreshing ahead: what is worth it, when it is done, and that nobody notices but by the hits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from built_redis import FakeRedis
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.cache import keys, nonblocking, refreshing, steps
from fixtures.cache.ahead import UNREAD_MAX, Ahead
from fixtures.cache.keys import EXPIRY_LEAD_S, TTL_S, generation_key, result_key
from fixtures.cache.steps import CacheSteps, Counts

GENERATION = generation_key("farm.milk_production", "animal", 7)
KEY = result_key("manager", "milk_history", {"animal_id": 7})

# --- what is worth it ----------------------------------------------------------------------------------------------

SOON_S = TTL_S - EXPIRY_LEAD_S

# (what happens, key or seconds) ... and what is to be refreshed in the end. Key "a1" rests on generation "a".
CASES: dict[str, tuple[list[tuple[str, Any]], list[str]]] = {
    "nothing was read": ([("renewed", "a")], []),
    "read, then outdated": ([("read", "a1"), ("renewed", "a")], ["a1"]),
    "all that rests on it, and nothing else": (
        [("read", "a1"), ("read", "a2"), ("read", "b1"), ("renewed", "a")],
        ["a1", "a2"],
    ),
    "outdated twice before its turn": ([("read", "a1"), ("renewed", "a"), ("renewed", "a")], ["a1"]),
    "outdated while it is refreshed": (
        [("read", "a1"), ("renewed", "a"), ("next", "a1"), ("renewed", "a"), ("next", None), ("ended", "a1")],
        ["a1"],
    ),
    "outdated while a reader computes it": (
        [("read", "a1"), ("began", "a1"), ("renewed", "a"), ("next", None), ("ended", "a1")],
        ["a1"],
    ),
    "one of two is under way": (
        [("read", "a1"), ("read", "a2"), ("began", "a1"), ("renewed", "a")],
        ["a2"],
    ),
    "last read longer ago than results live": ([("read", "a1"), ("later", TTL_S + 1), ("renewed", "a")], []),
    "refreshed again and again for nobody": (
        [("read", "a1"), *[("renewed", "a"), ("next", "a1"), ("ended", "a1")] * UNREAD_MAX, ("renewed", "a")],
        [],
    ),
    "for nobody, then read": (
        [
            ("read", "a1"),
            *[("renewed", "a"), ("next", "a1"), ("ended", "a1")] * UNREAD_MAX,
            ("renewed", "a"),
            ("read", "a1"),
            ("renewed", "a"),
        ],
        ["a1"],
    ),
    "forgotten": ([("read", "a1"), ("renewed", "a"), ("forget", "a1"), ("renewed", "a")], []),
    "the least lately read has to go": (
        [("read", "a1"), ("read", "a2"), ("read", "a3"), ("read", "a1"), ("read", "a4"), ("renewed", "a")],
        ["a1", "a3", "a4"],
    ),
    "ends soon, and was read since it was computed": (
        [("read", "a1"), ("computed", "a1"), ("later", 1), ("read", "a1"), ("later", SOON_S - 1)],
        ["a1"],
    ),
    "ends soon, not read since": ([("read", "a1"), ("later", 1), ("computed", "a1"), ("later", SOON_S)], []),
    "ends, but not soon": (
        [("read", "a1"), ("computed", "a1"), ("later", 1), ("read", "a1"), ("later", SOON_S - 2)],
        [],
    ),
    "computed by another process, so that its end is not known": (
        [("read", "a1"), ("later", 1), ("read", "a1"), ("later", SOON_S - 1)],
        ["a1"],
    ),
    "of what is not remembered": ([("computed", "a1"), ("forget", "a1"), ("renewed", "a")], []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_due(case: str) -> None:
    happened, expected = CASES[case]
    now_s = 0.0
    ahead: Ahead[str] = Ahead(lambda: now_s, entries_max=3)
    for what, of in happened:
        match what:
            case "later":
                now_s += of
            case "read":
                ahead.read(of, [of[0]], "recipe of " + of)
            case "renewed":
                ahead.renewed([of])
            case "next":
                due = ahead.next()
                assert (due.key if due else None) == of
            case _:
                getattr(ahead, what)(of)
    found = []
    while due := ahead.next():
        assert (due.generations, due.recipe) == ((due.key[0],), "recipe of " + due.key)
        found.append(due.key)
    assert sorted(found) == expected


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["read", "renewed", "next", "end", "later", "computed", "forget"]),
            st.sampled_from(["a1", "a2", "b1", "b2", "c1"]),
        ),
        max_size=80,
    )
)
def test_nothing_is_refreshed_for_ever_twice_at_once_or_without_bound(happened: list[tuple[str, str]]) -> None:
    now_s = 0.0
    ahead: Ahead[None] = Ahead(lambda: now_s, entries_max=4)
    under_way: list[str] = []
    since_read: Counter[str] = Counter()
    for what, key in happened:
        match what:
            case "read":
                ahead.read(key, [key[0], "any"], None)
                since_read[key] = 0
            case "renewed":
                ahead.renewed([key[0]])
            case "next":
                if due := ahead.next():
                    assert due.key not in under_way
                    under_way.append(due.key)
                    since_read[due.key] += 1
                    assert since_read[due.key] <= UNREAD_MAX
                else:
                    assert ahead.pause_s() != 0, "who waits as long as it says does not spin"
            case "end":
                if under_way:
                    ahead.ended(under_way.pop())
            case "later":
                now_s += TTL_S / 3
            case _:
                getattr(ahead, what)(key)
        assert len(ahead) <= 4


# --- when it is done -----------------------------------------------------------------------------------------------


class Farm:
    """One value behind a cache that refreshes, and another process that writes it."""

    def __init__(self) -> None:
        self.redis = FakeRedis()
        self.counts = Counts()
        self.now_s = 0.0
        self.cache = nonblocking.ResultCache(self.redis, self.steps(self.counts))  # type: ignore[arg-type]
        self.elsewhere = nonblocking.ResultCache(self.redis, self.steps(Counts()))  # type: ignore[arg-type]
        self.value = 0
        self.computed = 0
        self.before_rows: Callable[[], Awaitable[Any]] | None = None
        self.after_rows: Callable[[], Awaitable[Any]] | None = None
        self.may_store = True

    def steps(self, counts: Counts) -> CacheSteps:
        return CacheSteps(counts, clock=lambda: self.now_s)

    async def produce(self) -> bytes:
        self.computed += 1
        if self.before_rows:
            await self.before_rows()
        seen = self.value
        if self.after_rows:
            await self.after_rows()
        return b"%d" % seen

    async def storable(self) -> bool:
        return self.may_store

    async def read(self) -> int:
        return int(await self.cache.result(KEY, [GENERATION], self.produce, self.storable))

    async def write(self, cache: nonblocking.ResultCache | None = None) -> None:
        self.value += 1
        await (cache or self.cache).invalidate([GENERATION])

    def kept(self) -> int | None:
        """What a reader would be given now."""
        entry, token = self.redis.data.get(KEY), self.redis.data.get(GENERATION)
        found = keys.result_in(entry, keys.stamp([token])) if token else None
        return None if found is None else int(found)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():
            await asyncio.sleep(0.001)


def play(story: Callable[[Farm], Coroutine[Any, Any, None]]) -> None:
    """With the tasks that refresh; they are gone afterwards."""

    async def whole() -> None:
        farm = Farm()
        farm.cache.start()
        await until(lambda: len(farm.redis.listeners) == 1)
        try:
            await story(farm)
        finally:
            await farm.cache.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


@pytest.mark.parametrize("writer", ["itself", "another process"])
def test_a_commit_is_in_the_cache_before_anybody_asks(writer: str) -> None:
    async def story(farm: Farm) -> None:
        await farm.read()
        for n in (1, 2):
            await farm.write(farm.cache if writer == "itself" else farm.elsewhere)
            await until(lambda n=n: farm.kept() == n)  # type: ignore[misc]
        assert await farm.read() == 2
        assert farm.counts == Counts(lookups=2, hits=1, refreshes=2)
        assert (farm.computed, keys.claim_key(KEY) in farm.redis.data) == (3, False)

    play(story)


def test_a_write_during_a_refresh_is_refreshed_after_it() -> None:
    async def story(farm: Farm) -> None:
        await farm.read()

        async def write_once() -> None:
            farm.after_rows = None
            await farm.write()

        farm.after_rows = write_once
        await farm.write()
        await until(lambda: farm.kept() == 2)
        assert farm.counts.refreshes == 2

    play(story)


def test_a_reader_waits_for_a_refresh_that_is_under_way() -> None:
    async def story(farm: Farm) -> None:
        await farm.read()
        go_on = asyncio.Event()
        farm.before_rows = go_on.wait
        await farm.write()
        await until(lambda: farm.computed == 2)
        readers = [asyncio.create_task(farm.read()) for _ in range(5)]
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(*readers) == [1] * 5
        assert farm.counts == Counts(lookups=6, hits=5, waited=5, refreshes=1)
        assert farm.computed == 2

    play(story)


def test_no_refresh_begins_while_a_reader_needs_the_database() -> None:
    async def story(farm: Farm) -> None:
        await farm.read()
        go_on = asyncio.Event()

        async def slow() -> bytes:
            await go_on.wait()
            return b"5"

        other = asyncio.create_task(farm.cache.result("sd:other", ["sd:gen:other"], slow))
        await until(lambda: keys.claim_key("sd:other") in farm.redis.data)
        await farm.write()
        for _ in range(20):
            await asyncio.sleep(0)
        assert farm.counts.refreshes == 0
        go_on.set()
        await other
        await until(lambda: farm.kept() == 1)

    play(story)


def test_few_at_once() -> None:
    async def story(farm: Farm) -> None:
        go_on, under_way = asyncio.Event(), 0

        async def produce() -> bytes:
            nonlocal under_way
            under_way += 1
            if farm.value:
                await go_on.wait()
            return b"1"

        for n in range(9):
            await farm.cache.result(f"sd:{n}", [GENERATION], produce)
        under_way = 0
        await farm.write()
        await until(lambda: under_way == refreshing.REFRESHES_AT_ONCE)
        for _ in range(20):
            await asyncio.sleep(0)
        assert under_way == refreshing.REFRESHES_AT_ONCE
        go_on.set()
        await until(lambda: under_way == 9)

    play(story)


def test_a_refresh_that_fails_is_nobodys_fault() -> None:
    async def story(farm: Farm) -> None:
        await farm.read()

        async def broken() -> None:
            raise LookupError

        farm.before_rows = broken
        await farm.write()
        await until(lambda: farm.counts.refreshes == 1 and keys.claim_key(KEY) not in farm.redis.data)
        await farm.write()
        farm.before_rows = None
        assert await farm.read() == 2
        assert farm.counts == Counts(lookups=2, refreshes=1)
        await farm.write()
        await until(lambda: farm.kept() == 3)

    play(story)


def test_what_others_may_not_see_is_not_kept() -> None:
    """As that of a worker who was moved to other sections meanwhile."""

    async def story(farm: Farm) -> None:
        farm.may_store = False
        readers = await asyncio.gather(*(farm.read() for _ in range(3)))
        assert (readers, farm.computed, farm.counts.hits) == ([0] * 3, 3, 0)
        farm.may_store = True
        await farm.read()
        farm.may_store = False
        await farm.write()
        await until(lambda: farm.counts.refreshes == 1 and keys.claim_key(KEY) not in farm.redis.data)
        assert farm.kept() is None
        await farm.write()
        assert await farm.read() == 2
        assert farm.counts.refreshes == 1, "who was shown something else does not refresh it again"

    play(story)


@pytest.mark.parametrize("gone", ["entry", "token", "claimed"])
def test_nothing_is_brought_back_nor_done_twice(gone: str) -> None:
    async def story(farm: Farm) -> None:
        await farm.read()
        claim = keys.claim_key(KEY)
        if gone == "claimed":
            farm.redis.data[claim] = b"1"
        asked = farm.redis.calls
        await farm.write()
        if gone == "entry":
            farm.redis.data.clear()  # a flush
        if gone == "token":
            farm.redis.data.pop(GENERATION)
        await until(lambda: farm.redis.calls >= asked + 2)
        await until(lambda: (claim in farm.redis.data) == (gone == "claimed"))
        assert (farm.counts.refreshes, farm.computed, farm.kept()) == (0, 1, None)

    play(story)


def test_what_is_read_again_and_again_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(farm: Farm) -> None:
        monkeypatch.setattr(farm.cache._refreshing, "ahead", Ahead(lambda: farm.now_s))
        await farm.read()
        farm.now_s += 1
        await farm.read()
        farm.now_s += SOON_S
        assert farm.computed == 1
        farm.redis.left_ms[KEY] = int(1000 * EXPIRY_LEAD_S)
        farm.cache._refreshing.renewed([])  # the clock of this test wakes nobody
        await until(lambda: farm.computed == 2)
        assert farm.counts == Counts(lookups=2, hits=1, refreshes=1)

    play(story)


@pytest.mark.parametrize("fault", ["refused", "hung"])
def test_without_redis_nothing_is_refreshed_and_afterwards_it_is(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonblocking, "PATIENCE_S", 0.01)
    monkeypatch.setattr(nonblocking, "RETRY_AFTER_S", 0.001)
    monkeypatch.setattr(refreshing, "RETRY_AFTER_S", 0.001)

    async def story(farm: Farm) -> None:
        await farm.read()
        farm.redis.fault = fault
        [listener] = farm.redis.listeners
        listener.put_nowait({"data": b""})  # wakes it, so that it finds the link broken
        await until(lambda: not farm.redis.listeners)
        await farm.write()
        assert await farm.read() == 1
        assert farm.counts.refreshes == 0
        farm.redis.fault = ""
        farm.now_s += 2 * steps.RETRY_AFTER_S
        await until(lambda: len(farm.redis.listeners) == 1)
        assert await farm.read() == 1
        await farm.write(farm.elsewhere)
        await until(lambda: farm.kept() == 2)

    play(story)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["read", "write", "write elsewhere", "reader", "flush", "pause"]), max_size=30))
def test_no_reader_sees_less_than_was_written_before_it_came(happened: list[str]) -> None:
    async def story(farm: Farm) -> None:
        under_way = []

        async def reader(at_least: int) -> None:
            assert await farm.read() >= at_least

        farm.after_rows = lambda: asyncio.sleep(0)
        for what in happened:
            match what:
                case "read":
                    assert await farm.read() >= farm.value
                case "write":
                    await farm.write()
                case "write elsewhere":
                    await farm.write(farm.elsewhere)
                case "reader":
                    under_way.append(asyncio.create_task(reader(farm.value)))
                case "flush":
                    farm.redis.data.clear()
                case "pause":
                    for _ in range(5):
                        await asyncio.sleep(0)
        await asyncio.gather(*under_way)

    play(story)


@pytest.mark.parametrize("message", [b"", b"[]", b"7", b"{", b'"x"', b"\xff"])
def test_an_announcement_of_another_form_renews_nothing(message: bytes) -> None:
    assert keys.announced(message)[1] == ()


def test_an_announcement_carries_any_name() -> None:
    diagnosis = generation_key("farm.health_record", "diagnosis", 'foot "rot", Füße')
    assert keys.announced(keys.announcement("me", [diagnosis, GENERATION])) == ("me", (diagnosis, GENERATION))
