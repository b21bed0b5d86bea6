"""A report's section on statements: its rows as texts, what got faster first. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness import statement_changes
from harness.attribution import total
from harness.compare import NO_TEXT, statement_label
from harness.model import RunResult, ServerDelta, StatementComparison, StatementDelta
from harness.report_text import MINUS, NO_DATA, per_request
from harness.statement_changes import StatementChange, TotalChange
from harness.units import format_bytes, format_count, format_ms, format_pct

SHOWN = 20
LABEL_CHARS = 90
# A statement of thousands of parameters would make the page unreadable; nothing that people wrote is longer.
TEXT_CHARS = 10_000
# What three decimals of a millisecond cannot show.
UNSEEN_MS = 0.0005
NOT_CALLED = "not called"
# Of a difference of lower bounds, which bounds nothing.
UNCERTAIN = " (uncertain, as counts were lost)"

Sides = Sequence[tuple[str, RunResult]]


@dataclass(frozen=True, slots=True)
class StatementCells:
    """One day of a statement. missing: why there is nothing, in which case the rest is empty."""

    side: str
    missing: str | None
    calls: str = ""
    calls_per_request: str = ""
    mean: str = ""
    sd: str = ""
    rows: str = ""
    blocks: str = ""
    time_per_request: str = ""
    total: str = ""


@dataclass(frozen=True, slots=True)
class StatementRow:
    """One statement. change, parts, cause, doubt: of a benchmark; empty in a run."""

    label: str
    role: str
    text: str
    cells: tuple[StatementCells, ...]
    change: str
    parts: tuple[str, ...]
    cause: str
    doubt: str


@dataclass(frozen=True, slots=True)
class StatementGroup:
    """Rows under one heading, with what they change together; empty in a run."""

    title: str
    rows: tuple[StatementRow, ...]
    together: str


@dataclass(frozen=True, slots=True)
class TotalRow:
    """What all statements add up to, against what the server counted by itself. cells: (side, sum, server's, share)."""

    what: str
    cells: tuple[tuple[str, str, str, str], ...]
    note: str


@dataclass(frozen=True, slots=True)
class StatementSection:
    """summary: sentences. groups: what is shown at once. rest: what is shown on request. doubts: why counts are lower
    bounds. totals: empty without snapshots."""

    summary: tuple[str, ...]
    doubts: tuple[str, ...]
    groups: tuple[StatementGroup, ...]
    rest: StatementGroup | None
    totals: tuple[TotalRow, ...]


def statement_changes_of(
    day31: RunResult, day40: RunResult, rows: Iterable[StatementComparison]
) -> tuple[StatementChange, ...]:
    """Every statement of a benchmark with its change and cause, what saves the most time per request first."""
    lossy = statement_changes.lossy_days(day31.servers, day40.servers)
    return statement_changes.changes(rows, lossy, day31.plans, day40.plans)


def benchmark_section(day31: RunResult, day40: RunResult, rows: Sequence[StatementComparison]) -> StatementSection:
    """Both days: the 20 statements whose time per request changed most, those that got faster first."""
    found = statement_changes_of(day31, day40, rows)
    lossy = statement_changes.lossy_days(day31.servers, day40.servers)
    by_size = sorted(found, key=lambda one: -abs(one.change_ms or 0.0))
    shown = {id(one) for one in by_size[:SHOWN]}
    top = [one for one in found if id(one) in shown]
    faster = [one for one in top if (one.change_ms or 0.0) < 0]
    slower = [one for one in reversed(top) if (one.change_ms or 0.0) >= 0]
    rest = [one for one in by_size if id(one) not in shown]
    groups = [
        StatementGroup(title, tuple(map(_changed_row, some)), _together(some))
        for title, some in (("Less time per request on day40", faster), ("More time per request on day40", slower))
        if some
    ]
    summed = statement_changes.total_change(found, lossy)
    sides: Sides = (("day31", day31), ("day40", day40))
    return StatementSection(
        summary=_change_sentences(found, summed),
        doubts=_doubts(sides),
        groups=tuple(groups),
        rest=StatementGroup(_further(rest), tuple(map(_changed_row, rest)), _together(rest)) if rest else None,
        totals=_totals(sides),
    )


def run_section(side: str, result: RunResult, rows: Sequence[StatementComparison]) -> StatementSection:
    """One run: the statements that took the most time first. rows: those of `side` alone."""
    all_rows = [_plain_row(side, row) for row in rows]
    shown, rest = all_rows[:SHOWN], all_rows[SHOWN:]
    sides: Sides = ((side, result),)
    return StatementSection(
        summary=(),
        doubts=_doubts(sides),
        groups=(StatementGroup("", tuple(shown), ""),) if shown else (),
        rest=StatementGroup(f"{_count(rest, 'further statement')}, each of less time", tuple(rest), "")
        if rest
        else None,
        totals=_totals(sides),
    )


# --- rows ----------------------------------------------------------------------------------------------------------


def _changed_row(one: StatementChange) -> StatementRow:
    row = one.row
    return StatementRow(
        label=statement_label(row, LABEL_CHARS),
        role=row.role,
        text=_text(row.query),
        cells=(
            _cells("day31", row.day31, row.day31_calls_per_request, one.day31_ms, _missing(one, "day31")),
            _cells("day40", row.day40, row.day40_calls_per_request, one.day40_ms, _missing(one, "day40")),
        ),
        change=NO_DATA if one.change_ms is None else signed_ms(one.change_ms),
        parts=_parts(one),
        cause=one.cause,
        doubt=f"uncertain: {' and '.join(one.doubtful)} may have done more" if one.doubtful else "",
    )


def _plain_row(side: str, row: StatementComparison) -> StatementRow:
    delta = row.day31 if side == "day31" else row.day40
    calls = row.day31_calls_per_request if side == "day31" else row.day40_calls_per_request
    time_ms = calls * delta.total_ms / delta.calls if delta and delta.calls and calls is not None else None
    return StatementRow(
        label=statement_label(row, LABEL_CHARS),
        role=row.role,
        text=_text(row.query),
        cells=(_cells(side, delta, calls, time_ms, NOT_CALLED),),
        change="",
        parts=(),
        cause="",
        doubt="",
    )


def _missing(one: StatementChange, day: str) -> str:
    return "not seen, statements were lost" if day in one.doubtful else NOT_CALLED


def _cells(
    side: str, delta: StatementDelta | None, calls_per_request: float | None, time_ms: float | None, missing: str
) -> StatementCells:
    if delta is None or not delta.calls:
        return StatementCells(side, missing)
    bound = "at least " if delta.lower_bound else ""
    mean_ms, sd_ms = delta.total_ms / delta.calls, math.sqrt(delta.m2_ms2 / delta.calls)
    return StatementCells(
        side=side,
        missing=None,
        calls=bound + format_count(delta.calls),
        calls_per_request=bound + per_request(calls_per_request),
        mean=format_ms(mean_ms),
        sd=f"± {format_ms(sd_ms)}" if delta.calls > 1 else "one call",
        rows=_per_call(delta.rows / delta.calls),
        blocks=_per_call((delta.shared_blks_hit + delta.shared_blks_read) / delta.calls),
        time_per_request=NO_DATA if time_ms is None else bound + _time(time_ms),
        total=bound + format_ms(delta.total_ms),
    )


def _time(ms: float) -> str:
    return format_ms(ms) if ms >= UNSEEN_MS or ms == 0 else "< 0.001 ms"


def _per_call(count: float) -> str:
    return f"{count:,.0f}" if round(count, 1) >= 100 or count.is_integer() else f"{count:,.1f}"


def _parts(one: StatementChange) -> tuple[str, ...]:
    if one.calls_ms is None or one.mean_ms is None:
        return ()
    return (
        _part(one.calls_ms, "more calls", "fewer calls", "as many calls"),
        _part(one.mean_ms, "slower calls", "faster calls", "calls as fast"),
    )


def _part(change_ms: float, more: str, less: str, same: str) -> str:
    if abs(change_ms) < UNSEEN_MS:
        return same
    return f"{more if change_ms > 0 else less} {signed_ms(change_ms)}"


def signed_ms(change_ms: float) -> str:
    """Such as `+0.120 ms`, `−2.33 ms`; what three decimals cannot show has no sign."""
    if abs(change_ms) < UNSEEN_MS:
        return "0 ms"
    return (MINUS if change_ms < 0 else "+") + format_ms(abs(change_ms))


def _text(query: str) -> str:
    text = query.strip() or NO_TEXT
    return text if len(text) <= TEXT_CHARS else f"{text[:TEXT_CHARS]} … ({len(text) - TEXT_CHARS:,} more characters)"


# --- what they add up to -------------------------------------------------------------------------------------------


def _together(found: Sequence[StatementChange]) -> str:
    change_ms = math.fsum(one.change_ms or 0.0 for one in found)
    return f"together {signed_ms(change_ms)} per request{UNCERTAIN if any(one.doubtful for one in found) else ''}"


def _further(found: Sequence[StatementChange]) -> str:
    return f"{_count(found, 'further statement')} whose time per request changed less"


def _change_sentences(found: Sequence[StatementChange], summed: TotalChange | None) -> tuple[str, ...]:
    if summed is None:
        return ()
    parts = [
        _part(summed.calls_ms, "more calls", "fewer calls", "as many calls"),
        _part(summed.mean_ms, "slower calls", "faster calls", "calls as fast"),
    ]
    for kind, name, change_ms in (("new", "new on day40", summed.new_ms), ("gone", "gone on day40", summed.gone_ms)):
        of_kind = [one for one in found if one.kind == kind]
        if of_kind:
            parts.append(f"{_count(of_kind, 'statement')} {name} {signed_ms(change_ms)}")
    bounds = {day: "at least " if day in summed.doubtful else "" for day in ("day31", "day40")}
    sentence = (
        f"All {_count(found, 'statement')} together: {bounds['day31']}{format_ms(summed.day31_ms)} of execution per "
        f"request on day31, {bounds['day40']}{format_ms(summed.day40_ms)} on day40, {signed_ms(summed.change_ms)}"
        f"{UNCERTAIN if summed.doubtful else ''}: {', '.join(parts)}."
    )
    return (sentence,)


def _doubts(sides: Sides) -> tuple[str, ...]:
    lost = [side for side, result in sides if result.servers is not None and result.servers.statements_lost]
    return tuple(
        f"{side}: statements were evicted or reset between the snapshots, so that counts marked “at least” are lower "
        "bounds, and so are all sums of that day; a statement that is missing there may have been called."
        for side in lost
    )


def _totals(sides: Sides) -> tuple[TotalRow, ...]:
    known = [(side, result.servers) for side, result in sides if result.servers is not None]
    if not known:
        return ()

    def row(what: str, note: str, cells: Iterable[tuple[str, str, str, str]]) -> TotalRow:
        return TotalRow(what, tuple(cells), note)

    def cell(
        side: str, servers: ServerDelta, own: float, server: float | None, text: object
    ) -> tuple[str, str, str, str]:
        write = format_ms if text == "ms" else format_bytes if text == "bytes" else format_count
        bound = "at least " if servers.statements_lost or any(s.lower_bound for s in servers.statements) else ""
        share = NO_DATA if not server else format_pct(100 * own / server)
        return side, bound + write(own), NO_DATA if server is None else write(server), share

    uses = [(side, servers, total(servers.statements)) for side, servers in known]
    return (
        row(
            "Execution time",
            "the server: its sessions' active time, with parsing, planning and sending",
            (cell(side, servers, use.total_ms, servers.active_ms, "ms") for side, servers, use in uses),
        ),
        row(
            "Blocks of shared buffers",
            "the server: with parsing, planning, new connections and background work",
            (
                cell(side, servers, use.blocks, servers.blks_hit + servers.blks_read, "count")
                for side, servers, use in uses
            ),
        ),
        row(
            "WAL",
            "the server: with commits, vacuum, checkpoints' full pages, and every database",
            (cell(side, servers, use.wal_bytes, servers.wal_bytes, "bytes") for side, servers, use in uses),
        ),
    )


def _count(found: Sequence[object], noun: str) -> str:
    return f"{len(found):,} {noun}{'' if len(found) == 1 else 's'}"
