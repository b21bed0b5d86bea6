"""The order of one run, and its judgement: everything after the snapshots is a pure function of the run's files."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from harness import (
    baseline,
    load,
    odoo_log,
    plan,
    provenance,
    report,
    reset,
    rundir,
    scenario,
    server_csv,
    server_metrics,
    servers,
    slow_statements,
    stack,
    statement_log,
    summary,
    tables,
    threshold,
    units,
    verdict_text,
    wal_archive,
)
from harness.errors import InputError, RunInvalid, StackError
from harness.model import (
    Baseline,
    Metrics,
    Profile,
    QueryPlans,
    RunMeta,
    RunResult,
    Scenario,
    ServerDelta,
    Snapshot,
    StatementLog,
    Verdict,
)
from harness.odoo_log import OdooRequest
from harness.rundir import RunDir
from harness.summary import RunSamples

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judgement comes to; `exit_code` as in the command line's help. reasons: why it is invalid. aborted: the
    limit that ended the load early. markdown: all of it as a page for a pull request. evidence_sha256: of the files
    it was made from, see `harness.rundir`."""

    title: str
    verdicts: tuple[Verdict, ...]
    reasons: tuple[str, ...]
    aborted: str | None
    report: Path
    markdown: str
    exit_code: int
    evidence_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run directory holds, read and checked, before any limit is applied."""

    meta: RunMeta
    samples: RunSamples
    before: Snapshot
    after: Snapshot
    servers: ServerDelta
    requests: Mapping[str, int]
    odoo: tuple[OdooRequest, ...] | None
    probes: rundir.Probes
    plans: QueryPlans | None
    log: StatementLog | None = None


def load_scenario(
    name: str,
    users: int | None,
    duration: str | None,
    thresholds: Sequence[str],
    abort_window: str | None = None,
) -> Scenario:
    """A scenario by name or path, with what the command line says instead. Raises InputError."""
    return scenario.override(
        load.read_scenario(name),
        users=users,
        duration_s=units.parse_duration(duration) if duration else None,
        thresholds=thresholds,
        abort_window_s=units.parse_duration(abort_window) if abort_window else None,
    )


def run(
    root: Path, asked: Scenario, profile: Profile, say: Say, workers: int = 0, held: Baseline | None = None
) -> RunDir:
    """Runs `asked` on the stack that is up, into a new directory under `root`. workers: as in `load.run`. held: what it
    will be judged against."""
    reset.check_may_write(stack.read(profile))
    return run_into(rundir.create(root, asked.name, profile, datetime.now(UTC)), asked, profile, say, workers, held)


def run_into(
    directory: RunDir, asked: Scenario, profile: Profile, say: Say, workers: int = 0, held: Baseline | None = None
) -> RunDir:
    """Runs Locust and its observer on `directory` to the end. Raises StackError or RunInvalid when it breaks, and
    InputError before any load if it cannot be held against `held`."""
    if workers > asked.users:
        raise InputError(f"workers: {workers} for {asked.users} users, some would have none; use fewer workers")
    provenance.begin(directory, asked, stack.read(profile))
    if held is not None:
        _hold(directory, held)
    say(f"{profile}: run {directory.path}")
    code = load.run(
        asked.locustfile,
        directory.path,
        directory.log_path,
        on_line=lambda line: say(f"{profile}: {_shown(line)}") if _worth_showing(line) else None,
        limit_s=load.timeout_s(asked),
        workers=workers,
    )
    if code != 0:
        meta = directory.read_meta()
        why = "; ".join(meta.reasons) or f"see {directory.log_path}"
        if meta.state == "running":
            directory.write_meta(dataclasses.replace(meta, state="failed", reasons=(f"Locust ended with {code}",)))
        error = RunInvalid if code == RunInvalid.exit_code else StackError
        raise error(f"{directory.path}: Locust ended with exit code {code}; {why}")
    return directory


def _hold(directory: RunDir, held: Baseline) -> None:
    meta = directory.read_meta()
    try:
        baseline.check_comparable(held, meta)
    except InputError as fault:
        directory.write_meta(dataclasses.replace(meta, state="failed", reasons=(str(fault),)))
        raise
    directory.write_baseline(held)


def _worth_showing(line: str) -> bool:
    return "dairyperf" in line or "ERROR" in line


def _shown(line: str) -> str:
    """Our own lines without time and place of Locust's log, which `say` has of its own."""
    return line.partition("INFO/dairyperf: ")[2] or line


def open_run(path: Path) -> RunDir:
    if not rundir.is_run(path):
        raise InputError(f"{path}: no run directory (it has no run.json); name one under reports/runs")
    return RunDir(path)


# --- judgement -----------------------------------------------------------------------------------------------------


def judge(directory: RunDir) -> Judged:
    """Judges a finished run from its files; see `read` and `write_judgement`."""
    evidence = read(directory)
    result = write_judgement(directory, evidence)
    made = judged(result.meta.run_id, result, result.meta.reasons, directory.report_path)
    return dataclasses.replace(made, evidence_sha256=rundir.evidence_sha256([directory]))


def judged(title: str, result: RunResult, reasons: tuple[str, ...], report_path: Path) -> Judged:
    """The result as its reader gets it. A load that a limit ended early has failed, whatever its verdicts say."""
    aborted = result.meta.aborted
    codes = (
        RunInvalid.exit_code if reasons else 0,
        1 if aborted is not None else 0,
        threshold.exit_code(result.verdicts),
    )
    return Judged(
        title=title,
        verdicts=result.verdicts,
        reasons=reasons,
        aborted=aborted,
        report=report_path,
        markdown=verdict_text.markdown(title, result.verdicts, reasons, aborted, result.summary.arrivals),
        exit_code=worst(codes),
    )


def write_judgement(directory: RunDir, evidence: Evidence) -> RunResult:
    """Judges what `read` found, and writes everything that is derived from it into the run directory."""
    meta = evidence.meta
    result = _against(directory.read_baseline(), side([evidence], meta.scenario, meta))
    text = (meta.run_id, result.verdicts, meta.reasons, meta.aborted, result.summary.arrivals)
    directory.write_verdicts(result.verdicts)
    directory.write_junit(verdict_text.junit_xml(*text))
    directory.write_markdown(verdict_text.markdown(*text))
    rundir.write_atomic(directory.pg_stats_path, server_csv.pg_stats_csv([(evidence.before, evidence.after)]))
    rundir.write_atomic(directory.pg_scans_path, server_csv.pg_scans_csv(evidence.servers))
    directory.write_tables(tables.csv_texts(tables.run_tables(result)))
    directory.write_report(report.render_run(result, rundir.evidence_sha256([directory])))
    return result


def read(directory: RunDir) -> Evidence:
    """Everything a finished run saved. Raises RunInvalid when it never came to its end, InputError when it goes on."""
    meta = directory.read_meta()
    state = rundir.state(meta)
    if state == "running":
        raise InputError(f"{directory.path}: still running (process {meta.pid}); wait for its end")
    samples, torn = summary.read_samples(directory.sample_blobs())
    before, after = directory.read_snapshot("before"), directory.read_snapshot("after")
    if meta.phases is None or before is None or after is None:
        why = "; ".join(meta.reasons) or "it did not come to its end"
        raise RunInvalid(f"{directory.path}: {state}, cannot be judged: {why}; its {len(samples)} samples are kept")
    endpoints, outcomes = directory.read_names()
    reasons = [*meta.reasons]
    if missing := directory.missing_parts(derived=False):
        reasons.append(f"parts are missing: {', '.join(missing)}")
    if before.postgres["database"]["datid"] != after.postgres["database"]["datid"]:
        reasons.append("the database was replaced during the run; nothing else may use the stack")
    if before.postgres["info"]["stats_reset"] != after.postgres["info"]["stats_reset"]:
        reasons.append("pg_stat_statements was reset during the run; nothing else may use the stack")
    if torn:
        reasons.append(f"{torn} sample files end in a torn record")
    found = _by_endpoint(samples, endpoints)
    recorded = {name: count for name, count in (meta.counts or {})["recorded"].items() if count}
    reasons += [
        f"{name}: {recorded.get(name, 0)} recorded, {found.get(name, 0)} in the sample files"
        for name in sorted({*recorded, *found})
        if recorded.get(name, 0) != found.get(name, 0)
    ]
    origin_us = meta.phases.origin_monotonic_us
    probes = directory.read_probes(origin_us)
    plans = directory.read_plans()
    between = summary.answered_between(samples, before.monotonic_us - origin_us, after.monotonic_us - origin_us)
    return Evidence(
        meta=dataclasses.replace(meta, state="invalid" if reasons else meta.state, reasons=tuple(reasons)),
        samples=RunSamples(samples, endpoints, outcomes, meta.phases, (meta.counts or {}).get("dropped")),
        before=before,
        after=after,
        servers=wal_archive.with_lag(
            servers.diff(before, after, meta.queries, load_ended_us=origin_us + (meta.phases.drained_us or 0)), probes
        ),
        requests=_by_endpoint(samples[between], endpoints),
        odoo=directory.read_odoo_requests(),
        probes=probes,
        plans=None if plans is None else plan.read(plans),
        log=directory.read_statement_log(),
    )


def _by_endpoint(samples: summary.Samples, endpoints: Sequence[str]) -> Counter[str]:
    counts = np.bincount(samples["endpoint"], minlength=len(endpoints))
    if len(counts) > len(endpoints):
        raise InputError(f"samples: index {len(counts) - 1} has no name among {len(endpoints)}; restore endpoints.json")
    return Counter({name: int(count) for name, count in zip(endpoints, counts, strict=True) if count})


def side(runs: Sequence[Evidence], asked: Scenario, meta: RunMeta) -> RunResult:
    """One run, or all runs of a profile taken together: their samples pooled, their counters summed, then judged."""
    measured = summary.combine([one.samples for one in runs], asked.load, summary.LATE_LIMIT_MS, asked.seed)
    server_delta = servers.combine([one.servers for one in runs])
    requests: Counter[str] = Counter()
    for one in runs:
        requests.update(one.requests)
    logs = [one.log for one in runs]
    access_logs = [one.odoo for one in runs if one.odoo is not None]
    metrics: Metrics = {
        **summary.metrics(measured),
        **server_metrics.metrics(server_delta, meta.profile, requests),
        **statement_log.metrics(logs),
    }
    return RunResult(
        meta=meta,
        summary=measured,
        servers=server_delta,
        settings=runs[-1].after.postgres["settings"],
        metrics=metrics,
        verdicts=threshold.evaluate(asked.thresholds, metrics, meta.profile, asked.strict),
        probes=runs[0].probes if len(runs) == 1 else {},
        warnings=tuple(dict.fromkeys(text for one in runs for text in _doubts(one))),
        slow=slow_statements.inventory(logs, server_delta.statements),
        plans=next((one.plans for one in reversed(runs) if one.plans is not None), None),
        requests=dict(sorted(requests.items())),
        odoo=odoo_log.by_method(request for log in access_logs for request in log) if access_logs else None,
    )


def _against(held: Baseline | None, result: RunResult) -> RunResult:
    """The result with the verdicts against what it is held against, after those of its own limits."""
    if held is None:
        return result
    verdicts = baseline.evaluate(held, result.meta, result.metrics, strict=result.meta.scenario.strict)
    return dataclasses.replace(result, verdicts=(*result.verdicts, *verdicts), baseline=held)


def _doubts(one: Evidence) -> tuple[str, ...]:
    of_log = () if one.log is None else statement_log.doubts(one.log, one.servers)
    return (*one.meta.warnings, *one.servers.warnings, *of_log)


def worst(codes: Iterable[int]) -> int:
    """The exit code of several: the stack failed (3), then invalid (4), then bad input (2), then a failed limit (1)."""
    present = set(codes)
    return next((code for code in (3, 4, 2, 1) if code in present), 0)
