"""Which lines of two plans' texts stand in one of them alone, whatever they cost and counted. Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

# Lines that say how much; those that say what to do are compared with what they say.
_COUNTS = re.compile(
    r"(Buffers|Planning Time|Execution Time|Heap Fetches|(?:Exact|Lossy) Heap Blocks|Rows Removed by [A-Za-z ]+"
    r"|Workers (?:Planned|Launched)|Subplans Removed): .*"
)
_COST = re.compile(r"\s+\((?:cost|actual)\b.*")


@dataclass(frozen=True, slots=True)
class PlanLine:
    """own: the other plan has no such line, or has it elsewhere."""

    text: str
    own: bool


def compared(before: str, after: str) -> tuple[tuple[PlanLine, ...], tuple[PlanLine, ...]]:
    """The lines of two texts of `harness.plan_text`, each marked where the other lacks it."""
    old, new = before.splitlines(), after.splitlines()
    matcher = difflib.SequenceMatcher(None, [_said(line) for line in old], [_said(line) for line in new], False)
    blocks = matcher.get_matching_blocks()
    in_old = {start + step for start, _, size in blocks for step in range(size)}
    in_new = {start + step for _, start, size in blocks for step in range(size)}
    return _marked(old, in_old), _marked(new, in_new)


def plain(text: str) -> tuple[PlanLine, ...]:
    """The lines of a plan that has no other beside it."""
    return tuple(PlanLine(line, own=False) for line in text.splitlines())


def _marked(lines: list[str], common: set[int]) -> tuple[PlanLine, ...]:
    return tuple(PlanLine(line, own=number not in common) for number, line in enumerate(lines))


def _said(line: str) -> str:
    """What a line says without its depth, estimates and counts."""
    text = _COST.sub("", line.strip().removeprefix("->").strip())
    text = re.sub(r"(?<=: )\d+(?=kB)", "", text)
    return _COUNTS.sub(r"\1", text)
