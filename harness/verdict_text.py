"""Verdicts as text: table rows for a terminal, markdown for a pull request, JUnit XML for CI. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from harness import units
from harness.model import ArrivalStats, Confidence, Outcome, Verdict
from harness.threshold import METRICS

COLUMNS = ("Outcome", "Threshold", "Endpoint", "Observed", "95 % interval", "Samples", "Confidence")

OUTCOME_TEXT: Mapping[Outcome, str] = {"pass": "PASS", "fail": "FAIL", "no_data": "NO DATA", "not_applicable": "n/a"}
CONFIDENCE_TEXT: Mapping[Confidence, str] = {
    "clear": "clear",
    "straddles": "limit lies inside the interval",
    "too_few": "too few samples to be sure",
    "exact": "exact",
}
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
        endpoint=verdict.endpoint or ("" if verdict.outcome == "not_applicable" else "all"),
        observed=observed_text(verdict),
        interval=interval,
        samples=units.ABSENT if observed is None else units.format_count(observed.count),
        confidence=CONFIDENCE_TEXT[verdict.confidence] if verdict.confidence else units.ABSENT,
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
    ended it early. arrivals: of an open load."""
    tally = ", ".join(
        f"{count} {text}"
        for outcome, text in OUTCOME_TEXT.items()
        if (count := sum(verdict.outcome == outcome for verdict in verdicts))
    )
    lines = [f"# {_cell(title)}", ""]
    alarms = [f"**INVALID**: {_cell(reason)}" for reason in reasons]
    if aborted is not None:
        alarms.append(f"**ENDED EARLY**: {_cell(aborted)}")
    lines += alarms + [""] * bool(alarms)
    lines += [tally or "no thresholds", ""]
    if arrivals is not None:
        lines += [arrivals_text(arrivals), ""]
    if verdicts:
        lines += [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
        lines += [_line([_cell(cell) for cell in row]) for row in rows(verdicts)]
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
    """One test case per verdict: fail is a failure, no data an error, not applicable skipped. An invalid run (with
    reasons) is a case of its own, in error; one that a limit ended early (aborted) another, failed. Arrivals of an open
    load are the suite's properties."""
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
        elif verdict.outcome == "not_applicable":
            ElementTree.SubElement(case, "skipped", message="not a threshold of this profile")
    suite.set("tests", str(1 + (aborted is not None) + len(verdicts)))
    suite.set("failures", str(sum(verdict.outcome == "fail" for verdict in verdicts) + (aborted is not None)))
    suite.set("errors", str(sum(verdict.outcome == "no_data" for verdict in verdicts) + len(reasons[:1])))
    suite.set("skipped", str(sum(verdict.outcome == "not_applicable" for verdict in verdicts)))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
