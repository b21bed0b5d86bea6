"""What the application's statements did between two snapshots of pg_stat_statements.

Pure: no I/O. Statements of two runs are joined by role and text fingerprint, never by queryid, which hashes table
OIDs and so changes with every restore.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pglast
from pglast.parser import ParseError

from fixtures.endpoints import endpoint_of
from harness.errors import InputError, StackError
from harness.model import Snapshot, StatementDelta

# The harness's own reads and the administrator's are no part of what the application did.
NOT_THE_APPLICATION = ("harness", "postgres")

# PostgreSQL evicts the least used 5 % once the view is full; from 90 % on the next run may well lose rows.
NEARLY_FULL = 0.9

_ENDPOINT_ROLE = re.compile(r"ep_(?P<service>[a-z]+)_")

Row = Mapping[str, Any]


# --- fingerprints --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=20_000)
def fingerprint(query: str) -> str:
    """The shape of a statement: equal for texts that differ in constants, parameters, comments, white space and
    the length of IN and VALUES lists, in savepoints' and cursors' names, in the schemas of tables and the order of the
    columns selected. PostgreSQL's own parser decides; a text that it cannot read (cut off, `<insufficient privilege>`)
    gets a hash of its normalised text, marked `text:`. Statements without a text are one."""
    try:
        return pglast.fingerprint(query)
    except ParseError:
        text = re.sub(r"/\*.*?\*/|--[^\n]*", " ", query, flags=re.DOTALL)
        text = re.sub(r"'(?:[^']|'')*'|\$\d+|\b\d+(?:\.\d+)?\b", "?", text)
        text = re.sub(r"\(\s*\?(?:\s*,\s*\?)*\s*\)", "(?)", text)
        return "text:" + hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()[:16]


def named_fingerprints(files: Mapping[str, str]) -> dict[str, str]:
    """Fingerprint -> name, for the queries in fixtures/queries. files: file stem -> text with psycopg placeholders
    (`%(tag)s`, `%s`, `%%`). A name is the stem with spaces: `animal_by_tag` is "animal by tag".

    Raises InputError if two files cannot be told apart.
    """
    names: dict[str, str] = {}
    for stem, text in files.items():
        name = stem.replace("_", " ")
        key = fingerprint(_server_text(text))
        if key in names:
            raise InputError(
                f'query "{name}": same shape as "{names[key]}", the server\'s statistics cannot tell them apart; '
                "merge the two files or make their statements differ"
            )
        names[key] = name
    return names


def _server_text(query: str) -> str:
    """The text as psycopg sends it: `%(name)s` becomes $1, $2 … by first appearance, `%%` becomes %."""
    numbers: dict[str, int] = {}

    def server_form(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        return f"${numbers.setdefault(match['name'] or str(match.start()), len(numbers) + 1)}"

    return re.sub(r"%%|%(?:\((?P<name>[^)]+)\))?[sbt]", server_form, query)


# --- moments: number, sum and sum of squared deviations ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moments:
    """count, sum and M2 (sum of squared deviations from the mean): what pg_stat_statements keeps of timings."""

    count: int
    total: float
    m2: float

    def plus(self, other: Moments) -> Moments:
        """Chan's parallel form of Welford's update."""
        if not self.count or not other.count:
            return other if other.count else self
        gap = other.total / other.count - self.total / self.count
        count = self.count + other.count
        return Moments(
            count, self.total + other.total, self.m2 + other.m2 + gap * gap * self.count * other.count / count
        )

    def minus(self, earlier: Moments) -> Moments:
        """What was added since `earlier`; rounding may leave a tiny negative M2, which is clamped to 0."""
        count = self.count - earlier.count
        total = self.total - earlier.total
        if count <= 0:
            return Moments(0, 0.0, 0.0)
        if not earlier.count:
            return self
        gap = total / count - earlier.total / earlier.count
        m2 = self.m2 - earlier.m2 - gap * gap * earlier.count * count / self.count
        return Moments(count, total, max(m2, 0.0))


def _timings(row: Row) -> Moments:
    """The view's stddev is that of the population (Welford), so M2 = n * sd²."""
    calls = int(row["calls"])
    return Moments(calls, float(row["total_exec_time"]), calls * float(row["stddev_exec_time"]) ** 2)


# --- statements ----------------------------------------------------------------------------------------------------

_STATEMENT_COUNTERS = ("rows", "shared_blks_hit", "shared_blks_read", "temp_blks_written", "wal_bytes")


@dataclass(frozen=True, slots=True)
class Activity:
    """What one row of pg_stat_statements did between two snapshots; role and endpoint as in StatementDelta."""

    role: str
    endpoint: str | None
    queryid: int | None
    query: str
    timings: Moments
    counters: Mapping[str, int]
    lower_bound: bool

    def plus(self, other: Activity) -> Activity:
        """The sum of two of one role and text; queryid and lower_bound are those of `other`."""
        return replace(
            other,
            timings=self.timings.plus(other.timings),
            counters={name: self.counters[name] + other.counters[name] for name in _STATEMENT_COUNTERS},
        )


def activities_between(before: Snapshot, after: Snapshot) -> tuple[list[Activity], list[str]]:
    """Top-level rows of the snapshot's database that were called in between, and why they may be incomplete.

    The columns read here have one name from extension 1.9 (PostgreSQL 14) to 1.12 (18); 1.11 renamed blk_*_time
    only. Raises StackError for an older one, which cannot tell nested statements from top-level ones.
    """
    database = after.postgres["database"]["datname"]
    extension = str(after.postgres["extension_version"])
    if tuple(map(int, extension.split("."))) < (1, 9):
        raise StackError(
            f"pg_stat_statements {extension}: has no column toplevel; ALTER EXTENSION pg_stat_statements UPDATE"
        )

    def rows(snapshot: Snapshot) -> dict[tuple[int, int, int | None, bool], Row]:
        return {
            (row["userid"], row["dbid"], row["queryid"], row["toplevel"]): row
            for row in snapshot.postgres["statements"]
            if row["toplevel"] and row["database"] == database
        }

    old, new = rows(before), rows(after)
    warnings, was_reset, evicted = _validity(before, after)
    if was_reset:
        old = {}
    if gone := [row for key, row in old.items() if key not in new]:
        warnings.append(
            f"pg_stat_statements: {len(gone)} statements of the first snapshot are gone, what they did since is "
            f'unknown (such as "{preview(gone[0]["query"], 60)}"); raise pg_stat_statements.max'
        )
    found = []
    reborn = {key for key, row in new.items() if key in old and _began_anew(old[key], row)}
    if reborn:
        warnings.append(
            f"pg_stat_statements: {len(reborn)} statements began to count anew between the snapshots, their counts are "
            "lower bounds; raise pg_stat_statements.max and keep other tools from resetting it"
        )
    for key, row in new.items():
        start = None if key in reborn else old.get(key)
        timings = _timings(row).minus(_timings(start)) if start else _timings(row)
        if timings.count == 0:
            continue
        # Since 1.11 the unchanged stats_since proves that a row was never evicted, whatever happened to others.
        proven = start is not None and row.get("stats_since") is not None
        role = row["role"] or f"oid {row['userid']}"
        found.append(
            Activity(
                role=_login(role),
                endpoint=endpoint_of(role),
                queryid=row["queryid"],
                query=row["query"] or "",
                timings=timings,
                counters={name: int(row[name]) - (int(start[name]) if start else 0) for name in _STATEMENT_COUNTERS},
                lower_bound=was_reset or key in reborn or (evicted and not proven),
            )
        )
    return found, warnings


def were_lost(before: Snapshot, after: Snapshot) -> bool:
    """Whether a statement that the second snapshot lacks may have been called in between: rows were evicted or reset,
    or one of the first snapshot is gone."""
    old, new = before.postgres["info"], after.postgres["info"]
    keys = [
        {(row["userid"], row["dbid"], row["queryid"], row["toplevel"]) for row in one.postgres["statements"]}
        for one in (before, after)
    ]
    return bool(old["stats_reset"] != new["stats_reset"] or new["dealloc"] > old["dealloc"] or keys[0] - keys[1])


def _began_anew(before: Row, after: Row) -> bool:
    """Evicted and back again. Up to 1.10 a row that has passed its old count by then cannot be told."""
    return bool(after["calls"] < before["calls"] or after.get("stats_since") != before.get("stats_since"))


def _validity(before: Snapshot, after: Snapshot) -> tuple[list[str], bool, bool]:
    """Warnings, each with its remedy; whether the view was reset in between; whether rows were evicted."""
    old, new = before.postgres["info"], after.postgres["info"]
    warnings = []
    was_reset = old["stats_reset"] != new["stats_reset"]
    if was_reset:
        warnings.append(
            f"pg_stat_statements: reset at {new['stats_reset']}, between the snapshots, so that all counts are lower "
            "bounds; keep other tools from calling pg_stat_statements_reset() during a run"
        )
    evictions = new["dealloc"] - (0 if was_reset else old["dealloc"])
    if evictions > 0:
        warnings.append(
            f"pg_stat_statements: rows were evicted {evictions} times between the snapshots, counts are lower bounds; "
            "raise pg_stat_statements.max, set track_utility = off"
        )
    entries, most = len(after.postgres["statements"]), after.postgres["settings"].get("pg_stat_statements.max")
    if most is not None and entries >= NEARLY_FULL * int(most):
        warnings.append(
            f"pg_stat_statements: {entries} of {most} entries are in use, evictions are near; "
            "raise pg_stat_statements.max"
        )
    return warnings, was_reset, evictions > 0


def statement_deltas(
    activities: Iterable[Activity], names: Mapping[str, str], exclude_roles: Collection[str]
) -> tuple[StatementDelta, ...]:
    """Activities by role, endpoint and shape, the most total time first. names: as `named_fingerprints` gives them."""
    grouped: dict[tuple[str, str | None, str], StatementDelta] = {}
    # The most called text represents its group, whatever order the server returned the rows in.
    for activity in sorted(activities, key=lambda one: (-one.timings.count, one.query)):
        if activity.role in exclude_roles:
            continue
        shape = fingerprint(activity.query)
        statement = StatementDelta(
            role=activity.role,
            fingerprint=shape,
            name=names.get(shape),
            query=activity.query,
            calls=activity.timings.count,
            total_ms=activity.timings.total,
            m2_ms2=activity.timings.m2,
            lower_bound=activity.lower_bound,
            endpoint=activity.endpoint,
            **activity.counters,
        )
        key = (activity.role, activity.endpoint, shape)
        grouped[key] = add_statements(grouped[key], statement) if key in grouped else statement
    return tuple(sorted(grouped.values(), key=_slowest_first))


def over_endpoints(statements: Iterable[StatementDelta]) -> tuple[StatementDelta, ...]:
    """The statements by role and shape alone, the most total time first: what two sides are joined by."""
    grouped: dict[tuple[str, str], StatementDelta] = {}
    for statement in statements:
        key = (statement.role, statement.fingerprint)
        of_all = replace(statement, endpoint=None)
        grouped[key] = add_statements(grouped[key], of_all) if key in grouped else of_all
    return tuple(sorted(grouped.values(), key=_slowest_first))


def _slowest_first(one: StatementDelta) -> tuple[float, str, str, str]:
    return (-one.total_ms, one.role, one.fingerprint, one.endpoint or "")


def _login(role: str) -> str:
    """The login that took the role: roles of endpoints, and of what has none, are named "ep_SERVICE_…"."""
    match = _ENDPOINT_ROLE.match(role)
    return match["service"] if match else role


def service_of(endpoint: str) -> str:
    """The service that an endpoint belongs to, which is also its login: endpoints are named "SERVICE …"."""
    return endpoint.partition(" ")[0]


def moments_of(statement: StatementDelta) -> Moments:
    """The timings (ms) of a statement, to be added to those of another."""
    return Moments(statement.calls, statement.total_ms, statement.m2_ms2)


def add_statements(a: StatementDelta, b: StatementDelta) -> StatementDelta:
    """The sum of two that have one role and shape; its text and name are those of `a`."""
    timings = moments_of(a).plus(moments_of(b))
    return replace(
        a,
        calls=timings.count,
        total_ms=timings.total,
        m2_ms2=timings.m2,
        lower_bound=a.lower_bound or b.lower_bound,
        **{name: getattr(a, name) + getattr(b, name) for name in _STATEMENT_COUNTERS},
    )


def preview(query: str, length: int) -> str:
    """The first `length` characters of a statement, on one line."""
    return " ".join(query.split())[:length]
