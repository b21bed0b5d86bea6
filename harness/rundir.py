"""Run and benchmark directories: the only module that knows their file names and formats.

Reads and writes; judges nothing. Whatever cannot be read raises InputError with path, fault and remedy.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import psutil
from pydantic import TypeAdapter, ValidationError

from harness.benchmark_plan import Kind, Plan
from harness.errors import InputError, StackError
from harness.model import OUTCOME_OK, Baseline, Benchmark, NoiseFloor, Profile, RunMeta, Snapshot, StatementLog, Verdict
from harness.odoo_log import OdooRequest

# 1  first version
# 2  load generators and workers in counts, open load, aborted; every field of 1 is still there
SCHEMA_VERSION = 2

When = Literal["before", "after"]
State = Literal["running", "complete", "invalid", "failed", "interrupted"]
Probes = Mapping[str, tuple[tuple[float, float], ...]]
T = TypeVar("T")

_META = "run.json"
_NAMES = "endpoints.json"
_SAMPLES = "samples-*.bin"
_STATEMENT_LOG = "statement-log.json"
_PROBES = "probes.csv"
_PROBES_HEADER = ("monotonic_us", "series", "value")
_ODOO_REQUESTS = "odoo-requests.csv"
_ODOO_REQUESTS_HEADER = tuple(field.name for field in fields(OdooRequest))
_BASELINE = "baseline.json"
_VERDICTS = "verdicts.json"
_JUNIT = "junit.xml"
_MARKDOWN = "summary.md"
_REPORT = "report.html"
# What was measured, of one run. The rest is derived, or (locust.log) may still be written to.
_EVIDENCE = (_META, _NAMES, _SAMPLES, "snapshot-*.json", _STATEMENT_LOG, _PROBES, _ODOO_REQUESTS, "plans/*.json")
_BENCHMARK = "benchmark.json"
_TABLES = "csv"
_RUNS = "runs"
_ASIDE = "aside"
_PLAN = "plan.json"
_NOISE_FLOOR = "noise-floor.json"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class RunDir:
    """One run's directory. Making this object touches nothing."""

    path: Path

    # --- run.json

    def write_meta(self, meta: RunMeta) -> None:
        _write_json(self.path / _META, meta, RunMeta)

    def read_meta(self) -> RunMeta:
        if not (self.path / _META).is_file():
            raise InputError(f"{self.path}: no run directory (it has no {_META}); name one under reports/runs")
        return _read_json(self.path / _META, RunMeta)

    # --- samples

    def samples_path(self, source: str) -> Path:
        """Of one process that generates load."""
        return self.path / _SAMPLES.replace("*", source)

    def sample_blobs(self) -> Iterator[bytes]:
        """The bytes of every sample file, by name."""
        return (path.read_bytes() for path in sorted(self.path.glob(_SAMPLES)))

    def write_names(self, endpoints: Sequence[str], outcomes: Sequence[str]) -> None:
        """The names that samples refer to by index. Not synced: it is written while load is measured."""
        text = json.dumps({"endpoints": list(endpoints), "outcomes": list(outcomes)}, indent=1)
        write_atomic(self.path / _NAMES, text, sync=False)

    def read_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(endpoints, outcomes); outcome 0 is "ok". Without a file there are no endpoints yet."""
        path = self.path / _NAMES
        if not path.exists():
            return (), ("ok",)
        table = _read_json(path, dict[str, tuple[str, ...]])
        if not table.keys() >= {"endpoints", "outcomes"} or table["outcomes"][OUTCOME_OK : OUTCOME_OK + 1] != ("ok",):
            raise InputError(f"{path}: lists no endpoints and outcomes, or not with ok first; restore the file")
        return table["endpoints"], table["outcomes"]

    # --- snapshots and probes

    def write_snapshot(self, when: When, snapshot: Snapshot) -> None:
        _write_json(self._snapshot_path(when), snapshot, Snapshot)

    def read_snapshot(self, when: When) -> Snapshot | None:
        """None if the run never got so far."""
        path = self._snapshot_path(when)
        return _read_json(path, Snapshot) if path.exists() else None

    def _snapshot_path(self, when: When) -> Path:
        return self.path / f"snapshot-{when}.json"

    def write_statement_log(self, log: StatementLog) -> None:
        _write_json(self.path / _STATEMENT_LOG, log, StatementLog)

    def read_statement_log(self) -> StatementLog | None:
        """None if the server's log was not kept."""
        path = self.path / _STATEMENT_LOG
        return _read_json(path, StatementLog) if path.exists() else None

    def append_probes(self, monotonic_us: int, values: Mapping[str, float]) -> None:
        """Appends series -> value as of CLOCK_MONOTONIC, in one write, so that several processes may append."""
        path = self.path / _PROBES
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not path.exists():
            writer.writerow(_PROBES_HEADER)
        writer.writerows((monotonic_us, name, value) for name, value in values.items())
        line_bytes = text.getvalue().encode()
        try:
            with path.open("ab", buffering=0) as file:
                if file.write(line_bytes) != len(line_bytes):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as fault:
            raise StackError(f"{path}: {fault.strerror}; free space and run again") from fault

    def read_probes(self, origin_monotonic_us: int) -> Probes:
        """Series -> ((seconds from the origin, value), ...) in time order. A torn last line and values that are no
        number (nan) are dropped."""
        path = self.path / _PROBES
        if not path.exists():
            return {}
        whole = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
        series: dict[str, list[tuple[float, float]]] = {}
        for number, row in enumerate(csv.reader(io.StringIO(whole)), start=1):
            try:
                at, name, value = row
                point = ((int(at) - origin_monotonic_us) / 1e6, float(value))
            except ValueError:
                # two processes that start together may both write it
                if tuple(row) == _PROBES_HEADER:
                    continue
                raise InputError(f"{path}: line {number} is not {','.join(_PROBES_HEADER)}; remove it") from None
            if math.isfinite(point[1]):
                series.setdefault(name, []).append(point)
        return {name: tuple(sorted(points)) for name, points in sorted(series.items())}

    # --- Odoo's access log

    def write_odoo_requests(self, requests: Iterable[OdooRequest]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_ODOO_REQUESTS_HEADER)
        writer.writerows(map(astuple, requests))
        write_atomic(self.path / _ODOO_REQUESTS, text.getvalue())

    def read_odoo_requests(self) -> tuple[OdooRequest, ...] | None:
        """Those logged between the snapshots; None if Odoo's log was not read."""
        path = self.path / _ODOO_REQUESTS
        if not path.exists():
            return None
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            try:
                if tuple(next(rows, ())) != _ODOO_REQUESTS_HEADER:
                    raise ValueError
                return tuple(
                    OdooRequest(method, int(queries), float(query_ms), float(remaining_ms))
                    for method, queries, query_ms, remaining_ms in rows
                )
            except ValueError:
                header = ",".join(_ODOO_REQUESTS_HEADER)
                raise InputError(f"{path}: line {rows.line_num} is not {header}; restore the file") from None

    # --- what it is held against

    def write_baseline(self, baseline: Baseline) -> None:
        _write_json(self.path / _BASELINE, baseline, Baseline)

    def read_baseline(self) -> Baseline | None:
        """None if it is held against no other run."""
        path = self.path / _BASELINE
        return _read_json(path, Baseline, _restore_pooled_baseline) if path.exists() else None

    # --- what is derived

    def write_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        _write_json(self.path / _VERDICTS, VerdictsFile(SCHEMA_VERSION, tuple(verdicts)), VerdictsFile)

    def read_verdicts(self) -> tuple[Verdict, ...]:
        """Empty if the run was not judged yet."""
        path = self.path / _VERDICTS
        if not path.exists():
            return ()
        document = _read_json(path, dict[str, Any])
        return _validated(path, document.get("verdicts"), tuple[Verdict, ...])

    def write_junit(self, text: str) -> Path:
        return write_atomic(self.path / _JUNIT, text)

    def write_markdown(self, text: str) -> Path:
        return write_atomic(self.path / _MARKDOWN, text)

    def write_report(self, text: str) -> Path:
        return write_atomic(self.path / _REPORT, text)

    @property
    def report_path(self) -> Path:
        return self.path / _REPORT

    def write_plans(self, documents: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """plans/: a JSON file per document of `harness.plans`, and a text file for each that has a text."""
        write_plans(self.plans_path, documents, texts)

    def read_plans(self) -> dict[str, Any] | None:
        """File stem -> document; None if the run has none. A file that cannot be read is {"error": …}."""
        return read_plans(self.plans_path)

    @property
    def plans_path(self) -> Path:
        return self.path / "plans"

    @property
    def log_path(self) -> Path:
        """Where the load generator's own output goes."""
        return self.path / "locust.log"

    @property
    def pg_stats_path(self) -> Path:
        """The specification's statement table (its day31_pg_stats.csv)."""
        return self.path / "pg_stats.csv"

    @property
    def pg_scans_path(self) -> Path:
        """The specification's table of scans per table."""
        return self.path / "pg_scans.csv"

    def evidence_paths(self) -> list[Path]:
        """The files that were measured, and the figures that they are held against."""
        return [path for pattern in (*_EVIDENCE, _BASELINE) for path in self.path.glob(pattern)]

    def write_tables(self, texts: Mapping[str, str]) -> None:
        """csv/: a file per table of the report."""
        write_tables(self.path, texts)

    def missing_parts(self, derived: bool = True) -> list[str]:
        """Parts of a complete run that are absent or empty; with derived=False only those that cannot be made again
        from the rest."""
        measured = [_META, _NAMES, "snapshot-before.json", "snapshot-after.json", _PROBES]
        made = [_VERDICTS, _JUNIT, _MARKDOWN, _REPORT] if derived else []
        missing = [name for name in measured + made if not _has_bytes(self.path / name)]
        return missing if any(map(_has_bytes, self.path.glob(_SAMPLES))) else [*missing, _SAMPLES]


def evidence_sha256(runs: Sequence[RunDir], beside: Sequence[Path] = ()) -> str:
    """What a signature under a report is for: SHA-256 over the lines "<SHA-256>  <run>/<file>", as sha256sum writes
    them, of everything that verdicts rest on, by name: the runs' files, and those `beside` them. Raises InputError."""
    of_runs = [
        (f"{run.path.name}/{path.relative_to(run.path).as_posix()}", path)
        for run in runs
        for path in run.evidence_paths()
    ]
    files = sorted([*of_runs, *((path.name, path) for path in beside)])
    lines = "".join(f"{_sha256(path)}  {name}\n" for name, path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror}; restore the file or name another directory") from fault


def create(root: Path, scenario: str, profile: Profile, now: datetime) -> RunDir:
    """A new directory `<UTC time>-<scenario>-<profile>` under `root`; a taken name gets -2, -3, …"""
    return RunDir(_new_directory(root, f"{_stamp(now)}-{scenario}-{profile}"))


def is_run(path: Path) -> bool:
    return (path / _META).is_file()


def runs_within(path: Path) -> tuple[RunDir, ...]:
    """The runs of a benchmark, or of a folder that has run directories in it, by name."""
    found = BenchmarkDir(path).runs().values() if is_benchmark(path) else map(RunDir, sorted(path.glob("*")))
    return tuple(run for run in found if is_run(run.path))


def state(meta: RunMeta) -> State:
    """The state of the run now: one that says "running" but whose process is gone was interrupted."""
    return "interrupted" if meta.state == "running" and not _alive(meta.pid, meta.pid_started) else meta.state


def this_process() -> tuple[int, float]:
    """(pid, pid_started) of the caller, as run.json keeps them."""
    return os.getpid(), psutil.Process().create_time()


def _alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        # create_time is kept in clock ticks and moves with the boot time: a second apart is still the same process
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


# --- plans ---------------------------------------------------------------------------------------------------------


def create_survey(root: Path, herd: int, now: datetime) -> Path:
    """A new directory `<UTC time>-plans-<herd>` under `root`, for plans that belong to no run."""
    return _new_directory(root, f"{_stamp(now)}-plans-{herd}")


def write_plans(folder: Path, documents: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """Raises StackError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise StackError(f"{folder}: {fault.strerror}; free space or make it writable, and run again") from fault
    for stem, document in documents.items():
        _write_json(folder / f"{stem}.json", document, Any)
        if texts.get(stem):
            write_atomic(folder / f"{stem}.txt", texts[stem], sync=False)


def read_plans(folder: Path) -> dict[str, Any] | None:
    if not folder.is_dir():
        return None
    documents: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            documents[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            documents[path.stem] = {"error": f"its file cannot be read: {fault}"}
    return documents or None


def write_tables(path: Path, texts: Mapping[str, str]) -> None:
    """Name -> text as `path`/csv/NAME.csv. Raises StackError."""
    folder = path / _TABLES
    try:
        folder.mkdir(exist_ok=True)
    except OSError as fault:
        raise StackError(f"{folder}: {fault.strerror}; free space or make it writable, and run again") from fault
    for name, text in texts.items():
        # made again from the rest at any time, and many: not worth a wait for the disk each
        write_atomic(folder / f"{name}.csv", text, sync=False)


# --- benchmarks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BenchmarkDir:
    """A benchmark's directory: plan.json, benchmark.json, its report, its runs as runs/01-day31, runs/02-day40, …, and
    in aside/ those that were interrupted. That of a noise session has noise-floor.json and no report."""

    path: Path

    def new_run(self, number: int, profile: Profile) -> RunDir:
        """number: from 1, its place in the plan."""
        return RunDir(_new_directory(self.path / _RUNS, f"{number:02d}-{profile}"))

    def runs(self) -> dict[int, RunDir]:
        """By their numbers, ascending. InputError when two have the same."""
        found: dict[int, RunDir] = {}
        for path in sorted((self.path / _RUNS).glob("[0-9]*-*")):
            number = path.name.partition("-")[0]
            if not path.is_dir() or not number.isdecimal():
                continue
            first = found.setdefault(int(number), RunDir(path)).path
            if first != path:
                raise InputError(f"{path}: {first.name} is run {int(number)} too; remove the wrong one")
        return dict(sorted(found.items()))

    def put_aside(self, run: RunDir) -> Path:
        """Moves a run that does not count to where it is kept; returns the place."""
        place = _new_directory(self.path / _ASIDE, run.path.name)
        run.path.rename(place)
        return place

    def aside(self) -> tuple[str, ...]:
        """The names of the runs that were put aside."""
        return tuple(sorted(path.name for path in (self.path / _ASIDE).glob("*")))

    def write_plan(self, plan: Plan) -> None:
        _write_json(self.path / _PLAN, plan, Plan)

    def read_plan(self) -> Plan | None:
        """None: it was made before there were plans."""
        path = self.path / _PLAN
        return _read_json(path, Plan) if path.exists() else None

    def write_noise_floor(self, floor: NoiseFloor) -> None:
        write_noise_floor(self.path / _NOISE_FLOOR, floor)

    def read_noise_floor(self) -> NoiseFloor | None:
        """What effects were judged by, or what the noise session found; None = none was known."""
        path = self.path / _NOISE_FLOOR
        return read_noise_floor(path) if path.exists() else None

    def evidence_paths(self) -> list[Path]:
        """What was planned, and the noise floor that effects are held against, as far as there is one."""
        return [path for name in (_PLAN, _NOISE_FLOOR) if (path := self.path / name).exists()]

    def was_judged(self) -> bool:
        return (self.path / _BENCHMARK).is_file()

    @property
    def lock_path(self) -> Path:
        """Held by the process that makes its runs."""
        return self.path / _LOCK

    def write(self, benchmark: Benchmark) -> None:
        _write_json(self.path / _BENCHMARK, benchmark, Benchmark)

    def read(self) -> Benchmark:
        path = self.path / _BENCHMARK
        if not path.is_file():
            raise InputError(f"{self.path}: no benchmark directory (it has no {_BENCHMARK}); name one that has")
        return _read_json(path, Benchmark, _restore_pooled)

    def write_tables(self, texts: Mapping[str, str]) -> None:
        write_tables(self.path, texts)

    def write_report(self, text: str) -> Path:
        return write_atomic(self.report_path, text)

    @property
    def report_path(self) -> Path:
        return self.path / _REPORT


def create_benchmark(root: Path, now: datetime, kind: Kind = "benchmark") -> BenchmarkDir:
    """A new directory `<UTC time>-<kind>` under `root`, with a place for its runs."""
    path = _new_directory(root, f"{_stamp(now)}-{kind}")
    (path / _RUNS).mkdir()
    return BenchmarkDir(path)


def is_benchmark(path: Path) -> bool:
    return (path / _BENCHMARK).is_file() or (path / _RUNS).is_dir()


def write_noise_floor(path: Path, floor: NoiseFloor) -> None:
    """Raises StackError."""
    _write_json(path, floor, NoiseFloor)


def read_noise_floor(path: Path) -> NoiseFloor:
    return _read_json(path, NoiseFloor)


def _restore_pooled(benchmark: dict[str, Any]) -> None:
    """JSON has no null key: json writes the pooled selector None as "null"."""
    for result in [*benchmark["runs"], benchmark["day31"], benchmark["day40"]]:
        _restore_metrics(result)
        if result.get("baseline"):
            _restore_pooled_baseline(result["baseline"])


def _restore_pooled_baseline(baseline: dict[str, Any]) -> None:
    for run in baseline["runs"]:
        _restore_metrics(run)


def _restore_metrics(result: dict[str, Any]) -> None:
    result["metrics"] = {
        metric: {None if name == "null" else name: estimate for name, estimate in estimates.items()}
        for metric, estimates in result["metrics"].items()
    }


# --- schemas -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VerdictsFile:
    """verdicts.json."""

    schema_version: int
    verdicts: tuple[Verdict, ...]


JSON_FILES: Mapping[str, Any] = {
    "run": RunMeta,
    "verdicts": VerdictsFile,
    "benchmark": Benchmark,
    "baseline": Baseline,
}


def json_schema(file: str) -> dict[str, Any]:
    """What `file`.json of a run or benchmark directory holds, as a JSON schema of draft 2020-12."""
    adapter = _adapter(JSON_FILES[file])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"dairyperf {file}.json, schema_version {SCHEMA_VERSION}",
        **adapter.json_schema(mode="serialization"),
    }


# --- files ---------------------------------------------------------------------------------------------------------


def write_atomic(path: Path, text: str, sync: bool = True) -> Path:
    """Writes beside `path` and renames, so that a reader sees the old or the new text, never a part.

    sync=False leaves it to the system when the bytes reach the disk. Raises StackError.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError as fault:
        beside.unlink(missing_ok=True)
        raise StackError(f"{path}: {fault.strerror}; free space or make it writable, and run again") from fault
    return path


def _new_directory(root: Path, name: str) -> Path:
    number = 1
    while True:
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            if not root.is_dir():
                raise InputError(f"{root}: is not a directory; name another place") from None
            number += 1
        except OSError as fault:
            raise InputError(f"{path}: {fault.strerror}; name a place that can be written") from fault
        else:
            return path


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _plain(value: object, kind: Any) -> Any:
    return _adapter(kind).dump_python(value)


def _write_json(path: Path, value: object, kind: Any) -> None:
    text = json.dumps(_plain(value, kind), indent=1, default=_database_value, allow_nan=False)
    write_atomic(path, text + "\n")


def _database_value(value: object) -> object:
    """What psycopg returns and JSON lacks."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{value!r} has no place in JSON")


def _read_json(path: Path, kind: type[T], restore: Callable[[dict[str, Any]], None] | None = None) -> T:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror}; restore the file or name another directory") from fault
    except ValueError as fault:
        raise InputError(f"{path}: not valid JSON: {fault}; restore the file or name another directory") from fault
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: written with schema {version}, newer than {SCHEMA_VERSION}; read it with a newer dairyperf"
        )
    if restore is not None:
        try:
            restore(document)
        except (KeyError, TypeError, AttributeError) as fault:
            raise InputError(f"{path}: incomplete ({fault!r}); restore the file") from fault
    return _validated(path, document, kind)


def _validated(path: Path, document: object, kind: type[T]) -> T:
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_python(document))
    except ValidationError as fault:
        faults = [f"{'.'.join(map(str, f['loc'])) or 'document'}: {f['msg']}" for f in fault.errors()[:3]]
        raise InputError(f"{path}: {'; '.join(faults)}; the file is damaged or of another kind, restore it") from None
