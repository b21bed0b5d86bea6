"""Ties dairyperf to Locust's events: makes the run, or the worker, that users find at `environment.dairyperf`."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import gevent
from locust import events
from locust.runners import LocalRunner, WorkerRunner

from harness import CHECKOUT, load, provenance, rundir, stack
from harness.errors import HarnessError, InputError, RunInvalid, StackError
from harness.locust_plugin import options, page
from harness.locust_plugin.run import Ramp, Run
from harness.locust_plugin.worker import Worker
from harness.model import Profile, Scenario
from harness.services.process import follow_parent

read_addresses = stack.read  # a seam for tests, which have no stack

log = logging.getLogger("dairyperf")

# Workers of --processes N: Locust forgets them when its master ends before they are connected.
os.register_at_fork(after_in_child=functools.partial(follow_parent, signal.SIGTERM))


@events.init.add_listener  # type: ignore[untyped-decorator]
def begin(environment: Any, **_: object) -> None:
    """Resolves and prepares what is to be run; ends the process where that cannot be done."""
    environment.process_exit_code = StackError.exit_code  # nothing has passed before it was judged
    try:
        if isinstance(environment.runner, WorkerRunner):
            environment.dairyperf = Worker(environment)
        else:
            _lead(environment)
    except HarnessError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except Exception:
        log.exception("dairyperf could not begin")
        sys.exit(StackError.exit_code)
    except KeyboardInterrupt:
        sys.exit(RunInvalid.exit_code)


def _lead(environment: Any) -> None:
    given = os.environ.get(load.RUN_DIR_VARIABLE)
    if given is not None:
        meta = rundir.RunDir(Path(given)).read_meta()
        asked, profile = meta.scenario, meta.profile
    else:
        asked, profile = options.resolve(environment)
        options.of_judge(environment)  # what is wrong with it is better said before the run
    _bind(environment, asked)
    if environment.web_ui is not None:
        _serve(environment)
        return
    run_dir = Path(given) if given is not None else _new_directory(environment, asked, profile)
    run = Run(environment, asked, read_addresses(profile), run_dir, judged=given is None)
    run.prepare()
    environment.dairyperf = run
    environment.events.test_start.add_listener(run.on_test_start)
    environment.events.spawning_complete.add_listener(run.on_spawned)

    def on_quitting(**_: object) -> None:
        """Locust's last word, however its end came about."""
        environment.process_exit_code = run.finish()

    def on_quit(**_: object) -> None:
        """After Locust's own tables, which are rounded and judge nothing."""
        sys.stdout.write(run.verdicts)
        sys.stdout.flush()

    environment.events.quitting.add_listener(on_quitting)
    environment.events.quit.add_listener(on_quit)

    def mind_sigterm(**_: object) -> None:
        """Locust waits for a shape before it does."""
        gevent.signal_handler(signal.SIGTERM, run.interrupt)

    if asked.load == "stages":
        environment.events.test_start.add_listener(mind_sigterm)


def _bind(environment: Any, asked: Scenario) -> None:
    """Locust's own options, as far as the scenario decides them."""
    settings = cast(argparse.Namespace, environment.parsed_options)
    if not isinstance(environment.runner, LocalRunner) and asked.users < settings.expect_workers:
        raise InputError(
            f"{settings.expect_workers} workers for {asked.users} users: some would have none; use fewer workers"
        )
    if not all(kind.single_requests for kind in environment.user_classes):
        if asked.load == "open":
            raise InputError(f"scenario {asked.name}: users who send several requests in a row are no open load")
        if asked.may_lose_workers:
            raise InputError(
                f"scenario {asked.name}: users who send several requests in a row, and may_lose_workers: "
                "what is lost would have no bound; remove it"
            )
    if asked.load == "stages" and environment.web_ui is not None:
        raise InputError(f"scenario {asked.name}: stages go with --headless; the web interface has no place for them")
    settings.run_time = None  # Locust's would cut off the last replies
    environment.reset_stats = False  # its counts are compared with ours
    environment.stop_timeout = load.DRAIN_TIMEOUT_S
    if asked.load == "stages":
        environment.shape_class = Ramp(environment)
    else:
        settings.num_users, settings.spawn_rate = asked.users, asked.spawn_rate_per_s


def _new_directory(environment: Any, asked: Scenario, profile: Profile) -> Path:
    given = environment.parsed_options.out
    root = Path(given).resolve() if given else CHECKOUT / "reports/runs"
    made = rundir.create(root, asked.name, profile, datetime.now(UTC))
    provenance.begin(made, asked, read_addresses(profile))
    return made.path


# --- with the web interface ----------------------------------------------------------------------------------------


def _serve(environment: Any) -> None:
    """Every start in the web interface is a run of its own; users and spawn rate are the form's."""
    environment.process_exit_code = None
    environment.dairyperf = None
    fault: list[str] = []

    def on_test_start(**_: object) -> None:
        fault.clear()
        try:
            asked, profile = options.resolve(environment)
            run = Run(
                environment, asked, read_addresses(profile), _new_directory(environment, asked, profile), judged=True
            )
            environment.dairyperf = run
            run.prepare()
        except Exception as error:
            log.log(logging.ERROR, "%s", error, exc_info=not isinstance(error, HarnessError))
            fault.append(str(error))
            gevent.spawn(environment.runner.stop)
        except gevent.GreenletExit:  # Locust's way to stop a start that is not through yet
            fault.append("stopped while the stack was being reset")
            raise
        else:
            run.on_test_start()

    def current() -> Run | None:
        return cast("Run | None", environment.dairyperf)

    def on_spawned(**_: object) -> None:
        if (run := current()) is not None and not fault:
            run.on_spawned()

    def on_test_stopping(**_: object) -> None:
        if (run := current()) is not None and not fault and run.state not in ("judged", "failed"):
            run.interrupt()

    def on_quitting(**_: object) -> None:
        if (run := current()) is not None and not fault:
            run.finish()

    def live() -> dict[str, Any]:
        if fault:
            return {"state": "failed", "error": fault[0]}
        run = current()
        return {"state": "idle"} if run is None else run.live()

    environment.events.test_start.add_listener(on_test_start)
    environment.events.spawning_complete.add_listener(on_spawned)
    environment.events.test_stopping.add_listener(on_test_stopping)
    environment.events.quitting.add_listener(on_quitting)
    page.attach(environment, live)
    log.info("live verdicts are at /dairyperf of the web interface")
