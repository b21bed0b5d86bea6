from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import RunInvalid, StackError
from harness.model import SAMPLE
from harness.recorder import Recorder
from harness.rundir import RunDir

ROW = (1, 2, 3, 0, 0, 4, 5)


def test_records_arrive_in_order_and_are_counted(tmp_path):
    with Recorder(tmp_path, 0) as recorder:
        first, second = recorder.endpoint_id("a"), recorder.endpoint_id("b")
        fault = recorder.outcome_id("fault 2")
        for endpoint in (first, first, second):
            recorder.count_sent(endpoint)
        recorder.record(10, 11, 12, first, recorder.outcome_id("ok"), 13, 14)
        recorder.flush()
        recorder.record(-20, 21, 22, second, fault, 23, 24)
    (blob,) = RunDir(tmp_path).sample_blobs()
    assert list(SAMPLE.iter_unpack(blob)) == [(10, 11, 12, 0, 0, 13, 14), (-20, 21, 22, 1, 1, 23, 24)]
    assert recorder.counts() == {"sent": {"a": 2, "b": 1}, "recorded": {"a": 1, "b": 1}}
    assert RunDir(tmp_path).read_names() == (("a", "b"), ("ok", "fault 2"))


def test_names_are_on_disk_before_their_first_record(tmp_path):
    with Recorder(tmp_path, 0) as recorder:
        assert recorder.endpoint_id("a") == recorder.endpoint_id("a") == 0
        assert json.loads((tmp_path / "endpoints.json").read_text()) == {"endpoints": ["a"], "outcomes": ["ok"]}
        assert list(RunDir(tmp_path).sample_blobs()) == [b""]


names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=20)


@given(names, names)
@settings(deadline=None, max_examples=25)
def test_any_names_keep_their_numbers(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("run")
    recorders = Recorder(path, 0), Recorder(path, 0)
    ids = {name: recorders[i % 2].endpoint_id(name) for i, name in enumerate(first + second)}
    endpoints, _ = RunDir(path).read_names()
    assert [endpoints[number] for number in ids.values()] == list(ids)
    assert all(recorder.endpoint_id(name) == number for name, number in ids.items() for recorder in recorders)


def _work(path, prefix):
    with Recorder(path, 0) as recorder:
        for i in range(20):
            recorder.record(i, i, 1, recorder.endpoint_id(f"{prefix}{i % 10}"), 0, 0, ord(prefix))
            recorder.record(i, i, 1, recorder.endpoint_id("shared"), 0, 0, ord(prefix))


def test_processes_share_names_and_not_files(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(tmp_path, prefix)) for prefix in "xy"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    run = RunDir(tmp_path)
    endpoints, _ = run.read_names()
    assert sorted(endpoints) == sorted(["shared", *(f"{p}{i}" for p in "xy" for i in range(10))])
    blobs = list(run.sample_blobs())
    assert [len(blob) // SAMPLE.size for blob in blobs] == [40, 40]
    for *_, endpoint, _outcome, _bytes, user in SAMPLE.iter_unpack(b"".join(blobs)):
        assert endpoints[endpoint] == "shared" or endpoints[endpoint].startswith(chr(user))


@pytest.mark.parametrize(
    "row", [(1, 2, 2**32, 0, 0, 4, 5), (1, 2, -1, 0, 0, 4, 5), (1, 2, 3, 2**16, 0, 4, 5), (1, 2, 3.5, 0, 0, 4, 5)]
)
def test_numbers_without_a_place_are_not_clamped(tmp_path, row):
    with Recorder(tmp_path, 0) as recorder:
        with pytest.raises(RunInvalid, match="time-outs below 71 minutes"):
            recorder.record(*row)
        assert not recorder.recorded
    assert list(RunDir(tmp_path).sample_blobs()) == [b""]


def test_a_full_disk_is_named_once_and_the_rest_is_only_counted(tmp_path, monkeypatch):
    write = os.write

    def full_after_a_record_and_a_half(descriptor, data):
        if os.fstat(descriptor).st_size >= 48:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:48])

    with Recorder(tmp_path, 0) as recorder:
        recorder.record(*ROW)
        recorder.record(*ROW)
        monkeypatch.setattr(os, "write", full_after_a_record_and_a_half)
        with pytest.raises(StackError, match=r"samples-\d+\.bin: No space left on device.*free space"):
            recorder.flush()
        recorder.record(*ROW)
        recorder.flush()
    assert "No space left" in recorder.failure
    assert recorder.recorded[0] == 3
    (blob,) = RunDir(tmp_path).sample_blobs()
    assert len(blob) == 48


def test_a_used_directory_or_none_is_refused(tmp_path):
    with Recorder(tmp_path, 0), pytest.raises(StackError, match="File exists; record into a new"):
        Recorder(tmp_path, 0).__enter__()
    with pytest.raises(StackError, match="No such file"):
        Recorder(tmp_path / "none", 0).__enter__()


def test_the_clock_counts_from_the_origin(tmp_path):
    early, late = Recorder(tmp_path, 0), Recorder(tmp_path, 10_000_000)
    before = early.now_us()
    assert before <= late.now_us() + 10_000_000 <= early.now_us()


def test_the_load_generator_gets_neither_numpy_nor_locust():
    code = "import sys, harness.recorder; print({'numpy', 'locust', 'gevent', 'psycopg'} & set(sys.modules))"
    checkout = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
