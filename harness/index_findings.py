"""What a run says of the indexes of Day 32: how often each was scanned, and what speaks against it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fixtures.indexes import Index
from harness.model import IndexDelta, ServerDelta
from harness.units import format_bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """text: a sentence without the index's name, with what the index costs."""

    index: str
    text: str


def index_rows(servers: ServerDelta, indexes: Sequence[Index]) -> list[tuple[IndexDelta, str]]:
    """Those of `indexes` that the server has, by table and name, each with its findings as one text."""
    writes = {f"{one.schema}.{one.table}": one.writes for one in servers.tables if one.writes is not None}
    found = findings(servers.indexes, indexes, writes)
    names = {index.name for index in indexes}
    deltas = sorted((one for one in servers.indexes if one.index in names), key=lambda o: (o.schema, o.table, o.index))
    return [(delta, "; ".join(one.text for one in found if one.index == delta.index)) for delta in deltas]


def findings(
    deltas: Sequence[IndexDelta], indexes: Sequence[Index], writes: Mapping[str, int] | None = None
) -> tuple[Finding, ...]:
    """Of a run's indexes those of `indexes` that it shows useless or redundant.

    writes: "schema.table" -> rows inserted plus rows updated outside HOT between the snapshots, each of which adds an
    entry to every index (to a partial one only where its condition holds); None or no entry = not known.
    """
    by_name = {index.name: index for index in indexes}
    found = []
    for delta in deltas:
        index = by_name.get(delta.index)
        if index is None:
            continue
        cost = _cost(delta, (writes or {}).get(f"{delta.schema}.{delta.table}"))
        if not delta.idx_scan:
            found.append(Finding(delta.index, f"not scanned once in this run; {cost}"))
        for other in indexes:
            if is_prefix(index, other):
                text = f"{other.name} begins with the same columns and serves in its place; {cost}"
                found.append(Finding(delta.index, text))
    return tuple(found)


def _cost(delta: IndexDelta, writes: int | None) -> str:
    size = f"it takes {format_bytes(delta.size_bytes)}"
    return f"{size}, writes to its table not known" if writes is None else f"{size}, up to {writes:,} entries written"


def is_prefix(index: Index, other: Index) -> bool:
    """Whether a B-tree's columns lead another's of the same rows, in the same order or in the exact opposite one, in
    which the other can be read backwards."""
    place = (index.schema, index.table, index.where)
    if index.name == other.name or index.method != "btree" or other.method != "btree":
        return False
    if place != (other.schema, other.table, other.where):
        return False
    mine, theirs = _columns(index), _columns(other)
    led = theirs[: len(mine)]
    return len(mine) < len(theirs) and mine in (led, [(name, not descends) for name, descends in led])


def _columns(index: Index) -> list[tuple[str, bool]]:
    """(column, whether it descends)."""
    columns = [column.strip() for column in index.columns.split(",")]
    return [(re.sub(r"\s+(ASC|DESC)$", "", column), column.endswith(" DESC")) for column in columns]
