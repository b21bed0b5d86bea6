"""The slow-query inventory (C-009): statements that took 100 ms and more, from the statement log, as rows and as CSV.

Pure: no I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from harness import statement_log
from harness.model import LoggedStatement, SlowStatement, SlowStatements, StatementDelta, StatementLog

# C-009: queries below 100 ms; the specification's log_min_duration_statement.
LIMIT_MS = 100.0


def inventory(logs: Sequence[StatementLog | None], deltas: Iterable[StatementDelta] = ()) -> SlowStatements | None:
    """Of all runs of a side; None if one has no log, or did not log every statement from 100 ms on.

    The log knows logins only. deltas: what pg_stat_statements counted meanwhile, by the endpoint that each statement
    ran for.
    """
    known = [log for log in logs if log is not None and log.always_ms is not None and log.always_ms <= LIMIT_MS]
    if not known or len(known) < len(logs):
        return None
    endpoints: dict[str, set[str]] = defaultdict(set)
    for delta in deltas:
        endpoints[delta.fingerprint].add(delta.endpoint or f"{delta.role}, no endpoint")
    texts = {shape: text for log in known for shape, text in log.texts.items()}
    plans = {one.fingerprint: one for log in known for one in sorted(log.plans, key=lambda plan: plan.duration_ms)}
    slow: dict[tuple[str, str], list[LoggedStatement]] = defaultdict(list)
    for log in known:
        for one in log.statements:
            if one.duration_ms >= LIMIT_MS:
                slow[one.user, one.fingerprint].append(one)
    rows = [
        SlowStatement(
            user=user,
            fingerprint=shape,
            query=texts[shape],
            endpoints=tuple(sorted(endpoints[shape])),
            count=len(found),
            total_ms=sum(one.duration_ms for one in found),
            max_ms=max(one.duration_ms for one in found),
            plan=plans[shape].plan if shape in plans else None,
        )
        for (user, shape), found in slow.items()
    ]
    even = all(log.sample_ratio is not None for log in known)
    return SlowStatements(
        limit_ms=LIMIT_MS,
        logged=sum(len(log.statements) for log in known),
        executed=sum(float(statement_log.weights(log).sum()) for log in known) if even else None,
        rows=tuple(sorted(rows, key=lambda row: (-row.total_ms, row.user, row.fingerprint))),
    )
