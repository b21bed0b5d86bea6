from __future__ import annotations

import pytest

from harness.model import Estimate
from harness.report_text import figure, interval


@pytest.mark.parametrize(
    ("value", "unit", "limit", "text"),
    [
        (199.961234, "ms", 200, "199.96 ms"),  # 200.0 ms would seem to miss the limit that it keeps
        (199.9999999, "ms", 200, "199.9999999 ms"),
        (200.0, "ms", 200, "200.0 ms"),
        (150.0, "ms", 200, "150.0 ms"),
        (94.98, "pct", 95, "94.98 %"),
        (2.001, "count", 2, "2.001"),
        (0.00999, "ratio", 0.01, "0.999 %"),
        (None, "ms", None, "no data"),
    ],
)
def test_rounding_never_moves_a_value_onto_its_limit(value, unit, limit, text):
    assert figure(value, unit, limit) == text


def test_service_interval_drops_a_repeated_unit_only():
    assert interval(Estimate(9.0, 8.5, 9.5, 10), "ms") == "8.50 – 9.50 ms"
    assert interval(Estimate(9000.0, 8500.0, 12000.0, 10), "ms") == "8,500 ms – 12.0 s"
    assert interval(Estimate(9.0, None, None, 10), "ms") == "no interval"
