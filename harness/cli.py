"""The command line: parses arguments, shows progress, prints results, sets the exit code. Decides nothing else."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from harness import CHECKOUT, units
from harness.errors import HarnessError, InputError
from harness.model import PROFILES, Profile

if TYPE_CHECKING:
    from harness.benchmark_plan import Kind
    from harness.rundir import BenchmarkDir
    from harness.runner import Judged

EXIT_CODES = """exit codes:
  0 every threshold held   1 a threshold failed (missing data fails)   2 bad input
  3 the stack failed       4 the run is invalid (its numbers cannot be trusted)
"""

EXAMPLES = {
    "up": """examples:
  dairyperf up                          both profiles, 255 head
  dairyperf up --profile day40          the tuned stack alone
  dairyperf up --profile day31 --herd 2550
  dairyperf up --profile day40 --port odoo=8069 --port api=8000
  dairyperf up --profile day40 --stack compose     in containers, from docker-compose.perf.yml
""",
    "down": "examples:\n  dairyperf down\n  dairyperf down --profile day31\n  dairyperf down --stack compose\n",
    "status": """examples:
  dairyperf status
  dairyperf status --json --profile day40
  dairyperf status --toml --profile day40 > staging.toml    for --stack external:staging.toml, elsewhere
  dairyperf status --stack external:staging.toml
""",
    "run": """examples:
  dairyperf run sustained                             50 users, 5 minutes, on day40
  dairyperf run quick --profile day31 --duration 30s
  dairyperf run quick --threshold 'p95_ms < 250' --threshold 'p95_ms["odoo farm.animal.search_read"] < 300'
  dairyperf run path/to/scenario.toml --users 20
  dairyperf run open --workers 2                      load from two processes
  dairyperf run sustained --abort-window 30s          end early when a limit fails over 30 s
  dairyperf run sustained --stack external:staging.toml   on a stack that somebody else runs
  dairyperf run quick --baseline reports/runs/DIR     fail where it asks more of the database, or is slower
  dairyperf run quick --baseline DIR --historical     a baseline of another machine: calls, rows and blocks alone
""",
    "benchmark": """examples:
  dairyperf benchmark --quick           2 pairs of 60 s: judges the limits
  dairyperf benchmark                   10 pairs of 30 s, about 25 minutes: what got faster, and how sure that is
  dairyperf benchmark --pairs 1 --duration 20s
  dairyperf benchmark --resume reports/runs/20261123T221738Z-benchmark    the pairs that an interrupted one lacks
""",
    "noise": """examples:
  dairyperf noise                       10 pairs of 30 s, as long as a benchmark, once for each machine and version
  dairyperf noise --users 20            for benchmarks with --users 20
  dairyperf noise --scenario quick      for `run quick --baseline DIR`
  dairyperf noise --resume reports/runs/20261123T231000Z-noise
""",
    "plans": """examples:
  dairyperf plans --herd 2550           the 20 most critical queries at 10 times the herd, both profiles
  dairyperf plans --profile day40
""",
    "report": """examples:
  dairyperf report reports/runs/20261123T134500Z-quick-day40
  dairyperf report reports/runs/20261123T134500Z-benchmark --screenshot first-screen.png
  dairyperf report reports/runs/DIR --baseline reports/runs/OTHER     from now on held against the other as well
""",
    "schema": "examples:\n  dairyperf schema verdicts > verdicts.schema.json\n",
    "indexes": """examples:
  dairyperf indexes check                         are all of Day 32 there, valid, as specified, on every partition?
  dairyperf indexes create --profile day31        build them under load; goes on where it was stopped
  dairyperf indexes drop --profile day40          back to Day 31; a stack's next run starts from its seed again
  dairyperf indexes create --dsn 'host=db dbname=smart_dairy user=postgres passfile=/etc/dairy/pgpass'
""",
    "maintenance": """examples:
  dairyperf maintenance                           all tables of the day40 stack that is up
  dairyperf maintenance --dead-rows 50000 --dsn 'host=db dbname=smart_dairy user=postgres passfile=/etc/dairy/pgpass'
  0 3 * * *  cd CHECKOUT && ./dairyperf maintenance --dsn …          as a line of crontab
""",
    "doctor": "examples:\n  dairyperf doctor\n",
    "test": "examples:\n  dairyperf test\n  dairyperf test tests/unit -k threshold\n",
}

err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
# where no terminal says how wide it is, tables get the width that they need
out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command is _test:
        arguments.pytest_arguments = rest + arguments.pytest_arguments
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if getattr(arguments, "stack", None):
            from harness import stack

            stack.choose(arguments.stack)
        return int(arguments.command(arguments))
    except HarnessError as error:
        err.print(f"dairyperf: {error}", style="red")
        return error.exit_code
    except KeyboardInterrupt:
        err.print("dairyperf: interrupted; everything it started has been stopped", style="red")
        return 130


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dairyperf",
        description="Performance harness for Smart Dairy: real Odoo 19, FastAPI, pgBouncer, Redis and PostgreSQL 16.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=text + ".",
            epilog=EXAMPLES[name] + "\n" + EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=globals()[f"_{name}"])
        return added

    def which_stack(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--stack",
            metavar="KIND",
            help="embedded (default), compose, or external:FILE, a TOML file of addresses; else $DAIRYPERF_STACK",
        )

    def stack_options(added: argparse.ArgumentParser) -> None:
        which_stack(added)
        added.add_argument("--herd", type=_positive, help="head of cattle (default 255)")
        added.add_argument("--seed", type=_positive, help="seed of the synthetic herd (default 42)")
        added.add_argument("--odoo-source", type=_path, metavar="DIR", help="use this checkout of Odoo 19.0")

    def database_options(added: argparse.ArgumentParser) -> None:
        which = added.add_mutually_exclusive_group()
        which.add_argument("--profile", choices=PROFILES, default="day40", help="a stack that is up (default day40)")
        which.add_argument("--dsn", help="another database: PostgreSQL's own port, as the tables' owner or superuser")

    up = command("up", "start the stack and leave it running")
    up.add_argument("--profile", choices=[*PROFILES, "both"], default="both")
    stack_options(up)
    up.add_argument(
        "--port", action="append", default=[], metavar="SERVICE=N", help="instead of a free port; repeatable"
    )

    down = command("down", "stop a stack that `up` left running")
    down.add_argument("--profile", choices=[*PROFILES, "both"], default="both")
    which_stack(down)

    status = command("status", "what is up, every address, and how to log in")
    status.add_argument("--profile", choices=[*PROFILES, "both"], default="both")
    shape = status.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="for programs")
    shape.add_argument("--toml", action="store_true", help="what is up, as a file for --stack external:FILE")
    which_stack(status)

    def baseline_options(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--baseline",
            action="append",
            default=[],
            type=_path,
            metavar="DIR",
            help="hold the run against this stored one, or all runs in this folder or benchmark; repeatable",
        )
        added.add_argument(
            "--baseline-limit",
            action="append",
            default=[],
            metavar="T",
            help="a ratio to it, as in 'db_calls_per_request <= 1.05'; replaces the same metric's; repeatable",
        )
        added.add_argument(
            "--historical",
            action="store_true",
            help="allow a baseline of another machine or other versions; latency is then not judged",
        )

    run = command("run", "run one scenario, judge it and write its report")
    run.add_argument("scenario", help="a name in scenarios/ or the path of a TOML file")
    run.add_argument("--profile", choices=PROFILES, default="day40")
    run.add_argument("--users", type=_positive)
    run.add_argument("--duration", metavar="TIME", help="of the steady state: 90s, 5m")
    run.add_argument(
        "--threshold", action="append", default=[], metavar="T", help="replaces the same metric's; repeatable"
    )
    run.add_argument(
        "--workers", type=_positive, default=0, metavar="N", help="generate the load from N processes (default one)"
    )
    run.add_argument(
        "--abort-window",
        metavar="TIME",
        help="end the run, and fail, when a limit on samples fails over this long; default never",
    )
    run.add_argument("--out", type=_path, metavar="DIR", help="where runs are kept (default reports/runs)")
    baseline_options(run)
    stack_options(run)

    def session_options(added: argparse.ArgumentParser) -> None:
        added.add_argument("--pairs", type=_positive, help="of runs (default 10)")
        added.add_argument("--duration", metavar="TIME", help="of each steady state (default 30s)")
        added.add_argument("--users", type=_positive)
        added.add_argument("--out", type=_path, metavar="DIR", help="where it is kept (default reports/runs)")
        added.add_argument("--resume", type=_path, metavar="DIR", help="make the pairs that an interrupted one lacks")
        stack_options(added)

    bench = command("benchmark", "Day 31 against Day 40: both stacks, interleaved runs, verdicts, one report")
    bench.add_argument("--quick", action="store_true", help="2 pairs of 60 s")
    bench.add_argument("--threshold", action="append", default=[], metavar="T")
    session_options(bench)

    floor = command("noise", "measure what this machine calls a change when nothing changed: pairs of runs of day40")
    floor.add_argument("--scenario", metavar="NAME", help="whose load it is for (default: that of benchmarks)")
    session_options(floor)

    plans = command("plans", "plans of the 20 most critical queries, in a PostgreSQL of their own, at any herd")
    plans.add_argument("--profile", choices=[*PROFILES, "both"], default="both")
    plans.add_argument("--herd", type=_positive, help="head of cattle (default 255)")
    plans.add_argument("--seed", type=_positive, help="seed of the synthetic herd (default 42)")
    plans.add_argument("--out", type=_path, metavar="DIR", help="where they are kept (default reports/runs)")

    report = command("report", "judge runs and render their reports again, from their files alone")
    report.add_argument("directories", nargs="+", type=Path, metavar="DIR")
    report.add_argument(
        "--screenshot", type=_path, metavar="FILE", help="also the report's first screen as a PNG file (of one DIR)"
    )
    baseline_options(report)

    schema = command("schema", "the JSON schema (draft 2020-12) of a file that runs and benchmarks leave")
    schema.add_argument("file", choices=["run", "verdicts", "benchmark", "baseline"])

    index = command("indexes", "create, drop or check the indexes of Day 32 in a database that is in use")
    index.add_argument("action", choices=["create", "drop", "check"])
    database_options(index)

    care = command("maintenance", "make the next quarter's partition, vacuum and analyze every table, report dead rows")
    database_options(care)
    care.add_argument("--dead-rows", type=_positive, metavar="N", help="a table may keep so many (default 10000)")

    command("doctor", "what this machine has, what is missing, what would be fetched")
    test = command("test", "run the tests (arguments go to pytest)")
    test.add_argument("pytest_arguments", nargs="*", metavar="ARGUMENT")
    return parser


def _path(text: str) -> Path:
    """Absolute: the processes that get it run elsewhere."""
    return Path(text).resolve()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return number


def _profiles(choice: str) -> tuple[Profile, ...]:
    return tuple(profile for profile in PROFILES if choice in (profile, "both"))


_started = time.monotonic()


def _say(text: str) -> None:
    err.print(f"{time.monotonic() - _started:6.1f} s  {text}")


@contextlib.contextmanager
def _stack(profile: Profile, arguments: argparse.Namespace) -> Iterator[None]:
    """The stack that is up, or one for the length of the block."""
    from harness import stack

    herd, seed = arguments.herd or stack.DEFAULT_HERD, arguments.seed or stack.DEFAULT_SEED
    if not stack.is_up(profile):
        with stack.up(profile, _say, herd=herd, seed=seed, odoo_source=arguments.odoo_source):
            yield
        return
    addresses = stack.read(profile)
    differs = [n for n in ("herd", "seed") if getattr(arguments, n) not in (None, getattr(addresses, n))]
    if differs:
        raise InputError(
            f"--{differs[0]} {getattr(arguments, differs[0])}: the {profile} stack that is up has "
            f"{getattr(addresses, differs[0])}; ./dairyperf down first, or leave the option out"
        )
    _say(f"{profile}: using the stack that is up")
    yield


def _up(arguments: argparse.Namespace) -> int:
    from harness import stack

    ports = dict(_port(text) for text in arguments.port)
    profiles = _profiles(arguments.profile)
    if ports and len(profiles) > 1:
        raise InputError("--port: two stacks cannot share a port; give --profile day31 or --profile day40 as well")
    with contextlib.ExitStack() as stacks:
        for profile in profiles:
            stacks.enter_context(
                stack.up(
                    profile,
                    _say,
                    herd=arguments.herd or stack.DEFAULT_HERD,
                    seed=arguments.seed or stack.DEFAULT_SEED,
                    ports=ports,
                    odoo_source=arguments.odoo_source,
                    detach=True,
                )
            )
            _say(f"{profile}: up")
    _print_status([stack.status(profile) for profile in profiles])
    return 0


def _port(text: str) -> tuple[str, int]:
    from harness.services.supervisor import SERVICES

    service, _, number = text.partition("=")
    if service not in SERVICES:
        raise InputError(f"--port {text}: no service {service!r}; one of {', '.join(SERVICES)}, as in odoo=8069")
    if not number.isdigit() or not 1024 <= int(number) <= 65535:
        raise InputError(f"--port {text}: {number!r} is no port; give a number from 1024 to 65535")
    return service, int(number)


def _down(arguments: argparse.Namespace) -> int:
    from harness import stack

    for profile in _profiles(arguments.profile):
        _say(f"{profile}: {'stopped' if stack.down(profile) else 'was not up'}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from harness import stack
    from harness.services import external

    if arguments.toml:
        up = [profile for profile in _profiles(arguments.profile) if stack.is_up(profile)]
        if not up:
            raise InputError("status --toml: no stack is up that could be described; run ./dairyperf up")
        # what may be done to it is for its reader to say
        described = [replace(stack.read(profile), may_write=False, may_reset=False) for profile in up]
        print("\n".join(map(external.to_toml, described)), end="")
        return 0
    states = [stack.status(profile) for profile in _profiles(arguments.profile)]
    if arguments.json:
        shown = states[0] if len(states) == 1 else {str(state["profile"]): state for state in states}
        print(json.dumps(shown, indent=1))
    else:
        _print_status(states)
    return 0


def _print_status(states: list[dict[str, object]]) -> None:
    keys = ("state", "odoo_url", "api_url", "postgres_dsn", "pgbouncer_dsn", "redis_url", "database", "herd")
    table = Table(title="stacks", show_lines=False)
    table.add_column("")
    for state in states:
        table.add_column(str(state["profile"]), overflow="fold")
    for key in (*keys, "secrets_file", "log_dir"):
        if any(key in state for state in states):
            table.add_row(key, *(str(state.get(key) or "-") for state in states))
    out.print(table)


def _runs_root(arguments: argparse.Namespace) -> Path:

    return arguments.out or CHECKOUT / "reports/runs"


def _run(arguments: argparse.Namespace) -> int:
    from harness import baseline_runs, runner

    scenario = runner.load_scenario(
        arguments.scenario,
        users=arguments.users,
        duration=arguments.duration,
        thresholds=arguments.threshold,
        abort_window=arguments.abort_window,
    )
    held = baseline_runs.asked(
        arguments.baseline, arguments.profile, limits=arguments.baseline_limit, historical=arguments.historical
    )
    with _stack(arguments.profile, arguments):
        run = runner.run(_runs_root(arguments), scenario, arguments.profile, _say, arguments.workers, held)
    return _show(runner.judge(run))


_OF_A_PLAN = ("quick", "scenario", "pairs", "duration", "users", "threshold", "out", "herd", "seed")  # options


def _benchmark(arguments: argparse.Namespace) -> int:
    from harness import benchmark
    from harness.benchmark_plan import PAIRS

    scenario, pairs = ("quick", 2) if arguments.quick else ("benchmark", PAIRS)
    return _show(benchmark.judge(_session(arguments, "benchmark", scenario, pairs)))


def _noise(arguments: argparse.Namespace) -> int:
    from harness.benchmark_plan import PAIRS

    arguments.threshold = ()
    return _show_noise(_session(arguments, "noise", arguments.scenario or "benchmark", PAIRS))


def _session(arguments: argparse.Namespace, kind: Kind, scenario: str, pairs: int) -> BenchmarkDir:
    """Makes all pairs of runs, or with --resume those that are left."""
    from harness import benchmark, rundir, runner
    from harness.benchmark_plan import SIDES

    resumed = None
    if arguments.resume:
        given = [n for n in _OF_A_PLAN if getattr(arguments, n, None)]
        if given:
            raise InputError(f"--{given[0]}: --resume has it from the plan of {arguments.resume}; leave the option out")
        resumed = rundir.BenchmarkDir(arguments.resume)
        herd = next(iter(benchmark.open_plan(resumed, kind).begun.values())).herd
        arguments.herd, arguments.seed = herd["head"], herd["seed"]
    else:
        asked = runner.load_scenario(
            scenario, users=arguments.users, duration=arguments.duration, thresholds=arguments.threshold
        )
    with contextlib.ExitStack() as stacks:
        for profile in sorted(set(SIDES[kind])):
            stacks.enter_context(_stack(profile, arguments))
        directory = resumed or benchmark.begin(_runs_root(arguments), asked, arguments.pairs or pairs, kind)
        try:
            benchmark.make(directory, _say)
        except InputError:
            raise
        except BaseException:
            command = benchmark.resume_command(directory)
            err.print(f"dairyperf: what was measured is kept; go on where it ended: {command}", style="yellow")
            raise
    return directory


def _show_noise(directory: BenchmarkDir) -> int:
    from harness import benchmark

    floor, kept = benchmark.measure_noise(directory)
    table = Table("figure", "noise floor", title=f"noise of {floor.profile}, pairs: {floor.pairs}")
    for name, pct in floor.floor_pct.items():
        table.add_row(name, units.format_pct(pct))
    out.print(table)
    out.print(f"kept in {kept}, for benchmarks of the same machine, data, versions and load", markup=False)
    return 0


def _plans(arguments: argparse.Namespace) -> int:
    from harness import plans, report_plans, stack

    herd = arguments.herd or stack.DEFAULT_HERD
    seed, as_of = arguments.seed or stack.DEFAULT_SEED, date.fromisoformat(stack.DEFAULT_AS_OF)
    found = plans.survey(herd, seed, as_of, _profiles(arguments.profile), _say)
    page, read = plans.write_survey(_runs_root(arguments), herd, found, datetime.now(UTC))
    table = Table("query", "day", "time", "blocks", "read by", "partitions", "findings", title=f"{herd:,} head")
    for row in report_plans.plan_rows(tuple(read.items())):
        for cells in row.sides:
            read_by = cells.missing or ", ".join(cells.scans)
            table.add_row(
                row.name, cells.side, cells.time, cells.blocks, read_by, cells.partitions, "; ".join(cells.findings)
            )
    out.print(table, markup=False)
    for side, text in report_plans.plan_summaries(tuple(read.items())):
        out.print(f"{side}: {text}", markup=False)
    out.print(f"report: {page}", markup=False)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from harness import baseline_runs, benchmark, rundir, runner

    if arguments.screenshot and len(arguments.directories) > 1:
        raise InputError(f"--screenshot {arguments.screenshot}: a picture of one report; name one directory")
    codes = []
    for directory in arguments.directories:
        try:
            session = rundir.BenchmarkDir(directory)
            if rundir.is_benchmark(directory):
                if arguments.baseline or arguments.baseline_limit or arguments.historical:
                    raise InputError(
                        f"{directory}: a benchmark has its own other side; give --baseline with runs alone"
                    )
                if benchmark.is_noise(session):
                    if arguments.screenshot:
                        raise InputError(f"{directory}: a noise session has no report; leave --screenshot out")
                    codes.append(_show_noise(session))
                    continue
                judged = benchmark.judge(session)
            else:
                run = runner.open_run(directory)
                held = baseline_runs.asked(
                    arguments.baseline,
                    run.read_meta().profile,
                    limits=arguments.baseline_limit,
                    historical=arguments.historical,
                    judged=run,
                )
                if held is not None:
                    baseline_runs.attach(run, held)
                judged = runner.judge(run)
            codes.append(_show(judged))
            if arguments.screenshot:
                _screenshot(judged.report, arguments.screenshot)
        except HarnessError as error:
            err.print(f"dairyperf: {error}", style="red")
            codes.append(error.exit_code)
    return runner.worst(codes)


def _screenshot(page: Path, picture: Path) -> None:
    from harness import screenshot
    from harness.services import provision

    screenshot.take(provision.browser(_say), page, picture)
    out.print(f"picture: {picture}", markup=False)


def _schema(arguments: argparse.Namespace) -> int:
    from harness import rundir

    print(json.dumps(rundir.json_schema(arguments.file), indent=1))
    return 0


def _show(judged: Judged) -> int:
    from harness import verdict_text

    table = Table(*verdict_text.COLUMNS, title=judged.title)
    shown, left_out = verdict_text.in_short(judged.verdicts)
    for row in verdict_text.rows(shown):
        table.add_row(*row)
    out.print(table, markup=False)
    if left_out:
        out.print(left_out, markup=False)
    for reason in judged.reasons:
        out.print(f"INVALID: {reason}", markup=False)
    if judged.aborted is not None:
        out.print(f"ENDED EARLY: {judged.aborted}", markup=False)
    if judged.evidence_sha256 is not None:
        out.print(f"evidence: sha256 {judged.evidence_sha256}", markup=False)
    out.print(f"report: {judged.report}", markup=False)
    _add_step_summary(judged.markdown)
    return judged.exit_code


def _add_step_summary(text: str) -> None:
    """Onto the page that GitHub shows of a job's step, where one runs. No verdict is lost over it."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as fault:
        remedy = "name a file that can be written, or none"
        err.print(f"dairyperf: GITHUB_STEP_SUMMARY {path}: {fault.strerror}; {remedy}", style="yellow")


def _database(arguments: argparse.Namespace) -> str:
    """Where the chosen database is changed: direct, as its superuser."""
    from psycopg.conninfo import make_conninfo

    from harness import stack

    if arguments.dsn:
        return str(arguments.dsn)
    addresses = stack.read(arguments.profile)
    if addresses.admin_dsn is None:
        raise InputError(f"--profile {arguments.profile}: the stack's file names no admin_dsn; add one, or give --dsn")
    return make_conninfo(addresses.admin_dsn, dbname=addresses.database)


def _indexes(arguments: argparse.Namespace) -> int:
    from harness import indexes

    if arguments.action == "check":
        return _show_index_check(indexes.check(_database(arguments)))
    change = indexes.create if arguments.action == "create" else indexes.drop
    done = change(_database(arguments), _say)
    table = Table("statement", "time", "attempts", title=f"indexes {arguments.action}")
    for one in done:
        table.add_row(one.statement, units.format_ms(1000 * one.elapsed_s), str(one.attempts))
    if done:
        out.print(table, markup=False)
    else:
        out.print(f"indexes {arguments.action}: nothing was left to do")
    return 0


def _show_index_check(found: Mapping[str, Sequence[str]]) -> int:
    from fixtures.indexes import day32

    known = {index.name: index for index in day32()}
    table = Table("index", "table", "made for", "state", title="indexes check")
    for name, problems in found.items():
        index = known.get(name)
        place, query = (f"{index.schema}.{index.table}", index.query) if index else ("", "")
        table.add_row(name, place, query, "; ".join(problems) or "valid")
    out.print(table, markup=False)
    wrong = sum(bool(problems) for problems in found.values())
    if wrong:
        err.print(
            f"dairyperf: {wrong} of {len(found)} indexes are not as they should be; run indexes create", style="red"
        )
    return 1 if wrong else 0


def _maintenance(arguments: argparse.Namespace) -> int:
    from harness import maintenance

    limit = arguments.dead_rows or maintenance.DEAD_ROWS_LIMIT
    done = maintenance.run(_database(arguments), _say, dead_rows_limit=limit)
    table = Table("table", "time", "pages", "live rows", "dead before", "dead after", "problem", title="maintenance")
    for one in done.tables:
        dead = (
            f"{count:,}" + ("" if share is None else f" ({units.format_pct(share)})")
            for count, share in ((one.dead_before, one.dead_before_pct), (one.dead_after, one.dead_after_pct))
        )
        name, took = f"{one.schema}.{one.table}", units.format_ms(1000 * one.elapsed_s)
        table.add_row(name, took, f"{one.pages:,}", f"{one.live:,}", *dead, one.problem or "")
    out.print(table, markup=False)
    out.print(f"{len(done.tables)} tables; partitions of farm.milk_production made: {done.partitions_made}")
    wrong = sum(one.problem is not None for one in done.tables)
    if wrong:
        err.print(f"dairyperf: {wrong} of {len(done.tables)} tables have a problem; see the last column", style="red")
    return 1 if wrong else 0


def _doctor(arguments: argparse.Namespace) -> int:
    from harness.services import doctor

    findings = doctor.examine()
    colours = {"ok": "green", "fetch": "cyan", "note": "yellow", "problem": "red"}
    table = Table("what", "", "found", title="dairyperf doctor")
    for finding in findings:
        table.add_row(finding.subject, f"[{colours[finding.state]}]{finding.state}[/]", finding.text)
    out.print(table)
    return 3 if any(finding.state == "problem" for finding in findings) else 0


def _test(arguments: argparse.Namespace) -> int:
    # two processes for the whole suite, as much of it waits; tests/conftest.py divides it
    chosen = arguments.pytest_arguments or ["--numprocesses=2"]
    os.chdir(CHECKOUT)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *chosen])
