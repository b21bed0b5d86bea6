"""What a report says of the result cache: hits with and without those that waited, and what was refreshed ahead."""

from __future__ import annotations

from dataclasses import replace

import built_results
import pytest

from harness.model import ResultCacheDelta
from harness.report_facts import cache_facts

HITS = "Result cache of the application, hit ratio"
AT_ONCE = "… without hits that waited for another's computation"
AHEAD = "Refreshes ahead"


@pytest.mark.parametrize(
    ("by_service", "expected"),
    [
        (
            {"api": ResultCacheDelta(1800, 2000, 0, 40, 700), "odoo": ResultCacheDelta(500, 600, 0, 20, 0)},
            {HITS: "88.5 % of 2,600 look-ups", AT_ONCE: "86.2 % of 2,600 look-ups", AHEAD: "700"},
        ),
        # one that did not count it yet
        (
            {"api": ResultCacheDelta(1800, 2000, 0, 40, 700), "odoo": ResultCacheDelta(500, 600, 0)},
            {HITS: "88.5 % of 2,600 look-ups", AT_ONCE: "no data", AHEAD: "no data"},
        ),
        ({"api": ResultCacheDelta(2300, 2600, 0)}, {HITS: "88.5 % of 2,600 look-ups", AT_ONCE: None, AHEAD: None}),
    ],
)
def test_waiting_and_refreshes_are_told_apart(
    by_service: dict[str, ResultCacheDelta], expected: dict[str, str | None]
) -> None:
    delta = built_results.servers("day40")
    assert delta.cache is not None
    result = built_results.result("day40", delta=replace(delta, cache=replace(delta.cache, by_service=by_service)))
    told = {fact.label: fact.texts[0] for fact in cache_facts([("day40", result)])}
    assert {label: told.get(label) for label in expected} == expected
