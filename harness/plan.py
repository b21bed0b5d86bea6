"""EXPLAIN's JSON as values: what a plan reads and how, what is wrong with it, and how two plans differ. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pglast
from pglast.parser import ParseError

from harness.model import PlanScan, QueryPlan, QueryPlans, StatementPlan
from harness.plan_text import node_label, plan_text
from harness.server_metrics import SMALL_TABLE_PAGES, SMALL_TABLE_ROWS

# An estimate that is off by this factor is likely to choose a bad join order or scan; below so many rows either choice
# is as good.
ESTIMATE_OFF = 10
ESTIMATE_FLOOR_ROWS = 100
# Rows that were read for nothing are worth a word when there are many, and many for each one kept.
REMOVED_FLOOR_ROWS = 1_000
REMOVED_PER_ROW = 10
# Above this share of a table a sequential scan is what a good planner chooses.
LARGE_SHARE_PCT = 20.0

# The documents of a captured run that are no query's plan.
RELATIONS = "_relations"
STATEMENTS = "_statements"

# A node that has to read its whole input before it gives a row: what is above cannot stop what is below.
_BLOCKING = frozenset({"Sort", "Aggregate", "Hash", "WindowAgg", "Materialize"})
# Their row counts are of bitmaps, not of rows.
_BITMAPS = frozenset({"BitmapAnd", "BitmapOr", "Bitmap Index Scan"})
_REMOVED = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
_ONE = {"Append", "Merge Append"}

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, partition or index at the time of the plan. parent: what it is a partition of, else None. rows, pages:
    as of its last ANALYZE."""

    parent: str | None
    rows: float
    pages: int


Relations = Mapping[str, Relation]


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One node of a plan, as EXPLAIN's JSON has it, and those below. may_stop: a node above may stop asking it for
    rows, so that fewer than estimated prove nothing."""

    kind: str
    fields: Mapping[str, Any]
    children: tuple[PlanNode, ...]
    may_stop: bool

    @property
    def loops(self) -> float | None:
        """None: the plan was never executed; 0: this part of it was not."""
        loops: float | None = self.fields.get("Actual Loops")
        return loops

    @property
    def estimated_rows(self) -> float:
        """Of all loops; of one where the plan was never executed."""
        return float(self.fields["Plan Rows"] * (1 if self.loops is None else self.loops))

    @property
    def rows(self) -> float | None:
        return float(self.fields["Actual Rows"] * self.loops) if self.loops else None

    @property
    def removed(self) -> float | None:
        return float(sum(self.fields.get(name, 0) for name in _REMOVED) * self.loops) if self.loops else None

    @property
    def blocks(self) -> int | None:
        """Found in shared buffers or read, here and below."""
        if not self.loops or "Shared Hit Blocks" not in self.fields:
            return None
        return int(self.fields["Shared Hit Blocks"] + self.fields["Shared Read Blocks"])

    @property
    def relation(self) -> str | None:
        name = self.fields.get("Relation Name")
        return None if name is None else f"{self.fields.get('Schema', 'public')}.{name}"

    def all(self) -> Iterator[PlanNode]:
        """This node and those below, depth first."""
        yield self
        for child in self.children:
            yield from child.all()


def parse_node(fields: Mapping[str, Any], may_stop: bool = False) -> PlanNode:
    """The tree under a "Plan" of EXPLAIN (FORMAT JSON, VERBOSE). Raises KeyError where it is none."""
    kind = fields["Node Type"]
    below = kind in ("Limit", "Merge Join") or (may_stop and kind not in _BLOCKING)
    children = [
        # a semi-join asks its inner side for the first match alone
        parse_node(child, below or (child.get("Parent Relationship") == "Inner" and fields.get("Inner Unique", False)))
        for child in fields.get("Plans", ())
    ]
    return PlanNode(kind, fields, tuple(children), may_stop)


# --- one plan ------------------------------------------------------------------------------------------------------


def parse(name: str, explained: Mapping[str, Any], relations: Relations) -> QueryPlan:
    """One element of EXPLAIN's JSON. Raises KeyError or TypeError where it is none."""
    root = parse_node(explained["Plan"])
    scans = tuple(_scans(root, relations))
    return QueryPlan(
        name=name,
        execution_ms=explained.get("Execution Time"),
        planning_ms=explained.get("Planning Time"),
        rows=(root.rows or 0.0) if "Execution Time" in explained else None,
        blocks=root.blocks,
        scans=scans,
        sequential=tuple(dict.fromkeys(scan.table for scan in _large_and_sequential(scans, relations))),
        shape=_shape(root, relations),
        findings=tuple(_findings(root, scans, relations)),
        text=plan_text(explained),
    )


def _scans(node: PlanNode, relations: Relations) -> Iterator[PlanScan]:
    for one in node.all():
        if one.relation is None or not one.kind.endswith("Scan"):
            continue
        schema = one.fields.get("Schema", "public")
        used = [part.fields["Index Name"] for part in _index_parts(one)]
        yield PlanScan(
            kind=one.kind,
            relation=one.relation,
            table=_family(one.relation, relations),
            indexes=tuple(dict.fromkeys(_family(f"{schema}.{name}", relations) for name in used)),
            estimated_rows=one.estimated_rows,
            rows=one.rows,
            removed=one.removed,
            blocks=one.blocks,
        )


def _index_parts(scan: PlanNode) -> Iterator[PlanNode]:
    """The nodes that name the scan's own indexes: itself, or those that make its bitmap; never a subplan's."""
    if "Index Name" in scan.fields:
        yield scan
    for child in scan.children:
        if child.kind in _BITMAPS:
            yield from _index_parts(child)


def _family(name: str, relations: Relations) -> str:
    """The partitioned table or index that it is a part of, else itself."""
    relation = relations.get(name)
    return name if relation is None or relation.parent is None else relation.parent


def _shape(root: PlanNode, relations: Relations) -> str:
    def shape(node: PlanNode, schema: str) -> tuple[Any, ...]:
        # the parts of a bitmap name no schema: theirs is the table's above
        schema = node.fields.get("Schema", schema)
        index = node.fields.get("Index Name")
        table = None if node.relation is None else _family(node.relation, relations)
        children = [shape(child, schema) for child in node.children]
        if node.kind in _ONE:
            children = list(dict.fromkeys(children))
            if len(children) == 1:
                # a single partition needs no Append above it
                return children[0]
        named = None if index is None else _family(f"{schema}.{index}", relations)
        return (node_label(node.fields, bare=True), table, named, *children)

    return hashlib.sha256(repr(shape(root, "public")).encode()).hexdigest()[:12]


def touched_partitions(plan: QueryPlan) -> tuple[str, ...]:
    """The partitions that it read, each once."""
    return tuple(dict.fromkeys(s.relation for s in plan.scans if s.relation != s.table and s.rows is not None))


def planned_partitions(plan: QueryPlan) -> tuple[str, ...]:
    """Those that it may read, without the ones that were pruned when it was planned."""
    return tuple(dict.fromkeys(scan.relation for scan in plan.scans if scan.relation != scan.table))


# --- findings ------------------------------------------------------------------------------------------------------


def _findings(root: PlanNode, scans: Sequence[PlanScan], relations: Relations) -> Iterator[str]:
    yield from _sequential(scans, relations)
    yield from _thrown_away(scans)
    yield from _misjudged(root)
    for node in root.all():
        if node.fields.get("Sort Space Type") == "Disk":
            spilled_kb = node.fields["Sort Space Used"]
            yield f"{node_label(node.fields)} spilled {spilled_kb:,} kB to disk; work_mem is too small"


def _large_and_sequential(scans: Sequence[PlanScan], relations: Relations) -> list[PlanScan]:
    return [scan for scan in scans if scan.kind == "Seq Scan" and _is_large(relations.get(scan.relation))]


def _is_large(relation: Relation | None) -> bool:
    return relation is not None and relation.rows >= SMALL_TABLE_ROWS and relation.pages > SMALL_TABLE_PAGES


def _sequential(scans: Sequence[PlanScan], relations: Relations) -> Iterator[str]:
    large = _large_and_sequential(scans, relations)
    for table in dict.fromkeys(scan.table for scan in large):
        those = [scan for scan in large if scan.table == table]
        partitions = {scan.relation for scan in those if scan.relation != table}
        place = f"{table} ({_many(len(partitions), 'partition')})" if partitions else table
        executed = [scan for scan in those if scan.rows is not None]
        if not executed:
            yield f"would read {place} sequentially"
            continue
        kept = sum(scan.rows or 0 for scan in executed)
        read = kept + sum(scan.removed or 0 for scan in executed)
        share_pct = 100 * kept / read if read else 100.0
        why = (
            "too large a share for an index to help"
            if share_pct >= LARGE_SHARE_PCT
            else "no index serves it, or was dearer"
        )
        yield f"reads {place} sequentially: {read:,.0f} rows, keeps {kept:,.0f} ({share_pct:.1f} %): {why}"


def _thrown_away(scans: Sequence[PlanScan]) -> Iterator[str]:
    """Of scans that use an index all the same: a sequential scan throws away by its nature."""
    for scan in scans:
        removed, kept = scan.removed or 0, scan.rows or 0
        if scan.kind != "Seq Scan" and removed >= REMOVED_FLOOR_ROWS and removed >= REMOVED_PER_ROW * kept:
            read = removed + kept
            yield f"{scan.kind} on {scan.relation} throws away {removed:,.0f} of {read:,.0f} rows that it reads"


def _misjudged(root: PlanNode) -> Iterator[str]:
    """The lowest nodes whose estimate is off: those above inherit it."""

    def factor(node: PlanNode) -> float:
        """Rows over estimate; 1 where nothing can be said."""
        if node.rows is None or node.kind in _BITMAPS:
            return 1.0
        if node.may_stop and node.rows < node.estimated_rows:
            return 1.0
        if max(node.rows, node.estimated_rows) < ESTIMATE_FLOOR_ROWS:
            return 1.0
        return max(node.rows, 1.0) / max(node.estimated_rows, 1.0)

    def off(node: PlanNode) -> bool:
        return max(factor(node), 1 / factor(node)) >= ESTIMATE_OFF

    for node in root.all():
        if off(node) and not any(off(child) for child in node.children):
            times = max(factor(node), 1 / factor(node))
            yield (
                f"{node_label(node.fields)}: {node.estimated_rows:,.0f} rows estimated, {node.rows:,.0f} found "
                f"(off by {times:,.0f} ×)"
            )


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# --- two plans -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScanChange:
    """How one table is read by two plans; empty = not at all."""

    table: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """What the second of two plans does otherwise. *_ratio: after / before; None = one of them is 0 or not known."""

    scans: tuple[ScanChange, ...]
    indexes_gained: tuple[str, ...]
    indexes_lost: tuple[str, ...]
    blocks_ratio: float | None
    time_ratio: float | None
    same_shape: bool


def difference(before: QueryPlan, after: QueryPlan) -> PlanDifference:
    """`before` and `after` are plans of one query."""
    old, new = scan_kinds(before), scan_kinds(after)
    tables = [table for table in {**old, **new} if old.get(table) != new.get(table)]
    old_indexes, new_indexes = indexes(before), indexes(after)
    return PlanDifference(
        scans=tuple(ScanChange(table, old.get(table, ()), new.get(table, ())) for table in sorted(tables)),
        indexes_gained=tuple(name for name in new_indexes if name not in old_indexes),
        indexes_lost=tuple(name for name in old_indexes if name not in new_indexes),
        blocks_ratio=_ratio(before.blocks, after.blocks),
        time_ratio=_ratio(before.execution_ms, after.execution_ms),
        same_shape=before.shape == after.shape,
    )


def scan_kinds(plan: QueryPlan) -> dict[str, tuple[str, ...]]:
    """Table -> the kinds of scan that read it, sorted; a partitioned table counts as one."""
    kinds: dict[str, set[str]] = {}
    for scan in plan.scans:
        kinds.setdefault(scan.table, set()).add(scan.kind)
    return {table: tuple(sorted(found)) for table, found in kinds.items()}


def indexes(plan: QueryPlan) -> tuple[str, ...]:
    """Those that it uses, sorted."""
    return tuple(sorted({name for scan in plan.scans for name in scan.indexes}))


def _ratio(before: float | None, after: float | None) -> float | None:
    return after / before if before and after else None


# --- a run's plans -------------------------------------------------------------------------------------------------


def read(documents: Mapping[str, Any]) -> QueryPlans:
    """A run's plans from the documents that `harness.plans` writes. One that is damaged is missing."""
    relations = read_relations(documents)
    plans: list[QueryPlan] = []
    missing: dict[str, str] = {}
    for stem, document in sorted(documents.items(), key=_number):
        if stem in (RELATIONS, STATEMENTS):
            continue
        name = stem.replace("_", " ")
        parsed = _read_one(name, document, relations)
        if isinstance(parsed, QueryPlan):
            plans.append(parsed)
        else:
            missing[name] = parsed
    statements = documents.get(STATEMENTS)
    return QueryPlans(tuple(plans), missing, tuple(_statements(statements, relations)))


def read_relations(documents: Mapping[str, Any]) -> dict[str, Relation]:
    """Those of a run, by qualified name; none where their document is missing."""
    rows = documents.get(RELATIONS)
    if not isinstance(rows, Mapping):
        return {}
    return {
        name: Relation(row.get("parent"), float(row.get("rows", 0)), int(row.get("pages", 0)))
        for name, row in rows.items()
    }


def document_text(document: Any) -> str:
    """A query's document as its readers get it: statement, parameters, plan. Empty for a document of another kind."""
    if not isinstance(document, Mapping) or "sql" not in document:
        return ""
    values = "\n".join(f"-- {name}: {value}" for name, value in document["parameters"].items())
    found = f"-- {document['error']}" if "error" in document else plan_text(document["explain"][0])
    return "\n\n".join(filter(None, (document["sql"].strip(), values, found))) + "\n"


_EXPLAINABLE = (pglast.ast.SelectStmt, pglast.ast.InsertStmt, pglast.ast.UpdateStmt)


def unexplainable(query: str) -> str | None:
    """Why a text of pg_stat_statements gets no generic plan; None: it may be tried."""
    try:
        parsed = pglast.parse_sql(query)
    except ParseError:
        return "its text cannot be read: the server cut it off, or keeps it to itself"
    if len(parsed) != 1 or not isinstance(parsed[0].stmt, _EXPLAINABLE):
        return "only SELECT, INSERT and UPDATE are explained"
    return None


def _number(item: tuple[str, Any]) -> tuple[int, str]:
    stem, document = item
    return (document.get("number", 0) if isinstance(document, Mapping) else 0), stem


def _read_one(name: str, document: Any, relations: Relations) -> QueryPlan | str:
    try:
        if "error" in document:
            return str(document["error"])
        return parse(name, document["explain"][0], relations)
    except (KeyError, TypeError, AttributeError, IndexError) as fault:
        return f"its plan cannot be read ({fault!r})"


def _statements(documents: Iterable[Document] | None, relations: Relations) -> Iterator[StatementPlan]:
    for document in documents or ():
        parsed = _read_one(document.get("name") or "", document, relations)
        yield StatementPlan(
            role=str(document.get("role", "")),
            name=document.get("name"),
            query=str(document.get("query", "")),
            calls=int(document.get("calls", 0)),
            total_ms=float(document.get("total_ms", 0)),
            plan=parsed if isinstance(parsed, QueryPlan) else None,
            reason=None if isinstance(parsed, QueryPlan) else parsed,
        )
