from __future__ import annotations

import dataclasses
import errno
import os
from collections import Counter
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import RunInvalid, StackError
from harness.model import SAMPLE
from harness.recorder import Part, SampleFiles, Samples
from harness.rundir import RunDir

ROW = {"scheduled_us": 1, "start_us": 2, "service_us": 3, "endpoint": 0, "outcome": 0, "bytes_in": 4, "user": 5}


def one(endpoint: str = "a") -> Samples:
    samples = Samples()
    samples.count_sent(samples.endpoint_id(endpoint))
    samples.record(**ROW)
    return samples


def test_records_arrive_in_order_and_are_counted(tmp_path: Path) -> None:
    samples = Samples()
    first, second = samples.endpoint_id("a"), samples.endpoint_id("b")
    fault = samples.outcome_id("fault 2")
    assert [samples.count_sent(endpoint) for endpoint in (first, first, second)] == [0, 1, 0]
    samples.record(10, 11, 12, first, samples.outcome_id("ok"), 13, 14)
    with SampleFiles(RunDir(tmp_path)) as files:
        files.append("local", samples.take())
        samples.record(-20, 21, 22, second, fault, 23, 24)
        samples.count("wrong", second)
        files.append("local", samples.take())
        counts = files.counts()
        assert (files.kept("local"), files.unanswered("local")) == (2, 1)
    (blob,) = RunDir(tmp_path).sample_blobs()
    assert list(SAMPLE.iter_unpack(blob)) == [(10, 11, 12, 0, 0, 13, 14), (-20, 21, 22, 1, 1, 23, 24)]
    assert RunDir(tmp_path).read_names() == (("a", "b"), ("ok", "fault 2"))
    assert counts == {
        "sent": {"a": 2, "b": 1},
        "recorded": {"a": 1, "b": 1},
        "dropped": {"a": 0, "b": 0},
        "checked": {"a": 0, "b": 0},
        "wrong": {"a": 0, "b": 1},
    }


sources, endpoint_names, outcomes = (st.sampled_from(names) for names in (["w0", "w1", "w2"], "abcdef", ["ok", "body"]))
requests = st.lists(st.tuples(sources, endpoint_names, outcomes))


@given(requests, st.lists(st.integers(0, 30)))
@settings(max_examples=40)
def test_processes_share_names_whatever_the_order_in_which_each_met_them(
    tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, str, str]], taken_after: list[int]
) -> None:
    run = RunDir(tmp_path_factory.mktemp("run"))
    sources = {name: Samples() for name in ("w0", "w1", "w2")}
    with SampleFiles(run) as files:

        def deliver() -> None:
            for name, samples in sources.items():
                message = msgpack.unpackb(msgpack.packb(samples.take().to_message()), strict_map_key=False)
                files.append(name, Part.from_message(message))

        for number, (source, endpoint, outcome) in enumerate(done):
            samples = sources[source]
            index = samples.endpoint_id(endpoint)
            samples.count_sent(index)
            samples.record(number, number, 1, index, samples.outcome_id(outcome), 0, int(source[1]))
            if number in taken_after:
                deliver()
        deliver()
        counts = files.counts()
    endpoints, outcomes = run.read_names()
    rows = list(SAMPLE.iter_unpack(b"".join(run.sample_blobs())))
    assert sorted((row[0], f"w{row[6]}", endpoints[row[3]], outcomes[row[4]]) for row in rows) == [
        (number, *names) for number, names in enumerate(done)
    ]
    by_endpoint = Counter(endpoint for _source, endpoint, _outcome in done)
    assert Counter(counts["sent"]) == Counter(counts["recorded"]) == by_endpoint


def test_names_are_on_disk_before_their_first_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def write(descriptor: int, data: bytes) -> int:
        seen.append(RunDir(tmp_path).read_names()[0])
        return len(data)

    monkeypatch.setattr(os, "write", write)
    with SampleFiles(RunDir(tmp_path)) as files:
        files.append("local", one().take())
    assert seen == [("a",)]


def test_a_lost_part_is_noticed_and_what_came_is_kept(tmp_path: Path) -> None:
    samples = one()
    with SampleFiles(RunDir(tmp_path)) as files:
        files.append("worker-1", samples.take())
        samples.record(**ROW)
        samples.take()
        samples.record(**ROW)
        with pytest.raises(RunInvalid, match="worker-1: parts 1 to 1 of its samples never came"):
            files.append("worker-1", samples.take())
        assert files.kept("worker-1") == 2


@pytest.mark.parametrize(
    "wrong", [{"service_us": 2**32}, {"service_us": -1}, {"outcome": 2**16}, {"service_us": 3.5}], ids=str
)
def test_numbers_without_a_place_are_not_clamped(wrong: dict[str, int]) -> None:
    samples = Samples()
    samples.endpoint_id("a")
    with pytest.raises(RunInvalid, match="time-outs below 71 minutes"):
        samples.record(**ROW | wrong)
    part = samples.take()
    assert part.samples == b""
    assert part.totals["recorded"] == (0,)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full_after_a_record_and_a_half(descriptor: int, data: bytes) -> int:
        if os.fstat(descriptor).st_size >= 48:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:48])

    samples = one()
    samples.record(**ROW)
    with SampleFiles(RunDir(tmp_path)) as files:
        monkeypatch.setattr(os, "write", full_after_a_record_and_a_half)
        with pytest.raises(StackError, match=r"samples-local\.bin: No space left on device.*free space"):
            files.append("local", samples.take())
    (blob,) = RunDir(tmp_path).sample_blobs()
    assert len(blob) == 48


@pytest.mark.parametrize(("folder", "says"), [(".", "File exists"), ("none", "No such file")])
def test_a_used_directory_or_none_is_refused(tmp_path: Path, folder: str, says: str) -> None:
    (tmp_path / "samples-local.bin").touch()
    unnamed = dataclasses.replace(one().take(), samples=b"", endpoints=(), totals={})
    with SampleFiles(RunDir(tmp_path / folder)) as files, pytest.raises(StackError, match=says):
        files.append("local", unnamed)
