from __future__ import annotations

import csv
import io

from built_snapshots import BY_TAG, delta, snapshot, statement, table

from harness.server_csv import pg_scans_csv, pg_stats_csv


def test_pg_stats_csv_has_the_specifications_columns_slowest_first() -> None:
    after = snapshot(
        [statement(4), statement(2, 9.456, 0, queryid=-8, query="SELECT\n  1"), statement(1, role="harness")]
    )
    before = snapshot([statement(2, 1, 0)])
    after.postgres["statements"][2]["queryid"] = 9
    rows = list(csv.reader(io.StringIO(pg_stats_csv([(before, after)]))))
    assert ",".join(rows[0]) == "queryid,query_preview,calls,total_ms,mean_ms,stddev_ms,rows,cache_hit_pct,role"
    assert rows[1] == ["-8", "SELECT 1", "2", "18.91", "9.46", "0.0", "2", "75.0", "api"]
    assert [row[:5] for row in rows[2:]] == [["7", BY_TAG, "2", "6.0", "3.0"]]


def test_pg_stats_csv_sums_spans_by_text() -> None:
    spans = [(snapshot(), snapshot([statement(2, mean, 0, queryid=queryid)])) for mean, queryid in ((1, 7), (3, 8))]
    _, row = csv.reader(io.StringIO(pg_stats_csv(spans)))
    assert row == ["8", BY_TAG, "4", "8.0", "2.0", "1.0", "4", "75.0", "api"]


def test_pg_scans_csv_leaves_the_unknown_empty() -> None:
    tables = [
        table("quiet", 1, schemaname="sales"),
        table("log", 2, seq_scan=1, seq_tup_read=5, idx_scan=None, idx_tup_fetch=None),
        table("milk", 3, seq_scan=1, seq_tup_read=9, idx_scan=2, idx_tup_fetch=4),
        table("res_users", 4, schemaname="public", seq_scan=4),
    ]
    text = pg_scans_csv(delta(snapshot(), snapshot(tables=tables)))
    assert text.splitlines() == [
        "schemaname,relname,seq_scan,seq_tup_read,idx_scan,idx_tup_fetch,idx_scan_pct",
        "farm,milk,1,9,2,4,66.67",
        "farm,log,1,5,,,",
        "sales,quiet,0,0,0,0,",
    ]
