"""A report's section on which endpoint ran which statements: its rows as texts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness import attribution
from harness.attribution import EndpointUse, NPlusOne
from harness.model import OdooUse, RunResult, StatementDelta
from harness.report_text import NO_DATA, figure, per_request
from harness.statements import preview, service_of
from harness.units import format_count, format_ms, format_pct

STATEMENTS_PER_ENDPOINT = 5
LABEL_CHARS = 90
NOT_ODOO = "n/a"


@dataclass(frozen=True, slots=True)
class StatementRow:
    label: str
    calls: str
    rows: str
    blocks: str
    mean: str


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """queries, waiting, python: what Odoo's access log says. statements: the most called; left_out: how many more."""

    endpoint: str
    requests: str
    calls: str
    rows: str
    blocks: str
    wal: str
    database: str
    queries: str
    waiting: str
    python: str
    statements: tuple[StatementRow, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class AccountRow:
    what: str
    counted: str
    explained: str
    share: str
    rest: str


@dataclass(frozen=True, slots=True)
class Finding:
    text: str
    query: str


@dataclass(frozen=True, slots=True)
class Attributed:
    """told_apart: whether any statement ran under an endpoint's role; else nothing can be found."""

    endpoints: tuple[EndpointRow, ...]
    findings: tuple[Finding, ...]
    accounts: tuple[AccountRow, ...]
    told_apart: bool


def attributed(result: RunResult) -> Attributed | None:
    """None = there are no snapshots."""
    if result.servers is None:
        return None
    found = attribution.attribute(result.servers.statements, result.requests)
    odoo = {f"odoo {one.method}": one for one in result.odoo or ()}
    return Attributed(
        endpoints=tuple(_endpoint(one, found.lower_bound, odoo) for one in found.endpoints),
        findings=tuple(_finding(one) for one in attribution.n_plus_one(found.endpoints)),
        accounts=tuple(
            AccountRow(
                what=one.what,
                counted=format_count(one.counted),
                explained=format_count(one.explained),
                share=format_pct(100 * one.explained / one.counted) if one.counted > 0 else NO_DATA,
                rest=one.rest,
            )
            for one in attribution.completeness(result.servers, found, result.odoo)
        ),
        told_apart=any(one.statements for one in found.endpoints),
    )


def _endpoint(one: EndpointUse, lower_bound: bool, odoo: Mapping[str, OdooUse]) -> EndpointRow:
    def count(amount: float | None) -> str:
        text = per_request(None if amount is None else one.per_request(amount))
        return f"at least {text}" if lower_bound and text != NO_DATA else text

    use, log = one.use, odoo.get(one.endpoint)
    no_log = NO_DATA if service_of(one.endpoint) == "odoo" else NOT_ODOO
    return EndpointRow(
        endpoint=one.endpoint,
        requests=format_count(one.requests),
        calls=count(use.calls if use else None),
        rows=count(use.rows if use else None),
        blocks=count(use.blocks if use else None),
        wal=figure(one.per_request(use.wal_bytes) if use else None, "bytes"),
        database=figure(one.per_request(use.total_ms) if use else None, "ms"),
        queries=(
            f"{per_request(log.queries / log.requests)} ({log.fewest_queries:,} – {log.most_queries:,})"
            if log
            else no_log
        ),
        waiting=format_ms(log.query_ms / log.requests) if log else no_log,
        python=format_ms(log.remaining_ms / log.requests) if log else no_log,
        statements=tuple(_statement(statement, one) for statement in one.statements[:STATEMENTS_PER_ENDPOINT]),
        left_out=max(0, len(one.statements) - STATEMENTS_PER_ENDPOINT),
    )


def _statement(statement: StatementDelta, of: EndpointUse) -> StatementRow:
    calls = statement.calls
    return StatementRow(
        label=_label(statement),
        calls=per_request(of.per_request(calls)),
        rows=format_count(statement.rows / calls),
        blocks=format_count((statement.shared_blks_hit + statement.shared_blks_read) / calls),
        mean=format_ms(statement.total_ms / calls),
    )


def _label(statement: StatementDelta) -> str:
    text = statement.name or preview(statement.query, LABEL_CHARS + 1)
    return text if len(text) <= LABEL_CHARS else f"{text[: LABEL_CHARS - 1]}…"


def _finding(one: NPlusOne) -> Finding:
    text = (
        f"{one.endpoint}: {per_request(one.calls_per_request)} calls per request of {per_request(one.rows_per_call)} "
        "rows each"
    )
    if one.calls_per_record is not None:
        text += f", {per_request(one.calls_per_record)} more with each record on the page"
    return Finding(text, one.statement.query)
