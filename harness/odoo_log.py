"""Odoo's access log: how many queries each request ran, how long it waited for them, and how long the rest took.

Pure: no I/O.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from harness.model import OdooUse

# werkzeug's line as Odoo 19 writes it (service/server.py log_request, netsvc.PerfFilter): the method that was called
# follows the path as its fragment, and after the size come queries, their seconds and the other seconds. JSON-2 has
# no fragment, its path names the method. Requests that call no method (/web/health, log-ins) are no endpoint's.
_REQUEST = re.compile(
    r' werkzeug: .*?"\w+ (?:/json/2/(?P<model>[\w.]+)/(?P<name>\w+)[^ "]*|[^ "#]*\#(?P<method>[\w.]+)) HTTP/[\d.]+" '
    r"\d{3} \S+ (?P<queries>\d+) (?P<query_s>\d+\.\d+) (?P<remaining_s>-?\d+\.\d+)\s*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class OdooRequest:
    """One request as the log has it; times are in whole milliseconds. method: "MODEL.METHOD"."""

    method: str
    queries: int
    query_ms: float
    remaining_ms: float


def parse(text: str) -> tuple[OdooRequest, ...]:
    """The requests in a part of the log, in its order; other lines, and torn ones, are passed over."""
    return tuple(
        OdooRequest(
            method=match["method"] or f"{match['model']}.{match['name']}",
            queries=int(match["queries"]),
            query_ms=round(1000 * float(match["query_s"]), 3),
            # the difference of two clock readings and a sum, each rounded: it may fall below zero
            remaining_ms=max(0.0, round(1000 * float(match["remaining_s"]), 3)),
        )
        for match in _REQUEST.finditer(text)
    )


def by_method(requests: Iterable[OdooRequest]) -> tuple[OdooUse, ...]:
    """The requests of each method taken together, by name."""
    grouped: dict[str, list[OdooRequest]] = defaultdict(list)
    for request in requests:
        grouped[request.method].append(request)
    return tuple(
        OdooUse(
            method=method,
            requests=len(of_method),
            queries=sum(one.queries for one in of_method),
            fewest_queries=min(one.queries for one in of_method),
            most_queries=max(one.queries for one in of_method),
            query_ms=sum(one.query_ms for one in of_method),
            remaining_ms=sum(one.remaining_ms for one in of_method),
        )
        for method, of_method in sorted(grouped.items())
    )
