"""What an index migration does next, given what the server has: so that it is idempotent and goes on after a kill.

Pure. `harness.indexes` reads the state, runs the step and asks again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fixtures.indexes import Index
from harness.errors import StackError

NAME_BYTES = 63  # PostgreSQL cuts longer names, silently
# What REINDEX CONCURRENTLY leaves behind when it is killed: the name of the index and one of these.
_REINDEX_REST = re.compile(r"_cc(new|old)\d*")


@dataclass(frozen=True, slots=True)
class FoundIndex:
    """An index as the server has it. parent: the partitioned index that it is attached to.

    structure: its definition from USING on, as the server writes it. partitioned: an index of a partitioned table,
    which holds nothing itself and is valid once every partition has a valid one attached.
    """

    name: str
    table: str
    structure: str
    valid: bool
    partitioned: bool = False
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table as the server has it; partitions: names, in the table's own schema. indexes: its own and theirs."""

    partitioned: bool
    partitions: tuple[str, ...]
    indexes: tuple[FoundIndex, ...]

    def on(self, table: str, name: str) -> FoundIndex | None:
        return next((i for i in self.indexes if i.table == table and i.name == name), None)

    def attached(self, partition: str, parent: str) -> FoundIndex | None:
        return next((i for i in self.indexes if i.table == partition and i.parent == parent), None)


@dataclass(frozen=True, slots=True)
class Step:
    """One statement, a transaction of its own.

    lock: "concurrent" waits for other transactions without holding up a reader or a writer; "bounded" would hold up
    who comes after it while it waits for its lock, so that the wait must be short and repeated.
    """

    statement: str
    lock: Literal["concurrent", "bounded"]


def quoted(*names: str) -> str:
    """A qualified SQL identifier, whatever its parts hold."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def structure(index: Index) -> str:
    """The statement from USING on, as fixtures/indexes writes it."""
    where = f" WHERE {index.where}" if index.where else ""
    return f"USING {index.method} ({index.columns}){where}"


def partition_index(index: Index, partition: str) -> str:
    """The name of the partition's part of an index. Raises StackError where PostgreSQL would cut it."""
    name = f"{partition}_{index.name}"
    if len(name.encode()) > NAME_BYTES:
        raise StackError(f"{name}: longer than {NAME_BYTES} bytes; give the partition or the index a shorter name")
    return name


# --- forwards ------------------------------------------------------------------------------------------------------


def create_step(index: Index, expected: str, table: FoundTable) -> Step | None:
    """The next statement on the way to a valid index; None when it is there, on every partition.

    expected: the structure as the server writes it. Raises StackError for an index of that name that is another one.
    """
    if (rest := _rest(index, table)) is not None:
        return _drop_concurrently(index, rest)
    own = table.on(index.table, index.name)
    if own is None:
        if table.partitioned:  # an empty frame that marks itself invalid; CONCURRENTLY is refused on the parent
            return Step(f"CREATE INDEX {quoted(index.name)} ON ONLY {_on(index, index.table)}", "bounded")
        return Step(f"CREATE INDEX CONCURRENTLY {quoted(index.name)} ON {_on(index, index.table)}", "concurrent")
    _expect(index, own, expected)
    for partition in table.partitions:
        if (step := _partition_step(index, expected, table, partition)) is not None:
            return step
    if own.valid:
        return None
    # a part became valid after it was attached: attaching it once more makes the server look at the whole again
    part = table.attached(table.partitions[0], index.name)
    assert part is not None
    return _attach(index, part.name)


def _partition_step(index: Index, expected: str, table: FoundTable, partition: str) -> Step | None:
    part = table.attached(partition, index.name)
    if part is not None:
        if part.valid:
            return None
        # it cannot be dropped: the parent needs it
        return Step(f"REINDEX INDEX CONCURRENTLY {quoted(index.schema, part.name)}", "concurrent")
    name = partition_index(index, partition)
    built = table.on(partition, name)
    if built is None:
        return Step(f"CREATE INDEX CONCURRENTLY {quoted(name)} ON {_on(index, partition)}", "concurrent")
    _expect(index, built, expected)
    return _attach(index, name)


def _attach(index: Index, part: str) -> Step:
    statement = f"ALTER INDEX {quoted(index.schema, index.name)} ATTACH PARTITION {quoted(index.schema, part)}"
    return Step(statement, "bounded")


def _on(index: Index, table: str) -> str:
    return f"{quoted(index.schema, table)} {structure(index)}"


def _expect(index: Index, found: FoundIndex, expected: str) -> None:
    if found.structure != expected:
        raise StackError(
            f"{index.schema}.{found.name}: it is {found.structure}, not {expected}; "
            "drop or rename it (`indexes drop` drops it), then run again"
        )


# --- backwards -----------------------------------------------------------------------------------------------------


def drop_step(index: Index, table: FoundTable) -> Step | None:
    """The next statement on the way back; None when nothing of the index is left.

    A partitioned table's index cannot be dropped concurrently: its parts go with it, under a lock on the table and
    every partition, which is held for a moment but must be waited for.
    """
    own = table.on(index.table, index.name)
    if own is not None and own.partitioned:
        return Step(f"DROP INDEX {quoted(index.schema, own.name)}", "bounded")
    for found in table.indexes:
        if found.parent is None and (found.name in _names(index, table) or _is_rest(index, table, found)):
            return _drop_concurrently(index, found)
    return None


def _drop_concurrently(index: Index, found: FoundIndex) -> Step:
    return Step(f"DROP INDEX CONCURRENTLY {quoted(index.schema, found.name)}", "concurrent")


def _rest(index: Index, table: FoundTable) -> FoundIndex | None:
    """What a killed build left: an invalid index that no parent holds."""
    return next((found for found in table.indexes if _is_rest(index, table, found)), None)


def _is_rest(index: Index, table: FoundTable, found: FoundIndex) -> bool:
    if found.valid or found.partitioned or found.parent is not None:
        return False
    return any(
        found.name == name or (found.name.startswith(name) and _REINDEX_REST.fullmatch(found.name[len(name) :]))
        for name in (*_names(index, table), *_attached_names(index, table))
    )


def _names(index: Index, table: FoundTable) -> tuple[str, ...]:
    return (index.name, *(partition_index(index, partition) for partition in table.partitions))


def _attached_names(index: Index, table: FoundTable) -> tuple[str, ...]:
    """The server named the parts of partitions that came after the index."""
    return tuple(found.name for found in table.indexes if found.parent == index.name)


# --- as it should be -----------------------------------------------------------------------------------------------


def problems(index: Index, expected: str, table: FoundTable) -> tuple[str, ...]:
    """What is wrong with an index, each as a sentence without its name; empty when it is as it should be."""
    return tuple(_problems(index, expected, table))


def _problems(index: Index, expected: str, table: FoundTable) -> Iterator[str]:
    own = table.on(index.table, index.name)
    if own is None:
        yield "missing"
        return
    if own.structure != expected:
        yield f"is {own.structure}, not {expected}"
    if not own.valid:
        yield "invalid: its build did not come to its end"
    for partition in table.partitions:
        part = table.attached(partition, index.name)
        if part is None:
            yield f"missing on partition {partition}"
        elif not part.valid:
            yield f"invalid on partition {partition}"
    if (rest := _rest(index, table)) is not None:
        yield f"{rest.name} is left of a build that was cut short"
