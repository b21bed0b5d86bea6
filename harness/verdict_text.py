"""Verdicts as text: table rows for a terminal, markdown for a pull request, JUnit XML for CI. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from harness import units
from harness.baseline import NEW
from harness.model import ArrivalStats, Confidence, Outcome, Verdict
from harness.threshold import METRICS

COLUMNS = ("Outcome", "Threshold", "Endpoint", "Observed", "95 % interval", "Samples", "Confidence")

OUTCOME_TEXT: Mapping[Outcome, str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "no_data": "NO DATA",
    "cannot_say": "CANNOT SAY",
    "not_applicable": "n/a",
}
# A page of a pull request is one screen: with its header and warnings at most about 40 lines.
MARKDOWN_ROWS = 25
MARKDOWN_REASONS = 5
NEW_SHOWN = 5
CONFIDENCE_TEXT: Mapping[Confidence, str] = {
    "clear": "clear",
    "straddles": "limit lies inside the interval",
    "too_few": "too few samples to be sure",
    "exact": "exact",
}
SKIPPED: tuple[Outcome, ...] = ("cannot_say", "not_applicable")  # in JUnit, which has no third answer
_FORMATS: Mapping[str, Callable[[float | None], str]] = {
    "ms": units.format_ms,
    "s": units.format_duration,
    "ratio": units.format_ratio,
    "pct": units.format_pct,
    "rps": units.format_rps,
    "count": units.format_count,
    "bytes": units.format_bytes,
}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Row(NamedTuple):
    """One verdict, every cell as text, in the order of COLUMNS."""

    outcome: str
    threshold: str
    endpoint: str
    observed: str
    interval: str
    samples: str
    confidence: str


def in_short(verdicts: Sequence[Verdict]) -> tuple[tuple[Verdict, ...], str]:
    """All verdicts but those against a baseline that ask for nothing, or leave a single endpoint open, in their order;
    and what was left out, as text, empty = nothing."""

    def may_be_left_out(one: Verdict) -> bool:
        of_one_of_many = one.outcome == "cannot_say" and one.threshold.selector == "*"
        return bool(one.note) and (one.outcome in ("pass", "not_applicable") or of_one_of_many)

    left = [one for one in verdicts if may_be_left_out(one)]
    return (
        tuple(one for one in verdicts if not may_be_left_out(one)),
        f"and {_tally(left)} against the baseline{_new(left)}; see the report" if left else "",
    )


def _most_urgent(verdicts: Sequence[Verdict], most: int) -> tuple[tuple[Verdict, ...], str]:
    """The first `most` of them: those that failed, the run's own limits, what a baseline leaves open, the rest; and
    what that leaves out, as text, empty = nothing."""

    def rank(one: Verdict) -> int:
        return {"fail": 0, "no_data": 1, "cannot_say": 3}.get(one.outcome, 4 if one.note else 2)

    ranked = sorted(verdicts, key=rank)
    left = ranked[most:]
    return tuple(ranked[:most]), f"and {_tally(left)}{_new(left)}" if left else ""


def _new(verdicts: Sequence[Verdict]) -> str:
    """The endpoints among them that the baseline does not have, by name."""
    names = sorted({one.endpoint for one in verdicts if one.note == NEW and one.endpoint})
    more = f" and {len(names) - NEW_SHOWN} more" if len(names) > NEW_SHOWN else ""
    return f" (new: {', '.join(names[:NEW_SHOWN])}{more})" if names else ""


def _tally(verdicts: Sequence[Verdict]) -> str:
    counts = ((text, sum(one.outcome == outcome for one in verdicts)) for outcome, text in OUTCOME_TEXT.items())
    return ", ".join(f"{count} {text}" for text, count in counts if count)


def rows(verdicts: Sequence[Verdict]) -> tuple[Row, ...]:
    """The verdicts as table rows, in their order."""
    return tuple(_row(verdict) for verdict in verdicts)


def _row(verdict: Verdict) -> Row:
    observed, show = verdict.observed, _FORMATS[METRICS[verdict.threshold.metric].unit]
    interval = units.ABSENT
    if observed is not None and observed.low is not None and observed.high is not None:
        interval = f"{show(observed.low)} – {show(observed.high)}"
    return Row(
        outcome=OUTCOME_TEXT[verdict.outcome],
        threshold=verdict.threshold.text,
        endpoint=verdict.endpoint or ("" if verdict.outcome == "not_applicable" and not verdict.note else "all"),
        observed=observed_text(verdict),
        interval=interval,
        samples=units.ABSENT if observed is None else units.format_count(observed.count),
        confidence=verdict.note or (CONFIDENCE_TEXT[verdict.confidence] if verdict.confidence else units.ABSENT),
    )


def observed_text(verdict: Verdict) -> str:
    """The observed value with its unit; never rounded onto or across the limit, so that text and outcome agree."""
    if verdict.observed is None:
        return units.ABSENT
    metric, limit, value = METRICS[verdict.threshold.metric], verdict.threshold.limit, verdict.observed.value
    text = _FORMATS[metric.unit](value)
    if value != limit and text == _FORMATS[metric.unit](limit):
        return f"{value!r} {metric.unit}"
    return text


def arrivals_text(arrivals: ArrivalStats) -> str:
    """What became of an open load's arrivals."""
    return (
        f"{arrivals.due:,} arrivals due, of which {arrivals.late:,} started more than {arrivals.late_after_ms:g} ms "
        f"late and {arrivals.dropped:,} never started"
    )


def markdown(
    title: str,
    verdicts: Sequence[Verdict],
    reasons: Sequence[str] = (),
    aborted: str | None = None,
    arrivals: ArrivalStats | None = None,
) -> str:
    """A page for a step summary or a pull request. reasons: why the run is invalid, if it is. aborted: the limit that
    ended it early. arrivals: of an open load. Of many verdicts the most urgent stand there, the others are counted."""
    lines = [f"# {_cell(title)}", ""]
    alarms = [f"**INVALID**: {_cell(reason)}" for reason in reasons[:MARKDOWN_REASONS]]
    if len(reasons) > MARKDOWN_REASONS:
        alarms.append(f"and {len(reasons) - MARKDOWN_REASONS} reasons more")
    if aborted is not None:
        alarms.append(f"**ENDED EARLY**: {_cell(aborted)}")
    lines += alarms + [""] * bool(alarms)
    lines += [_tally(verdicts) or "no thresholds", ""]
    if arrivals is not None:
        lines += [arrivals_text(arrivals), ""]
    if verdicts:
        lines += [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
        shown, left_out = _most_urgent(verdicts, MARKDOWN_ROWS)
        lines += [_line([_cell(cell) for cell in row]) for row in rows(shown)]
        lines += ["", f"{_cell(left_out)}; all of them are in the report"] if left_out else []
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Escaped for GitHub's markdown, on one line: names come from outside."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def junit_xml(
    name: str,
    verdicts: Sequence[Verdict],
    reasons: Sequence[str] = (),
    aborted: str | None = None,
    arrivals: ArrivalStats | None = None,
) -> str:
    """One test case per verdict: fail is a failure, no data an error; what cannot be said or does not apply is skipped.
    An invalid run (with reasons) is a case of its own, in error; one that a limit ended early (aborted) another,
    failed. Arrivals of an open load are the suite's properties."""
    suite = ElementTree.Element("testsuite", name=_xml(name))
    if arrivals is not None:
        properties = ElementTree.SubElement(suite, "properties")
        for key in ("due", "late", "dropped"):
            ElementTree.SubElement(properties, "property", name=f"arrivals_{key}", value=str(getattr(arrivals, key)))
    valid = ElementTree.SubElement(suite, "testcase", classname=_xml(name), name="the run is valid")
    for reason in reasons:
        ElementTree.SubElement(valid, "error", message=_xml(reason))
    if aborted is not None:
        ended = ElementTree.SubElement(suite, "testcase", classname=_xml(name), name="the run came to its end")
        ElementTree.SubElement(ended, "failure", message=_xml(aborted))
    for verdict, row in zip(verdicts, rows(verdicts), strict=True):
        title = f"{row.threshold} ({row.endpoint})" if verdict.threshold.selector == "*" else row.threshold
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(name), name=_xml(title))
        message = _xml(f"observed {row.observed}, interval {row.interval}, {row.samples} samples, {row.confidence}")
        if verdict.outcome == "fail":
            ElementTree.SubElement(case, "failure", message=message)
        elif verdict.outcome == "no_data":
            ElementTree.SubElement(case, "error", message=f"no data: {message}")
        elif verdict.outcome in SKIPPED:
            ElementTree.SubElement(case, "skipped", message=_xml(verdict.note) or "not a threshold of this profile")
    suite.set("tests", str(1 + (aborted is not None) + len(verdicts)))
    suite.set("failures", str(sum(verdict.outcome == "fail" for verdict in verdicts) + (aborted is not None)))
    suite.set("errors", str(sum(verdict.outcome == "no_data" for verdict in verdicts) + len(reasons[:1])))
    suite.set("skipped", str(sum(verdict.outcome in SKIPPED for verdict in verdicts)))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
