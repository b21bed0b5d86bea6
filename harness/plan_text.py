"""EXPLAIN's JSON as the text that people read: a node a line, as `EXPLAIN (FORMAT TEXT)` writes it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pglast import keywords

_KEYWORDS = keywords.RESERVED_KEYWORDS | keywords.COL_NAME_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS
_STRATEGIES = {"Hashed": "HashAggregate", "Sorted": "GroupAggregate", "Mixed": "MixedAggregate"}
# What a node's own lines say, in EXPLAIN's order; Output is left out, as without VERBOSE.
_LINES = (
    "Subplans Removed",
    "Sort Key",
    "Presorted Key",
    "Group Key",
    "Cache Key",
    "Cache Mode",
    "Merge Cond",
    "Hash Cond",
    "Join Filter",
    "Index Cond",
    "Recheck Cond",
    "Order By",
    "Filter",
    "Rows Removed by Join Filter",
    "Rows Removed by Filter",
    "Rows Removed by Index Recheck",
    "Heap Fetches",
    "Exact Heap Blocks",
    "Lossy Heap Blocks",
    "Workers Planned",
    "Workers Launched",
)
_REMOVALS = tuple(name for name in _LINES if name.startswith("Rows Removed"))


def plan_text(explained: Mapping[str, Any]) -> str:
    """One element of EXPLAIN's JSON as text, with settings and times at its end."""
    lines = list(_node_lines(explained["Plan"], 0))
    if explained.get("Settings"):
        settings = ", ".join(f"{name} = '{value}'" for name, value in explained["Settings"].items())
        lines.append(f"Settings: {settings}")
    lines += [f"{name}: {explained[name]:.3f} ms" for name in ("Planning Time", "Execution Time") if name in explained]
    return "\n".join(lines)


def node_label(fields: Mapping[str, Any], bare: bool = False) -> str:
    """Such as `Index Scan using animal_pkey on farm.animal a`; bare: without names."""
    kind = fields["Node Type"]
    if kind == "Aggregate":
        kind = _STRATEGIES.get(fields.get("Strategy", ""), kind)
    if kind == "ModifyTable":
        kind = fields.get("Operation", kind)
    if "Join Type" in fields:
        side = "" if fields["Join Type"] == "Inner" else f" {fields['Join Type']}"
        # "Nested Loop Left Join", but "Hash Join" and "Hash Left Join"
        base = kind.removesuffix(" Join")
        kind = f"{base}{side} Join" if kind.endswith(" Join") or side else kind
    partial = fields.get("Partial Mode", "Simple")
    kind = kind if partial == "Simple" else f"{partial} {kind}"
    if bare:
        return str(kind)
    if fields.get("Parallel Aware"):
        kind = f"Parallel {kind}"
    if fields.get("Scan Direction") == "Backward":
        kind += " Backward"
    if "Index Name" in fields:
        kind += f" on {fields['Index Name']}" if kind == "Bitmap Index Scan" else f" using {fields['Index Name']}"
    if "Relation Name" in fields:
        kind += " on " + ".".join(_quoted(fields[part]) for part in ("Schema", "Relation Name") if part in fields)
        alias = fields.get("Alias")
        kind += f" {_quoted(alias)}" if alias not in (None, fields["Relation Name"]) else ""
    elif "Alias" in fields:
        names = (fields.get("CTE Name") or fields.get("Function Name"), fields["Alias"])
        kind += " on " + " ".join(_quoted(name) for name in dict.fromkeys(names) if name)
    return str(kind)


def _quoted(name: str) -> str:
    """As quote_identifier does: whatever is no plain lower-case name, and every word that SQL keeps to itself."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in _KEYWORDS else f'"{name}"'


def _node_lines(fields: Mapping[str, Any], depth: int) -> Iterator[str]:
    pad = "      " * (depth - 1) + "  ->  " if depth else ""
    inside = "      " * depth + "  "
    if "Subplan Name" in fields:
        yield f"{'      ' * (depth - 1)}  {fields['Subplan Name']}"
    yield f"{pad}{node_label(fields)}  ({_cost(fields)}){_actual(fields)}"
    for name in _LINES:
        value = fields.get(name)
        # EXPLAIN's text leaves out a count of none
        if value is None or (value == 0 and (name in _REMOVALS or name in ("Subplans Removed", "Lossy Heap Blocks"))):
            continue
        yield f"{inside}{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
    if "Sort Method" in fields:
        used = f"{fields['Sort Space Used']}kB"
        yield f"{inside}Sort Method: {fields['Sort Method']}  {fields['Sort Space Type']}: {used}"
    if buffers := _buffers(fields):
        yield f"{inside}Buffers: {buffers}"
    for child in fields.get("Plans", ()):
        yield from _node_lines(child, depth + 1)


def _cost(fields: Mapping[str, Any]) -> str:
    cost = f"cost={fields['Startup Cost']:.2f}..{fields['Total Cost']:.2f}" if "Total Cost" in fields else "cost=?"
    return f"{cost} rows={fields['Plan Rows']} width={fields.get('Plan Width', '?')}"


def _actual(fields: Mapping[str, Any]) -> str:
    loops = fields.get("Actual Loops")
    if loops is None:
        return ""
    if loops == 0:
        return " (never executed)"
    time = ""
    if "Actual Total Time" in fields:
        time = f"time={fields['Actual Startup Time']:.3f}..{fields['Actual Total Time']:.3f} "
    return f" (actual {time}rows={fields['Actual Rows']} loops={loops})"


def _buffers(fields: Mapping[str, Any]) -> str:
    parts = []
    for place in ("Shared", "Local", "Temp"):
        counts = [
            f"{word.lower()}={fields[key]}"
            for word in ("Hit", "Read", "Dirtied", "Written")
            if fields.get(key := f"{place} {word} Blocks")
        ]
        if counts:
            parts.append(f"{place.lower()} {' '.join(counts)}")
    return ", ".join(parts)
