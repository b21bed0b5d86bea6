"""Makes a small run directory for the tests out of a real one: `python tests/data/trim_run.py RUN_DIR NEW_DIR`.

Kept: every n-th sample, so that all endpoints and phases remain, the counts to match; the statements, tables and
indexes that did most; a probe in four. Paths of the machine are replaced.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from harness.model import SAMPLE_FIELDS

EVERY_SAMPLE, EVERY_PROBE = 4, 4
STATEMENTS, TABLES, INDEXES, LOGGED, ACCESSES = 16, 14, 20, 100, 50
QUERY_CHARS = 600


def trim(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    names = read(source / "endpoints.json")
    samples = np.fromfile(source / "samples-local.bin", np.dtype(list(SAMPLE_FIELDS)))[::EVERY_SAMPLE]
    samples.tofile(target / "samples-local.bin")
    counts = {names["endpoints"][i]: n for i, n in sorted(Counter(samples["endpoint"].tolist()).items())}
    run = read(source / "run.json")
    run["counts"] |= {"sent": counts, "recorded": counts, "locust": counts, "checked": {}, "wrong": {}}
    run["host"] |= {name: "example" for name in ("hostname", "cpu_model", "kernel") if name in run["host"]}
    before, after = read(source / "snapshot-before.json"), read(source / "snapshot-after.json")
    for kind, key, value, most in (
        ("statements", ("userid", "dbid", "queryid", "toplevel"), "total_exec_time", STATEMENTS),
        ("tables", ("relid",), "seq_tup_read", TABLES),
        ("indexes", ("indexrelid",), "idx_scan", INDEXES),
    ):
        keep_the_busiest(before["postgres"], after["postgres"], kind, key, value, most)
    for snapshot in (before, after):
        snapshot["postgres"]["io"] = []
        if snapshot["pgbouncer"]:
            snapshot["pgbouncer"]["config"] = []
        for row in snapshot["postgres"]["statements"]:
            row["query"] = row["query"][:QUERY_CHARS]
    write(target / "snapshot-before.json", before)
    write(target / "snapshot-after.json", after)
    write(target / "run.json", run)
    write(target / "endpoints.json", names)
    with (source / "probes.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    moments = sorted({row[0] for row in rows})[::EVERY_PROBE]
    write_csv(target / "probes.csv", [header, *(row for row in rows if row[0] in moments)])
    if (source / "odoo-requests.csv").exists():
        with (source / "odoo-requests.csv").open(newline="") as file:
            write_csv(target / "odoo-requests.csv", list(csv.reader(file))[: ACCESSES + 1])
    if (source / "statement-log.json").exists():
        log = read(source / "statement-log.json")
        log["statements"], log["plans"] = log["statements"][:LOGGED], []
        used = {row["fingerprint"] for row in log["statements"]}
        log["texts"] = {name: text[:QUERY_CHARS] for name, text in log["texts"].items() if name in used}
        write(target / "statement-log.json", log)
    (target / "plans").mkdir()
    for stem in ("_relations", "animal_by_tag", "milk_trend"):
        if (source / f"plans/{stem}.json").exists():
            write(target / f"plans/{stem}.json", read(source / f"plans/{stem}.json"))


def keep_the_busiest(before: dict, after: dict, kind: str, key: tuple[str, ...], value: str, most: int) -> None:
    def name(row: dict) -> tuple:
        return tuple(row[column] for column in key)

    earlier = {name(row): row[value] or 0 for row in before[kind]}
    busiest = sorted(after[kind], key=lambda row: (row[value] or 0) - earlier.get(name(row), 0), reverse=True)[:most]
    kept = {name(row) for row in busiest}
    for side in (before, after):
        side[kind] = [row for row in side[kind] if name(row) in kept]


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, document: dict) -> None:
    text = json.dumps(document, separators=(",", ":"))
    path.write_text(re.sub(r"/(?:var/cache|tmp|work|home|root|srv)/[\w./-]*", "/example/path", text) + "\n")


def write_csv(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    trim(*map(Path, sys.argv[1:]))
