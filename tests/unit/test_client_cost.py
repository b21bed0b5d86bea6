"""The arithmetic of the benchmark of clients, and what its stub says. Nothing is timed here."""

from __future__ import annotations

import importlib.util
import sys
import xmlrpc.client
from pathlib import Path
from types import ModuleType

import pytest

from harness import http1

FOLDER = Path(__file__).parents[1] / "benchmarks"


def loaded(name: str) -> ModuleType:
    """A script of the benchmark's, which is run by its path."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


client_cost = loaded("client_cost")
client_cost_stub = loaded("client_cost_stub")


def run(client: str, number: int, requests: int, cpu_s: float, wall_s: float | None = None) -> object:
    return client_cost.Run(
        number, "keep-42", client, requests, cpu_s * 0.75, cpu_s * 0.25, wall_s or 2 * cpu_s, 1 << 20
    )


def test_starting_up_costs_nothing_and_requests_do() -> None:
    cost = client_cost.cost(run("k6", 0, 1000, 1.5, 2.0), run("k6", 0, 11_000, 2.5, 4.0))
    assert cost.user_us == pytest.approx(75)
    assert cost.system_us == pytest.approx(25)
    assert cost.cpu_us == pytest.approx(100)
    assert cost.rate_rps == pytest.approx(5000)


def test_two_runs_of_one_size_tell_nothing() -> None:
    with pytest.raises(ValueError, match="1000 requests are not more than 1000"):
        client_cost.cost(run("k6", 0, 1000, 1), run("k6", 0, 1000, 2))


def test_ratios_are_taken_within_each_round() -> None:
    """A round on a busy machine doubles everything and leaves the ratio alone. Runs come in any order."""
    runs = [
        run("k6", 0, 1100, 0.40),
        run("k6", 0, 100, 0.20),
        run("ours", 0, 100, 0.10),
        run("ours", 0, 1100, 0.20),
        run("ours", 1, 1100, 0.40),
        run("ours", 1, 100, 0.20),
        run("k6", 1, 100, 0.40),
        run("k6", 1, 1100, 0.80),
        run("k6", 2, 100, 0.20),
        run("k6", 2, 1100, 0.60),
    ]
    found = client_cost.costs(runs)
    ours, k6 = found["keep-42", "ours"], found["keep-42", "k6"]
    assert client_cost.spread(one.cpu_us for one in ours.values()) == client_cost.Spread(
        *map(pytest.approx, (150, 100, 200))
    )
    assert client_cost.ratios(ours, k6) == client_cost.Spread(*map(pytest.approx, (0.5, 0.5, 0.5)))
    assert client_cost.ratios(ours, {}) is None

    shown = client_cost.document(runs)
    by_client = {row["client"]: row for row in shown["summary"]}
    assert by_client["ours"]["to_k6_ratio"]["median"] == pytest.approx(0.5)
    assert by_client["k6"]["cpu_us"] == pytest.approx({"median": 400, "low": 200, "high": 400})
    assert len(shown["runs"]) == len(runs)


def test_every_client_comes_first_once() -> None:
    names = ["a", "b", "c"]
    assert [client_cost.rotated(names, by)[0] for by in range(4)] == ["a", "b", "c", "a"]
    assert sorted(client_cost.rotated(names, 2)) == names


@pytest.mark.parametrize("size", [500, 42_000])
@pytest.mark.parametrize("keep_alive", [True, False])
def test_the_stub_answers_with_whole_records_of_the_size(size: int, keep_alive: bool) -> None:
    coming = iter([client_cost_stub.reply(client_cost_stub.search_read_reply(size), keep_alive)])
    received = http1.read_reply(lambda: next(coming, b""))
    assert (received.status, received.stays_open, len(received.body)) == (200, keep_alive, size)
    (rows,), _method = xmlrpc.client.loads(received.body)
    assert {row["id"] for row in rows} == {17}


def test_the_stub_knows_a_whole_request() -> None:
    whole = b"POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\nX: y\r\n\r\nabc"
    assert client_cost_stub.request_size(whole[:20]) is None
    assert client_cost_stub.request_size(whole[:-3]) == len(whole)
    assert client_cost_stub.request_size(b"GET /count HTTP/1.1\r\n\r\n") == 23


def test_all_clients_send_one_call() -> None:
    assert xmlrpc.client.loads(client_cost.BODY)[1] == "execute_kw"
    assert {len(requests) for requests in client_cost.REQUESTS.values()} == {len(client_cost.CASES)}
