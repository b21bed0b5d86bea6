"""A report's tables of plans: one row per query and side, what they read, what changed between the sides. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness import plan
from harness.model import QueryPlan, QueryPlans, StatementPlan
from harness.report_text import NO_DATA
from harness.units import format_count, format_ms

# (profile, its plans, None where they were not captured), in the order of the rows
PlanSides = Sequence[tuple[str, QueryPlans | None]]

NOT_CAPTURED = "not captured"
# Times of less than a millisecond on a machine with other work jump about by this factor.
TIME_NOISE = 1.5


@dataclass(frozen=True, slots=True)
class PlanCells:
    """One side of a query. missing: why there is no plan, in which case the rest is empty."""

    side: str
    missing: str | None
    time: str
    blocks: str
    rows: str
    scans: tuple[str, ...]
    indexes: tuple[str, ...]
    partitions: str
    findings: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One query. changes: what the second side does otherwise; empty with one side."""

    name: str
    sides: tuple[PlanCells, ...]
    changes: tuple[str, ...]


def plan_rows(sides: PlanSides) -> tuple[PlanRow, ...]:
    """Every query that any side has, or lacks for a reason; empty when no side has plans."""
    by_side = [(side, _by_name(plans), plans.missing if plans else {}) for side, plans in sides]
    names = list(dict.fromkeys(name for _, plans, missing in by_side for name in (*plans, *missing)))
    rows = []
    for name in names:
        cells = tuple(
            _cells(side, plans.get(name), missing.get(name, NOT_CAPTURED)) for side, plans, missing in by_side
        )
        pair = [plans.get(name) for _, plans, _ in by_side]
        changed = _changes(pair[0], pair[-1]) if len(pair) > 1 and pair[0] and pair[-1] else ()
        rows.append(PlanRow(name, cells, changed))
    return tuple(rows)


def plan_summaries(sides: PlanSides) -> tuple[tuple[str, str], ...]:
    """(side, in one sentence how many of its queries read a large table sequentially, and which)."""
    found = []
    for side, plans in sides:
        if plans is None:
            found.append((side, "not captured."))
            continue
        reading = [one for one in plans.critical if one.sequential]
        named = "; ".join(f"{one.name} ({', '.join(one.sequential)})" for one in reading)
        text = f"{len(reading)} of {len(plans.critical)} read a large table sequentially"
        text += f": {named}." if named else "."
        text += f" {len(plans.missing)} could not be taken." if plans.missing else ""
        found.append((side, text))
    return tuple(found)


def statement_plan_rows(sides: PlanSides) -> tuple[tuple[StatementPlan, PlanCells], ...]:
    """The generic plans of each side's top statements, side after side."""
    return tuple(
        (one, _cells(side, one.plan, one.reason or NOT_CAPTURED))
        for side, plans in sides
        for one in (plans.statements if plans else ())
    )


def _by_name(plans: QueryPlans | None) -> Mapping[str, QueryPlan]:
    return {one.name: one for one in plans.critical} if plans else {}


def _cells(side: str, found: QueryPlan | None, missing: str) -> PlanCells:
    if found is None:
        return PlanCells(side, missing, *("",) * 3, (), (), "", (), "")
    return PlanCells(
        side=side,
        missing=None,
        time=NO_DATA if found.execution_ms is None else format_ms(found.execution_ms),
        blocks=NO_DATA if found.blocks is None else format_count(found.blocks),
        rows=NO_DATA if found.rows is None else format_count(found.rows),
        scans=tuple(f"{table}: {', '.join(kinds)}" for table, kinds in plan.scan_kinds(found).items()),
        indexes=tuple(_without_schema(name) for name in plan.indexes(found)),
        partitions=_partitions_text(found),
        findings=found.findings,
        text=found.text,
    )


def _partitions_text(found: QueryPlan) -> str:
    planned, touched = plan.planned_partitions(found), plan.touched_partitions(found)
    if not planned:
        return "n/a"
    if found.execution_ms is None:
        return f"{len(planned)} planned"
    return f"{len(touched)} of {len(planned)}" if len(planned) != len(touched) else f"{len(touched)}"


def _changes(before: QueryPlan, after: QueryPlan) -> tuple[str, ...]:
    found = plan.difference(before, after)
    lines = []
    if found.blocks_ratio is not None:
        lines.append(f"blocks {_fold(found.blocks_ratio, 'fewer', 'more')}")
    if found.time_ratio is not None:
        lines.append(f"time {_fold(found.time_ratio, 'shorter', 'longer', TIME_NOISE)}")
    for change in found.scans:
        kinds = [" + ".join(one) or "not read" for one in (change.before, change.after)]
        lines.append(f"{change.table}: {kinds[0]} → {kinds[1]}")
    if found.indexes_gained:
        lines.append(f"gains {', '.join(map(_without_schema, found.indexes_gained))}")
    if found.indexes_lost:
        lines.append(f"no longer {', '.join(map(_without_schema, found.indexes_lost))}")
    if found.same_shape:
        lines.append("same plan")
    return tuple(lines)


def _fold(ratio: float, less: str, more: str, noise: float = 1.05) -> str:
    """Such as `25 × fewer`; within `noise` as much as before."""
    times = max(ratio, 1 / ratio)
    if times < noise:
        return "about the same"
    return (
        f"{times:,.0f} × {less if ratio < 1 else more}"
        if times >= 10
        else f"{times:.1f} × {less if ratio < 1 else more}"
    )


def _without_schema(name: str) -> str:
    return name.partition(".")[2] or name
