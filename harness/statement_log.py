"""PostgreSQL's JSON log as values: who ran which statement for how long, without its constants, and the 95th
percentile of all executions, of which the log holds a sample.

Pure: no I/O.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import pglast
from numpy.typing import NDArray
from pglast import ast
from pglast.parser import ParseError, normalize
from scipy.stats import beta

from harness.model import Estimate, LoggedPlan, LoggedStatement, Metrics, ServerDelta, StatementLog
from harness.statements import NOT_THE_APPLICATION, fingerprint

P95 = 0.95

# One of n independent observations lies above the 95th percentile with probability 1 - 0.95^n, which a 95 % interval
# needs to be 97.5 %: fewer give no upper end.
LEAST_EFFECTIVE_COUNT = math.log(0.025) / math.log(P95)

# As written by check_log_duration in postgres.c, and by auto_explain. "parse" and "bind" lines are of the same
# execution and drawn apart from it; "execute fetch from" continues a portal whose first part was logged before.
_LINE = re.compile(
    r"duration: (?P<ms>\d+\.\d+) ms  "
    r"(?:(?P<plan>plan):\n|statement: |execute (?!fetch from )(?P<portal>.*?): )(?P<text>.*)",
    re.DOTALL,
)
# What pg_stat_statements counts with track_utility = off.
_QUERIES = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
_READS_AS_QUERY = re.compile(r"\s*(?:select|insert|update|delete|merge|with|values|table)\b", re.IGNORECASE)
_COMMENT = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_LIST = re.compile(r"(\$\d+)(?:\s*,\s*\$\d+)+")

# Keys of a plan whose texts are names; every other text may hold a constant.
_PLAN_NAMES = frozenset(
    {"Node Type", "Strategy", "Partial Mode", "Parent Relationship", "Subplan Name", "Relation Name", "Schema"}
    | {"Alias", "Index Name", "Join Type", "Scan Direction", "CTE Name", "Command", "Operation", "Function Name"}
)
_PLAN_LEFT_OUT = frozenset({"Query Text", "Query Parameters"})
_CONSTANT = re.compile(r"'(?:[^']|'')*'|(?<![\w$.])\d+(?:\.\d+)?(?!\w)")

_MS_PER_UNIT = {"": 1.0, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 36e5, "d": 864e5, "us": 1e-3}


# --- the log -------------------------------------------------------------------------------------------------------


def sampling(settings: Mapping[str, str]) -> tuple[float | None, float | None]:
    """(sample_ratio, always_ms) of a `StatementLog`, from PostgreSQL's settings as current_setting() shows them."""
    always_ms, least_ms = (
        _milliseconds(settings.get(name, "-1")) for name in ("log_min_duration_statement", "log_min_duration_sample")
    )
    if always_ms == 0:
        return 1.0, 0.0
    ratio = float(settings.get("log_statement_sample_rate", "1"))
    return ratio if least_ms == 0 and ratio > 0 else None, None if always_ms < 0 else always_ms


def _milliseconds(text: str) -> float:
    match = re.fullmatch(r"(-?[\d.]+)\s*([a-z]*)", text.strip())
    assert match is not None, f"{text!r} is no duration of PostgreSQL"
    return float(match[1]) * _MS_PER_UNIT[match[2]]


def read(
    lines: Iterable[bytes],
    database: str,
    sample_ratio: float | None,
    always_ms: float | None,
    exclude_roles: Collection[str] = NOT_THE_APPLICATION,
) -> StatementLog:
    """The application's part of the log's lines; torn and foreign ones are passed over."""
    statements: list[LoggedStatement] = []
    plans: dict[str, LoggedPlan] = {}
    texts: dict[str, str] = {}
    for row, match in _duration_lines(lines, database, exclude_roles):
        duration_ms, at, user = float(match["ms"]), str(row.get("timestamp", "")), row["user"]
        if match["plan"]:
            found = _plan(match["text"])
            if found is None:
                continue
            query, plan = found
            shape = fingerprint(query)
            if shape not in plans or plans[shape].duration_ms < duration_ms:
                plans[shape] = LoggedPlan(at, user, duration_ms, shape, plan)
        else:
            query = match["text"]
            if not is_query(query):
                continue
            shape = fingerprint(query)
            kind: Literal["execute", "statement"] = "statement" if match["portal"] is None else "execute"
            statements.append(LoggedStatement(at, user, kind, duration_ms, shape))
        if shape not in texts:
            texts[shape] = without_constants(query)
    return StatementLog(sample_ratio, always_ms, tuple(statements), texts, tuple(plans.values()))


def _duration_lines(
    lines: Iterable[bytes], database: str, exclude_roles: Collection[str]
) -> Iterator[tuple[Mapping[str, Any], re.Match[str]]]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or row.get("error_severity") != "LOG" or row.get("dbname") != database:
            continue
        user, message = row.get("user"), row.get("message")
        if not isinstance(user, str) or user in exclude_roles or not isinstance(message, str):
            continue
        if match := _LINE.fullmatch(message):
            yield row, match


def _plan(text: str) -> tuple[str, Mapping[str, Any]] | None:
    """(statement, plan without constants); None if it is not JSON, as with another auto_explain.log_format."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    if not isinstance(document, dict) or "Query Text" not in document:
        return None
    return document["Query Text"], cast(Mapping[str, Any], _masked(document, ""))


def _masked(value: Any, key: str) -> Any:
    match value:
        case dict():
            return {name: _masked(one, name) for name, one in value.items() if name not in _PLAN_LEFT_OUT}
        case list():
            return [_masked(one, key) for one in value]
        case str() if key not in _PLAN_NAMES:
            return _CONSTANT.sub("?", value)
        case _:
            return value


# --- statements ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=20_000)
def is_query(text: str) -> bool:
    """Whether it reads or writes rows; BEGIN, SET, SAVEPOINT, DISCARD, FETCH and the like are utility statements."""
    try:
        return any(isinstance(one.stmt, _QUERIES) for one in pglast.parse_sql(text))
    except ParseError:
        return _READS_AS_QUERY.match(text) is not None


def without_constants(query: str) -> str:
    """The statement on one line with $n for its constants and without comments, lists of them shortened. A text that
    PostgreSQL's parser cannot read is not shown at all: what it holds is unknown."""
    try:
        text = normalize(query)
    except ParseError:
        return "(unreadable)"
    return " ".join(_LIST.sub(r"\1, …", _COMMENT.sub(" ", text)).split())


# --- the percentile ------------------------------------------------------------------------------------------------


def weights(log: StatementLog) -> NDArray[np.float64]:
    """How many executions each logged one stands for: 1 / sample_ratio, or 1 from always_ms on."""
    assert log.sample_ratio is not None, "short statements were not drawn evenly"
    durations_ms = np.array([one.duration_ms for one in log.statements], dtype=np.float64)
    always = np.zeros(len(durations_ms), dtype=bool) if log.always_ms is None else durations_ms >= log.always_ms
    return np.where(always, 1.0, 1 / log.sample_ratio)


def p95(durations_ms: NDArray[np.float64], weight: NDArray[np.float64]) -> Estimate | None:
    """The 95th percentile of all executions, from the logged ones; None of nothing.

    The value is the weighted order statistic (Hájek's estimate of the distribution, inverted). The interval is
    Woodruff's (1952): the share below the value gets a 95 % interval, whose ends are mapped back to durations. That
    share's variance is the design's own: every execution was drawn by itself, so that nothing is assumed about how
    durations follow one another, and those that are always logged add none. Its interval is Clopper and Pearson's
    with the effective count (Korn and Graubard 1998). It says what the sampling leaves open about these executions,
    not what another run would show. Both R's survey::svyquantile and SAS PROC SURVEYMEANS work this way.
    """
    if not durations_ms.size:
        return None
    order = np.argsort(durations_ms, kind="stable")
    value_of, weight_of = durations_ms[order], weight[order]
    total = float(weight_of.sum())
    share = np.cumsum(weight_of) / total

    def at(wanted: float) -> float:
        # cumulated weights reach 0.95 and 1 but for rounding
        return float(value_of[min(int(np.searchsorted(share, wanted - 1e-9)), len(value_of) - 1)])

    value = at(P95)
    variance = float((weight_of * (weight_of - 1) * ((value_of <= value) - P95) ** 2).sum()) / total**2
    low: float | None = value
    high: float | None = value
    if variance > 0:
        effective = P95 * (1 - P95) / variance
        if effective < LEAST_EFFECTIVE_COUNT:
            low = high = None
        else:
            below, above = P95 * effective, (1 - P95) * effective
            low = at(float(beta.ppf(0.025, below, above + 1)))
            high = at(float(beta.ppf(0.975, below + 1, above)))
    return Estimate(value, low, high, len(value_of))


def metrics(logs: Sequence[StatementLog | None]) -> Metrics:
    """`query_p95_ms` over all runs of a side; None if one of them has no log, or not every statement could be drawn."""
    known = [log for log in logs if log is not None and log.sample_ratio is not None]
    if not known or len(known) < len(logs):
        return {"query_p95_ms": {None: None}}
    durations_ms = np.array([one.duration_ms for log in known for one in log.statements], dtype=np.float64)
    return {"query_p95_ms": {None: p95(durations_ms, np.concatenate([weights(log) for log in known]))}}


# --- whether it is whole -------------------------------------------------------------------------------------------

# The snapshots and the log's ends lie some milliseconds apart, and one log line may hold two statements.
_DIFFERENCE_RATIO = 0.05
_DIFFERENCE_COUNT = 50
_SIGMAS = 5


def doubts(log: StatementLog, servers: ServerDelta) -> tuple[str, ...]:
    """Whether the log stands for about as many executions as pg_stat_statements counted between the snapshots."""
    if log.sample_ratio is None:
        return (
            "statement log: short statements are not in it, so that query_p95_ms cannot be given; set "
            "log_min_duration_sample = 0 and log_statement_sample_rate",
        )
    weight = weights(log)
    executed, counted = float(weight.sum()), sum(one.calls for one in servers.statements)
    sigma = math.sqrt(float((weight * (weight - 1)).sum()))
    if abs(executed - counted) <= max(_SIGMAS * sigma, _DIFFERENCE_RATIO * counted, _DIFFERENCE_COUNT):
        return ()
    return (
        f"statement log: its {len(weight):,} lines stand for about {executed:,.0f} executions, pg_stat_statements "
        f"counted {counted:,}; see whether lines were lost or another program resets the statistics",
    )
