"""Real Locust, real users, stub servers: what is counted, what is written, how a run ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from stub_run import API_KEY, CLOSED, PASSWORD, STUBS, Stage, messages, samples, stage_in, wait_for

from harness import CHECKOUT, load
from harness.rundir import RunDir


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with stage_in(tmp_path) as made:
        yield made


def test_a_run_counts_every_request_three_times_and_ends_by_the_judge(stage: Stage) -> None:
    code, output, run = stage.run()
    assert code == 1, output
    assert output.rstrip().endswith("VERDICTS")
    steady, drained = messages(run)
    counts, phases = drained["counts"], drained["phases"]
    found = samples(run)
    endpoints, outcomes = run.read_names()
    in_files = Counter(endpoints[index] for index in found["endpoint"])
    assert counts["sent"] == counts["recorded"] == counts["locust"] == in_files
    assert sum(in_files.values()) > 60
    assert outcomes == ("ok",)
    assert steady["at_us"] == phases["steady_start_us"]
    assert phases["steady_end_us"] - phases["steady_start_us"] == pytest.approx(2e6, rel=0.1)
    assert (found["scheduled_us"] <= found["start_us"]).all()
    for user in np.unique(found["user"]):  # closed load: exactly the think time after each reply
        mine = np.sort(found[found["user"] == user], order="start_us")
        pauses_us = mine["scheduled_us"][1:] - (mine["start_us"] + mine["service_us"])[:-1]
        assert (pauses_us == 100_000).all()
    kept = output + "".join(path.read_text(errors="replace") for path in run.path.iterdir() if path.is_file())
    assert PASSWORD not in kept
    assert API_KEY not in kept


def test_what_is_in_flight_at_the_end_is_recorded(stage: Stage) -> None:
    stage.odoo.delay_s = stage.api.delay_s = 1.5
    _, output, run = stage.run()
    drained = messages(run)[-1]
    assert drained["counts"]["sent"] == drained["counts"]["locust"], output
    found, end_us = samples(run), drained["phases"]["steady_end_us"]
    in_flight = found[(found["start_us"] < end_us) & (found["start_us"] + found["service_us"] > end_us)]
    assert len(in_flight) > 0
    assert (in_flight["service_us"] > 1_500_000).all()
    assert (found["start_us"] < end_us).all()
    assert drained["phases"]["drained_us"] >= (found["start_us"] + found["service_us"]).max()


def test_a_stalled_generator_shows_in_latency_and_in_its_health(stage: Stage) -> None:
    _, _, run = stage.run(STUB_STALL_S="0.6")
    found = samples(run)
    late_us = found["start_us"] - found["scheduled_us"]
    assert late_us.max() > 400_000
    assert messages(run)[-1]["counts"]["generator"]["local"]["lag_max_ms"] > 500


def test_failures_are_named_and_do_not_end_the_run(stage: Stage) -> None:
    stage.odoo.broken = "farm.milk_production.search_read"
    code, output, run = stage.run()
    assert code == 1, output
    assert set(run.read_names()[1]) == {"ok", "fault:2:UserError"}
    counts = messages(run)[-1]["counts"]
    assert counts["sent"] == counts["recorded"] == counts["locust"]


def test_a_reply_that_the_seed_does_not_give_is_a_failure(stage: Stage) -> None:
    code, output, run = stage.run(CLOSED.replace("thresholds", "check_one_in = 20\nthresholds"), STUB_CHECK="1")
    assert code == 1, output
    assert set(run.read_names()[1]) == {"ok", "wrong"}
    counts = messages(run)[-1]["counts"]
    assert counts["sent"] == counts["recorded"] == counts["locust"]
    # of each endpoint the first, then every twentieth
    assert counts["checked"] == {endpoint: -(-sent // 20) for endpoint, sent in counts["sent"].items()}
    wrong = sum(counts["wrong"].values())
    assert wrong > 10
    assert wrong == np.count_nonzero(samples(run)["outcome"] == run.read_names()[1].index("wrong"))
    assert "wrong reply to odoo farm.animal.search_read [tag]: " in output


def test_users_who_never_had_their_turn_do_no_harm(stage: Stage) -> None:
    """The last of them are started within a think time of the end."""
    ramp = CLOSED.split("users = 6")[0] + 'load = "stages"\nthink_time_s = 5\nthresholds = []\n'
    code, output, run = stage.run(ramp + "[[stages]]\nduration_s = 4\nusers = 12\n")
    assert code == 1, output
    drained = messages(run)[-1]
    assert drained["reasons"] == []
    assert len(np.unique(samples(run)["user"])) < drained["counts"]["workers"]["local"]["users"]


def test_a_ramp_of_stages_counts_everything(stage: Stage) -> None:
    ramp = CLOSED.split("users = 6")[0] + 'load = "stages"\nthink_time_s = 0.1\nthresholds = []\n'
    ramp += "".join(f"[[stages]]\nduration_s = 2\nusers = {users}\n" for users in (6, 6, 0))
    code, output, run = stage.run(ramp)
    assert code == 1, output
    steady, drained = messages(run)
    found = samples(run)
    assert steady["at_us"] < found["scheduled_us"].min()
    assert drained["counts"]["sent"] == drained["counts"]["locust"]
    assert len(np.unique(found["user"])) == 6
    assert drained["phases"]["steady_end_us"] - steady["at_us"] == pytest.approx(6e6, rel=0.05)
    assert len(found[found["start_us"] > steady["at_us"] + 5_900_000]) < 6 * 10 * 0.3


@pytest.mark.parametrize(
    ("point", "says"),
    [("at start", "cannot be reset"), ("in the middle", "postgres: gone"), ("at the end", "postgres: no snapshot")],
)
def test_a_failing_observer_is_a_failed_stack(stage: Stage, point: str, says: str) -> None:
    code, output, _ = stage.run(STUB_OBSERVER=point)
    assert code == 3
    assert says in output


def test_a_limit_that_fails_over_its_window_ends_the_run_in_order(stage: Stage) -> None:
    code, output, run = stage.run(CLOSED.replace("duration_s = 2", "duration_s = 60"), STUB_OBSERVER="aborts")
    assert code == 1, output
    drained = messages(run)[-1]
    assert drained["aborted"] == "p95_ms < 1 over the last 1 s: 7 ms"
    assert drained["reasons"] == []
    assert drained["counts"]["sent"] == drained["counts"]["recorded"] == drained["counts"]["locust"]
    assert drained["phases"]["steady_end_us"] - drained["phases"]["steady_start_us"] < 60e6


def test_a_fault_in_a_locustfile_invalidates_the_run(stage: Stage) -> None:
    code, output, run = stage.run(STUB_BREAK="1")
    assert code == 4, output
    assert "broke: KeyError" in output
    assert (run.path / "abandoned").exists()


def test_with_the_web_interface_every_start_is_a_run(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    page = f"http://127.0.0.1:{port}"

    def live(what: str) -> str | None:
        text: str | None = httpx.get(f"{page}/dairyperf/live.json").json()[what]
        return text

    process = stage.start(CLOSED, "--headful", "--web-host", "127.0.0.1", "--web-port", str(port))
    try:
        wait_for(lambda: reachable(page))
        assert '"num_users": 6' in httpx.get(page).text.replace("&#34;", '"')
        assert httpx.post(f"{page}/swarm", data={"user_count": 6, "spawn_rate": 6}).json()["success"]
        wait_for(lambda: httpx.get(f"{page}/stats/requests").json()["total_rps"] > 0)
        assert not httpx.get(f"{page}/stats/requests").json()["errors"]
        wait_for(lambda: "exit code 1" in (live("result") or ""))
        wait_for(lambda: httpx.get(f"{page}/stats/requests").json()["state"] == "stopped")
        assert httpx.post(f"{page}/swarm", data={"user_count": 3, "spawn_rate": 6}).json()["success"]
        wait_for(lambda: len(list((stage.root / "runs").glob("*/messages.jsonl"))) == 2)
        assert httpx.post(f"{page}/stop").json()["success"]
        wait_for(lambda: "interrupted" in (live("error") or ""))
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    first, second = (RunDir(path) for path in sorted((stage.root / "runs").iterdir()))
    drained = messages(first)[-1]
    assert drained["counts"]["sent"] == drained["counts"]["recorded"] == drained["counts"]["locust"]
    assert len(np.unique(samples(first)["user"])) == 6
    assert (second.path / "abandoned").exists()
    assert len(samples(second)) > 0


def reachable(page: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(page).status_code == 200
    return False


def test_stages_have_no_place_in_the_web_interface(stage: Stage) -> None:
    ramp = CLOSED.split("users = 6")[0] + 'load = "stages"\nthresholds = []\n[[stages]]\nduration_s = 4\nusers = 12\n'
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    process = stage.start(ramp, "--headful", "--web-host", "127.0.0.1", "--web-port", port)
    assert "stages go with --headless" in process.communicate(timeout=30)[0]
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("options", "says"), [(("-t", "1s"), "no steady state"), (("--baseline", "no/such/run"), "no run in it")]
)
def test_bad_input_is_refused_before_anything_is_made(stage: Stage, options: tuple[str, ...], says: str) -> None:
    process = stage.start(CLOSED, *options)
    assert says in process.communicate(timeout=30)[0]
    assert process.returncode == 2
    assert not (stage.root / "runs").exists()


def test_options_replace_the_scenario(stage: Stage) -> None:
    code, output, run = stage.run(CLOSED, "-u", "2", "-r", "4", "-t", "3s", "--threshold", "p95_ms < 100")
    assert code == 1, output
    asked = run.read_meta().scenario
    assert (asked.users, asked.spawn_rate_per_s, asked.duration_s) == (2, 4, 2)
    assert [limit.text for limit in asked.thresholds] == ["p95_ms < 100"]
    assert len(np.unique(samples(run)["user"])) == 2


def counting(stage: Stage) -> bool:
    return any((stage.root / "runs").glob("*/messages.jsonl"))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_keeps_its_samples_and_is_invalid(stage: Stage, sent: signal.Signals) -> None:
    stage.odoo.delay_s = stage.api.delay_s = 0.3
    process = stage.start(CLOSED.replace("duration_s = 2", "duration_s = 60"))
    wait_for(lambda: counting(stage))
    process.send_signal(sent)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 4, output
    run = stage.run_dir()
    assert (run.path / "abandoned").exists()
    assert len(samples(run)) > 0


def test_nothing_outlives_a_killed_parent(stage: Stage) -> None:
    """The command line runs Locust through harness.load, which runs the observer: three processes in a row."""
    first = stage.start(CLOSED.replace("duration_s = 2", "duration_s = 60"))
    wait_for(lambda: counting(stage))
    first.kill()
    first.communicate()
    observer = int((stage.run_dir().path / "observer.pid").read_text())
    wait_for(lambda: not psutil.pid_exists(observer), 10)

    run = stage.run_dir()
    (run.path / "messages.jsonl").unlink()
    for blob in run.path.glob("samples-*"):
        blob.unlink()
    program = (
        "from pathlib import Path; from harness import load; "
        f"load.run({str(STUBS / 'locustfile.py')!r}, Path({str(run.path)!r}), Path({str(run.path / 'locust.log')!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], env=stage.environment, cwd=CHECKOUT)
    wait_for(lambda: counting(stage))
    family = [parent.pid, *(child.pid for child in psutil.Process(parent.pid).children(recursive=True))]
    assert len(family) == 3
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(psutil.pid_exists, family[1:])), 10)


def test_under_the_command_line_only_the_observer_is_needed(stage: Stage) -> None:
    _, _, run = stage.run()
    (run.path / "messages.jsonl").unlink()
    for blob in run.path.glob("samples-*"):
        blob.unlink()
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        for name, value in stage.environment.items():
            patched.setenv(name, value)
        code = load.run(str(STUBS / "locustfile.py"), run.path, run.path / "locust.log", lines.append)
    assert code == 0, lines
    assert "VERDICTS" not in lines
    assert [message["event"] for message in messages(run)] == ["steady", "drained"]


def test_logins(stage: Stage) -> None:
    code, output, run = stage.run(STUB_LOGIN="1")
    assert code == 1, output
    assert run.read_names() == (("odoo common.authenticate",), ("ok",))


SEQUENCE = """
import hashlib, sys
from types import SimpleNamespace
from locust.env import Environment
from pydantic import TypeAdapter
from harness import scenario
from harness.locust_plugin.farm import Farm
from harness.locust_plugin.generator import Generator
from harness.model import StackAddresses
from locustfiles.dairy_day import AppUser, OdooStaff
addresses = TypeAdapter(StackAddresses).validate_json(open(sys.argv[1]).read())
environment = Environment(user_classes=[AppUser, OdooStaff])
farm = Farm(scenario.parse(open(sys.argv[2]).read(), "tiny"), addresses)
environment.dairyperf = SimpleNamespace(generator=Generator(farm, 0))
digest = hashlib.sha256()
users = [kind(environment) for kind in (AppUser, OdooStaff) for _ in range(8)]
for user in users:
    for request in [next(user.turn()) for _ in range(50)]:
        digest.update(request.endpoint.encode() + request.message)
print(digest.hexdigest())
"""


def test_the_same_seed_gives_the_same_requests(stage: Stage) -> None:
    def sequence(seed: int, hash_seed: str) -> str:
        (stage.root / "tiny.toml").write_text(CLOSED.replace("thresholds", f"seed = {seed}\nthresholds"))
        command = [sys.executable, "-c", SEQUENCE, str(stage.root / "addresses.json"), str(stage.root / "tiny.toml")]
        environment = stage.environment | {"PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=CHECKOUT).stdout

    assert sequence(1, "1") == sequence(1, "2")
    assert sequence(2, "1") != sequence(1, "1")
