"""The cache library on a Redis of its own: many processes at once, outages, and what comes back after them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from fixtures.cache import blocking, keys, nonblocking, refreshing, steps
from fixtures.cache.steps import CacheSteps, Counts
from harness.services import process, provision
from harness.services import redis as redis_service

ROOT = Path(__file__).parents[2]
PASSWORD = "secret-of-test"
GENERATION = keys.generation_key("farm.animal", "tag", "T-1")
KEY = keys.result_key("manager", "animal_by_tag", {"tag": "T-1"})


@dataclass
class Server:
    folder: Path
    tools: provision.Tools
    port: int = field(default_factory=process.free_port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.service = redis_service.start(
            self.tools.redis_server, self.tools.library_path, self.folder, self.port, PASSWORD, self.folder / "log"
        )
        process.wait_until(self.service, lambda: redis_service.answers(self.url, PASSWORD), 20)

    def kill(self) -> None:
        process.stop(self.service)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.service.pid, number)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"), provision.fetch(lambda _: None))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(running: Server) -> Server:
    redis_service.flush(running.url, PASSWORD)
    return running


@pytest.fixture
def redis(server: Server) -> Iterator[Redis]:
    with closing(Redis.from_url(server.url, password=PASSWORD)) as client:
        yield client


class Process:
    """What one worker process holds: a cache of its own, with a clock that the test moves."""

    def __init__(self, server: Server) -> None:
        self.now_s = 0.0
        self.client = blocking.connect(server.url, PASSWORD)
        self.cache = blocking.ResultCache(
            lambda: self.client, CacheSteps(Counts(), "test", clock=lambda: self.now_s + time.monotonic())
        )

    def read(self, produce: Callable[[], Any]) -> Any:
        return self.cache.result(KEY, [GENERATION], produce)


@pytest.fixture
def worker(server: Server) -> Iterator[Callable[[], Process]]:
    made: list[Process] = []

    def make() -> Process:
        made.append(Process(server))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy otherwise, fifty look-ups take longer than one may wait."""
    monkeypatch.setattr(steps, "PATIENCE_S", 30.0)
    monkeypatch.setattr(nonblocking, "PATIENCE_S", 30.0)


def test_both_clients_share_tokens_and_count_in_one_place(
    server: Server, redis: Redis, worker: Callable[[], Process]
) -> None:
    first, second = worker(), worker()
    assert [first.read(lambda: [1]), second.read(lambda: [2]), second.read(lambda: [2])] == [[1], [1], [1]]

    async def invalidate() -> None:
        cache = nonblocking.ResultCache(nonblocking.connect(server.url, PASSWORD))
        await cache.invalidate([GENERATION])
        assert await cache.state() == "ok"
        await cache.close()

    asyncio.run(invalidate())
    assert second.read(lambda: [3]) == [3]
    assert redis.hgetall(keys.counts_key("test")) == {b"lookups": b"4", b"misses": b"2"}
    assert 0 < redis.ttl(KEY) <= keys.TTL_S
    assert 0 < redis.ttl(GENERATION) <= keys.GENERATION_TTL_S
    assert redis.ttl(keys.counts_key("test")) == -1


def test_users_of_different_scopes_never_share_an_entry(worker: Callable[[], Process]) -> None:
    one = worker()
    scopes = ["manager", "auditor", keys.worker_scope([1]), keys.worker_scope([1, 2]), keys.worker_scope([2])]
    for _ in range(2):
        for scope in scopes:
            key = keys.result_key(scope, "animal_by_tag", {"tag": "T-1"})
            seen = one.cache.result(key, keys.resting_on(scope, [GENERATION]), lambda scope=scope: scope)
            assert seen == scope
    assert one.cache.counts.hits == len(scopes)


@pytest.mark.usefixtures("patient")
def test_a_stampede_of_fifty_processes_computes_once(redis: Redis, worker: Callable[[], Process]) -> None:
    computed: list[int] = []

    def produce() -> str:
        computed.append(threading.get_ident())
        # until all have looked for it in vain
        while int(redis.hget(keys.counts_key("test"), "lookups") or 0) < 50:  # type: ignore[arg-type]
            pass
        return "herd"

    processes = [worker() for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(lambda one: one.read(produce), processes)) == {"herd"}
    assert len(computed) == 1
    told = redis.hgetall(keys.counts_key("test"))
    told.pop(b"waited", None)  # with what is sent next
    assert told == {b"lookups": b"50", b"misses": b"1"}
    assert not redis.exists(keys.claim_key(KEY))


@pytest.mark.usefixtures("patient")
def test_a_stampede_on_two_event_loops_processes_computes_once(server: Server) -> None:
    computed = []

    async def play() -> None:
        caches = [nonblocking.ResultCache(nonblocking.connect(server.url, PASSWORD)) for _ in range(2)]
        everyone = asyncio.Event()

        async def produce() -> bytes:
            computed.append(1)
            await everyone.wait()
            return b"herd"

        readers = [asyncio.create_task(caches[n % 2].result(KEY, [GENERATION], produce)) for n in range(50)]
        async with asyncio.timeout(20):
            while not computed:
                await asyncio.sleep(0.001)
        everyone.set()
        assert set(await asyncio.gather(*readers)) == {b"herd"}
        assert sum(cache.counts.lookups for cache in caches) == 50
        assert sum(cache.counts.hits for cache in caches) == 49
        for cache in caches:
            await cache.close()

    asyncio.run(play())
    assert len(computed) == 1


def test_a_read_after_a_write_is_never_stale_in_any_process(worker: Callable[[], Process]) -> None:
    """Four workers read while a fifth writes; what was written before a read began is in it."""
    value, wrong = [0], []
    stop = threading.Event()

    def read(one: Process) -> int:
        rounds = 0
        while not stop.is_set() or rounds < 20:
            at_least = value[0]
            if one.read(lambda: written[0]) < at_least:
                wrong.append(at_least)
            rounds += 1
        return rounds

    written = [0]
    writer = worker()
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, worker()) for _ in range(4)]
        for n in range(1, 60):
            written[0] = n  # the commit
            writer.cache.invalidate([GENERATION])
            value[0] = n  # the writer's reply
        stop.set()
        assert all(reader.result(60) >= 20 for reader in readers)
    assert wrong == []


def test_a_stopped_redis_costs_patience_and_brings_nothing_back(server: Server, worker: Callable[[], Process]) -> None:
    writer, reader = worker(), worker()
    assert [writer.read(lambda: "old"), reader.read(lambda: "wrong")] == ["old", "old"]
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        writer.cache.invalidate([GENERATION])  # after a commit of "new"
        assert [reader.read(lambda: "new") for _ in range(50)] == ["new"] * 50
        took_s = time.monotonic() - began
    finally:
        server.signal(signal.SIGCONT)
    assert took_s < 5, "the time-out of one call each, not of fifty: 10 s"
    assert (writer.cache.counts.errors, reader.cache.counts.errors) == (1, 1)
    for one in (writer, reader):
        one.now_s += 2 * steps.RETRY_AFTER_S
    assert writer.read(lambda: "new") == "new"
    assert reader.read(lambda: "wrong") == "new"
    assert reader.cache.counts.hits == 2


def test_what_a_killed_redis_kept_on_disk_is_not_believed_again(
    server: Server, worker: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "RETRY_AFTER_S", 0.02)
    writer, reader = worker(), worker()
    assert writer.read(lambda: "old") == "old"
    server.kill()
    writer.cache.invalidate([GENERATION])
    assert [writer.read(lambda: "new"), reader.read(lambda: "new")] == ["new", "new"]
    server.start()
    with closing(Redis.from_url(server.url, password=PASSWORD)) as client:
        assert client.get(KEY).endswith(b'"old"'), "Redis reads its own file again"  # type: ignore[union-attr]
    for one in (writer, reader):
        one.now_s += 2 * steps.RETRY_AFTER_S
    assert writer.cache._sender is not None
    writer.cache._sender.join(20)  # it tells Redis, though nobody reads or writes there
    assert not writer.cache._sender.is_alive()
    assert reader.read(lambda: "new") == "new"
    assert reader.read(lambda: "wrong") == "new"
    assert reader.cache.counts.hits == 1


WRITER = """
import sys
from fixtures.cache import blocking
cache = blocking.ResultCache(lambda: blocking.connect(sys.argv[1], sys.argv[2]))
cache.invalidate([sys.argv[3]])
"""


def test_a_commit_of_another_process_is_in_the_cache_before_anybody_asks(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again after Redis was gone: who listens comes back by himself."""
    monkeypatch.setattr(refreshing, "RETRY_AFTER_S", 0.02)
    value = b"old"

    async def produce() -> bytes:
        return value

    async def listening(count: int) -> None:
        with closing(Redis.from_url(server.url, password=PASSWORD)) as client:
            while client.pubsub_numsub(keys.RENEWED_CHANNEL)[0][1] != count:
                await asyncio.sleep(0.01)

    async def kept(client: Redis, expected: bytes) -> None:
        while not (client.get(KEY) or b"").endswith(b"\n" + expected):  # type: ignore[union-attr, operator]
            await asyncio.sleep(0.01)

    now_s = 0.0

    async def stored(cache: nonblocking.ResultCache) -> None:
        """A link that broke is noticed by whoever uses it next."""
        nonlocal now_s
        with closing(Redis.from_url(server.url, password=PASSWORD)) as client:
            while not client.exists(KEY):
                assert await cache.result(KEY, [GENERATION], produce) == value
                now_s += 2 * steps.RETRY_AFTER_S

    async def play() -> None:
        nonlocal value
        steps_here = CacheSteps(Counts(), clock=lambda: now_s + time.monotonic())
        cache = nonblocking.ResultCache(nonblocking.connect(server.url, PASSWORD), steps_here)
        cache.start()
        for value in (b"first", b"second"):
            await stored(cache)
            await listening(1)
            value += b" and new"
            command = [sys.executable, "-c", WRITER, server.url, PASSWORD, GENERATION]
            writer = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
            assert await writer.wait() == 0
            with closing(Redis.from_url(server.url, password=PASSWORD)) as client:
                await kept(client, value)
                client.delete(KEY)
            server.kill()
            server.start()
        assert cache.counts.refreshes == 2
        await listening(1)
        await cache.close()
        await listening(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def in_time() -> None:
        async with asyncio.timeout(60):
            await play()

    asyncio.run(in_time())
