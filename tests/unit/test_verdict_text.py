from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import baseline, threshold, verdict_text
from harness.model import ArrivalStats, Estimate, Verdict

NASTY = 'a|b `c` <script>"&\x00\n*d*'
VERDICTS = (
    Verdict(threshold.parse("p95_ms < 200"), None, Estimate(147.3, 140.0, 155.5, 14845), "pass", "clear"),
    Verdict(threshold.parse("p95_ms[*] < 200"), NASTY, Estimate(250.0, 190.0, 300.0, 90), "fail", "straddles"),
    Verdict(threshold.parse("throughput_rps > 40"), None, Estimate(41.25, None, None, 12000), "pass", "exact"),
    Verdict(threshold.parse("p99_ms < 500"), None, None, "no_data", None),
    Verdict(threshold.parse("redis_hit_pct > 85"), None, None, "not_applicable", None),
)


def test_rows_say_everything_in_text():
    assert verdict_text.rows(VERDICTS[:1] + VERDICTS[3:]) == (
        ("PASS", "p95_ms < 200", "all", "147.3 ms", "140.0 ms – 155.5 ms", "14,845", "clear"),
        ("NO DATA", "p99_ms < 500", "all", "–", "–", "–", "–"),
        ("n/a", "redis_hit_pct > 85", "", "–", "–", "–", "–"),
    )
    assert len(verdict_text.COLUMNS) == len(verdict_text.Row._fields)


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("p95_ms < 200", 199.96, "199.96 ms"),
        ("p95_ms < 200", 200.04, "200.04 ms"),
        ("p95_ms < 200", 200.0, "200.0 ms"),
        ("p95_ms < 200", 199.94, "199.9 ms"),
        ("failure_ratio < 0.01", 0.010001, "0.010001 ratio"),
        ("buffer_hit_pct > 95", 94.99, "94.99 pct"),
    ],
)
def test_observed_is_never_rounded_onto_the_limit(text, value, shown):
    verdict = Verdict(threshold.parse(text), None, Estimate(value, None, None, 99), "pass", "exact")
    assert verdict_text.observed_text(verdict) == shown


def test_markdown():
    text = verdict_text.markdown("quick on day40", VERDICTS)
    lines = text.splitlines()
    assert lines[0] == "# quick on day40"
    assert lines[2] == "2 PASS, 1 FAIL, 1 NO DATA, 1 n/a"
    assert lines[4] == "| Outcome | Threshold | Endpoint | Observed | 95 % interval | Samples | Confidence |"
    assert len(lines) == 6 + len(VERDICTS)
    assert r"a\|b \`c\` \<script\>" in lines[6]
    assert "**INVALID**: 3 sent, 2 recorded" in verdict_text.markdown("x", (), ["3 sent,\n2 recorded"])
    assert "no thresholds" in verdict_text.markdown("x", ())


def test_junit():
    suite = ElementTree.fromstring(verdict_text.junit_xml("quick", VERDICTS, ["lost", "late"]))
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "6", "failures": "1", "errors": "2", "skipped": "1"}
    valid, *cases = suite
    assert [error.get("message") for error in valid] == ["lost", "late"]
    assert [[child.tag for child in case] for case in cases] == [[], ["failure"], [], ["error"], ["skipped"]]
    # attribute values may turn a line break into a space; XML 1.0 has no place for NUL
    assert "<script>" in cases[1].get("name")
    assert "\ufffd" in cases[1].get("name")
    assert cases[1][0].get("message").startswith("observed 250.0 ms, interval 190.0 ms – 300.0 ms, 90 samples")


def against_baseline(outcome: str, number: int, selector: str = "*") -> Verdict:
    limit = dataclasses.replace(threshold.parse("p95_ms[*] < 12"), text="p95_ms[*] <= 1.05 × baseline")
    limit = dataclasses.replace(limit, selector=selector)
    return Verdict(limit, f"api GET /{number}", Estimate(9, 8, 10, 99), outcome, "clear", Estimate(9, 8, 10, 99), "why")


MANY = (
    *VERDICTS,
    *(against_baseline(outcome, i) for outcome in ("pass", "cannot_say", "not_applicable") for i in range(40)),
    against_baseline("fail", 7),
)


def test_many_verdicts_are_one_screen_with_what_failed_first():
    lines = verdict_text.markdown("x", MANY, [f"reason {i}" for i in range(20)], "aborted", ARRIVALS).splitlines()
    assert len(lines) <= 45
    outcomes = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("|")][2:]
    assert outcomes[:6] == ["FAIL", "FAIL", "NO DATA", "PASS", "PASS", "n/a"]
    assert set(outcomes[6:]) == {"CANNOT SAY"}
    assert lines[-1] == "and 40 PASS, 21 CANNOT SAY, 40 n/a; all of them are in the report"
    assert "and 15 reasons more" in lines


def test_a_terminal_shows_every_limit_of_the_run_and_of_a_baseline_what_asks_for_something():
    open_pooled = against_baseline("cannot_say", 0, selector=None)
    shown, left_out = verdict_text.in_short((*MANY, open_pooled))
    assert shown == (*VERDICTS, MANY[-1], open_pooled)
    assert left_out == "and 40 PASS, 40 CANNOT SAY, 40 n/a against the baseline; see the report"
    assert verdict_text.in_short(VERDICTS) == (VERDICTS, "")
    assert verdict_text.rows([MANY[-1]])[0].confidence == "why"


def test_new_endpoints_are_named_where_their_verdicts_are_left_out():
    new = [dataclasses.replace(against_baseline("not_applicable", i), note=baseline.NEW) for i in range(7)] * 2
    text = (
        "and 14 n/a against the baseline (new: api GET /0, api GET /1, api GET /2, api GET /3, api GET /4 and 2 more)"
    )
    assert verdict_text.in_short(new) == ((), f"{text}; see the report")
    page = verdict_text.markdown("x", [*MANY, *new])
    assert "(new: api GET /0, " in page.splitlines()[-1]


def test_what_cannot_be_said_fails_nothing():
    cannot_say = against_baseline("cannot_say", 1)
    suite = ElementTree.fromstring(verdict_text.junit_xml("x", [cannot_say]))
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "1")
    assert [(child.tag, child.get("message")) for child in suite[1]] == [("skipped", "why")]
    assert threshold.exit_code([cannot_say]) == 0


ARRIVALS = ArrivalStats(due=3000, late=12, dropped=1, late_after_ms=50.0)


def test_a_run_that_was_ended_early_says_so_first():
    aborted = "p95_ms < 200 over the last 30 s:\n250.0 ms"
    lines = verdict_text.markdown("x", VERDICTS, ["lost"], aborted).splitlines()
    assert lines[2:5] == ["**INVALID**: lost", r"**ENDED EARLY**: p95\_ms \< 200 over the last 30 s: 250.0 ms", ""]
    assert "EARLY" not in verdict_text.markdown("x", VERDICTS)
    suite = ElementTree.fromstring(verdict_text.junit_xml("x", VERDICTS, (), aborted))
    assert (suite.get("tests"), suite.get("failures"), len(suite)) == ("7", "2", 7)
    assert [(case.get("name"), [child.tag for child in case]) for case in suite][:2] == [
        ("the run is valid", []),
        ("the run came to its end", ["failure"]),
    ]


def test_arrivals_of_an_open_load():
    said = "3,000 arrivals due, of which 12 started more than 50 ms late and 1 never started"
    assert verdict_text.arrivals_text(ARRIVALS) == said
    assert said in verdict_text.markdown("x", VERDICTS, arrivals=ARRIVALS).splitlines()
    suite = ElementTree.fromstring(verdict_text.junit_xml("x", VERDICTS, arrivals=ARRIVALS))
    assert {one.get("name"): one.get("value") for one in suite.find("properties")} == {
        "arrivals_due": "3000",
        "arrivals_late": "12",
        "arrivals_dropped": "1",
    }
    assert suite[0].tag == "properties"


def test_a_valid_run_without_thresholds_is_one_passing_case():
    suite = ElementTree.fromstring(verdict_text.junit_xml("x", ()))
    assert (suite.get("tests"), suite.get("errors"), len(suite), len(suite[0])) == ("1", "0", 1, 0)


@given(st.text())
def test_any_name_gives_well_formed_text(name):
    verdicts = [dataclasses.replace(VERDICTS[1], endpoint=name or "x")]
    assert len(ElementTree.fromstring(verdict_text.junit_xml(name, verdicts, [name], name))) == 3
    table = verdict_text.markdown(name, verdicts, [name], name).splitlines()[-1]
    assert table.replace("\\\\", "").replace("\\|", "").count("|") == 1 + len(verdict_text.COLUMNS)
