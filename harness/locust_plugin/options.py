"""The options that dairyperf adds to Locust's command line, and the scenario that they come to."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from locust import events
from locust.env import Environment

from harness import CHECKOUT, load, rundir, scenario
from harness.errors import InputError
from harness.model import PROFILES, Profile, Scenario


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: argparse.ArgumentParser, **_: object) -> None:
    group = parser.add_argument_group(
        "dairyperf",
        "A run is recorded, judged and kept as a directory; with --headless the exit code is 0 pass, 1 a threshold "
        "failed, 2 bad input, 3 the stack failed, 4 the run is invalid. -u and -r replace the scenario's; -t covers "
        "ramp-up, warm-up and steady state. Locust's --profile names the stack: day31 or day40 (default). With the "
        "web interface live verdicts are at /dairyperf. Workers (--processes N, or --master and --worker) take all "
        "of this from their master.",
    )
    group.add_argument(
        "--scenario", default="sustained", metavar="<name>", help="A name in scenarios/, or a path; default sustained"
    )
    group.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="<limit>",
        help='Replaces the scenario\'s limits on the same metric, such as "p95_ms < 300"; repeatable',
    )
    group.add_argument("--out", metavar="<directory>", help="Where the run directory is made; default reports/runs")
    group.add_argument(
        "--abort-window",
        type=float,
        metavar="<seconds>",
        help="End the run (exit code 1) when a limit on samples fails over a window of this length; default never",
    )
    group.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="<directory>",
        help="Hold the run against this stored one, or all runs in this folder; repeatable",
    )
    group.add_argument(
        "--historical",
        action="store_true",
        help="Allow a baseline of another machine or other versions; latency is then not judged",
    )
    group.add_argument(
        "--secrets",
        metavar="<file>",
        help="On a worker on another machine: its copy of the stack's secrets file. Secrets are never sent to workers",
    )
    parser.set_defaults(profile="day40")


def resolve(environment: Environment) -> tuple[Scenario, Profile]:
    """What the scenario's file says, with what Locust's own options say instead. Raises InputError."""
    options = cast(argparse.Namespace, environment.parsed_options)
    asked = load.read_scenario(options.scenario)
    if asked.load == "stages":
        if options.num_users is not None or options.run_time is not None or options.spawn_rate is not None:
            raise InputError(f"scenario {asked.name}: -u, -r and -t follow its stages; leave them out")
    else:
        asked = dataclasses.replace(
            scenario.override(asked, users=options.num_users),
            spawn_rate_per_s=options.spawn_rate or asked.spawn_rate_per_s,
        )
    duration_s = None if options.run_time is None else load.steady_s(options.run_time, asked)
    asked = scenario.override(
        asked, duration_s=duration_s, thresholds=options.threshold, abort_window_s=options.abort_window
    )
    return dataclasses.replace(asked, locustfile=_locustfile(environment)), _profile(options.profile)


def of_judge(environment: Environment) -> list[str]:
    """What the judge of a run has to be told besides its directory. Raises InputError for a baseline without runs."""
    options = cast(argparse.Namespace, environment.parsed_options)
    paths = [Path(given).resolve() for given in options.baseline]
    for path in paths:
        if not rundir.is_run(path) and not rundir.runs_within(path):
            raise InputError(f"--baseline: {path}: no run in it; name a run directory or a folder of them")
    historical = ["--historical"] if options.historical else []
    return [*(text for path in paths for text in ("--baseline", str(path))), *historical]


def _profile(name: str) -> Profile:
    if name not in PROFILES:
        raise InputError(f"--profile: {name!r} is not a stack; use {' or '.join(PROFILES)}")
    return name


def _locustfile(environment: Environment) -> str:
    path = Path(cast(Sequence[str], environment.parsed_locustfiles)[0])
    return str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path)
