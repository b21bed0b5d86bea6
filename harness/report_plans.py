"""A report's section on plans: each query's plan on each side, what changed, those that changed most first. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness import plan
from harness.compare import statement_label
from harness.model import QueryPlan, QueryPlans, StatementPlan
from harness.plan import PlanDifference
from harness.plan_diff import PlanLine, compared, plain
from harness.report_text import NO_DATA
from harness.statement_changes import fold
from harness.statements import fingerprint
from harness.units import format_count, format_ms

# (profile, its plans, None where they were not captured), in the order of the rows
PlanSides = Sequence[tuple[str, QueryPlans | None]]

NOT_CAPTURED = "not captured"
NOT_EXPLAINED = "not among the statements that took the most time on this day"
# Times of less than a millisecond on a machine with other work jump about by this factor.
TIME_NOISE = 1.5
LABEL_CHARS = 90

# "one": there is one side alone. "unknown": a side has no plan.
PlanKind = Literal["one", "changed", "same", "unknown"]


@dataclass(frozen=True, slots=True)
class PlanCells:
    """One side of a query. missing: why there is no plan, in which case the rest is empty. removed: rows that it read
    and threw away. lines: of its text."""

    side: str
    missing: str | None
    time: str
    blocks: str
    rows: str
    removed: str
    scans: tuple[str, ...]
    indexes: tuple[str, ...]
    partitions: str
    findings: tuple[str, ...]
    lines: tuple[PlanLine, ...]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One query. number: by which it is called on the page. role: of a run's own statement, else empty. changes: what
    the second side does otherwise; empty with one side. weight: how much changed."""

    number: str
    name: str
    role: str
    sides: tuple[PlanCells, ...]
    kind: PlanKind
    changes: tuple[str, ...]
    weight: float

    @property
    def facts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(measure, its text on each side), without measures that no side has."""

        def listed(texts: Sequence[str]) -> str:
            return "; ".join(texts) or "none"

        measures = (
            ("Execution time", [one.time for one in self.sides]),
            ("Blocks, found or read", [one.blocks for one in self.sides]),
            ("Rows found", [one.rows for one in self.sides]),
            ("Rows read and thrown away", [one.removed for one in self.sides]),
            ("Read by", [listed(one.scans) for one in self.sides]),
            ("Indexes", [listed(one.indexes) for one in self.sides]),
            ("Partitions", [one.partitions for one in self.sides]),
            ("Findings, estimates off by 10 × among them", [listed(one.findings) for one in self.sides]),
        )
        return tuple(
            (
                measure,
                tuple(
                    text if one.missing is None else one.missing for text, one in zip(texts, self.sides, strict=True)
                ),
            )
            for measure, texts in measures
            if any(
                text not in (NO_DATA, "n/a") for text, one in zip(texts, self.sides, strict=True) if one.missing is None
            )
        )


@dataclass(frozen=True, slots=True)
class PlanGroup:
    """Rows under one heading. folded: shown on request alone."""

    title: str
    rows: tuple[PlanRow, ...]
    folded: bool


def plan_rows(sides: PlanSides) -> tuple[PlanRow, ...]:
    """Every query that any side has, or lacks for a reason, in their order; empty when no side has plans."""
    by_side = [(side, _by_name(plans), plans.missing if plans else {}) for side, plans in sides]
    names = list(dict.fromkeys(name for _, plans, missing in by_side for name in (*plans, *missing)))
    return tuple(
        _row(
            f"P{number}",
            name,
            "",
            [(side, plans.get(name), missing.get(name, NOT_CAPTURED)) for side, plans, missing in by_side],
        )
        for number, name in enumerate(names, 1)
    )


def statement_plan_rows(sides: PlanSides) -> tuple[PlanRow, ...]:
    """The generic plans of each side's top statements, joined by role and fingerprint, the most total time first."""
    by_side = [
        (side, {(one.role, fingerprint(one.query)): one for one in (plans.statements if plans else ())})
        for side, plans in sides
    ]
    known: dict[tuple[str, str], StatementPlan] = {}
    for _, statements in by_side:
        for key, one in statements.items():
            known[key] = max(known.get(key, one), one, key=lambda one: one.total_ms)

    def side_of(side: str, one: StatementPlan | None) -> tuple[str, QueryPlan | None, str]:
        if one is None:
            return side, None, NOT_EXPLAINED
        return side, one.plan, f"not explained: {one.reason or NOT_CAPTURED}"

    ordered = sorted(known.items(), key=lambda item: (-item[1].total_ms, item[0]))
    return tuple(
        _row(
            f"G{number}",
            statement_label(one, LABEL_CHARS),
            one.role,
            [side_of(side, statements.get(key)) for side, statements in by_side],
        )
        for number, (key, one) in enumerate(ordered, 1)
    )


def plan_groups(rows: Sequence[PlanRow]) -> tuple[PlanGroup, ...]:
    """One side: its rows as they are. Two: those that changed, most first, and the others together."""
    changed = sorted((row for row in rows if row.kind == "changed"), key=lambda row: -row.weight)
    same = [row for row in rows if row.kind == "same"]
    groups = (
        PlanGroup("", tuple(row for row in rows if row.kind == "one"), folded=False),
        PlanGroup(f"Another plan: {len(changed)} of {len(rows)}, those that changed most first", tuple(changed), False),
        PlanGroup(
            f"Cannot be compared: {sum(row.kind == 'unknown' for row in rows)} of {len(rows)}",
            tuple(row for row in rows if row.kind == "unknown"),
            folded=False,
        ),
        PlanGroup(
            f"The same plan on both days: {len(same)} of {len(rows)} ({', '.join(row.name for row in same)})",
            tuple(same),
            folded=True,
        ),
    )
    return tuple(group for group in groups if group.rows)


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


def _by_name(plans: QueryPlans | None) -> Mapping[str, QueryPlan]:
    return {one.name: one for one in plans.critical} if plans else {}


def _row(number: str, name: str, role: str, sides: Sequence[tuple[str, QueryPlan | None, str]]) -> PlanRow:
    """sides: (side, its plan, else why there is none)."""
    first, last = sides[0][1], sides[-1][1]
    kind: PlanKind = "one"
    changes: tuple[str, ...] = ()
    weight = 0.0
    texts = [plain(found.text) if found else () for _, found, _ in sides]
    if len(sides) > 1:
        kind = "unknown"
        if first is not None and last is not None:
            found = plan.difference(first, last)
            kind, weight = "same" if found.same_shape else "changed", _weight(found)
            changes = _changes(first, last, found)
            texts = list(compared(first.text, last.text))
    cells = [_cells(side, found, missing, lines) for (side, found, missing), lines in zip(sides, texts, strict=True)]
    return PlanRow(number, name, role, tuple(cells), kind, changes, weight)


def _weight(found: PlanDifference) -> float:
    """Blocks and time alike count by how many times they changed."""
    return max((abs(math.log(ratio)) for ratio in (found.blocks_ratio, found.time_ratio) if ratio), default=0.0)


def _cells(side: str, found: QueryPlan | None, missing: str, lines: tuple[PlanLine, ...]) -> PlanCells:
    if found is None:
        return PlanCells(side, missing, *("",) * 4, (), (), "", (), ())
    return PlanCells(
        side=side,
        missing=None,
        time=NO_DATA if found.execution_ms is None else format_ms(found.execution_ms),
        blocks=NO_DATA if found.blocks is None else format_count(found.blocks),
        rows=NO_DATA if found.rows is None else format_count(found.rows),
        removed=NO_DATA if found.execution_ms is None else format_count(_removed(found)),
        scans=tuple(f"{table}: {', '.join(kinds)}" for table, kinds in plan.scan_kinds(found).items()),
        indexes=tuple(_without_schema(name) for name in plan.indexes(found)),
        partitions=_partitions_text(found),
        findings=found.findings,
        lines=lines,
    )


def _removed(found: QueryPlan) -> float:
    return sum(scan.removed or 0.0 for scan in found.scans)


def _partitions_text(found: QueryPlan) -> str:
    planned, touched = plan.planned_partitions(found), plan.touched_partitions(found)
    if not planned:
        return "n/a"
    if found.execution_ms is None:
        return f"{len(planned)} planned"
    return f"{len(touched)} of {len(planned)}" if len(planned) != len(touched) else f"{len(touched)}"


def _changes(before: QueryPlan, after: QueryPlan, found: PlanDifference) -> tuple[str, ...]:
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
    if before.execution_ms is not None and after.execution_ms is not None:
        removed = [_removed(before), _removed(after)]
        if max(removed) >= plan.REMOVED_FLOOR_ROWS and removed[0] != removed[1]:
            lines.append(f"rows thrown away {removed[0]:,.0f} → {removed[1]:,.0f}")
    if found.same_shape:
        lines.append("same plan")
    return tuple(lines)


def _fold(ratio: float, less: str, more: str, noise: float = 1.05) -> str:
    """Such as `25 × fewer`; within `noise` as much as before."""
    return "about the same" if max(ratio, 1 / ratio) < noise else fold(ratio, less, more)


def _without_schema(name: str) -> str:
    return name.partition(".")[2] or name
