"""Takes the plans of the critical queries, and of a run's top statements, from a PostgreSQL with the herd in it.

Only reads: read-only transactions with a time limit of their own. What could not be taken is told, never raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import Jsonb

from fixtures import endpoints, herd, queries
from fixtures.queries import critical
from harness import plan, report, rundir, statements
from harness.errors import InputError, StackError
from harness.model import Profile, QueryPlans, Snapshot, StackAddresses, StatementDelta
from harness.probe import APPLICATION_NAME
from harness.rundir import RunDir
from harness.services import bare

# Day 31 judges statements of 100 ms; one that takes this long is found by the log, and must not hold up the run's end.
STATEMENT_TIMEOUT_MS = 10_000
# All of them together; a run's end is waited for by those who started it.
BUDGET_S = 30.0
# Enough that what takes time on one day is explained on the other, where it may take little.
TOP_STATEMENTS = 20

Connection = psycopg.Connection[Any]

# Partitioned tables and their indexes come along: a plan names their parts.
RELATIONS = """
SELECT n.nspname || '.' || c.relname AS name, pn.nspname || '.' || p.relname AS parent,
       greatest(c.reltuples, 0)::float8 AS rows, c.relpages AS pages
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_class p ON c.relispartition AND p.oid = pg_partition_root(c.oid)
LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE c.relkind IN ('r', 'p', 'i', 'I') AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
  AND (n.nspname <> 'public' OR c.relkind = 'r')
"""


def take(
    run: RunDir, addresses: StackAddresses, before: Snapshot, after: Snapshot, names: Mapping[str, str]
) -> list[str]:
    """Writes the plans of a run that was measured into its directory; returns what its readers have to know.

    By the superuser, whom no policy of row-level security filters, on a direct connection. names: fingerprint -> name
    of the statements in fixtures/queries.
    """
    if addresses.admin_dsn is None:
        return ["plans: not captured, the stack's file names no admin_dsn; add one"]
    activities, _ = statements.activities_between(before, after)
    deltas = statements.statement_deltas(activities, names, statements.NOT_THE_APPLICATION)
    try:
        inputs = herd.inputs(addresses.herd, addresses.seed, date.fromisoformat(addresses.as_of))
        with psycopg.connect(
            addresses.admin_dsn,
            dbname=addresses.database,
            application_name=APPLICATION_NAME,
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            documents = capture(connection, critical.parameters(inputs), deltas)
        run.write_plans(documents, {stem: plan.document_text(document) for stem, document in documents.items()})
    except (psycopg.Error, StackError, ValueError) as error:
        return [f"plans: not captured, {type(error).__name__}: {_line(error)}; see PostgreSQL's log, and run again"]
    missing = [stem.replace("_", " ") for stem, document in documents.items() if "error" in document]
    if missing:
        return [f"plans: could not be taken of {', '.join(missing)}; the section on plans says why"]
    return []


def capture(
    connection: Connection,
    parameters: Mapping[str, critical.Parameters],
    deltas: Sequence[StatementDelta] = (),
    budget_s: float = BUDGET_S,
) -> dict[str, Any]:
    """The documents of a run's plans: file stem -> {"sql", "parameters", "explain"} or {"sql", "parameters", "error"};
    `_relations` and `_statements` beside them.

    Each query is executed twice and the second time is kept, so that its blocks are warm. The connection is in
    autocommit. Raises psycopg.Error when it is lost.
    """
    texts = queries.texts()
    roles = {(one.role, one.fingerprint): _role(one) for one in deltas}
    deadline = time.monotonic() + budget_s
    documents: dict[str, Any] = {plan.RELATIONS: relations(connection)}
    for number, (stem, values) in enumerate(parameters.items(), 1):
        document = {"number": number, "sql": texts[stem], "parameters": _plain(values)}
        documents[stem] = document | _explained(connection, texts[stem], values, deadline)
    documents[plan.STATEMENTS] = [
        {
            "role": one.role,
            "name": one.name,
            "query": one.query,
            "calls": one.calls,
            "total_ms": one.total_ms,
            **_explained_generic(connection, one.query, roles[one.role, one.fingerprint], deadline),
        }
        for one in statements.over_endpoints(deltas)[:TOP_STATEMENTS]
    ]
    return documents


def relations(connection: Connection) -> dict[str, Any]:
    """Table or index -> its parent, rows and pages, as plans are read with."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(RELATIONS).fetchall()
    return {row.pop("name"): row for row in rows}


def bound(values: critical.Parameters) -> dict[str, Any]:
    """Parameters as psycopg sends them."""
    return {name: Jsonb(value) if isinstance(value, dict) else value for name, value in values.items()}


def _explained(connection: Connection, text: str, values: critical.Parameters, deadline: float) -> dict[str, Any]:
    # VERBOSE for the schemas of its relations
    statement = cast(Any, "EXPLAIN (ANALYZE, VERBOSE, BUFFERS, SETTINGS, FORMAT JSON) " + text)
    return _attempt(connection, None, deadline, lambda cursor: cursor.execute(statement, bound(values)), times=2)


def _role(one: StatementDelta) -> str:
    """Who may run the statement and is filtered by no policy: its endpoint's role for a manager, or its service."""
    return one.role if one.endpoint is None else endpoints.role(endpoints.slug_of(one.endpoint), "manager")


def _explained_generic(connection: Connection, query: str, role: str, deadline: float) -> dict[str, Any]:
    if reason := plan.unexplainable(query):
        return {"error": reason}
    statement = cast(Any, "EXPLAIN (GENERIC_PLAN, VERBOSE, SETTINGS, FORMAT JSON) " + query)
    return _attempt(connection, role, deadline, lambda cursor: cursor.execute(statement))


def _attempt(connection: Connection, role: str | None, deadline: float, explain: Any, times: int = 1) -> dict[str, Any]:
    """{"explain": …} of the last time, or {"error": …}. Raises psycopg.Error when the connection is lost."""
    if time.monotonic() > deadline:
        return {"error": "left out: those before it took too long"}
    try:
        with connection.transaction(force_rollback=True), connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(STATEMENT_TIMEOUT_MS))
            if role is None:
                # whoever a policy filters gets an error instead of a plan over fewer rows
                cursor.execute("SET LOCAL row_security = off")
            else:
                cursor.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            for _ in range(times):
                (explained,) = explain(cursor).fetchone()
    except psycopg.Error as error:
        if connection.closed or connection.broken:
            raise
        return {"error": _line(error)}
    return {"explain": explained}


def _plain(values: critical.Parameters) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in values.items()}


def _line(error: Exception) -> str:
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return primary or " ".join(str(error).split()) or type(error).__name__


def survey(
    size: int, seed: int, as_of: date, profiles: Sequence[Profile], say: Callable[[str], None]
) -> dict[Profile, dict[str, Any]]:
    """Profile -> documents of the critical queries at a herd of `size`, in a PostgreSQL of its own that is gone
    afterwards. Raises InputError, StackError."""
    try:
        parameters = critical.parameters(herd.inputs(size, seed, as_of))
    except ValueError as error:
        raise InputError(str(error)) from error
    found: dict[Profile, dict[str, Any]] = {}
    with bare.databases(size, seed, as_of, profiles, say) as each:
        for profile, connection in each:
            started = time.monotonic()
            found[profile] = capture(connection, parameters)
            say(f"{profile}: plans taken in {time.monotonic() - started:.1f} s")
    return found


def write_survey(
    root: Path, size: int, found: Mapping[Profile, Mapping[str, Any]], now: datetime
) -> tuple[Path, dict[Profile, QueryPlans]]:
    """The documents and their page, in a new folder under `root`; returns the page's path and the plans."""
    folder = rundir.create_survey(root, size, now)
    for profile, documents in found.items():
        texts = {stem: plan.document_text(document) for stem, document in documents.items()}
        rundir.write_plans(folder / profile, documents, texts)
    read = {profile: plan.read(documents) for profile, documents in found.items()}
    page = report.render_plans(size, tuple(read.items()))
    return rundir.write_atomic(folder / "report.html", page), read
