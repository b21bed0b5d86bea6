"""What we report against what the servers saw, on the same clock: inequalities that hold on any machine."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_run import CLOSED, Stage, messages, samples, stage_in, wait_for

from harness import summary
from harness.model import Phases

USERS = 4
OPEN = f"""
name = "tiny"
locustfile = "locustfiles/dairy_day.py"
load = "open"
users = {USERS}
spawn_rate_per_s = 20
warmup_s = 0
rate_rps = 20
duration_s = 6
thresholds = ["dropped_arrival_ratio <= 0.5"]
"""
STALL_S = 2.5


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with stage_in(tmp_path) as made:
        yield made


def test_every_sample_encloses_what_its_server_saw_and_nothing_more(stage: Stage) -> None:
    """One user for each server, so that the k-th sample is the k-th request that the server handled."""
    delays_s = random.Random(7)
    for stub in (stage.odoo, stage.api):
        stub.draw_s = functools.partial(delays_s.choice, (0.002, 0.02, 0.08))  # known: its 95th percentile is 80 ms
    code, output, run = stage.run(CLOSED.replace("users = 6", "users = 2"))
    assert code == 1, output
    found, origin_us = samples(run), messages(run)[-1]["phases"]["origin_monotonic_us"]
    by_user = [np.sort(found[found["user"] == user], order="start_us") for user in np.unique(found["user"])]
    servers = [np.array(stub.served_us) - origin_us for stub in (stage.odoo, stage.api)]
    assert sorted(map(len, by_user)) == sorted(map(len, servers))
    for mine in by_user:
        served = min(servers, key=lambda server: abs(server[0, 0] - mine["start_us"][0]))
        received_us, replied_us = served[:, 0], served[:, 1]
        ended_us = mine["start_us"] + mine["service_us"]
        assert (mine["start_us"] <= received_us + 1).all()  # whole microseconds are cut off on both sides
        assert (ended_us + 1 >= replied_us).all()
        # the user waits for 100 ms after each reply, which bounds its end from above as well
        assert (ended_us[:-1] + 100_000 <= received_us[1:] + 1).all()
        assert np.percentile(mine["service_us"], 95, method="inverted_cdf") >= 80_000


def stalled(stage: Stage, scenario: str) -> tuple[Any, int, int, Any]:
    """Samples of a run in whose steady state no server answers for STALL_S, when that was, and the run."""
    process = stage.start(scenario)
    wait_for(lambda: any((stage.root / "runs").glob("*/messages.jsonl")))
    start_us = time.monotonic_ns() // 1000 + 500_000
    for stub in (stage.odoo, stage.api):
        stub.stalled_us = (start_us, start_us + round(STALL_S * 1e6))
    output, _ = process.communicate(timeout=90)
    print(output)
    run = stage.run_dir()
    origin_us = messages(run)[-1]["phases"]["origin_monotonic_us"]
    return samples(run), start_us - origin_us, start_us + round(STALL_S * 1e6) - origin_us, run


def test_a_stall_shows_in_all_that_was_due_meanwhile(stage: Stage) -> None:
    """Open load: users are busy waiting, arrivals go on. Service times alone would omit nearly all of the stall."""
    found, start_us, end_us, run = stalled(stage, OPEN)
    due = found[(found["scheduled_us"] >= start_us) & (found["scheduled_us"] < end_us)]
    assert len(due) >= STALL_S * 20 - 1
    ended_us = due["start_us"] + due["service_us"]
    assert (ended_us >= end_us).all()
    assert np.count_nonzero(found["service_us"] > 1_000_000) <= USERS

    phases = Phases(origin_at="", **messages(run)[-1]["phases"])
    measured = summary.summarise(found, *run.read_names(), phases, "open", 200.0, 1)
    latency, service = measured.pooled.latency, measured.pooled.service
    assert latency is not None
    assert latency.p95_ms is not None
    assert latency.p95_ms.value > 1000
    assert service is not None
    assert service.p95_ms is not None
    assert service.p95_ms.value < 1000


def test_a_closed_load_meets_a_stall_once_for_each_user(stage: Stage) -> None:
    """Which is why an arrival rate is judged by open load: users who wait do not ask."""
    found, start_us, end_us, _run = stalled(stage, CLOSED.replace("duration_s = 2", "duration_s = 5"))
    due = found[(found["scheduled_us"] >= start_us) & (found["scheduled_us"] < end_us)]
    assert 0 < len(due) <= 6
    assert (due["start_us"] + due["service_us"] >= end_us).all()
