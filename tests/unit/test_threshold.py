from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import threshold
from harness.errors import InputError
from harness.model import Estimate


def estimate(value, low=None, high=None, count=1000):
    return Estimate(value, low, high, count)


def one(text, metrics, profile="day40", strict=False):
    (verdict,) = threshold.evaluate([threshold.parse(text)], metrics, profile, strict)
    return verdict


@pytest.mark.parametrize(
    ("text", "metric", "selector", "op", "limit"),
    [
        ("p95_ms < 200", "p95_ms", None, "<", 200),
        ("  p95_ms[*]<200 ", "p95_ms", "*", "<", 200),
        ("failure_ratio <= 0.01", "failure_ratio", None, "<=", 0.01),
        ("throughput_rps>=4e1", "throughput_rps", None, ">=", 40),
        ('statement_mean_ms["animal by tag"] < 5', "statement_mean_ms", "animal by tag", "<", 5),
        ("statement_mean_ms['animal by tag'] < 5", "statement_mean_ms", "animal by tag", "<", 5),
        (
            'db_calls_per_request["api GET /api/v1/animals/{tag_number}"] <= 3',
            "db_calls_per_request",
            "api GET /api/v1/animals/{tag_number}",
            "<=",
            3,
        ),
        (
            'p95_ms["odoo farm.animal.search_read [a < \\"b\\"]"] > 1',
            "p95_ms",
            'odoo farm.animal.search_read [a < "b"]',
            ">",
            1,
        ),
    ],
)
def test_grammar(text, metric, selector, op, limit):
    parsed = threshold.parse(text)
    assert (parsed.metric, parsed.selector, parsed.op, parsed.limit) == (metric, selector, op, limit)
    assert parsed.text == text.strip()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p95 < 200", '"p95" is no metric; did you mean "p95_ms"?'),
        ("redis_hit < 200", 'did you mean "redis_hit_pct"?'),
        ("zzzzzz < 1", "known are p50_ms, "),
        ("p95_ms", "a comparison is missing; use <"),
        ("p95_ms 200", "a comparison is missing"),
        ("p95_ms == 200", '"==" is no comparison; use < <= > or >='),
        ("p95_ms <", "the number is missing; write a plain number in ms"),
        ("p95_ms < 200ms", '"200ms" is no number'),
        ("p95_ms < 200 200", '"200 200" is no number'),
        ("p95_ms < nan", '"nan" is no number'),
        ("p95_ms < 1e999", '"1e999" is no number'),
        ("p95_ms < -1", "outside the range of a ms; write a number from 0 and more"),
        ("failure_ratio < 5", "outside the range of a ratio; write a number from 0 to 1"),
        ("buffer_hit_pct > 101", "outside the range of a pct"),
        ("p95_ms[search] < 200", '[search] is no selector; write [*] for each, or ["search"]'),
        ('p95_ms[""] < 200', "the quoted name is empty"),
        ('p95_ms["*"] < 200', '"*" is no name'),
        ('p95_ms["\\q"] < 200', "is no quoted name"),
        ("buffer_hit_pct[*] > 95", '"buffer_hit_pct" takes no selector; leave out [*]'),
        ("dropped_arrival_ratio[*] <= 0", '"dropped_arrival_ratio" takes no selector; leave out [*]'),
        ("", "does not read as METRIC"),
        ("< 200", "does not read as METRIC"),
    ],
)
def test_faults_name_the_piece(text, said):
    with pytest.raises(InputError) as fault:
        threshold.parse(text)
    assert said in str(fault.value)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_a_fault(text):
    with contextlib.suppress(InputError):
        assert threshold.parse(text).metric in threshold.METRICS


@pytest.mark.parametrize(
    ("text", "value", "outcome"),
    [
        ("p95_ms < 200", 199.9, "pass"),
        ("p95_ms < 200", 200.0, "fail"),
        ("p95_ms < 200", 200.1, "fail"),
        ("p95_ms < 200", 199.99999999999997, "pass"),
        ("p95_ms <= 200", 200.0, "pass"),
        ("throughput_rps > 40", 40.0, "fail"),
        ("throughput_rps >= 40", 40.0, "pass"),
        ("throughput_rps > 40", 0.0, "fail"),
        ("p95_ms < 200", float("nan"), "no_data"),
    ],
)
def test_outcome_is_exact(text, value, outcome):
    verdict = one(text, {text.split()[0]: {None: estimate(value)}})
    assert verdict.outcome == outcome


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"p95_ms": {}},
        {"p95_ms": {None: None}},
        {"p95_ms": {"a": estimate(1)}},
        {"p95_ms": {None: estimate(1, count=19)}},
    ],
)
def test_missing_data_never_passes(metrics):
    verdict = one("p95_ms < 200", metrics)
    assert verdict.outcome == "no_data"
    assert threshold.exit_code([verdict]) == 1


def test_twenty_successes_are_a_p95():
    assert one("p95_ms < 200", {"p95_ms": {None: estimate(1, count=20)}}).outcome == "pass"


def test_each_gives_a_verdict_per_name_and_skips_the_pooled():
    limit = threshold.parse("p95_ms[*] < 200")
    metrics = {"p95_ms": {None: estimate(999), "b": estimate(300), "a": estimate(100), "c": None}}
    verdicts = threshold.evaluate([limit], metrics, "day40")
    assert [(v.endpoint, v.outcome) for v in verdicts] == [("a", "pass"), ("b", "fail"), ("c", "no_data")]


def test_each_of_nothing_has_no_data():
    assert one("p95_ms[*] < 200", {"p95_ms": {None: estimate(1)}}).outcome == "no_data"


def test_other_profiles_are_not_judged():
    limit = dataclasses.replace(threshold.parse("redis_hit_pct > 85"), profiles=("day40",))
    (verdict,) = threshold.evaluate([limit], {}, "day31", strict=True)
    assert (verdict.outcome, threshold.exit_code([verdict])) == ("not_applicable", 0)
    assert threshold.evaluate([limit], {}, "day40")[0].outcome == "no_data"


@pytest.mark.parametrize(
    ("text", "observed", "confidence", "strict_outcome"),
    [
        ("p95_ms < 200", estimate(150, 140, 160), "clear", "pass"),
        ("p95_ms < 200", estimate(190, 180, 210), "straddles", "fail"),
        ("p95_ms < 200", estimate(190, 180, 200), "straddles", "fail"),
        ("p95_ms <= 200", estimate(190, 180, 200), "clear", "pass"),
        ("p95_ms < 200", estimate(150), "too_few", "fail"),
        ("throughput_rps > 40", estimate(41), "exact", "pass"),
        ("p95_ms < 200", estimate(250, 220, 260), "clear", "fail"),
    ],
)
def test_confidence_stands_beside_and_fails_only_when_strict(text, observed, confidence, strict_outcome):
    metrics = {text.split()[0]: {None: observed}}
    verdict = one(text, metrics)
    assert verdict.confidence == confidence
    assert verdict.outcome == ("fail" if observed.value > 200 else "pass")
    strict = one(text, metrics, strict=True)
    assert (strict.outcome, strict.confidence) == (strict_outcome, confidence)


def test_limits_on_samples_are_those_that_a_window_can_judge():
    of_windows = {name for name in threshold.METRICS if threshold.on_samples(threshold.parse(f"{name} < 1"))}
    assert of_windows == {
        *("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "max_ms"),
        *("failure_ratio", "late_ratio", "throughput_rps"),
    }
    assert threshold.on_samples(threshold.parse("p95_ms[*] < 200"))


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_upper_and_lower_limits_exclude_each_other(value, limit):
    below = threshold.holds(threshold.parse(f"p95_ms < {limit!r}"), value)
    assert below != threshold.holds(threshold.parse(f"p95_ms >= {limit!r}"), value)
