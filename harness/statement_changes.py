"""Why each statement takes more or less time per request on day40 than on day31, in plain words. Pure.

A change of time is split into more calls and slower calls. Blocks per call then tell another plan (they move) from
contention (they do not); where both days' plans are known, these decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from harness import plan
from harness.compare import time_change
from harness.model import QueryPlan, QueryPlans, ServerDelta, StatementComparison, StatementDelta
from harness.plan import PlanDifference
from harness.statements import fingerprint, moments_of

# A mean is as before within this factor: statements of a shared machine jump about by it between runs.
TIME_FLAT = 1.1
# Blocks and rows per call are counts and hardly vary, but the values that were asked for do.
BLOCKS_FLAT = 1.2
CALLS_FLAT = 1.05
# A difference has to exceed this many standard errors, or it is within what chance does.
STANDARD_ERRORS = 2.0
# A part of a change that is smaller than this share of both explains nothing.
MINOR_SHARE = 0.1

_INSERTS = re.compile(r"\s*insert\b", re.IGNORECASE)
_WRITES = re.compile(r"\s*(?:insert|update|delete|merge)\b", re.IGNORECASE)

# "both": called on both days. "new", "gone": on day40 alone, on day31 alone.
Kind = Literal["both", "new", "gone"]
Differences = Mapping[tuple[str, str], PlanDifference]
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class StatementChange:
    """One statement on both days. day31_ms, day40_ms: time per request, 0 where it was not called, None = no requests
    to divide by. change_ms = calls_ms + mean_ms; these parts are None for a statement of one day. doubtful: the days
    whose counts are lower bounds, or on which it may have been called unseen. cause: in plain words."""

    row: StatementComparison
    kind: Kind
    day31_ms: float | None
    day40_ms: float | None
    change_ms: float | None
    calls_ms: float | None
    mean_ms: float | None
    doubtful: tuple[str, ...]
    cause: str


@dataclass(frozen=True, slots=True)
class TotalChange:
    """All statements together, per request: change_ms = calls_ms + mean_ms + new_ms + gone_ms. doubtful: the days on
    which statements were lost, so that their time is a lower bound."""

    day31_ms: float
    day40_ms: float
    change_ms: float
    calls_ms: float
    mean_ms: float
    new_ms: float
    gone_ms: float
    doubtful: tuple[str, ...]


def changes(
    rows: Iterable[StatementComparison],
    lossy: Sequence[str] = (),
    plans31: QueryPlans | None = None,
    plans40: QueryPlans | None = None,
) -> tuple[StatementChange, ...]:
    """Every statement, what saves the most time per request first; those that cannot be compared last.

    lossy: the days on which the view lost statements. plans31, plans40: of both days, where they were taken.
    """
    differences = plan_differences(plans31, plans40)
    by_name = _named_differences(plans31, plans40)

    def one(row: StatementComparison) -> StatementChange:
        known = row.day40 or row.day31
        assert known is not None
        plans = (differences.get((row.role, known.fingerprint)), by_name.get(row.name) if row.name else None)
        of_both = [one for one in plans if one is not None]
        # the plan for any values and the one for a query's own: either may show what the other does not
        found = next((one for one in of_both if not one.same_shape), of_both[0] if of_both else None)
        return _change(row, lossy, found)

    return tuple(sorted(map(one, rows), key=_most_saved_first))


def total_change(found: Sequence[StatementChange], lossy: Sequence[str] = ()) -> TotalChange | None:
    """The sum over all statements; None where a side has no requests to divide by, or there is no statement."""
    if not found or any(one.change_ms is None for one in found):
        return None

    def total(values: Iterable[float | None]) -> float:
        return math.fsum(value or 0.0 for value in values)

    return TotalChange(
        day31_ms=total(one.day31_ms for one in found),
        day40_ms=total(one.day40_ms for one in found),
        change_ms=total(one.change_ms for one in found),
        calls_ms=total(one.calls_ms for one in found),
        mean_ms=total(one.mean_ms for one in found),
        new_ms=total(one.change_ms for one in found if one.kind == "new"),
        gone_ms=total(one.change_ms for one in found if one.kind == "gone"),
        doubtful=tuple(day for day in ("day31", "day40") if day in lossy or any(day in one.doubtful for one in found)),
    )


def lossy_days(day31: ServerDelta | None, day40: ServerDelta | None) -> tuple[str, ...]:
    """The days on which statements were evicted or reset, so that one that is not there may have been called."""
    sides = (("day31", day31), ("day40", day40))
    return tuple(day for day, delta in sides if delta is not None and delta.statements_lost)


def _most_saved_first(one: StatementChange) -> tuple[bool, float, str, str]:
    return (one.change_ms is None, one.change_ms or 0.0, one.row.role, one.row.query)


def _change(row: StatementComparison, lossy: Sequence[str], found: PlanDifference | None) -> StatementChange:
    kind: Kind = "new" if row.day31 is None else "gone" if row.day40 is None else "both"
    split = time_change(row)
    day31_ms = _per_request_ms(row.day31, row.day31_calls_per_request)
    day40_ms = _per_request_ms(row.day40, row.day40_calls_per_request)
    absent_on = {"new": "day31", "gone": "day40"}.get(kind)
    return StatementChange(
        row=row,
        kind=kind,
        day31_ms=day31_ms,
        day40_ms=day40_ms,
        change_ms=None if day31_ms is None or day40_ms is None else day40_ms - day31_ms,
        calls_ms=split.calls_ms if split else None,
        mean_ms=split.mean_ms if split else None,
        doubtful=tuple(
            day
            for day, delta in (("day31", row.day31), ("day40", row.day40))
            if (delta is not None and delta.lower_bound) or (day == absent_on and day in lossy)
        ),
        cause=_absence(absent_on, lossy) if absent_on else _cause(row, found),
    )


def _per_request_ms(delta: StatementDelta | None, calls_per_request: float | None) -> float | None:
    if delta is None:
        return 0.0
    if calls_per_request is None or not delta.calls:
        return None
    return calls_per_request * delta.total_ms / delta.calls


def _absence(day: str, lossy: Sequence[str]) -> str:
    if day in lossy:
        return f"not seen on {day}, where statements were lost: it may have been called there"
    return "new: not called on day31" if day == "day31" else "gone: not called on day40"


# --- causes --------------------------------------------------------------------------------------------------------


def _cause(row: StatementComparison, found: PlanDifference | None) -> str:
    split = time_change(row)
    if split is None or row.day31 is None or row.day40 is None:
        return "cannot say: there were no requests to divide by"
    parts = [
        (abs(split.calls_ms), _calls_cause(row, row.day31, row.day40)),
        (abs(split.mean_ms), _mean_cause(row.day31, row.day40, found)),
    ]
    both = sum(size for size, _ in parts)
    said = [text for size, text in sorted(parts, key=lambda part: -part[0]) if text and size >= MINOR_SHARE * both]
    return "; ".join(said) or "as before: what differs is small, or within chance"


def _calls_cause(row: StatementComparison, before: StatementDelta, after: StatementDelta) -> str | None:
    assert row.day31_calls_per_request is not None
    assert row.day40_calls_per_request is not None
    ratio = row.day40_calls_per_request / row.day31_calls_per_request
    # calls arrive as requests do: the count of such has its square root for a standard deviation
    chance = STANDARD_ERRORS * math.sqrt(1 / before.calls + 1 / after.calls)
    if _flat(ratio, CALLS_FLAT) or abs(math.log(ratio)) <= chance:
        return None
    return f"{fold(ratio, 'fewer', 'more')} calls per request"


def _mean_cause(before: StatementDelta, after: StatementDelta, found: PlanDifference | None) -> str | None:
    """Why each call takes longer or shorter; None = it does not."""
    ratio = _ratio(before.total_ms / before.calls, after.total_ms / after.calls)
    if ratio is None or _flat(ratio, TIME_FLAT) or not _beyond_chance(before, after):
        return None
    speed = f"calls {fold(ratio, 'faster', 'slower')}"
    # less than a block per call is none: the server counts whole ones
    blocks = max(_per_call(after, "blocks"), 1.0) / max(_per_call(before, "blocks"), 1.0)
    spilled = _spill(before, after)
    if found is not None and not found.same_shape:
        return f"{speed}, another plan{_evidence(found)}{_blocks_words(blocks)}{spilled}"
    return f"{speed}, {_work(before, after, ratio, blocks, found)}{spilled}"


def _work(
    before: StatementDelta, after: StatementDelta, ratio: float, blocks: float, found: PlanDifference | None
) -> str:
    """What the counts per call say, where no other plan explains it."""
    slower = ratio > 1
    if _flat(blocks, BLOCKS_FLAT):
        if not slower and _per_call(after, "read") < _per_call(before, "read") / 2 and _per_call(before, "read") >= 0.5:
            return "the same blocks, found in memory instead of read"
        reason = "likely contention (CPU, locks, waits)" if slower else "likely less contention, or less to compute"
        return f"{'the same plan and blocks' if found is not None else 'the same blocks'}: {reason}"
    rows = _ratio(_per_call(before, "rows"), _per_call(after, "rows"))
    wal = _ratio(_per_call(before, "wal"), _per_call(after, "wal"))
    words = fold(blocks, "fewer", "more") + " blocks"
    more = blocks > 1
    more_wal = wal is not None and not _flat(wal, BLOCKS_FLAT) and (wal > 1) == more
    if more != slower:
        reason = "likely contention (CPU, locks, waits)" if slower else "likely less contention, or less to compute"
        or_plan = "another plan, or " if found is None else ""
        return f"{words} and yet {'slower' if slower else 'faster'}: {or_plan}{reason}"
    if _INSERTS.match(after.query) or (_WRITES.match(after.query) and more_wal):
        with_wal = f", {fold(wal, 'less', 'more')} WAL" if wal is not None and more_wal else ""
        return f"{'more' if more else 'fewer'} indexes or checks for each row ({words}{with_wal})"
    if rows is not None and not _flat(rows, BLOCKS_FLAT) and (rows > 1) == more:
        return f"{fold(rows, 'fewer', 'more')} rows per call ({words})"
    return f"{words}: {'likely another plan' if found is None else 'other values, or other tables, in the same plan'}"


def _spill(before: StatementDelta, after: StatementDelta) -> str:
    if before.temp_blks_written == 0 < after.temp_blks_written:
        return ", spills to disk"
    return ", spills to disk no longer" if after.temp_blks_written == 0 < before.temp_blks_written else ""


def _evidence(found: PlanDifference) -> str:
    """The first table that is read otherwise, else the indexes."""
    scans = [
        f"{c.table} {' + '.join(c.before) or 'not read'} → {' + '.join(c.after) or 'not read'}" for c in found.scans
    ]
    if scans:
        return f" ({scans[0]}{f' and {len(scans) - 1} more' if scans[1:] else ''})"
    gained = ", ".join(name.partition(".")[2] or name for name in found.indexes_gained)
    return f" (by {gained})" if gained else ""


def _blocks_words(blocks: float) -> str:
    return "" if _flat(blocks, BLOCKS_FLAT) else f", {fold(blocks, 'fewer', 'more')} blocks"


def _per_call(one: StatementDelta, what: Literal["blocks", "read", "rows", "wal"]) -> float:
    count = {
        "blocks": one.shared_blks_hit + one.shared_blks_read,
        "read": one.shared_blks_read,
        "rows": one.rows,
        "wal": one.wal_bytes,
    }[what]
    return count / one.calls


def _beyond_chance(before: StatementDelta, after: StatementDelta) -> bool:
    """Welch: the means differ by more than 2 standard errors. Two calls or more on each side, or nothing is said."""
    one, other = moments_of(before), moments_of(after)
    if one.count < 2 or other.count < 2:
        return False
    error = math.sqrt(one.m2 / (one.count - 1) / one.count + other.m2 / (other.count - 1) / other.count)
    return abs(other.total / other.count - one.total / one.count) > STANDARD_ERRORS * error


def _ratio(before: float, after: float) -> float | None:
    return after / before if before > 0 and after > 0 else None


def _flat(ratio: float, within: float) -> bool:
    return 1 / within <= ratio <= within


def fold(ratio: float, less: str, more: str) -> str:
    """Such as `25 × fewer`, `1.3 × more`."""
    times = max(ratio, 1 / ratio)
    return f"{f'{times:,.0f}' if times >= 10 else f'{times:.1f}'} × {less if ratio < 1 else more}"


# --- plans of both days --------------------------------------------------------------------------------------------


def plan_differences(plans31: QueryPlans | None, plans40: QueryPlans | None) -> Differences:
    """(role, fingerprint) -> how the generic plans of one statement differ, where both days have one."""
    before = {(s.role, fingerprint(s.query)): s.plan for s in (plans31.statements if plans31 else ())}
    after = {(s.role, fingerprint(s.query)): s.plan for s in (plans40.statements if plans40 else ())}
    return dict(_pairs(before, after))


def _named_differences(plans31: QueryPlans | None, plans40: QueryPlans | None) -> Mapping[str, PlanDifference]:
    before = {one.name: one for one in (plans31.critical if plans31 else ())}
    after = {one.name: one for one in (plans40.critical if plans40 else ())}
    return dict(_pairs(before, after))


def _pairs(
    before: Mapping[K, QueryPlan | None], after: Mapping[K, QueryPlan | None]
) -> Iterator[tuple[K, PlanDifference]]:
    for key, old in before.items():
        new = after.get(key)
        if old is not None and new is not None:
            yield key, plan.difference(old, new)
