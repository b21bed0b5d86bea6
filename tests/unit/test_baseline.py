from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import built_results as built
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import baseline, report, threshold
from harness.errors import InputError
from harness.model import Baseline, BaselineRun, Estimate, Metrics, NoiseFloor, RunMeta, Verdict

META = dataclasses.replace(built.result("day40").meta, counts=None)
A, B = "api GET /a", "odoo farm.animal.search_read"
CALLS, ROWS, BLOCKS = "db_calls_per_request", "db_rows_per_request", "db_blocks_per_request"


def exact(value: float, requests: int = 500) -> Estimate:
    return Estimate(value, None, None, requests)


def around(value: float, half_pct: float = 2.0, count: int = 500) -> Estimate:
    return Estimate(value, value * (1 - half_pct / 100), value * (1 + half_pct / 100), count)


def held(
    *runs: Metrics, limits: tuple[str, ...] = (), historical: bool = False, floor: Mapping[str, float] | None = None
) -> Baseline:
    return Baseline(
        2, tuple(BaselineRun(META, run) for run in runs), tuple(map(threshold.parse, limits)), historical, floor or {}
    )


def one(base: Baseline, metrics: Metrics, meta: RunMeta = META, *, strict: bool = False) -> Verdict:
    (verdict,) = baseline.evaluate(base, meta, metrics, strict=strict)
    return verdict


def count_verdict(metric: str, before: Estimate | None, after: Estimate | None, limit: float = 1.1) -> Verdict:
    base = held({metric: {A: before}, CALLS: {A: exact(2.0)}} if metric != CALLS else {metric: {A: before}})
    base = dataclasses.replace(base, limits=(threshold.parse(f"{metric}[*] <= {limit}"),))
    return one(base, {CALLS: {A: exact(2.0)}, metric: {A: after}})


@pytest.mark.parametrize(
    ("metric", "before", "after", "outcome"),
    [
        (CALLS, 1.0, 1.0, "pass"),
        (CALLS, 1.0, 2.0, "fail"),  # one statement more per request
        (CALLS, 8.1, 9.1, "pass"),  # which is within a tenth and the slack from eight on
        (CALLS, 7.0, 8.0, "fail"),
        (CALLS, 3.0, 1.0, "pass"),
        (ROWS, 239.0, 262.0, "pass"),
        (ROWS, 239.0, 265.0, "fail"),
        (ROWS, 0.0, 1.0, "pass"),
        (ROWS, 0.0, 1.1, "fail"),
        (BLOCKS, 13.0, 19.2, "pass"),
        (BLOCKS, 13.0, 19.4, "fail"),
    ],
)
def test_counts_have_a_ratio_and_a_slack(metric, before, after, outcome):
    verdict = count_verdict(metric, exact(before), exact(after))
    assert (verdict.outcome, verdict.confidence, verdict.endpoint) == (outcome, "exact", A)
    assert verdict.baseline == exact(before)
    assert f"baseline {before:.4g}" in verdict.note


@given(st.floats(0, 1000), st.floats(0, 1000), st.integers(20, 5000), st.integers(20, 5000))
def test_what_stays_the_same_passes_and_more_never_turns_a_failure_into_a_pass(before, more, requests, of_run):
    if of_run < requests / 2:
        of_run = requests
    outcomes = []
    for value in (before, before + more, before + more + 1):
        verdict = count_verdict(CALLS, exact(before, requests), exact(value, of_run))
        outcomes.append(verdict.outcome)
    assert outcomes[0] == "pass"
    assert outcomes in (["pass", "pass", "pass"], ["pass", "pass", "fail"], ["pass", "fail", "fail"])


def test_a_cache_misses_by_chance_and_an_extra_statement_does_not():
    """41 misses of 68 requests, then 44, is what two runs of one commit had; every miss twice is not."""
    limits = (f"{CALLS}[*] <= 1.1", f"{ROWS}[*] <= 1.1")
    base = held({CALLS: {A: exact(41 / 68, 68)}, ROWS: {A: exact(39.5, 68)}}, limits=limits)

    def outcomes(calls: float, rows: float) -> list[str]:
        found = baseline.evaluate(base, META, {CALLS: {A: exact(calls, 68)}, ROWS: {A: exact(rows, 68)}})
        return [verdict.outcome for verdict in found]

    assert outcomes(44 / 68, 42.5) == ["pass", "pass"]
    assert outcomes(82 / 68, 79.0) == ["fail", "fail"]
    assert outcomes(41 / 68 + 1, 40.5) == ["fail", "pass"]


def test_rows_of_an_endpoint_that_the_cache_answered_altogether_are_not_judged():
    base = held({CALLS: {A: exact(0, 29)}, ROWS: {A: exact(0, 29)}}, limits=(f"{CALLS}[*] <= 1.1", f"{ROWS}[*] <= 1.1"))
    metrics = {CALLS: {A: exact(1 / 29, 29)}, ROWS: {A: exact(83 / 29, 29)}}
    assert [v.outcome for v in baseline.evaluate(base, META, metrics)] == ["pass", "not_applicable"]
    metrics = {CALLS: {A: exact(1, 29)}, ROWS: {A: exact(83, 29)}}
    assert [v.outcome for v in baseline.evaluate(base, META, metrics)] == ["fail", "not_applicable"]


@pytest.mark.parametrize(
    ("before", "after", "selector", "outcome", "says"),
    [
        (None, exact(1), "[*]", "not_applicable", "new"),
        (None, None, "[*]", "not_applicable", "neither"),
        (exact(1), None, "[*]", "no_data", "gone: 0 requests, the baseline had 500"),
        (exact(1), exact(1, 249), "[*]", "no_data", "gone: 249 requests"),
        (exact(1), exact(1, 250), "[*]", "pass", "baseline 1"),
        (exact(1, 19), None, "[*]", "not_applicable", "rare"),
        (exact(1, 19), exact(9, 19), "[*]", "not_applicable", "rare"),
        (None, exact(1), "", "no_data", "no figure"),
        (exact(1), None, "", "no_data", "gone"),
        (exact(1, 19), None, "", "no_data", "gone"),
    ],
)
def test_missing_data_fails_and_new_and_rare_endpoints_are_named(before, after, selector, outcome, says):
    name = A if selector else None
    base = held({CALLS: {name: before}}, limits=(f"{CALLS}{selector} <= 1.1",))
    verdict = one(base, {CALLS: {name: after}})
    assert (verdict.outcome, verdict.endpoint) == (outcome, name)
    assert says in verdict.note


def test_a_limit_for_each_endpoint_of_nothing_fails():
    assert one(held({}, limits=(f"{CALLS}[*] <= 1.1",)), {}).outcome == "no_data"
    assert one(held({}, limits=(f"{CALLS} <= 1.1",)), {}).outcome == "no_data"


@pytest.mark.parametrize(
    ("before", "after", "floor", "limit", "outcome"),
    [
        (around(10), around(10.1), {}, 1.05, "pass"),
        (around(10), around(11.8), {}, 1.05, "cannot_say"),
        (around(10), around(12.4), {}, 1.05, "cannot_say"),  # apart, but by less than the assumed floor of 20 %
        (around(10), around(12.6), {}, 1.05, "fail"),
        (around(10), around(11.2), {"p95_ms": 6.0}, 1.05, "fail"),
        (around(10), around(11.2), {"p95_ms": 8.0}, 1.05, "cannot_say"),
        (around(10), around(11.0), {"p95_ms": 1.0}, 1.05, "fail"),  # 5 % at least
        (around(10), around(10.9), {"p95_ms": 1.0}, 1.05, "cannot_say"),
        (around(10), around(13.0), {"p95_ms": 1.0}, 1.3, "cannot_say"),
        (around(10, 30), around(20, 30), {}, 1.05, "cannot_say"),  # little is known of either
        (around(10), exact(30), {}, 1.05, "cannot_say"),
        (exact(10, 40), around(30), {}, 1.05, "cannot_say"),
        (around(10), around(5), {}, 1.05, "pass"),
    ],
)
def test_latency_fails_only_where_the_intervals_lie_apart(before, after, floor, limit, outcome):
    base = held({"p95_ms": {A: before}}, limits=(f"p95_ms[*] <= {limit}",), floor=floor)
    verdict = one(base, {"p95_ms": {A: after}})
    assert verdict.outcome == outcome
    assert threshold.exit_code([verdict]) == (outcome == "fail")
    strictly = one(base, {"p95_ms": {A: after}}, strict=True)
    assert strictly.outcome == ("fail" if outcome == "cannot_say" else outcome)


def test_single_runs_differ_by_more_than_the_median_of_many_pairs():
    session = NoiseFloor("", META.host, META.versions, META.herd, "day40", META.scenario, 9, {"p95_ms": 4.0})
    assert baseline.floor_pct(session) == {"p95_ms": 12.0}
    only_counts = dataclasses.replace(session, floor_pct={"db_calls_per_request": 1.0})
    assert baseline.floor_pct(only_counts) == {}


def test_what_several_runs_had_is_no_regression():
    limits = ("p95_ms[*] <= 1.05", f"{CALLS}[*] <= 1.1")
    runs = [
        {"p95_ms": {A: around(ms)}, CALLS: {A: exact(calls)}}
        for ms, calls in ((10, 1.0), (13, 1.0), (11, 1.6), (10, 1.0))
    ]
    now = {"p95_ms": {A: around(14)}, CALLS: {A: exact(1.6)}}
    assert [v.outcome for v in baseline.evaluate(held(runs[0], limits=limits), META, now)] == ["fail", "fail"]
    verdicts = baseline.evaluate(held(*runs, limits=limits), META, now)
    assert [v.outcome for v in verdicts] == ["cannot_say", "pass"]
    assert verdicts[0].baseline == Estimate(11, 9.8, 13 * 1.02, 2000)


def test_an_endpoint_whose_successes_are_too_few_is_open_and_one_that_only_fails_is_gone():
    base = held({"p95_ms": {A: exact(10, 22)}}, limits=("p95_ms[*] <= 1.05",))
    requests = {"p95_ms": {A: None}, "requests": {A: exact(19, 19)}}
    assert one(base, {**requests, "failure_ratio": {A: exact(0.0)}}).outcome == "cannot_say"
    assert one(base, {**requests, "failure_ratio": {A: exact(1.0)}}).outcome == "no_data"


# --- which runs may be held against each other ---------------------------------------------------------------------

OTHER_MACHINE = dataclasses.replace(META, host={**META.host, "cpu_count": 64})
OTHER_VERSION = dataclasses.replace(META, versions={**META.versions, "odoo": "20.0"})
OTHER_DATA = dataclasses.replace(META, herd={**META.herd, "head": 2550})
OTHER_LOAD = dataclasses.replace(META, scenario=dataclasses.replace(META.scenario, users=7))


@pytest.mark.parametrize(
    ("meta", "named"),
    [
        (OTHER_MACHINE, "machine cpu_count: 2, then 64"),
        (OTHER_VERSION, "versions odoo: 19.0, then 20.0"),
        (OTHER_DATA, "data head: 255, then 2550"),
        (OTHER_LOAD, "load users: 50, then 7"),
    ],
)
def test_other_machines_versions_data_and_loads_are_refused_by_name(meta, named):
    with pytest.raises(InputError, match=named):
        baseline.check_comparable(held({}), meta)


def test_historical_allows_another_machine_and_version_alone():
    old = held({}, historical=True)
    for meta in (META, OTHER_MACHINE, OTHER_VERSION):
        baseline.check_comparable(old, meta)
    for meta in (OTHER_DATA, OTHER_LOAD):
        with pytest.raises(InputError, match="nothing could be judged"):
            baseline.check_comparable(old, meta)


def test_a_historical_baseline_judges_counts_and_never_latency():
    metrics = {"p95_ms": {A: around(10)}, CALLS: {A: exact(1)}}
    worse = {"p95_ms": {A: around(99)}, CALLS: {A: exact(2)}}
    old = held(metrics, limits=("p95_ms[*] <= 1.05", f"{CALLS}[*] <= 1.1"), historical=True)
    found = baseline.evaluate(old, OTHER_MACHINE, worse)
    assert [v.outcome for v in found] == ["not_applicable", "fail"]
    assert "historical baseline: machine (cpu_count) differs" in found[0].note
    here = baseline.evaluate(old, META, worse)
    assert [v.outcome for v in here] == ["fail", "fail"]
    # files that were put together by hand
    assert [v.outcome for v in baseline.evaluate(old, OTHER_LOAD, metrics)] == ["no_data", "no_data"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"reasons": ("lost",)}, "cannot be trusted: lost"),
        ({"state": "failed"}, "cannot be trusted: it is failed"),
        ({"aborted": "p95_ms < 200"}, "ended early"),
    ],
)
def test_a_run_that_cannot_be_trusted_is_no_baseline(changed, says):
    result = built.result("day40")
    broken = dataclasses.replace(result, meta=dataclasses.replace(result.meta, **changed))
    with pytest.raises(InputError, match=says):
        baseline.of_run(broken)


# --- limits --------------------------------------------------------------------------------------------------------


def test_a_given_limit_replaces_those_of_its_metric():
    limits = baseline.parse_limits([f"{CALLS} < 1.02"])
    assert [limit.text for limit in limits if limit.metric == CALLS] == [f"{CALLS} < 1.02"]
    assert len(limits) == len(baseline.DEFAULT_LIMITS) - 1
    assert baseline.parse_limits([]) == baseline.DEFAULT_LIMITS


@pytest.mark.parametrize(
    "text", ["throughput_rps < 1.1", f"{CALLS} > 1.1", f"{CALLS} < 0", f"{CALLS} < 101", "nonsense"]
)
def test_what_is_no_limit_on_a_ratio_is_refused(text):
    with pytest.raises(InputError, match=r"limit|threshold"):
        baseline.parse_limits([text])


# --- a whole run ---------------------------------------------------------------------------------------------------


def test_a_run_held_against_itself_passes_and_its_page_says_against_what():
    result = built.result("day40")
    against = Baseline(2, (baseline.of_run(result),), baseline.DEFAULT_LIMITS, True, {"p95_ms": 7.5})
    verdicts = baseline.evaluate(against, result.meta, result.metrics)
    assert "fail" not in {v.outcome for v in verdicts}
    # it has no p50
    assert {v.threshold.metric for v in verdicts if v.outcome == "no_data"} == {"p50_ms"}
    page = report.render_run(dataclasses.replace(result, verdicts=verdicts, baseline=against))
    assert f"<li>{result.meta.run_id}, started" in page
    assert "p95_ms 7.5 %" in page
    assert "db_calls_per_request[*] &lt;= 1.1 × baseline" in page
    assert "× baseline" not in report.render_run(result)
